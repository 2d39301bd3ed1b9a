"""Dose-response: how a stage's drift grows with a number that was swept, and whether there is a threshold below which nothing moves.

Every statistic is a sum of the doses' drifts with weights that the doses alone decide, hence a `Sample` like any drift: interval and p are
those of `intervals.difference`, paired by prompt and seed over all doses, whatever the covariance between doses is. (Weights from an
estimated covariance would gain where doses differ in spread, but with three seeds that covariance is singular.)

    straight line   drift = a + b u by least squares, u the dose scaled to 0..1: b is the change from the lowest to the highest dose.
    hinge           drift = a + b max(0, u - theta). A threshold theta is excluded where a contrast rejects it at 5 %: the sum of all
                    other hinges, those below theta taken negative, less its projection on 1 and max(0, u - theta). Its mean is 0 for
                    every a and b where theta is true, so nothing is plugged in (a score test; the interval is its inversion).
                    theta at the lowest dose is the straight line.
    lack of fit     the smallest p of the K - 2 orthogonal polynomials above the line, times K - 2 (Bonferroni).

Three seeds often hide that training wanders from seed to seed and dose to dose. So the seeds' part is at least what is left of them around
lines (hinges) of their own, pooled over the K - 2 contrasts that these leave, with (seeds - 1)(K - 2) degrees of freedom; interval and p
are the wider of the two. In % of 1000 sets, 5 doses of 5 draws, 3 seeds, rises of 0.3 to 0.5, Holm for 3 stances; ranges are over
seeds that agree, wander at each dose by sd 0.01 or 0.02, or by 0.03 with slopes of sd 0.05 ("without": without the pooled part):

                                                  110 prompts   without      550 prompts   without
    no drift: response at 5 %                         1-4                        1-3
    straight line: called bent at 5 %                 2-4         3-10           1-4         2-9
    straight line: lack of fit below 5 %              2-5                        2-5
    straight line: threshold resolved                 0-1                        0-1
    threshold at 0.25 or 0.5: covered                96-99       90-97          96-98       90-98
    threshold at 0.5, rise 0.3: resolved             42-96                      38-100
    threshold at 0.5, rise 0.5: resolved             83-100                     86-100

One seed tells nothing of such wandering: then the intervals speak for these training runs alone.
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

LEAST_DOSES = 3
GRID = np.linspace(0, 1, 41)
"""Doses of the fitted curve, and candidate thresholds (all but the last), scaled to 0..1."""
KEYS = dict.fromkeys(("family", "setting", "view", "topic", "outcome"), pl.String())
SCHEMA = (
    KEYS
    | {"scale": pl.String()}
    | dict.fromkeys(("lowest", "highest"), pl.Float64())
    | {"doses": pl.Int64()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "p": pl.Float64(), "p_adjusted": pl.Float64(), "resolved": pl.Boolean()}
    | dict.fromkeys(("slope", "slope_low", "slope_high", "p_straight", "p_bend", "p_bend_adjusted"), pl.Float64())
    | dict.fromkeys(("threshold", "threshold_low", "threshold_high"), pl.Float64())
    | {"status": pl.String()}
)
CURVE = KEYS | {"kind": pl.String()} | dict.fromkeys(("dose", "value", "low", "high"), pl.Float64()) | {"n": pl.Int64()}


class Family(NamedTuple):
    """Stages that differ in one swept number alone: `dpo`, or `dpo[beta=0.1]` where beta is swept too. `stages`: dose -> stage, rising."""

    name: str
    setting: str
    stages: dict[float, str]

    @property
    def scale(self) -> str:
        """Return the scale on which the doses lie more evenly, which is how they were spaced: "linear" or "log"."""
        doses = np.array(list(self.stages))
        if doses[0] <= 0:
            return "linear"
        plain, log = (np.diff(values) for values in (doses, np.log(doses)))
        return "log" if log.max() / log.min() < plain.max() / plain.min() else "linear"

    def dose(self, unit: Any) -> Any:
        """Return the dose at 0..1 of the range."""
        lowest, highest = min(self.stages), max(self.stages)
        return lowest * (highest / lowest) ** unit if self.scale == "log" else lowest + (highest - lowest) * unit

    @property
    def units_K(self) -> np.ndarray:
        """Return the doses scaled to 0..1."""
        doses = np.array(list(self.stages))
        doses = np.log10(doses) if self.scale == "log" else doses
        return (doses - doses[0]) / (doses[-1] - doses[0])

    @property
    def span(self) -> float:
        """Return the range of the doses: in their own unit, or in powers of ten."""
        lowest, highest = min(self.stages), max(self.stages)
        return float(np.log10(highest / lowest)) if self.scale == "log" else highest - lowest


def doses(stages: Sequence[Mapping[str, Any]]) -> list[Family]:
    """Return the families of stages from one and the same start that differ in one swept number alone and have three of its values."""
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for stage in stages:
        sweep = stage.get("sweep") or {}
        for key, value in sweep.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                others = "".join(f"[{other}={held}]" for other, held in sweep.items() if other != key)
                family = (stage["name"].partition("[")[0] + others, stage["after"], key)
                found.setdefault(family, {})[float(value)] = stage["name"]
    return [Family(name, key, dict(sorted(of.items()))) for (name, _, key), of in found.items() if len(of) >= LEAST_DOSES]


def dose_response(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], view: str = "claim") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one row per family x topic x outcome, and the points and curves behind them.

    value: the change along the straight line from the lowest to the highest dose, with interval, p and Holm's p_adjusted within the family
    (as `drift.families`); slope: the same per unit of the dose (scale "log": per factor of ten). p_straight: lack of fit of the line.
    p_bend, p_bend_adjusted: the line against a threshold. threshold_low, threshold_high: the thresholds not excluded at 5 %, where a
    response is resolved. status: "no evidence" (a dose without a value, fewer than 5 prompts), "no response" (not resolved, and no
    lack of fit after Holm), "resolved"
    (p_bend_adjusted < 0.05, the lowest dose is excluded, the bend steepens the response), "other shape" (as clear a bend, but it levels
    off, or no hinge fits), else "none resolved". Only prompts and seeds read at the start and at every dose count. The curve is the line,
    or the hinge where its threshold is resolved (its band holds those of all thresholds not excluded); none for another shape.
    """
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for family in doses(stages):
        fits = {topic: _fitted(drifts, family.units_K) for topic, drifts in _drifts(scores, stages, family, view).items()}
        adjusted, _ = families({(view, topic): fit.line.p[0] for topic, fit in fits.items()})
        adjusted_bend, _ = families({(view, topic): fit.bends.p[0] for topic, fit in fits.items()})
        adjusted_straight, _ = families({(view, topic): fit.p_straight for topic, fit in fits.items()})
        for (topic, fit), (o, outcome) in itertools.product(fits.items(), enumerate(OUTCOMES)):
            at = view, topic, outcome
            key = {"family": family.name, "setting": family.setting, "view": view, "topic": topic, "outcome": outcome}
            bent = bool(adjusted_straight[at] < ALPHA)
            row = _row(family, fit, o, adjusted[at], adjusted_bend[at], bent)
            rows.append(key | row)
            points += [key | point for point in _points(family, fit, o, row["status"])]
    return frame(rows, SCHEMA), frame(points, CURVE)


