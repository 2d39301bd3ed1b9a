"""Contrasts: the difference between two checkpoints of different runs or stages, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ..nouns import OUTCOMES, BadInput
from .cells import Cells, cells
from .drift import ALPHA, families, planned
from .intervals import Sample, difference
from .profile import by_topic, frame

SCHEMA = (
    {"view": pl.String(), "topic": pl.String(), "outcome": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "n_seeds": pl.Int64(), "seed_share": pl.Float64(), "p": pl.Float64(), "p_adjusted": pl.Float64()}
    | {"resolved": pl.Boolean(), "n_left_out": pl.Int64()}
)
BY_SEEDS = 0.5
"""Part of the squared standard error from which on an interval rests mostly on seeds."""
LEAST_COVERED = 87
"""The least coverage in % of intervals that rest mostly on seeds, over the cells of benchmarks/coverage.py."""


def contrast(scores_a: pl.DataFrame, scores_b: pl.DataFrame, *views: str) -> pl.DataFrame:
    """Return one row per view (default: claim) x topic x outcome: share in b - share in a over the prompts read in both, p by `families`.

    Each side holds the rows of ONE checkpoint (any number of seeds); pick them first, else BadInput. Seeds that both sides have are paired;
    where they have none in common they are paired in order. `n_left_out` counts the topic's prompts that only one side has read.
    """
    compared = {view: _compared(scores_a, scores_b, view) for view in views or ("claim",)}
    changes = {(view, topic): change for view, (of, _) in compared.items() for topic, change in of.items()}
    left_out = {(view, topic): n for view, (_, of) in compared.items() for topic, n in of.items()}
    return frame(tested(changes, left_out), SCHEMA)


def _compared(scores_a: pl.DataFrame, scores_b: pl.DataFrame, view: str) -> tuple[dict[str, Sample], dict[str, int]]:
    """Return by topic the difference and the number of prompts that only one side has read."""
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
    alone = {topic: change[0] for topic, change in changes.items()}
    one_side = (read_a | read_b).any((0, 1)) & ~both[..., 0].any((0, 1))
    return alone, {topic: int(one_side[a.topics.get(topic, slice(None))].sum()) for topic in alone}


def tested(changes: Mapping[tuple[str, str], Sample], left_out: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return the columns of SCHEMA for the differences of one comparison by (view, topic), leading axis O; p corrected within it."""
    results = {key: difference(change) for key, change in changes.items()}
    known = planned(results)
    adjusted, _ = families({key: result.p for key, result in results.items()})
    rows = []
    for (view, topic), result in results.items():
        for o, outcome in enumerate(OUTCOMES):
            row: dict[str, Any] = {"view": view, "topic": topic, "outcome": outcome}
            row |= {"n": changes[view, topic].n[o], "n_seeds": changes[view, topic].n_seeds[o], "n_left_out": left_out[view, topic]}
            row |= {name: getattr(result, name)[o] for name in ("value", "low", "high", "p")} | {
                "seed_share": known[view, topic].seed_share[o]
            }
            corrected = adjusted[view, topic, outcome]
            rows.append(row | {"p_adjusted": corrected, "resolved": bool(corrected < ALPHA)})
    return rows


def speaks_for(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence on what the intervals of a comparison cover, given the training runs behind each side."""
    n_seeds = max(row["n_seeds"] for row in rows)
    if n_seeds == 1:
        return (
            "1 seed: each side is one training run (n = 1). The intervals cover the prompts asked, not another training: "
            "two trainings of one recipe differ, too, and such differences are resolved."
        )
    return f"{n_seeds} seeds: the intervals cover other prompts and other trainings. {seeds_note(rows)}".rstrip()


def seeds_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence on intervals that rest on how a few training runs differ, and so cover less than 95 %; "" if there are none.

    How much less is measured by benchmarks/coverage.py.
    """
    known = [row for row in rows if row["value"] is not None and row["n_seeds"] > 1]
    few = [row for row in known if row["seed_share"] > BY_SEEDS]
    if not few:
        return ""
    runs = " or ".join(str(n) for n in sorted({row["n_seeds"] for row in few}))
    return (
        f"{len(few):,} of {len(known):,} intervals rest mostly on how {runs} training runs differ. So few runs do not show a skewed "
        f"spread: these intervals may cover as little as {LEAST_COVERED} % instead of 95 %."
    )


def _one_checkpoint(scores: pl.DataFrame, view: str) -> Cells:
    table = cells(scores, view)
    if len(table.checkpoints) != 1:
        raise BadInput(
            f"a contrast compares one checkpoint with one other, not {len(table.checkpoints)}; filter the scores by stage and step"
        )
    return table
