"""Judges read the stance of an answer towards a claim.

A judge is one file that defines `class Judge`:

    def __init__(self, argument: str): ...            what follows the colon in "labels:PATH_OR_ID?key=value", else ""
    identity: str                                     name plus a digest of everything that decides its verdicts
    note: str                                         what a reader of its figures must know; empty where there is nothing to say
    def read(self, items: Sequence[Item]) -> list[Reading]    one reading per item, in order; never raises for one bad item

and where they apply:

    together: int = 1024                              items handed to one `read`: what a kill can lose
    waits: bool = False                               it waits for a server: it reads in a thread, beside the sampling
    max_cost: float | None = None                     dollars; where they are used up, `read` raises Stopped with what was paid for, and
                                                      so may the first look at `identity`; making a judge costs nothing
    spent: float = 0.0                                dollars, of this process
    worst_cost(items) -> float | None                 dollars that reading some items costs at most; None where no price is known. Free
    wordings() -> list[str], reworded(name) -> Judge  ways to put the question, and the same judge in another; both share what is loaded
    agreement: dict | None                            what `calibrate` found on texts of people, where it is stored with the judge
    wordings() -> list[str], reworded(name)           the wordings it has, the default first; the judge under another one, sharing its model
    exact: bool = False                               right by construction, as the oracle is on the sandbox's texts
    members: list[Judge]                              judges whose verdicts `pooled(readings_of_members)` makes into one (see panel)

A reading without probabilities says which kind of failure it is, because the next command tries only one of them again:

    judge_error   no usable reply came (network, server, a refused request): another try may give a verdict
    unparsed      the judge did its work and there is no verdict. A deterministic one would do the same again; a sampled one is not asked
                  until its reply fits either, which would select among its answers and pay for all of them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import registry
from ..models.budget import limited

DIGITS = 4
"""Decimals of a probability that a model computed. What lies beyond changes with the batch an item happens to be in, and means nothing."""


def make(spec: str, max_cost: float | None = None) -> Any:
    """Return the judge that a plan or an option names. Raises BadInput for an unknown one and for a wrong argument.

    `max_cost` dollars are one limit for all that it asks, the members of a panel together.
    """
    name, argument = registry.split(spec)
    with limited(max_cost) as budget:
        judge = registry.find("judge", name)(argument)
    for one in getattr(judge, "members", [judge]):
        if hasattr(one, "max_cost"):  # judges of others, which know nothing of the common budget
            one.max_cost = budget.limit
    return judge


def rounded(weights: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Return weights of the outcomes as probabilities of DIGITS decimals that sum to 1; equal ones where all weights are 0."""
    total = sum(weights)
    digits = [round(weight / total, DIGITS) if total > 0 else 1.0 for weight in weights]
    support, neutral, oppose, refusal, invalid = (digit / sum(digits) for digit in digits)
    return support, neutral, oppose, refusal, invalid