class _Fit(NamedTuple):
    """What one topic says: the drift at each dose (K, O), the line's change (1, O), the contrasts of candidate thresholds (T, O), p (O)."""

    drifts: Sample
    line: Difference
    bends: Difference
    p_straight: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """Return the prompts with evidence, by outcome."""
        return self.drifts.n.min(0)

    def inside(self, o: int) -> np.ndarray:
        """Tell of every candidate threshold whether it is not excluded at 5 %."""
        return (self.bends.low[:, o] <= 0) & (self.bends.high[:, o] >= 0)

    def threshold(self, o: int) -> float:
        """Return the candidate that is least excluded; the middle one where several are equally so."""
        p = self.bends.p[:, o]
        return float(np.median(GRID[:-1][p >= p.max() * (1 - 1e-6)]))


def _drifts(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], family: Family, view: str) -> dict[str, Sample]:
    """Return by topic the drift at each dose; axes K, O. A topic or seed that lacks a value at one dose has none at any."""
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


def hinge_weights(units_K: np.ndarray, theta: float, at_Q: np.ndarray) -> np.ndarray:
    """Return the weights QK by which the drifts make the least-squares hinge at `theta` at the doses `at_Q`; theta = 0 is the line."""
    design = np.stack([np.ones_like(units_K), np.maximum(units_K - theta, 0)], 1)
    at = np.stack([np.ones_like(at_Q), np.maximum(at_Q - theta, 0)], 1)
    return at @ np.linalg.pinv(design)


def bend_weights(units_K: np.ndarray, thetas_T: np.ndarray) -> np.ndarray:
    """Return per candidate threshold the contrast TK that has mean 0 under its hinge, and is large under a hinge elsewhere."""
    hinges_TK = np.maximum(units_K - thetas_T[:, None], 0)
    toward_TK = np.sign(thetas_T - thetas_T[:, None]) @ hinges_TK
    rest = [toward - hinge_weights(units_K, theta, units_K) @ toward for theta, toward in zip(thetas_T, toward_TK, strict=True)]
    return contrasts(np.array(rest))


