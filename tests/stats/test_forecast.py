"""Forecasts: planted truth recovered, conformal quantiles and baselines by hand, and the record of left-out data sets."""

import math

import numpy as np
import polars as pl
import pytest

from valuedrift.stats import forecast as f


def test_a_share_is_linked_as_if_half_an_answer_more_were_seen_on_either_side():
    assert f.link("support", 0.0, 9) == pytest.approx(math.log(0.5 / 9.5))
    assert f.link("length", 20.0, 9) == pytest.approx(math.log(20))
    assert f.drift("support", 0.5, 9, 0.0) == 0
    assert f.drift("length", 20.0, 9, math.log(2)) == pytest.approx(20)
    before, after = f.link("support", 0.2, 99), f.link("support", 0.7, 99)
    assert f.drift("support", 0.2, 99, after - before) == pytest.approx((0.7 - 0.2) * 99 / 100)


def test_the_conformal_quantile_gives_every_data_set_one_vote_and_a_new_one_too():
    nine = [np.array([float(k)]) for k in range(1, 10)]
    assert f.conformal(nine) == 9  # weights of a tenth: nine of them reach 0.9
    assert f.conformal(nine[:8]) == math.inf
    # Ten rows of one data set weigh as much as the one row of another
    assert f.conformal([np.full(10, 1.0), *[np.array([0.5])] * 9, np.array([7.0])], level=11 / 12) == 7
    assert f.conformal([np.full(10, 1.0), *[np.array([0.5])] * 9, np.array([7.0])], level=10 / 12) == 1


def test_errors_on_left_out_data_sets_are_those_of_fits_without_them():
    rng = np.random.default_rng(0)
    x, sets = rng.normal(size=(40, 2)), [f"set-{k // 8}" for k in range(40)]
    y = x @ [2.0, -1.0] + rng.normal(size=40)
    found = f.fit(x, y, sets)
    assert found.change(x[:1])[0] == pytest.approx(x[0] @ [2.0, -1.0], abs=0.7)
    best = math.inf
    scaled = x / np.sqrt((x**2).mean(0))
    for penalty in f.PENALTIES:
        errors = []
        for name in dict.fromkeys(sets):
            kept = np.array([other != name for other in sets])
            weights = np.linalg.solve(scaled[kept].T @ scaled[kept] + penalty * 40 * np.eye(2), scaled[kept].T @ y[kept])
            errors.append(np.abs(y[~kept] - scaled[~kept] @ weights))
        best = min(best, float(np.mean([error.mean() for error in errors])))
    assert np.mean([error.mean() for error in found.errors.values()]) == pytest.approx(best)


def planted(n_sets: int, slope: float = 3.0, noise: float = 0.1, seed: int = 0) -> pl.DataFrame:
    """Return trainings in which the log odds of support move by `slope` times the topic's gap."""
    rng, rows = np.random.default_rng(seed), []
    for k in range(n_sets):
        for seed_of_run in (0, 1):
            for topic in ("work", "race", "death"):
                gap, before = rng.uniform(-1, 1), 0.4
                change = slope * gap + noise * rng.normal()
                after = before + float(f.drift("support", before, 999, change))
                rows.append(
                    {"data": f"set-{k}", "algorithm": "dpo", "seed": seed_of_run, "topic": topic, "measure": "support", "before": before}
                    | {"after": after, "n": 999, "resolved": abs(gap) > 0.2, "dose": 1e-3, "gap": gap, "own_gap": gap / 3, "all_gap": 0.0}
                )
    return pl.DataFrame(rows)


def test_a_planted_effect_is_found_with_intervals_that_cover_it():
    rows = planted(30)
    made = f.left_out(rows, {"gap": f.GAP})
    record = f.record(made, "gap", over="no drift")
    assert record["spearman"] > 0.9
    assert record["sign"] > 0.95
    assert record["skill"] > 0.8
    assert 0.82 <= record["coverage"] <= 0.97  # 90 % wanted; 30 data sets
    assert record["gain"]["low"] > 0
    nothing = f.record(made, "no drift")
    assert nothing["skill"] == 0
    assert nothing["spearman"] is None
    assert nothing["coverage"] is None
    noise = f.record(f.left_out(planted(30, slope=0.0), {"gap": f.GAP}), "gap", over="no drift")
    assert noise["gain"]["low"] < 0.002


def test_few_data_sets_give_no_interval():
    made = f.forecast(planted(8), planted(1, seed=1))
    assert made["low"].is_null().all()
    assert made["value"].is_not_null().all()
    assert f.forecast(planted(9), planted(1, seed=1))["low"].is_not_null().all()


def test_the_baselines_by_hand():
    rows = planted(1).head(2).with_columns(gap=pl.Series([0.5, -0.5]), before=pl.lit(0.5), after=pl.Series([0.7, 0.3]))
    change = f.link("support", 0.7, 999) - f.link("support", 0.5, 999)  # at gap 0.5, and its opposite at -0.5: the slope is 2 * change
    wanted = rows.head(1).with_columns(gap=pl.lit(1.0))
    assert f.one_slope(rows, wanted)[0] == pytest.approx(f.drift("support", 0.5, 999, 2 * change))
    assert f.mean_drift(rows, wanted)[0] == pytest.approx(0.2)
    assert f.mean_drift(rows, wanted.with_columns(topic=pl.lit("other")))[0] == 0


def test_answers_are_reweighted_by_their_rewards():
    q = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])  # two prompts, two answers each
    shares, effective = f.reweighted(q, np.array([[math.log(3), 0.0], [0.0, 0.0]]), strength=1.0)
    assert shares[0] == pytest.approx((0.75 + 0.5) / 2)
    assert effective == pytest.approx((1 / (0.75**2 + 0.25**2) + 2) / 2)
    weaker, _ = f.reweighted(q, np.array([[math.log(3), 0.0], [0.0, 0.0]]), strength=1e6)
    assert weaker[0] == pytest.approx(0.5, abs=1e-5)
