"""The proxy: stance shares from likelihoods at every checkpoint, and how far they go along with the judged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from ..nouns import STANCES
from .cells import ALL
from .intervals import FLAT, LEVEL, rng_for
from .profile import frame, profiles

SCHEMA = (
    {"stage": pl.String(), "step": pl.Int64(), "view": pl.String(), "topic": pl.String(), "stance": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64()}
)
MEASURES = ("pearson", "spearman")
CORRELATION = {"view": pl.String(), "of": pl.String(), "n": pl.Int64(), "n_topics": pl.Int64()} | {
    f"{measure}{end}": pl.Float64() for measure in MEASURES for end in ("", "_low", "_high")
}
MIN_TOPICS = 5
"""Fewer topics give no interval; fewer points than this give no correlation."""
REPLICATES = 1000


def proxy(told: pl.DataFrame, *views: str) -> pl.DataFrame:
    """Return one row per stage x step x view x topic x stance: the proxy's share with its 95 % interval, as a judged share is measured."""
    return profiles(told, *views).filter(pl.col("outcome").is_in(STANCES)).rename({"outcome": "stance"}).select(list(SCHEMA))


def correlation(shares: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    """Return Pearson's and Spearman's correlation of the proxy's and the judged shares, of levels and of changes from step 0.

    shares: of `proxy`. judged: of `profiles`. A point is one checkpoint, topic and stance with both shares; a checkpoint that ends one
    stage and starts another counts once among the levels. 95 % percentile interval over topics drawn anew, all points of a topic
    together; the same prompts and the three shares of a topic are not independent. Null where there are too few points or one side does
    not vary.
    """
    at = ["view", "stage", "step", "topic", "stance"]
    both = shares.select(*at, proxy="value").join(judged.select(*at[:4], stance="outcome", judged="value"), on=at).drop_nulls()
    both = both.filter(pl.col("topic") != ALL).sort(at)
    found = [_correlated(view, both.filter(view=view)) for view in shares["view"].unique(maintain_order=True)]
    return frame([row for rows in found for row in rows], CORRELATION)


def _correlated(view: str, both: pl.DataFrame) -> list[dict[str, Any]]:
    start = both.filter(pl.col("step") == 0).select("stage", "topic", "stance", proxy_0="proxy", judged_0="judged")
    moved = both.filter(pl.col("step") > 0).join(start, on=["stage", "topic", "stance"])
    moved = moved.with_columns(proxy=pl.col("proxy") - pl.col("proxy_0"), judged=pl.col("judged") - pl.col("judged_0"))
    levels = both.unique(["topic", "stance", "proxy", "judged"], keep="first", maintain_order=True)
    return [{"view": view} | _row(of, points) for of, points in (("levels", levels), ("changes", moved))]


def _row(name: str, points: pl.DataFrame) -> dict[str, Any]:
    groups = [group.select("proxy", "judged").to_numpy() for group in points.partition_by("topic", maintain_order=True)]
    row: dict[str, Any] = {"of": name, "n": points.height, "n_topics": len(groups)} | dict.fromkeys(list(CORRELATION)[4:])
    if points.height < MIN_TOPICS:
        return row
    row |= dict(zip(MEASURES, _both(groups), strict=True))
    if len(groups) >= MIN_TOPICS:
        drawn_RT = rng_for(0, "proxy", name).integers(len(groups), size=(REPLICATES, len(groups)))
        copies_RM = np.array([_both([groups[k] for k in drawn]) for drawn in drawn_RT])
        for m, measure in enumerate(MEASURES):
            if not np.isnan(row[measure]):
                ends = np.nanquantile(copies_RM[:, m], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
                row |= {f"{measure}_low": ends[0], f"{measure}_high": ends[1]}
    return row


def _both(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return Pearson's and Spearman's correlation of the points of all groups, Nx2 each; nan where one side does not vary."""
    points_N2 = np.concatenate(groups)
    if (np.ptp(points_N2, axis=0) <= FLAT).any():
        return np.nan, np.nan
    return tuple(float(np.corrcoef(values, rowvar=False)[0, 1]) for values in (points_N2, rankdata(points_N2, axis=0)))  # type: ignore[return-value]


def proxy_finding(row: Mapping[str, Any]) -> str:
    """Return the sentence on how far the proxy goes along with the judged shares."""
    said = []
    for measure in ("pearson", "spearman"):
        value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
        ends = "no interval" if low is None else f"{low:+.2f} to {high:+.2f}"
        said.append(f"{measure.capitalize()} " + ("no evidence" if value is None else f"{value:+.2f} [{ends}]"))
    return f"Proxy and judged shares (view {row['view']}), {row['of']}: {', '.join(said)}; {row['n']:,} points on {row['n_topics']} topics."
