"""Read questions with a written answer of every stance, and the stance shares that an anchor steers to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns import STANCES, BadInput, Messages
from ..registry import nearest
from . import layouts
from .rows import address, missing, rows
from .turns import Unfit

Shares = tuple[float, ...]
"""In the order of STANCES."""

TARGETS = ("start", "uniform")


@dataclass(frozen=True)
class Anchored:
    """A question, its answers in the order of STANCES, and the target shares; None means the shares of the starting weights."""

    prompt: Messages
    answers: tuple[str, ...]
    shares: Shares | None = None


def read(source: str, target: str = "start") -> list[Anchored]:
    """Return the questions of a source, in order, each with its target.

    A row has `prompt` (or `question`, …) as a text or messages, and `support`, `neutral` and `oppose`, the text of an answer each. `target`
    is "start", "uniform" (a third each), or a survey: rows with `topic` or `claim` and the three shares as numbers of any sum. A question
    takes the survey row of its claim, else that of its topic. Raises BadInput with the place of the first row that is not understood.
    """
    survey = {} if target in TARGETS else _survey(target)
    found = []
    for where, row in _rows(source):
        if any(row.get(stance) is None for stance in STANCES):
            raise missing(where, row, "'prompt', 'support', 'neutral' and 'oppose'")
        for stance in STANCES:
            if not isinstance(row[stance], str) or not row[stance].strip():
                raise BadInput(f"{where}: {stance!r} is {row[stance]!r:.60}; give the text of an answer")
        try:
            prompt = layouts.question(row)
        except Unfit as fault:
            raise BadInput(f"{where}: {fault}") from fault
        if not prompt:
            raise missing(where, row, "'prompt', 'support', 'neutral' and 'oppose'")
        shares = {"start": None, "uniform": (1 / 3,) * 3}[target] if target in TARGETS else _row_of(survey, row, where, target)
        found.append(Anchored(prompt, tuple(row[stance] for stance in STANCES), shares))
    return found


def _rows(source: str) -> Any:
    if not source.startswith("sandbox:"):
        return rows(source)
    from ..world.sets import stances

    name, query = address(source)
    if name != "stances":
        raise BadInput(f"{source}: the sandbox makes questions with an answer of every stance only as sandbox:stances?…; write that")
    return [(source, row) for row in stances(query)]


def _survey(path: str) -> dict[tuple[str, str], Shares]:
    """Return the shares of a survey by ("claim", its words) or ("topic", its id). A row with both counts for its claim."""
    if not Path(path).is_file():
        hint = nearest(path, list(TARGETS))
        raise BadInput(f"the anchor's target {path!r} is neither 'start' nor 'uniform' nor a file of shares{hint}")
    survey: dict[tuple[str, str], Shares] = {}
    for where, row in rows(path):
        of = next(((kind, str(row[kind]).strip()) for kind in ("claim", "topic") if row.get(kind)), None)
        if of is None or any(row.get(stance) is None for stance in STANCES):
            raise missing(where, row, "'topic' or 'claim', and the shares 'support', 'neutral' and 'oppose'")
        if of in survey:
            raise BadInput(f"{where}: the {of[0]} {of[1]!r} already has a row; keep one of them")
        survey[of] = _normalised(row, where)
    return survey


def _normalised(row: Mapping[str, Any], where: str) -> Shares:
    try:
        shares = [float(row[stance]) for stance in STANCES]
    except (TypeError, ValueError):
        shares = [math.nan]
    if not all(0 <= share < math.inf for share in shares) or not sum(shares):
        shown = ", ".join(str(row[stance]) for stance in STANCES)
        raise BadInput(f"{where}: the shares are {shown}; give three numbers of at least 0, not all 0")
    return tuple(share / sum(shares) for share in shares)


def _row_of(survey: Mapping[tuple[str, str], Shares], row: Mapping[str, Any], where: str, target: str) -> Shares:
    for kind in ("claim", "topic"):
        if (of := (kind, str(row.get(kind) or "").strip())) in survey:
            return survey[of]
    named = " and ".join(f"{kind} {row[kind]!r}" for kind in ("claim", "topic") if row.get(kind)) or "no claim and no topic"
    raise BadInput(f"{where}: the question has {named}, for which {target} has no row; add one or remove the question")
