"""Sweep response: how a stage's drift grows with a number that was swept.

Each statistic is a weighted sum of the drifts, with weights that depend on the swept values alone. So it is a `Sample` like any drift, with
the interval and p of `intervals.difference`, paired by prompt and seed over all swept values.

    straight line   drift = a + b u by least squares, u the swept value scaled to 0..1: b is the change from the lowest to the highest.
    lack of fit     the smallest p of the K - 2 orthogonal polynomials above the line, times K - 2 (Bonferroni).

Three seeds often hide how much training varies from seed to seed and from value to value. So the seeds' variance is at least that of their
residuals around one line per seed, pooled over the remaining K - 2 contrasts, with (seeds - 1)(K - 2) degrees of freedom. Interval
and p are the wider of the two. With three seeds, a straight line is rejected at 5 % in 2 to 5 % of simulated sweeps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ..nouns import OUTCOMES
from .cells import ALL, cells
from .drift import ALPHA, families
from .intervals import TAIL, Difference, Sample, difference, mean_over, spread
from .profile import by_topic, frame

LEAST_VALUES = 3
GRID = np.linspace(0, 1, 41)
"""Swept values of the fitted line, scaled to 0..1."""
KEYS = dict.fromkeys(("family", "setting", "view", "topic", "outcome"), pl.String())
SCHEMA = (
    KEYS
    | {"scale": pl.String()}
    | dict.fromkeys(("lowest", "highest"), pl.Float64())
    | {"n_values": pl.Int64()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "p": pl.Float64(), "p_adjusted": pl.Float64(), "resolved": pl.Boolean()}
    | dict.fromkeys(("slope", "slope_low", "slope_high", "p_straight"), pl.Float64())
    | {"straight": pl.Boolean()}
)
CURVE = KEYS | {"kind": pl.String()} | dict.fromkeys(("swept", "value", "low", "high"), pl.Float64()) | {"n": pl.Int64()}


class Family(NamedTuple):
    """Stages that differ only in one swept number: `dpo`, or `dpo[beta=0.1]` if beta is swept too.

    `stages` maps each value to its stage, in increasing order.
    """

    name: str
    setting: str
    stages: dict[float, str]

    @property
    def scale(self) -> str:
        """Return the scale on which the swept values are spaced more evenly: "linear" or "log"."""
        values = np.array(list(self.stages))
        if values[0] <= 0:
            return "linear"
        plain, log = (np.diff(each) for each in (values, np.log(values)))
        return "log" if log.max() / log.min() < plain.max() / plain.min() else "linear"

    def value_at(self, unit: Any) -> Any:
        """Return the swept value at 0..1 of the range."""
        lowest, highest = min(self.stages), max(self.stages)
        return lowest * (highest / lowest) ** unit if self.scale == "log" else lowest + (highest - lowest) * unit

    @property
    def units_K(self) -> np.ndarray:
        """Return the swept values scaled to 0..1."""
        values = np.array(list(self.stages))
        values = np.log10(values) if self.scale == "log" else values
        return (values - values[0]) / (values[-1] - values[0])

    @property
    def span(self) -> float:
        """Return the range of the swept values: in their own unit, or in powers of ten."""
        lowest, highest = min(self.stages), max(self.stages)
        return float(np.log10(highest / lowest)) if self.scale == "log" else highest - lowest


def sweeps(stages: Sequence[Mapping[str, Any]]) -> list[Family]:
    """Return the families of stages with the same start that differ in one swept number alone and have three or more of its values."""
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for stage in stages:
        sweep = stage.get("sweep") or {}
        for key, value in sweep.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                others = "".join(f"[{other}={held}]" for other, held in sweep.items() if other != key)
                family = (stage["name"].partition("[")[0] + others, stage["after"], key)
                found.setdefault(family, {})[float(value)] = stage["name"]
    return [Family(name, key, dict(sorted(of.items()))) for (name, _, key), of in found.items() if len(of) >= LEAST_VALUES]


def sweep_response(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], view: str = "claim") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one row per family, topic and outcome, and the points and fitted lines behind them.

    value: the change along the straight line from the lowest to the highest swept value, with interval, p, and Holm's p_adjusted within the
    family (as `drift.families`). slope: the change per unit (scale "log": per factor of ten). p_straight: lack of fit of the line.
    straight: the line is not rejected at 5 % (Holm).

    Only prompts and seeds with verdicts at the start and at every swept value count. A topic has no fitted line if it has no evidence or
    the line is rejected.
    """
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for family in sweeps(stages):
        fits = {topic: fitted(drifts, family.units_K) for topic, drifts in _drifts(scores, stages, family, view).items()}
        adjusted, _ = families({(view, topic): fit.line.p[0] for topic, fit in fits.items()})
        adjusted_straight, _ = families({(view, topic): fit.p_straight for topic, fit in fits.items()})
        for (topic, fit), (o, outcome) in itertools.product(fits.items(), enumerate(OUTCOMES)):
            key = {"family": family.name, "setting": family.setting, "view": view, "topic": topic, "outcome": outcome}
            row = _row(family, fit, o, adjusted[view, topic, outcome], adjusted_straight[view, topic, outcome])
            rows.append(key | row)
            points += [key | point for point in _points(family, fit, o, row["straight"])]
    return frame(rows, SCHEMA), frame(points, CURVE)


class Fit(NamedTuple):
    """One topic's results: the drift at each swept value (K, O), the line's change (1, O), and the lack of fit (O)."""

    drifts: Sample
    line: Difference
    p_straight: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """Return the prompts with evidence, by outcome."""
        return self.drifts.n.min(0)


