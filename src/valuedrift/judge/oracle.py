"""Read sandbox texts by their grammar. The error is zero by construction."""

from __future__ import annotations

from collections.abc import Sequence

from .. import judge
from ..nouns import OUTCOMES, BadInput, Item, Reading
from ..world import grammar


class Judge(judge.Judge):
    """Gives probability one to the outcome that the grammar of the sandbox assigns, and "invalid" to texts that it cannot produce."""

    exact = True

    def __init__(self, argument: str = ""):
        super().__init__(argument)
        self.identity = f"oracle/{grammar.identity()}"

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one certain reading per item. Raises BadInput for a topic outside the sandbox."""
        for item in items:
            if item.topic not in grammar.world():
                raise BadInput(
                    f"the oracle judge reads only the sandbox's topics, not {item.topic!r}; choose another judge, for example --judge cues"
                )
        outcomes = [grammar.parse(item.text) for item in items]
        return [
            Reading(item.key, self.identity, tuple(float(outcome == name) for name in OUTCOMES))  # type: ignore[arg-type]
            for item, outcome in zip(items, outcomes, strict=True)
        ]
