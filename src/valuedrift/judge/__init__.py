"""Judges read the stance of an answer towards a claim.

A judge is one file that defines `class Judge`:

    def __init__(self, argument: str): ...            what follows the colon in "labels:PATH_OR_ID?key=value", else ""
    identity: str                                     name plus a digest of everything that decides its verdicts
    note: str                                         what a reader of its figures must know; empty where there is nothing to say
    def read(self, items: Sequence[Item]) -> list[Reading]    one reading per item, in order; never raises for one bad item

and where they apply:

    together: int = 1024                              items handed to one `read`: what a kill can lose
    max_cost: float | None = None                     dollars; set before the first `read`, which then raises Stopped with what was paid for
    spent: float = 0.0                                dollars, of this process
    worst_cost(items) -> float | None                 dollars that reading some items costs at most; None where no price is known
    agreement: dict | None                            what `calibrate` found on texts of people, where it is stored with the judge
    exact: bool = False                               right by construction, as the oracle is on the sandbox's texts
    members: list[Judge]                              judges whose verdicts `pooled(readings_of_members)` makes into one (see panel)
"""

from __future__ import annotations

from typing import Any

from .. import registry


def make(spec: str, max_cost: float | None = None) -> Any:
    """Return the judge that a plan or an option names. Raises BadInput for an unknown one and for a wrong argument."""
    name, argument = registry.split(spec)
    judge = registry.find("judge", name)(argument)
    for one in getattr(judge, "members", [judge]):
        if hasattr(one, "max_cost"):
            one.max_cost = max_cost
    return judge
