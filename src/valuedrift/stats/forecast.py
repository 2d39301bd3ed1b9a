"""Forecasts of drift from features of the data, calibrated on traced runs, with intervals and their record.

A row is one topic and measure of one traced training. A measure is an outcome, or "length", the mean words of an answer. A forecast is made
on a scale without bounds (`link`): log odds of shares, logarithm of words. There, one ridge regression per algorithm and measure takes
features of the data to the change. Intervals are conformal, and data sets are their groups: rows of one data set are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit, logit, softmax
from scipy.stats import spearmanr, t

from ..nouns import OUTCOMES, STANCES

MEASURES = (*OUTCOMES, "length")
GAP = ("gap", "own_gap", "all_gap")
"""The features that need only a judge: the topic's mean gap, its sum over the topic's records, and the sum over all records (both sums
divided by the number of records)."""
LEVEL = 0.9
LEAST_SETS = 9
"""Fewest data sets for an interval: with fewer, no quantile of their errors has the level."""
PENALTIES = np.logspace(-3, 3, 7)
"""Ridge penalties to choose from, per row, for features of root mean square 1."""
KEYS = ("algorithm", "measure")


def link(measure: str, value: float, n: int) -> float:
    """Return a share as log odds, as if half an answer more had been seen on either side; words as their logarithm."""
    return float(np.log(max(value, 0.5)) if measure == "length" else logit((value * n + 0.5) / (n + 1)))


def drift(measure: str, before: float, n: int, change: Any) -> Any:
    """Return the drift, in shares or words, of a change on the scale of `link`."""
    start = link(measure, before, n)
    return np.exp(start + change) - np.exp(start) if measure == "length" else expit(start + change) - expit(start)


def changes(rows: pl.DataFrame) -> np.ndarray:
    """Return each row's measured change on the scale of `link`."""
    found = [link(row["measure"], row["after"], row["n"]) - link(row["measure"], row["before"], row["n"]) for row in rows.to_dicts()]
    return np.array(found, float)


# -- one regression ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A ridge regression, and its errors on every data set when that one is left out."""

    scale_F: np.ndarray
    weights_F: np.ndarray
    errors: Mapping[str, np.ndarray]
    """Absolute errors by data set."""

    def change(self, x_RF: np.ndarray) -> np.ndarray:
        return x_RF / self.scale_F @ self.weights_F

    def half_width(self) -> float:
        """Return the conformal half width, infinite with too few data sets (`conformal`)."""
        return conformal(list(self.errors.values()))


def fit(x_RF: np.ndarray, y_R: np.ndarray, sets_R: Sequence[str]) -> Fit:
    """Fit a ridge regression; its penalty is the one with the least mean absolute error on left-out data sets.

    Leaving one out only subtracts its moments, so that every such fit is exact and cheap. With one data set the largest penalty is taken.
    """
    scale_F = np.sqrt((x_RF**2).mean(0))
    scale_F = np.where(scale_F > 0, scale_F, 1)
    x_RF = x_RF / scale_F
    names = list(dict.fromkeys(sets_R))
    own = [np.flatnonzero(np.asarray(sets_R) == name) for name in names]
    moments = np.stack([x_RF[rows].T @ x_RF[rows] for rows in own]), np.stack([x_RF[rows].T @ y_R[rows] for rows in own])
    size = len(y_R)

    def solved(squares: np.ndarray, products: np.ndarray, penalty: float) -> np.ndarray:
        return np.linalg.solve(squares + penalty * size * np.eye(x_RF.shape[1]), products[..., None])[..., 0]

    tried = []
    for penalty in PENALTIES:
        weights_GF = solved(moments[0].sum(0) - moments[0], moments[1].sum(0) - moments[1], penalty)
        errors = {name: np.abs(y_R[rows] - x_RF[rows] @ weights_F) for name, rows, weights_F in zip(names, own, weights_GF, strict=True)}
        tried.append((float(np.mean([of.mean() for of in errors.values()])), -penalty, errors))
    _, penalty, errors = min(tried, key=lambda one: one[:2])
    return Fit(scale_F, solved(moments[0].sum(0), moments[1].sum(0), -penalty), errors)


