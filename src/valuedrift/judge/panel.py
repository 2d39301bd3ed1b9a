"""Several judges at once: their mean is the verdict, and each of them is reported beside it. `panel:cues,labels:PATH`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..nouns import OUTCOMES, BadInput, Item, Reading, digest
from . import make


class Judge:
    """The mean of the members' probabilities, each weighing the same (a panel of evaluators: Verga et al. 2024, arXiv 2404.18796).

    Where one member has no verdict there is none: a mean over the others would be another judge for these answers alone.
    """

    def __init__(self, argument: str):
        specs = [part.strip() for part in argument.split(",") if part.strip()]
        if len(specs) < 2:
            raise BadInput(f"the panel judge needs two judges or more, but was given {argument!r}; write panel:cues,labels:PATH")
        self.members = [make(spec) for spec in specs]
        self.argument = argument
        measured = [member.agreement for member in self.members if getattr(member, "agreement", None)]
        # Until it is compared with people itself, a panel is believed no more than its weakest member that was.
        self.agreement = min(measured, key=lambda agreement: agreement["macro_f1"]) if measured else None

    @functools.cached_property  # a member behind an API may have to ask before it knows its own
    def identity(self) -> str:
        """Return the name of the panel by its members'. Raises BadInput where two of them are the same."""
        names = [member.identity for member in self.members]
        if len(set(names)) < len(names):
            raise BadInput(f"the panel {self.argument!r} holds the same judge twice; name different ones")
        return f"panel/{digest('panel', 1, sorted(names))}"

    @property
    def note(self) -> str:
        """Return what its members have to say."""
        return " ".join(member.note for member in self.members if member.note)

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order."""
        return self.pooled(items, [member.read(items) for member in self.members])

    def pooled(self, items: Sequence[Item], readings_MN: Sequence[Sequence[Reading]]) -> list[Reading]:
        """Return the verdicts of the panel from those of its members, each given one per item."""
        return [self._one(item, column) for item, column in zip(items, zip(*readings_MN, strict=True), strict=True)]

    def _one(self, item: Item, readings: Sequence[Reading]) -> Reading:
        failed = [reading for reading in readings if reading.probs is None]
        if failed:
            lasting = all(reading.failure == "unparsed" for reading in failed)
            reason = "; ".join(f"{reading.judge}: {reading.reason or reading.failure}" for reading in failed)
            return Reading(item.key, self.identity, failure="unparsed" if lasting else "judge_error", reason=reason)
        columns = zip(*(reading.probs or () for reading in readings), strict=True)
        means = [sum(column) / len(readings) for column in columns]
        assert len(means) == len(OUTCOMES)
        return Reading(item.key, self.identity, tuple(means))
