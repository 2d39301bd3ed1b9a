"""Stages whose drift follows a planted curve of the swept value."""

import numpy as np
import polars as pl

UNITS = np.array([0, 0.25, 0.5, 0.75, 1])


def hinge(rise, theta, units=UNITS):
    """Return a curve that is 0 up to theta and `rise` at the highest value; theta 0 is a straight line."""
    return rise * np.maximum(units - theta, 0) / (1 - theta)


def drawn(rng, curve_K, size, n_draws, slopes=0.0, wander=0.0, base=0.35, rho=0.3):
    """Return shares of support at the start (size) and at each value (K, size); size = (..., seeds, prompts).

    Prompts differ in where they start (Beta) and move as they have room; seeds differ in slope and wander at every value by normal sds.
    """
    chance = rng.beta(base * (1 / rho - 1), (1 - base) * (1 / rho - 1), (*size[:-2], 1, size[-1]))
    room = (1 - chance) / (1 - base)
    slope, units = rng.normal(0, slopes, (*size[:-1], 1)), np.linspace(0, 1, len(curve_K))
    moved = [change + slope * unit + rng.normal(0, wander, slope.shape) for change, unit in zip(curve_K, units, strict=True)]
    rates = [np.broadcast_to(chance, size), *(np.clip(chance + move * room, 0, 1) for move in moved)]
    start, *ends = (rng.binomial(n_draws, rate) / n_draws for rate in rates)
    return start, np.stack(ends)


def swept(values, setting="gap", name="dpo", after="sft", seeds=(0,), held=None):
    """Return the stages of a sweep as stages.json holds them."""
    others = "".join(f"[{key}={value}]" for key, value in (held or {}).items())
    return [
        {"name": f"{name}[{setting}={value}]{others}", "after": after, "seed": seed, "steps": [0, 4], "total_steps": 4}
        | {"sweep": {setting: value} | (held or {})}
        for value in values
        for seed in seeds
    ]


def scores_of(stages, curves, n_prompts=60, n_draws=5, seed=0, **noise):
    """Return score rows of the stages of one sweep; `curves` gives by topic the drift of support at each value, oppose is the rest."""
    names, seeds = list(dict.fromkeys(stage["name"] for stage in stages)), sorted({stage["seed"] for stage in stages})
    rng, rows = np.random.default_rng(seed), []
    for topic, curve in curves.items():
        start, ends = drawn(rng, curve, (len(seeds), n_prompts), n_draws, **noise)
        for name, end in zip(names, ends, strict=True):
            for step, shares in ((0, start), (4, end)):
                for s, p in np.ndindex(shares.shape):
                    rows.append((name, step, seeds[s], topic, f"{topic}/{p}", float(shares[s, p])))
    table = pl.DataFrame(rows, schema=["stage", "step", "seed", "topic", "prompt", "support"], orient="row")
    return table.with_columns(
        *(pl.lit(value).alias(key) for key, value in {"repeat": False, "polarity": 1, "draw": 0, "item": "i"}.items()),
        *(pl.lit(0.0).alias(outcome) for outcome in ("neutral", "refusal", "invalid")),
        answer=pl.concat_str("stage", "step", "seed", "prompt", separator=" "),
        oppose=1 - pl.col("support"),
        failure=pl.lit(None, pl.String),
    )
