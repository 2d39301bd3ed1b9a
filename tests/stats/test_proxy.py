"""The correlation of a proxy with what is judged: planted, and absent."""

import itertools

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import STANCES
from valuedrift.stats.proxy import correlation


def shares(values_TCS, name):
    places = itertools.product(*(range(n) for n in values_TCS.shape))
    rows = [
        {"view": "claim", "stage": "a", "step": c, "topic": f"t{t}", name: STANCES[s], "value": float(values_TCS[t, c, s])}
        for t, c, s in places
    ]
    return pl.DataFrame(rows)


def row(proxy_TCS, judged_TCS, of):
    return correlation(shares(proxy_TCS, "stance"), shares(judged_TCS, "outcome")).row(by_predicate=pl.col("of") == of, named=True)


def test_what_follows_exactly_has_correlation_one():
    judged = np.random.default_rng(0).dirichlet([1, 1, 1], (8, 4))
    offset = np.random.default_rng(1).normal(size=(8, 1, 3))
    found = row(0.5 * judged + offset, judged, "changes")  # an offset of each topic and stance is no part of a change
    assert (found["n"], found["n_topics"]) == (8 * 3 * 3, 8)
    assert [found[name] for name in ("pearson", "pearson_low", "spearman", "spearman_low")] == pytest.approx([1, 1, 1, 1])
    assert row(0.5 * judged + offset, judged, "levels")["pearson"] < 0.6


def test_what_is_unrelated_has_an_interval_around_zero():
    first, second = (np.random.default_rng(seed).dirichlet([1, 1, 1], (12, 6)) for seed in (2, 3))
    for of in ("levels", "changes"):
        found = row(first, second, of)
        assert found["pearson_low"] < 0 < found["pearson_high"]
        assert found["spearman_low"] < 0 < found["spearman_high"]


def test_no_evidence():
    judged = np.random.default_rng(4).dirichlet([1, 1, 1], (4, 3))
    assert row(judged, judged, "levels")["pearson"] == pytest.approx(1)
    assert row(judged, judged, "levels")["pearson_low"] is None  # four topics
    assert row(np.full((6, 3, 3), 1 / 3), np.random.default_rng(5).dirichlet([1, 1, 1], (6, 3)), "changes")["pearson"] is None
    assert row(judged[:1, :1], judged[:1, :1], "levels")["pearson"] is None  # three points
