"""Noise floor and smallest detectable drift by hand."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from valuedrift.stats.intervals import difference, ratio, spread
from valuedrift.stats.power import detectable, noise_floor


def test_floor_is_196_root_mean_square_of_repeat_minus_main(scores, row):
    ten = [str(i) for i in range(10)]
    table = pl.concat(
        [
            scores(dict(zip(ten, "SSSSSNNNNN", strict=True)), topic="work", step=9),
            scores(dict(zip(ten, "SSSSSSNNNN", strict=True)), topic="work", step=9, repeat=True),  # + .1
            scores(dict(zip(ten, "SSSSSNNNNN", strict=True)), topic="race", step=9),
            scores(dict(zip(ten, "SSNNNNNNNN", strict=True)), topic="race", step=9, repeat=True),  # - .3
        ]
    )
    floors = noise_floor(table)
    single = row(floors, stage="sft", topic="", stance="support")
    assert (single["floor"], single["n"]) == (pytest.approx(1.96 * ((0.01 + 0.09) / 2) ** 0.5), 2)
    assert row(floors, topic="all", stance="support")["floor"] == pytest.approx(single["floor"] / 2**0.5)


def test_no_repeat_no_floor(scores):
    assert noise_floor(scores({"a": "S"})).height == 0


def test_prompts_read_only_once_are_no_noise(scores, row):
    table = pl.concat([scores({"a": "S", "b": "N"}), scores({"a": "S", "b": "x"}, repeat=True)])
    assert row(noise_floor(table), topic="", stance="support")["floor"] == 0


def test_detectable_by_hand():
    # +-.1 in 50 prompts: noise .1^2 * 50 / 49; a share d of them flips, with the fourth moment of both
    values = np.array([[0.1, -0.1] * 25])
    d = float(detectable(spread(ratio(values, np.ones_like(values))), 50, n_tests=33))
    noise, moved = 0.01 * 50 / 49, d * (1 - d)
    kurtosis = (moved * (1 - 3 * moved) + 6 * moved * noise + noise**2 * (1 + 2 * 50 / 49)) / (moved + noise) ** 2
    df, se = min(2 * 50 / (kurtosis - 1), 49), ((moved + noise) / 50) ** 0.5
    t = stats.t.ppf(1 - 0.05 / 66, df)
    assert d == pytest.approx((t + stats.norm.ppf(0.8) * (1 + t**2 / df) ** 0.5) * se, rel=1e-6)


@pytest.mark.parametrize("wobble", [0.001, 0.1, 0.25])
@pytest.mark.parametrize("n_tests", [1, 33])
def test_a_drift_of_the_detectable_size_is_found_in_80_percent_of_runs_even_if_few_prompts_flip(wobble, n_tests):
    rng = np.random.default_rng(3)
    noise = rng.normal(0, wobble, (4000, 1, 50))
    size = detectable(difference(ratio(noise, np.ones_like(noise))).known, 50, n_tests)
    moved = rng.permuted(noise, axis=0) + (rng.random(noise.shape) < size[:, None, None])
    found = difference(ratio(moved, np.ones_like(noise))).p < 0.05 / n_tests
    assert 0.75 <= found.mean() <= 0.9
    shifted = difference(ratio(noise + size[:, None, None], np.ones_like(noise))).p < 0.05 / n_tests
    assert shifted.mean() >= 0.9  # all prompts move alike: the easiest case


def test_two_seeds_can_hardly_show_a_drift():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.1, (1, 2, 50))
    assert detectable(difference(ratio(noise, np.ones_like(noise))).known, 50, 33) == 1
