"""What can be seen at all: the noise floor of a repeat, and the smallest drift that would be detected."""

from __future__ import annotations

import numpy as np
import polars as pl

from ..nouns import OUTCOMES
from ._cells import ALL, cells
from ._resample import Spread, nanmean, ratio

POWER = 0.8
FLOOR_SCHEMA = {"stage": pl.String, "topic": pl.String, "stance": pl.String, "floor": pl.Float64, "n": pl.Int64}


def detectable(known: Spread, n_tests: int = 1, alpha: float = 0.05) -> np.ndarray:
    """Return the smallest true drift that a two-sided test finds with 80 % power: (t_{1-a/2} + t_{0.8}) * SE.

    a = alpha / n_tests, the bound of Holm's first step; n_tests=1 is the uncorrected level.
    """
    return known.half_width(1 - alpha / n_tests / 2) + known.half_width(POWER)


def noise_floor(scores: pl.DataFrame, view: str = "claim") -> pl.DataFrame:
    """Return per stage and outcome how far a share moves when the same checkpoint answers again with other noise; no rows without repeats.

    One topic: 1.96 x the root mean square over topics (and repeated checkpoints) of v_repeat - v_main; `n` counts these differences.
    A drift smaller than this is what noise alone makes of one topic. Topic "all": the mean over K topics is quieter by sqrt(K).
    Only prompts and seeds read in both are compared.
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
