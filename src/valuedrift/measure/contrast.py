"""Contrasts: the difference between two checkpoints of different runs or stages, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ..nouns import OUTCOMES, BadInput
from ._cells import Cells, cells
from ._resample import Sample, difference
from .drift import ALPHA, families
from .profile import by_topic, frame

SCHEMA = (
    {"topic": pl.String(), "outcome": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "p": pl.Float64(), "p_adjusted": pl.Float64(), "resolved": pl.Boolean(), "n_left_out": pl.Int64()}
)


def contrast(scores_a: pl.DataFrame, scores_b: pl.DataFrame, view: str = "claim") -> pl.DataFrame:
    """Return one row per topic x outcome: share in b - share in a, over the prompts read in both, with interval, p and Holm's p_adjusted.

    Each side holds the rows of ONE checkpoint (any number of seeds); pick them first, else BadInput. Seeds that both sides have are paired;
    where they have none in common they are paired in order. `n_left_out` counts the topic's prompts that only one side has read.
    """
    a, b = _one_checkpoint(scores_a, view), _one_checkpoint(scores_b, view)
    prompts = sorted({*a.prompts, *b.prompts})
    a, b = (cells(scores, view, prompts=prompts) for scores in (scores_a, scores_b))
    seeds = [(s, s) for s in a.seeds if s in b.seeds] or list(zip(a.seeds, b.seeds, strict=False))
    at_a, at_b = ([table.seeds.index(pair[side]) for pair in seeds] for side, table in ((0, a), (1, b)))
    read_a, read_b = a.read_CSP[:, at_a], b.read_CSP[:, at_b]
    both = (read_a & read_b)[..., None]
    shares_a = by_topic(a.num_CSPO[:, at_a] * both, a.den_CSPO[:, at_a] * both, a.topics)
    shares_b = by_topic(b.num_CSPO[:, at_b] * both, b.den_CSPO[:, at_b] * both, a.topics)
    changes = {topic: shares_b[topic] - shares_a[topic] for topic in shares_a}
    alone = {topic: Sample(change.value_S[0], change.parts_SP[0], change.n[0], change.n_strata[0]) for topic, change in changes.items()}
    one_side = (read_a | read_b).any((0, 1)) & ~both[..., 0].any((0, 1))
    left_out = {topic: int(one_side[a.topics.get(topic, slice(None))].sum()) for topic in alone}
    return frame(tested(alone, left_out), SCHEMA)


def tested(changes: Mapping[str, Sample], left_out: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the columns of SCHEMA for the differences of one comparison by topic, leading axis O; p corrected within it."""
    results = {topic: difference(change) for topic, change in changes.items()}
    adjusted, _ = families({topic: result.p for topic, result in results.items()})
    rows = []
    for topic, result in results.items():
        for o, outcome in enumerate(OUTCOMES):
            row: dict[str, Any] = {"topic": topic, "outcome": outcome, "n": changes[topic].n[o], "n_left_out": left_out[topic]}
            row |= {name: getattr(result, name)[o] for name in ("value", "low", "high", "p")}
            corrected = adjusted[topic, outcome]
            rows.append(row | {"p_adjusted": corrected, "resolved": bool(corrected < ALPHA)})
    return rows


def _one_checkpoint(scores: pl.DataFrame, view: str) -> Cells:
    table = cells(scores, view)
    if len(table.checkpoints) != 1:
        raise BadInput(
            f"a contrast compares one checkpoint with one other, not {len(table.checkpoints)}; filter the scores by stage and step"
        )
    return table