def conformal(errors: Sequence[np.ndarray], level: float = LEVEL) -> float:
    """Return the quantile of absolute errors that covers a row of a new data set with probability `level` (Lee et al. 2023, eq. 6).

    Every data set has the weight 1 / (sets + 1), spread over its rows, and a new one the same weight at infinity. So the quantile is
    infinite for fewer than 9 data sets at 0.9.
    """
    values = np.concatenate(errors)
    weights = np.concatenate([np.full(len(of), 1 / len(of) / (len(errors) + 1)) for of in errors])
    order = np.argsort(values)
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-12)
    return float(values[order][reached[0]]) if len(reached) else float("inf")


def reweighted(q_PKM: np.ndarray, reward_PK: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return the mean over prompts of each measure under weights exp(reward / strength), and the effective number of answers per prompt.

    These are the shares of the policy that maximises reward - strength * KL (Rafailov et al. 2023, eq. 4), estimated from K stored answers
    per prompt. The effective number, 1 / sum of squared weights, is between 1 (one answer decides) and K.
    """
    weight_PK = softmax(reward_PK / strength, axis=1)
    return (weight_PK[..., None] * q_PKM).sum(1).mean(0), float((1 / (weight_PK**2).sum(1)).mean())


# -- a table of runs ---------------------------------------------------------------------------------------------------------------


def features(rows: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the named features, the same times the log of the training's dose, and 1, shape (rows, 2 names + 1).

    A dose is the learning rate times the steps.
    """
    x_RF = rows.select(names).fill_null(0.0).to_numpy().astype(float)
    dose_R1 = np.log(rows["dose"].to_numpy().astype(float))[:, None] - np.log(1e-3)
    return np.concatenate([x_RF, x_RF * dose_R1, np.ones((len(x_RF), 1))], 1)


def fits(rows: pl.DataFrame, names: Sequence[str]) -> dict[tuple[str, str], Fit]:
    """Return a regression per algorithm and measure."""
    return {
        key: fit(features(some, names), changes(some), some["data"].to_list())
        for key, some in rows.partition_by(KEYS, as_dict=True).items()
    }


def forecast(archive: pl.DataFrame, wanted: pl.DataFrame, names: Sequence[str] = GAP) -> pl.DataFrame:
    """Return the wanted rows with their forecast drift: `value`, `low`, `high` (null: no interval).

    A row whose algorithm and measure the archive lacks is left out.
    """
    known, found = fits(archive, names), []
    for key, some in wanted.partition_by(KEYS, as_dict=True, maintain_order=True).items():
        if (one := known.get(key)) is None:
            continue
        change_R, half = one.change(features(some, names)), one.half_width()
        for row, change in zip(some.to_dicts(), change_R, strict=True):
            ends = [float(drift(row["measure"], row["before"], row["n"], change + sign * half)) for sign in (-1, 1)]
            low, high = ends if np.isfinite(half) else (None, None)
            found.append(row | {"value": float(drift(row["measure"], row["before"], row["n"], change)), "low": low, "high": high})
    return pl.DataFrame(found, infer_schema_length=None)


def one_slope(archive: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray:
    """Return the drifts forecast by the topic's gap times one slope per algorithm, fitted to the stances of the archive."""
    slopes = {}
    for (algorithm,), some in archive.filter(pl.col("measure").is_in(STANCES)).partition_by("algorithm", as_dict=True).items():
        gap, y = some["gap"].fill_null(0.0).to_numpy(), changes(some)
        slopes[algorithm] = float(gap @ y / max(gap @ gap, 1e-12))
    return np.array(
        [drift(row["measure"], row["before"], row["n"], slopes[row["algorithm"]] * (row["gap"] or 0.0)) for row in wanted.to_dicts()]
    )


def mean_drift(archive: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray:
    """Return the mean drift of the archive's runs of the same algorithm, topic and measure."""
    keys = ("algorithm", "topic", "measure")
    means = archive.group_by(keys).agg(value=(pl.col("after") - pl.col("before")).mean())
    return wanted.select(keys).join(means, on=keys, how="left", maintain_order="left")["value"].fill_null(0.0).to_numpy()


# -- the record --------------------------------------------------------------------------------------------------------------------


def left_out(archive: pl.DataFrame, rungs: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return the archive with the forecasts of each rung, made without the row's data set (columns `RUNG`, `RUNG low`, `RUNG high`).

    Also the baselines' (`no drift`, `one slope`, `mean of runs`) and the ceiling, the drift of the same training with another seed.
    """
    parts = []
    for name in archive["data"].unique(maintain_order=True):
        others, own = archive.filter(pl.col("data") != name), archive.filter(pl.col("data") == name)
        own = own.sort(KEYS, maintain_order=True).with_columns(drift=pl.col("after") - pl.col("before"))
        columns: dict[str, Any] = {
            "no drift": np.zeros(own.height),
            "one slope": one_slope(others, own),
            "mean of runs": mean_drift(others, own),
        }
        for rung, names in rungs.items():
            made = forecast(others, own, names)
            columns |= {rung: made["value"]} | {f"{rung} {end}": made[end].cast(pl.Float64) for end in ("low", "high")}
        parts.append(own.with_columns(**columns))
    rows = pl.concat(parts)
    keys = ("data", "algorithm", "topic", "measure")
    total, n = pl.col("drift").sum().over(keys), pl.len().over(keys)
    return rows.with_columns(pl.when(n > 1).then((total - pl.col("drift")) / (n - 1)).alias("another seed"))


def record(rows: pl.DataFrame, rung: str, over: str = "") -> dict[str, Any]:
    """Return how good a column of `left_out` is on the stances: over all, each data set having the same weight.

    spearman: rank correlation over the cells of a run. mae: mean absolute error in shares; skill: 1 - mae / the mae of "no drift".
    sign: share of the resolved drifts with the right sign. coverage and width of the intervals, None without. gain: how much lower the mae
    is than that of the column `over`, {value, low, high}: the mean over data sets with its 95 % interval (Student's t).
    """
    rows = rows.filter(pl.col("measure").is_in(STANCES) & pl.col(rung).is_not_null())
    error = (pl.col(rung) - pl.col("drift")).abs()
    by_set = rows.group_by("data", maintain_order=True)
    mae = by_set.agg(value=error.mean())["value"].to_numpy()
    none = by_set.agg(value=pl.col("drift").abs().mean())["value"].to_numpy()
    runs = rows.partition_by("data", "algorithm", "seed")
    ranks = [rank for run in runs if (rank := rank_correlation(run[rung].to_numpy(), run["drift"].to_numpy())) is not None]
    resolved = rows.filter(pl.col("resolved") & (pl.col(rung) != 0))
    found: dict[str, Any] = {
        "n_sets": len(mae),
        "n_runs": rows.select("data", "algorithm", "seed").unique().height,
        "spearman": float(np.mean(ranks)) if ranks else None,
        "mae": float(mae.mean()),
        "skill": float(1 - mae.mean() / none.mean()),
        "sign": _mean((resolved[rung] > 0) == (resolved["drift"] > 0)),
        "n_resolved": resolved.height,
        "coverage": None,
        "width": None,
    }
    if f"{rung} low" in rows.columns:
        known = rows.filter(pl.col(f"{rung} low").is_not_null())
        inside = (known["drift"] >= known[f"{rung} low"]) & (known["drift"] <= known[f"{rung} high"])
        found |= {"coverage": _mean(inside), "width": _mean(known[f"{rung} high"] - known[f"{rung} low"])}
    if over:
        gained = by_set.agg(value=(pl.col(over) - pl.col("drift")).abs().mean())["value"].to_numpy() - mae
        found["gain"] = mean_interval(gained)
    return found


def rank_correlation(first_N: np.ndarray, second_N: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None if one side is constant."""
    constant = np.ptp(first_N) == 0 or np.ptp(second_N) == 0
    return None if constant else float(spearmanr(first_N, second_N).statistic)


def mean_interval(values: np.ndarray) -> dict[str, Any]:
    """Return the mean of independent values with its 95 % interval, None with fewer than 2."""
    if len(values) < 2:
        return {"value": float(values.mean()) if len(values) else None, "low": None, "high": None, "n": len(values)}
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"value": float(values.mean()), "low": float(values.mean()) - half, "high": float(values.mean()) + half, "n": len(values)}


def _mean(values: pl.Series) -> float | None:
    return None if values.is_empty() else float(values.cast(pl.Float64).mean())  # type: ignore[arg-type]
