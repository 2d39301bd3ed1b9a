"""What common random numbers save: the standard error of a drift, as measured and as it would be with independent sampling.

Equal draws of two checkpoints share their noise (`models/sampling_noise.py`), so that they differ only where the checkpoints do. The
variance of a paired difference over prompts has a part of the draws, which this makes smaller, and a part of the prompts, which it leaves:

    paired        SE^2                                             from the prompts' differences
    draws         V = sum_i var_d(x_id' - x_id) / D / n^2          W = sum_i (var_d(x_id') + var_d(x_id)) / D / n^2
    independent   SE^2 - V + W                                     the same answers at the same cost, draws shuffled

for prompts i of n, draws d of D, and the draws' contributions x to the share, linearised as everywhere (Cochran 1977, ch. 6).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from ..nouns import STANCES
from .cells import ALL, viewed
from .intervals import MIN_PROMPTS, TINY, rng_for, weights
from .profile import frame

SCHEMA = (
    {"stage": pl.String()}
    | dict.fromkeys(("from_step", "to_step"), pl.Int64())
    | dict.fromkeys(("topic", "stance"), pl.String())
    | dict.fromkeys(("se", "ratio", "ratio_low", "ratio_high", "draws_ratio"), pl.Float64())
    | {"n": pl.Int64()}
)


def pairing(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], view: str = "claim", seed: int = 0) -> pl.DataFrame:
    """Return one row per stage, pair of steps (neighbours that were asked; and the ends), topic and stance.

    se: standard error of the change over prompts (of all seeds). ratio: se over that of independent sampling at equal cost, with a 95 %
    bootstrap interval over prompts. draws_ratio: sqrt(V / W), what the coupling does to the part of the draws. Nothing is given where fewer
    than 5 prompts have two draws read at both steps, or where no draw differs (W = 0). Topic "all": the mean over topics.
    """
    rows = viewed(scores.filter(~pl.col("repeat") & pl.col("support").is_not_null()), view)
    if "weight" in rows.columns:
        rows = rows.filter(pl.col("weight").is_null())
    found = []
    for name in dict.fromkeys(entry["name"] for entry in stages):
        of_stage = rows.filter(pl.col("stage") == name)
        steps = of_stage["step"].unique().sort().to_list()
        for pair in dict.fromkeys([*itertools.pairwise(steps), *([(steps[0], steps[-1])] if len(steps) > 1 else [])]):
            parts = {str(topic): _parts(of, *pair) for (topic,), of in of_stage.sort("topic").group_by("topic", maintain_order=True)}
            for topic, (square_U3, paired_U3, alone_U3) in (parts | {ALL: _mean(list(parts.values()))}).items():
                at = {"stage": name, "from_step": pair[0], "to_step": pair[1], "topic": topic}
                n = len(square_U3)
                copies_RU = weights(rng_for(seed, "pairing", topic), n, 400) if n else np.zeros((400, 0))
                for s, stance in enumerate(STANCES):
                    found.append(at | {"stance": stance} | _row(square_U3[:, s], paired_U3[:, s], alone_U3[:, s], copies_RU))
    return frame(found, SCHEMA)


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Per unit (prompt and seed) and stance what it adds to SE^2, V and W."""


def _parts(rows: pl.DataFrame, before: int, after: int) -> Parts:
    keys, mass = ["seed", "prompt", "draw"], pl.sum_horizontal(STANCES)
    both = [rows.filter(pl.col("step") == step).select(*keys, *STANCES, mass=mass) for step in (before, after)]
    joined = both[0].join(both[1], on=keys, suffix="_after").sort(keys)
    x_2N3 = np.stack([_linearised(joined.select(f"{name}{suffix}" for name in (*STANCES, "mass")).to_numpy()) for suffix in ("", "_after")])
    units = joined.group_by("seed", "prompt", maintain_order=True).len()["len"].to_numpy()
    starts = np.concatenate([[0], units.cumsum()[:-1]]).astype(int)
    enough = units >= 2
    n = int(enough.sum())
    if not n:
        return (np.zeros((0, 3)),) * 3

    def mean_and_variance(values_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean_U3 = np.add.reduceat(values_N3, starts) / units[:, None]
        rest_N3 = values_N3 - mean_U3.repeat(units, axis=0)
        return mean_U3[enough], (np.add.reduceat(rest_N3**2, starts) / np.maximum(units - 1, 1)[:, None] / units[:, None])[enough]

    change_U3, paired_U3 = mean_and_variance(x_2N3[1] - x_2N3[0])
    alone_U3 = mean_and_variance(x_2N3[0])[1] + mean_and_variance(x_2N3[1])[1]
    square_U3 = (change_U3 - change_U3.mean(0)) ** 2 * (n / max(n - 1, 1))
    return square_U3 / n**2, paired_U3 / n**2, alone_U3 / n**2


def _linearised(values_N4: np.ndarray) -> np.ndarray:
    """Return each draw's contribution to the shares, from its stances and their mass."""
    mass = values_N4[:, 3].mean() if len(values_N4) else 0.0
    shares_3 = values_N4[:, :3].mean(0) / max(mass, TINY) if len(values_N4) else np.zeros(3)
    return (values_N4[:, :3] - shares_3 * values_N4[:, 3:]) / max(mass, TINY)


def _mean(topics: Sequence[Parts]) -> Parts:
    there = [parts for parts in topics if len(parts[0])]
    first, second, third = (np.concatenate([parts[i] for parts in there] or [np.zeros((0, 3))]) / max(len(there), 1) ** 2 for i in range(3))
    return first, second, third


def _row(square_U: np.ndarray, paired_U: np.ndarray, alone_U: np.ndarray, copies_RU: np.ndarray) -> dict[str, Any]:
    nothing = {"se": None, "ratio": None, "ratio_low": None, "ratio_high": None, "draws_ratio": None, "n": len(square_U)}
    if len(square_U) < MIN_PROMPTS:
        return nothing
    square, paired, alone = (values_U.sum() for values_U in (square_U, paired_U, alone_U))
    if alone <= TINY or square - paired + alone <= 0:
        return nothing | {"se": square**0.5}
    square_R, paired_R, alone_R = (copies_RU @ values_U for values_U in (square_U, paired_U, alone_U))
    ratio_R = np.sqrt(square_R / np.maximum(square_R - paired_R + alone_R, TINY))
    low, high = np.quantile(ratio_R, (0.025, 0.975))
    ratios = {"ratio": (square / (square - paired + alone)) ** 0.5, "ratio_low": low, "ratio_high": high}
    return nothing | {"se": square**0.5} | ratios | {"draws_ratio": (paired / alone) ** 0.5}


def pairing_findings(table: pl.DataFrame) -> list[str]:
    """Return one sentence per stage: how much smaller the standard errors are than those of independent sampling."""
    sentences = []
    for (stage,), rows in table.filter((pl.col("topic") != ALL) & pl.col("ratio").is_not_null()).group_by("stage", maintain_order=True):
        ends = (pl.col("from_step") == pl.col("from_step").min()) & (pl.col("to_step") == pl.col("to_step").max())
        said = [
            f"{np.median(part['ratio'].to_numpy()):.2f} {where}"
            for where, part in (("between neighbouring checkpoints", rows.filter(~ends)), ("from end to end", rows.filter(ends)))
            if part.height
        ]
        sentences.append(f"{stage!s}: common random numbers make standard errors {' and '.join(said)} of those of independent sampling.")
    return sentences
