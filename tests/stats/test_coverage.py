"""Do 95 % intervals cover 95 %? 50 prompts x 5 draws, 4000 data sets per cell, so that the Monte-Carlo error is 0.35 %.

Cells span shares of .05 to .9 and prompts from alike (rho = 0) to each always answering the same (rho -> 1); drifts with common and with
own random numbers. Where only a handful of prompts moves at all, answers are so discrete that no interval can keep close to 95 %: there
the test asks that it does not fall short.
"""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES
from valuedrift.stats.drift import drifts
from valuedrift.stats.intervals import TAIL, difference, ratio, share_interval, weights

spec = importlib.util.spec_from_file_location("simulated", Path(__file__).parents[2] / "benchmarks" / "coverage.py")
simulated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulated)
N_SETS, N_PROMPTS, N_DRAWS = 4000, 50, 5
SIZE = (N_SETS, 1, N_PROMPTS)


def rates(rng, mean, rho, size=SIZE):
    """Return each prompt's chance of an outcome: Beta with intra-prompt correlation rho."""
    return np.full(size, mean) if rho == 0 else rng.beta(mean * (1 / rho - 1), (1 - mean) * (1 / rho - 1), size)


def covered(low, high, truth):
    return float(((low <= truth) & (truth <= high)).mean())


def share(rng, mean, rho, refusing):
    """Return numerators and denominators of a share among answers that are not refusals."""
    answered = rng.binomial(N_DRAWS, 1 - rates(rng, refusing, 0.3)) if refusing else np.full(SIZE, N_DRAWS)
    return rng.binomial(answered, rates(rng, mean, rho)) / N_DRAWS, answered / N_DRAWS


@pytest.mark.parametrize("refusing", [0, 0.4])
@pytest.mark.parametrize("mean", [0.05, 0.2, 0.5, 0.9])
def test_shares(mean, refusing):
    for rho in (0, 0.1, 0.4, 0.8, 0.97):
        low, high = share_interval(ratio(*share(np.random.default_rng(5), mean, rho, refusing)))
        assert 0.93 <= covered(low, high, mean) <= (0.985 if mean == 0.05 else 0.97), f"share {mean}, rho {rho}, refusing {refusing}"


def moving(rng, mean, rho, shift, wander, common, refusing=0.0, size=SIZE):
    """Return (num, den) before and after: each prompt's rate moves by `shift` and its own N(0, wander) on the logit scale."""
    before = rates(rng, mean, rho, size).clip(1e-9, 1 - 1e-9)
    after = 1 / (1 + np.exp(-(np.log(before / (1 - before)) + rng.normal(shift, wander, size))))
    first = rng.random((*size, N_DRAWS))
    second = first if common else rng.random(first.shape)
    refused, threshold = rng.random(first.shape), rates(rng, refusing, 0.3, size)[..., None] if refusing else np.zeros((1, 1, 1, 1))
    told = [(refused >= threshold * part) for part in (1, 0.5)]
    pairs = zip((first, second), (before, after), told, strict=True)
    truth = (after - before).mean()
    return [(((u < rate[..., None]) & said).mean(-1), said.mean(-1)) for u, rate, said in pairs], truth


MOVES = {  # shift, wander, common random numbers, refusing (halved by the stage)
    "redrawn": (0, 0, False, 0),
    "wandering": (0, 0.5, True, 0),
    "small": (0.5, 0.3, True, 0),
    "large": (2, 1, True, 0),
    "small while refusals halve": (0.5, 0.3, True, 0.4),
}
DENSE = {(mean, rho, move) for mean, rho in ((0.5, 0.05), (0.5, 0.4)) for move in MOVES} - {(0.5, 0.4, "small")} | {
    (0.05, 0.05, "redrawn"),
    (0.05, 0.05, "large"),
    (0.05, 0.4, "large"),
    (0.5, 0.9, "small while refusals halve"),
}
"""Many prompts move. Where few do, the interval also covers prompts that flip unseen, so that it is wider than 95 % takes."""


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.05, 0.5])
@pytest.mark.parametrize("rho", [0.05, 0.4, 0.9])
def test_drifts(mean, rho):
    for name, move in MOVES.items():
        rng = np.random.default_rng(7)
        (before, after), truth = moving(rng, mean, rho, *move)
        found = difference(ratio(*after) - ratio(*before))
        assert 0.93 <= covered(found.low, found.high, truth) <= (0.97 if (mean, rho, name) in DENSE else 1), f"{mean}, {rho}, {name}"
        if name in ("redrawn", "wandering"):
            assert (found.p < 0.05).mean() <= 0.06


