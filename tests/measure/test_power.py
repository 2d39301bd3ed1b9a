"""Noise floor and smallest detectable drift by hand."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from valuedrift.measure._resample import difference, ratio, spread
from valuedrift.measure.power import detectable, noise_floor


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
    values = np.array([[0.3, -0.1, 0.2, 0.0, 0.4, -0.2, 0.1, 0.1, 0.0, 0.2]])
    known = spread(ratio(values, np.ones_like(values)))
    se = values.std(ddof=1) / 10**0.5
    assert detectable(known) == pytest.approx((stats.t.ppf(0.975, 9) + stats.t.ppf(0.8, 9)) * se)
    assert detectable(known, n_tests=33) == pytest.approx((stats.t.ppf(1 - 0.05 / 66, 9) + stats.t.ppf(0.8, 9)) * se)


def test_a_drift_of_the_detectable_size_is_found_in_80_percent_of_runs():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.2, (4000, 1, 50))
    size = float(np.mean(detectable(difference(ratio(noise, np.ones_like(noise))).known)))
    found = difference(ratio(noise + size, np.ones_like(noise))).p < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.025)
