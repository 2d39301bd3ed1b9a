"""Scores (one row per answer) as arrays of per-prompt sums, the input of all statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, STANCES, BadInput

ALL = "all"
"""The topic of rows with the mean over topics, equally weighted."""

VIEWS = {
    "claim": "agreement with what is claimed",
    "axis": "movement towards one side of each topic's axis",
    "paper": "agreement with what is claimed, every answer that takes a stance being one vote",
}
"""The meaning of a change of support in each view. `claim` and `axis` are always measured, `paper` only on request."""
KEYS = ("stage", "step", "seed", "topic", "prompt")
N_STANCES = len(STANCES)


@dataclass(frozen=True)
class Cells:
    """Per-prompt sums. Axes: C checkpoints, S seeds, P prompts (sorted by topic), O outcomes in the order of `nouns.OUTCOMES`.

    An outcome's share is the sum of `num` over prompts divided by the sum of `den`. A prompt without evidence has 0 in both.
    """

    checkpoints: list[tuple[str, int]]
    seeds: list[int]
    prompts: list[tuple[str, str]]
    num_CSPO: np.ndarray
    den_CSPO: np.ndarray
    answers_CSPO: np.ndarray
    """Answers that count."""
    failed_CSPO: np.ndarray
    """Left-out answers: the judge failed, or (paper view, stances) the answer takes none of the three stances."""

    @property
    def topics(self) -> dict[str, slice]:
        """Return the positions of each topic's prompts along P."""
        names = [topic for topic, _ in self.prompts]
        return {topic: slice(names.index(topic), len(names) - names[::-1].index(topic)) for topic in sorted(set(names))}

    @property
    def read_CSP(self) -> np.ndarray:
        """Return which prompts have at least one answer with a verdict (refusals and invalid answers have one)."""
        return self.answers_CSPO[..., -1] > 0


def cells(scores: pl.DataFrame, view: str, repeat: bool = False, prompts: Sequence[tuple[str, str]] = (), by_answer: bool = False) -> Cells:
    """Return the per-prompt sums of the main rows (or of the noise-floor repeats) as `view` sees them.

    A prompt counts with the means of its answers: an outcome's share in `num`, the mass of the three stances in `den`; with `by_answer` it
    counts with their sums, so that it weighs by its answers.
    Prompts that a view leaves out stay on the axes, without evidence. `prompts` fixes the (topic, prompt) axis. Raises BadInput for an
    unknown view, missing columns, or a topic named "all".
    """
    rows = _checked(scores, view).filter(pl.col("repeat") == repeat)
    axes: tuple[list[Any], list[Any], list[Any]] = (
        rows.select("stage", "step").unique().sort("stage", "step").rows(),
        rows["seed"].unique().sort().to_list(),
        list(prompts) or rows.select("topic", "prompt").unique().sort("topic", "prompt").rows(),
    )
    sums = viewed(rows, view).group_by(KEYS).agg(_sums(view, by_answer)).sort(KEYS)
    places = [{key: i for i, key in enumerate(axis)} for axis in axes]
    index = [(places[0][a, b], places[1][s], places[2].get((t, p), -1)) for a, b, s, t, p in sums.select(KEYS).iter_rows()]
    arrays = np.zeros((4, *(len(axis) for axis in axes), len(OUTCOMES)))
    kept = [i for i, place in enumerate(index) if place[2] >= 0]
    if kept:
        c, s, p = np.array([index[i] for i in kept]).T
        values = sums[kept].drop(KEYS).to_numpy().reshape(len(kept), 4, len(OUTCOMES))
        arrays[:, c, s, p] = values.transpose(1, 0, 2)
    return Cells(*axes, arrays[0], arrays[1], arrays[2], arrays[3])


def measured_in(view: str) -> tuple[str, ...]:
    """Return the views to measure if the plan names `view`."""
    return tuple(name for name in VIEWS if name in ("claim", "axis", view))


def in_view(table: pl.DataFrame, view: str, of: str) -> pl.DataFrame:
    """Return the rows of a stored table in one view. Raises BadInput if it was not measured in that view."""
    if "view" not in table.columns:
        raise BadInput(f"{of} lacks the column view (an older version wrote it); run the command that made it again")
    known = table["view"].unique(maintain_order=True).to_list()
    if known and view not in known:
        raise BadInput(f"{of} has no view {view!r}, only {' and '.join(known)}; take one of these, or run the command again with that view")
    return table.filter(view=view)


def _checked(scores: pl.DataFrame, view: str) -> pl.DataFrame:
    missing = {*KEYS, "repeat", "polarity", "failure", *OUTCOMES} - set(scores.columns)
    if {"boost", "weight"} & set(scores.columns):
        raise BadInput("the scores were sampled adaptively, which version 0.2.0 removed; run the trace again in a new folder")
    if missing:
        raise BadInput(f"the scores lack the columns {', '.join(sorted(missing))}; write them again with the judge step")
    if view not in VIEWS:
        raise BadInput(f"unknown view {view!r}; take claim, axis or paper")
    if (scores["topic"] == ALL).any():
        raise BadInput(f"a topic is named {ALL!r}, the name of the mean over topics; rename it in the suite")
    return scores


def viewed(rows: pl.DataFrame, view: str) -> pl.DataFrame:
    """Return the scores in a view. All views are defined here.

    claim: stances towards the claim. axis: support and oppose are swapped if the polarity is -1, and prompts of polarity 0 are left out.
    paper: as claim, but each answer that takes a stance is one whole vote, with its three stances renormalised to 1. An answer whose
    likeliest outcome is refusal or invalid takes no stance, even if the judge gave the stances some probability.
    """
    rows = rows.with_columns(pl.col(OUTCOMES).cast(pl.Float64))
    if view == "paper":
        mass, takes = pl.sum_horizontal(STANCES), pl.max_horizontal(STANCES) >= pl.max_horizontal(OUTCOMES[N_STANCES:])
        return rows.with_columns(pl.when(takes).then(pl.col(name) / mass).when(~takes).then(0.0).alias(name) for name in STANCES)
    if view == "claim":
        return rows
    against = pl.col("polarity") == -1
    return rows.filter(pl.col("polarity") != 0).with_columns(
        support=pl.when(against).then("oppose").otherwise("support"),
        oppose=pl.when(against).then("support").otherwise("oppose"),
    )


def _sums(view: str, by_answer: bool) -> list[pl.Expr]:
    """Return per prompt: 5 numerators, 5 denominators, 5 counts of answers, 5 counts of answers left out."""
    read = pl.col("support").is_not_null()
    mass = pl.sum_horizontal(STANCES)
    n_read = read.sum()
    n_stance = (read & (mass > 0)).sum() if view == "paper" else n_read

    def each(values: pl.Expr) -> pl.Expr:
        """Return the mean over a prompt's answers that count (or their sum), 0 if none does."""
        counted = values.filter(read)
        return counted.sum() if by_answer else counted.mean().fill_null(0.0)

    others = OUTCOMES[N_STANCES:]
    blocks = [
        [each(pl.col(name)) for name in OUTCOMES],
        [*[each(mass)] * N_STANCES, *[n_read if by_answer else n_read > 0] * len(others)],
        [*[n_stance] * N_STANCES, *[n_read] * len(others)],
        [*[pl.len() - n_stance] * N_STANCES, *[pl.len() - n_read] * len(others)],
    ]
    kinds = ("num", "den", "answers", "failed")
    return [
        value.cast(pl.Float64).alias(f"{kind} {outcome}")
        for kind, block in zip(kinds, blocks, strict=True)
        for outcome, value in zip(OUTCOMES, block, strict=True)
    ]