def test_the_plain_percentile_bootstrap_falls_short_where_few_prompts_move():
    rng = np.random.default_rng(11)
    (before, after), truth = moving(rng, 0.5, 0.9, *MOVES["small"], size=(1000, 1, N_PROMPTS))
    drawn = weights(rng, N_PROMPTS, 500) / N_PROMPTS
    copies = drawn @ (after[0] - before[0])[:, 0].T
    assert covered(*np.quantile(copies, (1 - TAIL, TAIL), axis=0), truth) < 0.85
    found = difference(ratio(*after) - ratio(*before))
    assert covered(found.low, found.high, truth) >= 0.93


# -- score tables: heavy spread, refusals tied to stance, a judge with a spread of confidence, seeds that differ ---------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "seeds", "soft", "apart"),
    [(1, 1, True, 0), (5, 2, True, 0.3), (5, 3, True, 0.3), (1, 3, False, 0), (5, 3, False, 1), (2, 5, True, 0.3)],
)
def test_score_tables(samples, seeds, soft, apart):
    found = simulated.measure(150, samples, seeds, soft, apart, 0.0)  # Monte Carlo error: 1.8 of one cell, about 0.4 of the mean over cells
    assert 93 <= found["mean"] <= 97.7
    assert found["drifts"][0] >= 88
    assert found["rare drifts"] >= 88
    assert found["shares"][0] >= 88
    assert found["all"][0] >= 89
    assert found["family"] <= 11  # 6 and three Monte Carlo errors; with 2-3 seeds that differ it was 12 to 80
    assert found["family all"] <= 11
    assert found["small p"] <= 2
    assert np.isnan(found["power"]) or found["power"] >= 75


@pytest.mark.parametrize("share", [0.01, 0.02, 0.04, 0.05])
@pytest.mark.parametrize("wobble", [0, 0.005, 0.02, 0.05, 0.1])
def test_few_flips_while_probabilities_wobble(share, wobble):
    drift, truth = simulated.flips(np.random.default_rng(3), 2000, share, wobble)
    found = difference(drift)
    assert covered(found.low, found.high, truth) >= 0.92  # 0.38 to 0.92 while the guard asked for exact equality


def test_the_table_of_drifts_holds_these_numbers():
    rng = np.random.default_rng(5)
    chances = simulated.chances(rng, 1, 50, 2, 0.3, 0.4)
    tables = [simulated.read(rng, np.broadcast_to(chance, chances[1].shape), 1, True) for chance in chances]
    expected = difference(ratio(*simulated.sums(tables[1])) - ratio(*simulated.sums(tables[0])))
    rows = [
        {"stage": "dpo", "step": step, "seed": s, "topic": f"t{t:02}", "prompt": f"p{p}", "answer": f"{step} {t} {s} {p}"}
        | dict(zip(OUTCOMES, map(float, table[0, t, s, p]), strict=True))
        for step, table in enumerate(tables)
        for t, s, p in np.ndindex(table.shape[1:4])
    ]
    scores = pl.DataFrame(rows).with_columns(repeat=False, polarity=1, draw=0, item=pl.lit("i"), failure=pl.lit(None, pl.String))
    found = drifts(scores, [{"name": "dpo", "total_steps": 1}]).filter(pl.col("topic") != "all").sort("topic", maintain_order=True)
    for name in ("value", "low", "high", "p"):
        assert found[name].to_list() == pytest.approx(getattr(expected, name)[0].ravel().tolist())
    assert set(found["n_seeds"]) == {2}
