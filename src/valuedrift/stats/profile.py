"""Profiles: the share of each outcome for every checkpoint and topic, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES
from .cells import ALL, Cells, cells
from .intervals import Sample, mean_over, ratio, share_interval

SCHEMA = (
    {"stage": pl.String(), "step": pl.Int64(), "view": pl.String(), "topic": pl.String(), "outcome": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | dict.fromkeys(("n", "n_answers", "n_failed"), pl.Int64())
)


def profiles(scores: pl.DataFrame, *views: str) -> pl.DataFrame:
    """Return one row per stage x step x view (default: claim) x topic x outcome: the share, its 95 % interval and its counts.

    Support, neutral and oppose are shares among the three (sum over prompts of p_s / sum over prompts of all three, a prompt being the mean
    of its draws); refusal and invalid are shares of all judged answers. Topic "all" is the mean over topics. Seeds are pooled (mean over
    seeds). `n` counts prompts with evidence, `n_answers` the answers that count, `n_failed` those left out. No evidence is null.
    """
    return frame([row for view in views or ("claim",) for row in _rows(cells(scores, view), view)], SCHEMA)


def _rows(table: Cells, view: str) -> list[dict[str, Any]]:
    samples = by_topic(table.num_CSPO, table.den_CSPO, table.topics)
    rows: list[dict[str, Any]] = []
    for topic, sample in samples.items():
        low, high = share_interval(sample)
        n_answers, n_failed = _counts(table, topic)
        columns = (sample.value, low, high, sample.n, n_answers, n_failed)
        for c, (stage, step) in enumerate(table.checkpoints):
            for o, outcome in enumerate(OUTCOMES):
                row = {"stage": stage, "step": step, "view": view, "topic": topic, "outcome": outcome}
                rows.append(row | dict(zip(list(SCHEMA)[5:], (column[c, o] for column in columns), strict=True)))
    return rows


def by_topic(num_CSPO: np.ndarray, den_CSPO: np.ndarray, topics: dict[str, slice]) -> dict[str, Sample]:
    """Return the shares of every topic, and their mean under "all"; the leading axes of each Sample are C, O."""
    num, den = np.moveaxis(num_CSPO, -1, 1), np.moveaxis(den_CSPO, -1, 1)
    samples = {topic: ratio(num[..., place], den[..., place]) for topic, place in topics.items()}
    return samples | ({ALL: mean_over(list(samples.values()))} if samples else {})


def _counts(table: Cells, topic: str) -> tuple[np.ndarray, np.ndarray]:
    place = table.topics.get(topic, slice(None))
    answers, failed = (counts[:, :, place].sum((1, 2)).astype(int) for counts in (table.answers_CSPO, table.failed_CSPO))
    return answers, failed


def frame(rows: Sequence[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    """Return the rows as a table with nan (no evidence) written as null."""
    floats = [name for name, kind in schema.items() if kind == pl.Float64]
    return pl.DataFrame(rows, schema=schema, strict=False).with_columns(pl.col(floats).fill_nan(None))
