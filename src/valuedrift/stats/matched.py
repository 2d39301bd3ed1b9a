"""Matched points: the difference between two stages where they have moved equally far, and not only at their ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit

from .cells import ALL, cells
from .contrast import SCHEMA as CONTRAST
from .contrast import tested
from .effects import comparisons
from .intervals import FLAT, MIN_PROMPTS, TAIL, Sample, ratio
from .profile import by_topic, frame

SCHEMA = {"axis": pl.String(), "level": pl.Float64(), "first": pl.String(), "second": pl.String()} | CONTRAST
Prompts = list[tuple[str, str]]


def matched(
    scores: pl.DataFrame,
    told: pl.DataFrame,
    stages: Sequence[Mapping[str, Any]],
    view: str = "claim",
    frames: Mapping[tuple[str, int], str] | None = None,
) -> pl.DataFrame:
    """Return one row per comparison x axis x topic x outcome: share in the second stage less that in the first, at equal distance.

    Compared are stages from one start ("stage" of `effects.comparisons`) along each axis of `told` that both have: KL from the reference,
    and the score of a reward model. `level` is how far above their common start on that axis: the farthest that all their curves reach, a
    curve being one stage under one seed (by reward, whose scale is that of a seed's own reward model: the farthest that both curves of a
    seed reach, and their mean is told). Where a curve first crosses it, its shares are read off between the two checkpoints around it.
    The level is taken as given; the interval holds the uncertainty of the shares and that of where each curve crossed (delta method),
    paired by prompt and seed. p is corrected by Holm within a comparison and axis.

    Between two checkpoints shares are taken to go straight along the axis. Along KL that is not known: near its reference KL grows as the
    square of what the weights move, so that shares follow its root there, and farther off they need not. They are read off along KL and
    along its root: the value lies midway, interval and p are the wider and the larger of the two.

    Matched is the mean distance over the prompts, by the seeds both stages have; not matched are the steps taken, the data seen, the
    distance on each topic, or the direction. There is no row where a curve does not rise beyond the interval of its rise, where the two
    do not start at one value, being measured from different references, or where a curve crosses the level between two frames (`frames`:
    by stage and step), so that not the weights alone have changed.
    """
    scores = scores.filter(~pl.col("repeat"))
    rows: list[dict[str, Any]] = []
    for comparison in comparisons(stages):
        names = comparison.first, comparison.second
        if comparison.kind != "stage":
            continue
        own = told.filter(pl.col("stage").is_in(names))
        for axis in [name for name in own["companion"].unique(maintain_order=True) if name == "kl" or name.startswith("reward:")]:
            curves = _curves(scores, own.filter(pl.col("companion") == axis), names, view)
            level_S = _level(curves, by_seed=axis != "kl") if curves else None
            if (
                level_S is None
                or not curves
                or any(_reframed(curve, level_S, name, frames or {}) for curve, name in zip(curves, names, strict=True))
            ):
                continue
            named = {"axis": axis, "level": level_S.mean(), "first": names[0], "second": names[1]}
            rows += [named | row for row in _compared(view, *curves, level_S, roots=(False, True) if axis == "kl" else (False,))]
    return frame(rows, SCHEMA)


@dataclass(frozen=True)
class _Curve:
    """One stage: per-prompt sums of its shares (as in `Cells`) and how far it has risen on the axis, at K checkpoints under S seeds."""

    steps: list[int]
    topics: dict[str, slice]
    num_KSPO: np.ndarray
    den_KSPO: np.ndarray
    read_KSP: np.ndarray
    rise: Sample
    """Leading axis K: the axis less its value at the stage's start."""
    start_S: np.ndarray

    def around(self, level_S: np.ndarray, root: bool = False) -> _Crossing:
        """Return where the curve of each seed first crosses a level that all of them reach, on the axis or on its root."""
        found = []
        for rise_K, level in zip(self.rise.value_S.T, level_S, strict=True):
            known = np.flatnonzero(~np.isnan(rise_K))
            found.append(next((a, b) for a, b in itertools.pairwise(known) if rise_K[a] < level <= rise_K[b]))
        places_2S, seeds = np.array(found).T, np.arange(len(found))
        rise_2S, parts_2SP = self.rise.value_S[places_2S, seeds], self.rise.parts_SP[places_2S, seeds]
        if root:
            rise_2S, level_S = np.sqrt(np.maximum(rise_2S, 0)), np.sqrt(level_S)
            # At the start the rise is 0 by definition, and known: no prompt has a part in it.
            parts_2SP = np.where(rise_2S[..., None] > 0, parts_2SP / np.maximum(2 * rise_2S[..., None], FLAT), 0)
        step_S = rise_2S[1] - rise_2S[0]
        weight_S = (level_S - rise_2S[0]) / step_S
        # The weight is (level - a) / (b - a): its derivatives by the estimated a and b are -(1 - weight) / (b - a) and -weight / (b - a).
        moved_SP = -((1 - weight_S)[:, None] * parts_2SP[0] + weight_S[:, None] * parts_2SP[1]) / step_S[:, None]
        return _Crossing(places_2S, weight_S, moved_SP, self.read_KSP[places_2S, seeds].all(0))


