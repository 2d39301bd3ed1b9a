"""Judges read the stance of an answer towards a claim.

A judge is one file with a `class Judge` that derives from the class here. It sets `identity` and overrides `read`.

A reading without probabilities names its kind of failure, which decides whether the next command asks again:

    judge_error   no usable reply came (network, server, a refused request): the next command asks again
    unparsed      the judge answered, but its answer holds no verdict: it is not asked again. A deterministic judge would repeat itself; a
                  sampled judge that is asked until a reply fits would select among its answers, and would cost money each time
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from .. import registry
from ..models.budget import limited
from ..nouns import BadInput, Item, Reading

INVALID = (0.0, 0.0, 0.0, 0.0, 1.0)
"""The verdict on a wordless text."""
_WORDS = re.compile(r"[\w\u2600-\u27bf\U0001f000-\U0001faff]")
DIGITS = 4
"""Decimals of a probability that a model computed. Further ones change with the other items of a batch."""


DTYPES = ("auto", "float32", "bfloat16", "float16")


class Judge:
    """Reads the stance of texts towards claims.

    `argument` is what follows the colon in "labels:PATH?key=value". Making a judge costs nothing; its first `identity` may ask a server.
    """

    identity: str
    """The judge's name and a digest of everything that decides its verdicts, which are stored under it."""
    note: str = ""
    """What a reader of the judge's figures must know."""
    batch_size: int = 1024
    """Items per `read`. A killed command loses at most so many verdicts of a local judge."""
    is_remote: bool = False
    """Whether a server reads. Its verdicts are awaited in a thread, while the next checkpoint is sampled."""
    models: Sequence[str] = ()
    """The models that it reads with: folders, hub ids, or "openai:MODEL". A note warns if a traced model is of the same family."""
    exact: bool = False
    """Whether every verdict is right by construction, like the oracle's on the sandbox's texts."""
    agreement: dict[str, Any] | None = None
    """The agreement with human labels that is stored with the judge (a result of `calibrate`)."""
    max_cost: float | None = None
    """Dollars that the judge may spend. At the limit it raises Stopped with the readings that it paid for."""
    spent: float = 0.0
    """Dollars that the judge spent in this process."""
    known: Mapping[str, Any] = {}
    """The judge's wordings by name, the default first; none if it asks no model."""
    wording: Any = None
    """The one of `known` that it asks in."""
    members: Sequence[Judge] = ()
    """The judges whose readings `pooled` combines into one (see panel)."""
    earlier: Sequence[str] = ()
    """The identities of the same judge under earlier rules. `reread` applies the present rule to the replies stored under them."""
    advice: str = "check the judge's model and settings (docs/judge.md)"
    """What the user can do if none of the first replies can be read."""

    def __init__(self, argument: str = ""):
        registry.refuse_argument("judge", type(self), argument)

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. A text that cannot be read gets a reading with a failure and raises nothing."""
        raise NotImplementedError

    def pooled(self, items: Sequence[Item], readings_MN: Sequence[Sequence[Reading]]) -> list[Reading]:
        """Return one reading per item from those of the members."""
        raise NotImplementedError

    def reread(self, item: str, reply: str) -> Reading:
        """Return the reading of a stored reply (`Reading.reply`) by the present rule. Judges that store replies override it."""
        raise NotImplementedError

    def worst_cost(self, items: Sequence[Item]) -> float | None:
        """Return the most dollars that reading these items can cost; None if the price is unknown. Asks no server."""
        return 0.0

    def keeping(self, path: Path) -> AbstractContextManager[None]:
        """Return the context in which items are read and stored. A paid judge keeps its replies in the file meanwhile."""
        return contextlib.nullcontext()

    def stop(self) -> None:
        """Make a `read` in another thread send nothing more. It then raises Stopped with what was read."""

    def wordings(self) -> list[str]:
        """Return the names of the judge's wordings, the default first."""
        return list(self.known)

    def set_wording(self, name: str) -> None:
        """Ask in another wording. Raises BadInput for an unknown one."""
        if not self.known:
            raise BadInput(f"the judge {self.identity.split('/')[0]!r} has no wording {name!r}; leave the wording out")
        if name not in self.known:
            raise BadInput(f"unknown wording {name!r}{registry.among(name, self.wordings())}")
        self.wording = self.known[name]

    def reworded(self, name: str) -> Self:
        """Return this judge in another wording; both share the loaded model or the endpoint."""
        other = copy.copy(self)
        other.set_wording(name)
        return other

    def position_bias(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """Return how far verdicts depend on the order of the labels in the prompt; None if the judge cannot tell."""
        return None


def make(spec: str, max_cost: float | None = None) -> Judge:
    """Return the judge that a plan or an option names. Raises BadInput for an unknown judge or a wrong argument.

    The members of a panel share the limit of `max_cost` dollars.
    """
    name, argument = registry.split(spec)
    with limited(max_cost) as budget:
        judge: Judge = registry.find("judge", name)(argument)
    judge.max_cost = budget.limit
    return judge


def wordless(text: str) -> bool:
    """Return whether a text has no letter, digit or emoji. Such a text is INVALID, and no model is asked."""
    return not _WORDS.search(text)


def rounded(weights: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Return weights of the outcomes as probabilities of DIGITS decimals that sum to 1; equal ones if all weights are 0."""
    total = sum(weights)
    digits = [round(weight / total, DIGITS) if total > 0 else 1.0 for weight in weights]
    support, neutral, oppose, refusal, invalid = (digit / sum(digits) for digit in digits)
    return support, neutral, oppose, refusal, invalid


def settings(spec: str, defaults: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of "judge:NAME?key=value&…". A default that is a number makes the setting a number above 0.

    Raises BadInput for an unknown setting or a value that it cannot have.
    """
    name, given = registry.query(spec.partition(":")[2], spec)
    values = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise BadInput(f"{spec}: unknown setting {key!r}{registry.among(key, list(defaults))}")
        if key in choices and value not in choices[key]:
            raise BadInput(f"{spec}: unknown {key} {value!r}{registry.among(value, choices[key])}")
        kind = type(defaults[key])
        try:
            values[key] = kind(value)
        except ValueError:
            values[key] = math.nan
        if kind is not str and not 0 < values[key] < math.inf:
            number = "number" if kind is float else "whole number"
            raise BadInput(f"{spec}: {key}={value!r} is no {number} above 0; write for example {key}={defaults[key]}")
    return name, values