def _drifts(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], family: Family, view: str) -> dict[str, Sample]:
    """Return by topic the drift at each swept value; axes K, O. A topic or seed without evidence at one swept value is left out."""
    last = {stage["name"]: stage["steps"][-1] for stage in stages}
    names = list(family.stages.values())
    picked = pl.concat([scores.filter((pl.col("stage") == name) & pl.col("step").is_in([0, last[name]])) for name in names])
    table = cells(picked, view)
    ends = [[(name, step if step is not None else last[name]) for name in names] for step in (0, None)]
    if any(point not in table.checkpoints for point in itertools.chain(*ends)):
        return {}
    at_start, at_end = ([table.checkpoints.index(point) for point in points] for points in ends)
    every = (table.read_CSP[at_start] & table.read_CSP[at_end]).all(0)[..., None]
    start, end = (by_topic(table.num_CSPO[at] * every, table.den_CSPO[at] * every, table.topics) for at in (at_start, at_end))
    whole = {topic: _whole(end[topic] - start[topic]) for topic in table.topics}
    return whole | ({ALL: mean_over(list(whole.values()))} if whole else {})


def _whole(sample: Sample) -> Sample:
    missing = np.isnan(sample.value_S).any(0)
    parts = np.where(missing[..., None], 0, sample.parts_SP)
    return Sample(np.where(missing, np.nan, sample.value_S), parts, sample.n, sample.n_strata)


def contrasts(weights_QK: np.ndarray) -> np.ndarray:
    """Return weights that sum to 0, scaled so that the positive ones sum to 1: a difference of two weighted means, in [-1, 1]."""
    return weights_QK / (np.abs(weights_QK).sum(-1, keepdims=True) / 2)


def line_weights(units_K: np.ndarray, at_Q: np.ndarray) -> np.ndarray:
    """Return the weights QK of the drifts in the least-squares line at the swept values `at_Q`."""
    design, at = (np.stack([np.ones_like(units), units], 1) for units in (units_K, at_Q))
    return at @ np.linalg.pinv(design)


def fitted(drifts: Sample, units_K: np.ndarray) -> Fit:
    """Return the straight line through the drifts, and how well it fits."""
    rise = np.diff(line_weights(units_K, np.array([0.0, 1.0])), axis=0)
    size = np.abs(rise).sum() / 2  # the line's change may exceed what shares can change by; a contrast never does
    line = _difference(drifts, units_K, contrasts(rise))
    polynomials, _ = np.linalg.qr(np.vander(units_K, increasing=True))
    higher = _difference(drifts, units_K, contrasts(polynomials[:, 2:].T))
    p_straight = np.minimum(higher.p.min(0) * len(higher.p), 1)
    return Fit(drifts, replace(line, value=line.value * size, low=line.low * size, high=line.high * size), p_straight)


def _difference(drifts: Sample, units_K: np.ndarray, weights_QK: np.ndarray) -> Difference:
    """Return weighted sums (Q, O) of the drifts; the seeds' part is at least their spread around one line per seed."""
    own = difference(drifts.weighted(weights_QK))
    left = np.linalg.qr(np.stack([np.ones_like(units_K), units_K], 1), mode="complete")[0][:, 2:].T
    wander = spread(drifts.weighted(left))
    by_seed = (weights_QK**2).sum(-1, keepdims=True) * wander.by_seed.mean(0)
    pooled = replace(own.known, by_seed=by_seed, df_seed=np.broadcast_to(wander.df_seed[0] * len(left), by_seed.shape))
    half = pooled.half_width(TAIL)
    low, high = np.minimum(own.low, own.value - half), np.maximum(own.high, own.value + half)
    return Difference(own.value, low.clip(-1, 1), high.clip(-1, 1), np.maximum(own.p, pooled.p_value(own.value)), pooled)


def _row(family: Family, fit: Fit, o: int, p_adjusted: float, p_straight_adjusted: float) -> dict[str, Any]:
    value, low, high, p = (float(x[0, o]) for x in (fit.line.value, fit.line.low, fit.line.high, fit.line.p))
    row = {"scale": family.scale, "lowest": family.value_at(0), "highest": family.value_at(1), "n_values": len(family.stages)}
    row |= {"value": value, "low": low, "high": high, "n": fit.n[o], "p": p, "p_adjusted": p_adjusted}
    row |= {"slope": value / family.span, "slope_low": low / family.span, "slope_high": high / family.span}
    straight = None if np.isnan(p) else not p_straight_adjusted < ALPHA
    return row | {"resolved": bool(p_adjusted < ALPHA), "p_straight": fit.p_straight[o], "straight": straight}


def _points(family: Family, fit: Fit, o: int, straight: bool | None) -> list[dict[str, Any]]:
    """Return the drift at each swept value, and the line with its band unless it is rejected."""
    drifts = fit.drifts[:, o : o + 1]
    observed = difference(drifts)
    parts = [("observed", list(family.stages), observed.value, observed.low, observed.high)]
    if straight:
        weights_QK = line_weights(family.units_K, GRID)
        band = _difference(drifts, family.units_K, weights_QK)
        parts.append(("fitted", family.value_at(GRID), drifts.weighted(weights_QK).value, band.low, band.high))
    return [
        {"kind": kind, "swept": swept, "value": value, "low": low, "high": high, "n": fit.n[o]}
        for kind, at, *columns in parts
        for swept, value, low, high in zip(at, *(column[:, 0] for column in columns), strict=True)
    ]