@dataclass(frozen=True)
class _Crossing:
    """The checkpoints before and after the level, by seed; the weight of the second; each prompt's influence on that weight."""

    places_2S: np.ndarray
    weight_S: np.ndarray
    moved_SP: np.ndarray
    read_SP: np.ndarray
    """Prompts read at both checkpoints."""


def _curves(scores: pl.DataFrame, told: pl.DataFrame, names: tuple[str, str], view: str) -> tuple[_Curve, _Curve] | None:
    """Return both curves over the same prompts and seeds; None where they share no seed, or do not start at one value."""
    scores = scores.filter(pl.col("stage").is_in(names))
    prompts: Prompts = sorted(scores.select("topic", "prompt").unique().rows())
    seeds = [
        set.intersection(*(set(table.filter(pl.col("stage") == name)["seed"].to_list()) for name in names)) for table in (scores, told)
    ]
    both = sorted(seeds[0] & seeds[1])
    if not both:
        return None
    first, second = (
        _curve(scores.filter(pl.col("stage") == name), told.filter(pl.col("stage") == name), both, prompts, view) for name in names
    )
    return (first, second) if np.allclose(first.start_S, second.start_S, rtol=1e-6, atol=FLAT) else None


def _curve(scores: pl.DataFrame, told: pl.DataFrame, seeds: list[int], prompts: Prompts, view: str) -> _Curve:
    table = cells(scores, view, prompts=prompts)
    places = [{key: place for place, key in enumerate(keys)} for keys in ([step for _, step in table.checkpoints], seeds, prompts)]
    value_KSP = np.full((len(table.checkpoints), len(seeds), len(prompts)), np.nan)
    for step, seed, topic, prompt, value in told.select("step", "seed", "topic", "prompt", "value").iter_rows():
        if step in places[0] and seed in places[1] and (topic, prompt) in places[2]:
            value_KSP[places[0][step], places[1][seed], places[2][topic, prompt]] = value
    there = ~np.isnan(value_KSP) & ~np.isnan(value_KSP[:1])
    num, den = np.where(there, value_KSP, 0), there.astype(float)
    start = ratio(np.where(there, value_KSP[:1], 0), den)
    at = [table.seeds.index(seed) for seed in seeds]
    sums = table.num_CSPO[:, at], table.den_CSPO[:, at], table.read_CSP[:, at]
    return _Curve([step for _, step in table.checkpoints], table.topics, *sums, ratio(num, den) - start, start.value_S[0])