def _fitted(drifts: Sample, units_K: np.ndarray) -> _Fit:
    rise = np.diff(hinge_weights(units_K, 0, np.array([0.0, 1.0])), axis=0)
    size = np.abs(rise).sum() / 2  # the line's change may exceed what shares can change by; a contrast never does
    line = _difference(drifts, units_K, contrasts(rise))
    polynomials, _ = np.linalg.qr(np.vander(units_K, increasing=True))
    higher = _difference(drifts, units_K, contrasts(polynomials[:, 2:].T))
    p_straight = np.minimum(higher.p.min(0) * len(higher.p), 1)
    bends = _difference(drifts, units_K, bend_weights(units_K, GRID[:-1]), GRID[:-1])
    return _Fit(drifts, replace(line, value=line.value * size, low=line.low * size, high=line.high * size), bends, p_straight)


def _difference(drifts: Sample, units_K: np.ndarray, weights_QK: np.ndarray, thetas: Sequence[float] | np.ndarray = (0.0,)) -> Difference:
    """Return weighted sums (Q, O) of the drifts; the seeds' part is at least what they wander around the hinge at `thetas` (one or Q)."""
    own = difference(drifts.weighted(weights_QK))
    wander = [_wander(drifts, units_K, theta) for theta in thetas]
    by_seed = (weights_QK**2).sum(-1, keepdims=True) * np.stack([known for known, _ in wander])
    pooled = replace(own.known, by_seed=by_seed, df_seed=np.broadcast_to(wander[0][1], by_seed.shape))
    half = pooled.half_width(TAIL)
    low, high = np.minimum(own.low, own.value - half), np.maximum(own.high, own.value + half)
    return Difference(own.value, low.clip(-1, 1), high.clip(-1, 1), np.maximum(own.p, pooled.p_value(own.value)), pooled)


def _wander(drifts: Sample, units_K: np.ndarray, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return by outcome the squared standard error that seeds add to one dose's drift, beside hinges of their own, and its df."""
    design = np.stack([np.ones_like(units_K), np.maximum(units_K - theta, 0)], 1)
    left = np.linalg.qr(design, mode="complete")[0][:, 2:].T
    known = spread(drifts.weighted(left))
    return known.by_seed.mean(0), known.df_seed[0] * len(left)


def _row(family: Family, fit: _Fit, o: int, p_adjusted: float, p_bend_adjusted: float, bent: bool) -> dict[str, Any]:
    value, low, high, p = (float(x[0, o]) for x in (fit.line.value, fit.line.low, fit.line.high, fit.line.p))
    inside = fit.inside(o)
    resolved = bool(p_adjusted < ALPHA)
    status = "none resolved"
    if np.isnan(p):
        status = "no evidence"
    elif not resolved:
        status = "other shape" if bent else "no response"  # what rises and falls again has no change from end to end
    elif p_bend_adjusted < ALPHA and not inside[:1].any():
        steepens = fit.bends.value[0, o] * value > 0  # towards the hinges, which all bend upwards
        status = "resolved" if inside.any() and steepens else "other shape"
    row = {"scale": family.scale, "lowest": family.dose(0), "highest": family.dose(1), "doses": len(family.stages)}
    row |= {"value": value, "low": low, "high": high, "n": fit.n[o], "p": p, "p_adjusted": p_adjusted, "resolved": resolved}
    row |= {"slope": value / family.span, "slope_low": low / family.span, "slope_high": high / family.span}
    row |= {"p_straight": fit.p_straight[o], "p_bend": fit.bends.p[0, o], "p_bend_adjusted": p_bend_adjusted, "status": status}
    if resolved and inside.any() and status != "other shape":
        row |= {"threshold_low": family.dose(GRID[:-1][inside].min()), "threshold_high": family.dose(GRID[1:][inside].max())}
    return row | ({"threshold": family.dose(fit.threshold(o))} if status == "resolved" else {})


def _points(family: Family, fit: _Fit, o: int, status: str) -> list[dict[str, Any]]:
    """Return the drift at each dose, and the curve with its band where one may be drawn."""
    drifts = fit.drifts[:, o : o + 1]
    result = difference(drifts)
    columns = zip(family.stages, result.value[:, 0], result.low[:, 0], result.high[:, 0], strict=True)
    rows = [{"kind": "observed", "dose": d, "value": v, "low": a, "high": b, "n": fit.n[o]} for d, v, a, b in columns]
    if status in ("no evidence", "other shape"):
        return rows
    hinged = status == "resolved"
    thetas = GRID[:-1][fit.inside(o)] if hinged else np.zeros(1)
    bands = [_difference(drifts, family.units_K, hinge_weights(family.units_K, theta, GRID), [theta]) for theta in thetas]
    low_Q, high_Q = np.min([band.low[:, 0] for band in bands], 0), np.max([band.high[:, 0] for band in bands], 0)
    value_Q = drifts.weighted(hinge_weights(family.units_K, fit.threshold(o) if hinged else 0, GRID)).value[:, 0]
    curve = zip(family.dose(GRID), value_Q, low_Q, high_Q, strict=True)
    return rows + [{"kind": "fitted", "dose": d, "value": v, "low": a, "high": b, "n": fit.n[o]} for d, v, a, b in curve]
