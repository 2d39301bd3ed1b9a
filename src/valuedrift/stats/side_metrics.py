"""Side metrics of each checkpoint: the distance from the reference, rewards, length and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES
from .cells import ALL, N_STANCES
from .intervals import MIN_PROMPTS, TAIL, ratio, spread
from .profile import frame

SCHEMA = (
    {"stage": pl.String(), "step": pl.Int64(), "metric": pl.String(), "reference": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64()}
)


def side_metrics(told: pl.DataFrame, profiles: pl.DataFrame) -> pl.DataFrame:
    """Return one row per checkpoint and side metric: the mean over the measured prompts with its 95 % interval, seeds pooled.

    `told` has one number per checkpoint, prompt and side metric. Refusal and invalid are the shares over all topics in `profiles`, so that
    all side metrics share one axis. Fewer than 5 prompts have no interval.
    """
    rows: list[dict[str, Any]] = []
    for key, group in told.group_by("stage", "step", "metric", "reference", maintain_order=True):
        named = dict(zip(("stage", "step", "metric", "reference"), key, strict=True))
        value_SP = group.pivot("prompt", index="seed", values="value").drop("seed").to_numpy()
        there_SP = ~np.isnan(value_SP)
        sample = ratio(np.where(there_SP, value_SP, 0), there_SP.astype(float))
        value, half = float(sample.value), float(spread(sample).half_width(TAIL)) if sample.n >= MIN_PROMPTS else np.nan
        least = -np.inf if named["metric"].startswith("reward:") else 0.0  # neither a distance nor a length is negative
        low = value - half
        rows.append(named | {"value": value, "low": np.maximum(low, least), "high": value + half, "n": int(sample.n)})
    shares = profiles.filter((pl.col("topic") == ALL) & pl.col("outcome").is_in(OUTCOMES[N_STANCES:]))
    as_metrics = shares.with_columns(metric=pl.col("outcome"), reference=pl.lit("")).select(list(SCHEMA))
    return pl.concat([frame(rows, SCHEMA), as_metrics])
