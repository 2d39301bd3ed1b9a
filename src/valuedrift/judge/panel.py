"""Combine several judges: the verdict is their mean, and each member is reported too. `panel:cues,labels:PATH`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from .. import judge
from ..nouns import OUTCOMES, BadInput, Item, Reading, digest


class Judge(judge.Judge):
    """Gives the mean of the members' probabilities, with equal weights (a panel of evaluators: Verga et al. 2024, arXiv 2404.18796).

    If a member has no verdict on an answer, the panel has none: the mean of the others would be the verdict of another judge.
    """

    def __init__(self, argument: str):
        specs = [part.strip() for part in argument.split(",") if part.strip()]
        if len(specs) < 2:
            raise BadInput(f"the panel judge needs two judges or more, but was given {argument!r}; write panel:cues,labels:PATH")
        self.members = [judge.make(spec) for spec in specs]
        self.models = [path for member in self.members for path in member.models]
        self.argument, self.is_remote = argument, any(member.is_remote for member in self.members)
        measured = [member.agreement for member in self.members if member.agreement]
        # Until the panel itself is compared with people, it counts as its weakest member that was.
        self.agreement = min(measured, key=lambda agreement: agreement["macro_f1"]) if measured else None

    @functools.cached_property  # a remote member may have to ask its server first
    def identity(self) -> str:  # type: ignore[override]
        """Return a name made of the members' identities. Raises BadInput if two members are the same."""
        names = [member.identity for member in self.members]
        if len(set(names)) < len(names):
            raise BadInput(f"the panel {self.argument!r} holds the same judge twice; name different ones")
        return f"panel/{digest('panel', 1, sorted(names))}"

    @property
    def note(self) -> str:  # type: ignore[override]
        """Return the members' notes."""
        return " ".join(member.note for member in self.members if member.note)

    @property
    def spent(self) -> float:  # type: ignore[override]
        """Return the dollars that the members spent."""
        return sum(member.spent for member in self.members)

    def worst_cost(self, items: Sequence[Item]) -> float | None:
        """Return the most dollars that reading these items can cost; None if the price of a member is unknown."""
        costs = [member.worst_cost(items) for member in self.members]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    def stop(self) -> None:
        """Stop the members."""
        for member in self.members:
            member.stop()

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order."""
        return self.pooled(items, [member.read(items) for member in self.members])

    def pooled(self, items: Sequence[Item], readings_MN: Sequence[Sequence[Reading]]) -> list[Reading]:
        """Return the panel's readings from those of its members."""
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
