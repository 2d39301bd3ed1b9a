"""Detection limits: the noise floor of a repeated evaluation, and the smallest drift that would be detected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from scipy.special import ndtri, stdtrit

from ..nouns import OUTCOMES
from .cells import ALL, cells
from .intervals import TINY, Spread, nanmean, ratio

POWER = 0.8
FLOOR_SCHEMA = {"stage": pl.String, "topic": pl.String, "stance": pl.String, "floor": pl.Float64, "n": pl.Int64}


def detectable(known: Spread, n: np.ndarray | int, n_tests: int = 1, alpha: float = 0.05) -> np.ndarray:
    """Return the smallest true drift that a two-sided test detects with 80 % power, whichever prompts change; 1 if there is none.

    The hardest drift d to detect is in few prompts: a share d of the n prompts flips fully and the others show the noise observed here.
    Its variance, d(1-d)/n + noise, and degrees of freedom, from the kurtosis, grow with d, so that d is found by bisection.
    The interval's half width h varies, here and in the next run: 80 % power takes d = h + z_{0.8} sqrt(SE^2 + 2 var(h)). h is that of
    a = alpha / n_tests, Holm's first step; n_tests=1 is the uncorrected level.
    """
    n = np.maximum(n, 1)
    noise = n * np.minimum(known.by_prompt, known.seen)
    low, high = np.zeros_like(noise), np.ones_like(noise)
    for _ in range(30):
        share = (low + high) / 2
        moved = share * (1 - share)
        fourth = moved * (1 - 3 * moved) + 6 * moved * noise + noise**2 * (1 + 2 * n / known.df_prompt)
        square = moved + noise
        df = np.clip(2 * n / np.maximum(fourth / square**2 - 1, TINY), 2, known.df_plain)
        there = replace(known, by_prompt=square / n, df_prompt=df)
        half = there.half_width(1 - alpha / n_tests / 2)
        t_prompt, t_seed = (stdtrit(d, 1 - alpha / n_tests / 2) for d in (df, known.df_seed))
        wobble = (t_prompt**4 * there.by_prompt**2 / df + t_seed**4 * known.by_seed**2 / known.df_seed) / half**2
        found = share >= half + ndtri(POWER) * np.sqrt(there.by_prompt + known.by_seed + wobble)
        low, high = np.where(found, low, share), np.where(found, share, high)
    return high


def noise_floor(scores: pl.DataFrame, view: str = "claim") -> pl.DataFrame:
    """Return per stage and outcome how far a share moves with another sampling seed at the same checkpoint; no rows without repeats.

    One topic: 1.96 x the root mean square over topics (and repeated checkpoints) of v_repeat - v_main; `n` counts these differences.
    Noise alone can cause a smaller drift on one topic. Topic "all": the mean over K topics varies less, by sqrt(K).
    Only prompts and seeds in both evaluations are compared.
    """
    main = cells(scores, view)
    again = cells(scores, view, repeat=True, prompts=main.prompts)
    rows = []
    for stage in sorted({name for name, _ in again.checkpoints}):
        steps = [step for name, step in again.checkpoints if name == stage and (stage, step) in main.checkpoints]
        seeds = [seed for seed in again.seeds if seed in main.seeds]
        picks = [
            np.ix_([table.checkpoints.index((stage, step)) for step in steps], [table.seeds.index(seed) for seed in seeds])
            for table in (main, again)
        ]
        both = main.read_CSP[picks[0]] & again.read_CSP[picks[1]]
        change = []
        for place in main.topics.values():
            a, b = (
                ratio(*(np.moveaxis(x[pick] * both[..., None], -1, 1)[..., place] for x in (table.num_CSPO, table.den_CSPO)))
                for table, pick in ((main, picks[0]), (again, picks[1]))
            )
            change.append((b - a).value)
        square_O = nanmean(nanmean(np.array(change) ** 2, 0), 0)
        for o, outcome in enumerate(OUTCOMES):
            n = int((~np.isnan(np.array(change)[..., o])).sum())
            floor = 1.96 * np.sqrt(square_O[o])
            for topic, value in (("", floor), (ALL, floor / np.sqrt(len(change)))):
                rows.append({"stage": stage, "topic": topic, "stance": outcome, "floor": value, "n": n})
    return pl.DataFrame(rows, schema=FLOOR_SCHEMA, strict=False).with_columns(pl.col("floor").fill_nan(None))