def _level(curves: Sequence[_Curve], by_seed: bool) -> np.ndarray | None:
    """Return the farthest rise that every curve reaches (of each seed), by seed; None where a curve does not rise beyond its interval."""
    reached_CS = np.zeros((len(curves), curves[0].rise.value_S.shape[1]))
    for c, curve in enumerate(curves):
        for s, rise_K in enumerate(curve.rise.value_S.T):
            if np.isnan(rise_K).all() or curve.rise.n.max() < MIN_PROMPTS:
                return None
            top = int(np.nanargmax(rise_K))
            error = np.sqrt((curve.rise.parts_SP[top, s] ** 2).sum())
            if not rise_K[top] > max(stdtrit(curve.rise.n[top] - 1, TAIL) * error, FLAT):
                return None
            reached_CS[c, s] = rise_K[top]
    level_S = reached_CS.min(0)
    return level_S if by_seed else np.full_like(level_S, level_S.min())


def _reframed(curve: _Curve, level_S: np.ndarray, stage: str, frames: Mapping[tuple[str, int], str]) -> bool:
    """Tell whether the questions' frame changes between the checkpoints around the level, under any seed."""
    before_S, after_S = curve.around(level_S).places_2S
    return any(frames.get((stage, curve.steps[a])) != frames.get((stage, curve.steps[b])) for a, b in zip(before_S, after_S, strict=True))


def _compared(view: str, first: _Curve, second: _Curve, level_S: np.ndarray, roots: Sequence[bool]) -> list[dict[str, Any]]:
    """Return the rows of `contrast`, read off on the axis (and on its root): the value midway, the wider interval, the larger p."""
    tables = [_read_off(view, first, second, first.around(level_S, root), second.around(level_S, root)) for root in roots]
    rows = []
    for row, *others in zip(*tables, strict=True):
        every = [row, *others]
        merged = {name: max(one[name] for one in every) for name in ("p", "p_adjusted", "high")}
        merged |= {"value": sum(one["value"] for one in every) / len(every), "low": min(one["low"] for one in every)}
        rows.append(row | merged | {"resolved": all(one["resolved"] for one in every)})
    return rows


def _read_off(view: str, first: _Curve, second: _Curve, *crossings: _Crossing) -> list[dict[str, Any]]:
    both_SP = crossings[0].read_SP & crossings[1].read_SP
    shares = [_shares(curve, crossing, both_SP) for curve, crossing in zip((first, second), crossings, strict=True)]
    read_P = (first.read_KSP.any((0, 1)) | second.read_KSP.any((0, 1))) & ~both_SP.any(0)
    left_out = {(view, topic): int(read_P[first.topics.get(topic, slice(None))].sum()) for topic in shares[0]}
    return tested({(view, topic): shares[1][topic] - shares[0][topic] for topic in shares[0]}, left_out)


def _shares(curve: _Curve, crossing: _Crossing, both_SP: np.ndarray) -> dict[str, Sample]:
    """Return the shares at the crossing, by topic; leading axis O, and the influence of every prompt, of whatever topic."""
    seeds = np.arange(len(crossing.weight_S))
    num, den = (x[crossing.places_2S, seeds] * both_SP[..., None] for x in (curve.num_KSPO, curve.den_KSPO))
    found = {}
    for topic, sample in by_topic(num, den, curve.topics).items():
        before_OS, after_OS = sample.value_S
        weight_SP = crossing.weight_S[:, None]
        parts_OSP = np.zeros((*before_OS.shape, both_SP.shape[1]))
        place = slice(None) if topic == ALL else curve.topics[topic]
        parts_OSP[..., place] = (1 - weight_SP) * sample.parts_SP[0] + weight_SP * sample.parts_SP[1]
        parts_OSP += np.nan_to_num(after_OS - before_OS)[..., None] * crossing.moved_SP
        value_OS = (1 - crossing.weight_S) * before_OS + crossing.weight_S * after_OS
        found[topic] = Sample(value_OS, parts_OSP, sample.n.min(0), sample.n_strata.max(0))
    return found
