"""Contrasts by hand."""

import polars as pl
import pytest

from valuedrift.nouns import BadInput
from valuedrift.stats.contrast import SCHEMA, contrast, speaks_for

PROMPTS = "abcdefghij"


def test_difference_is_paired_and_prompts_of_one_side_are_left_out_and_counted(scores, row):
    a = scores({**dict(zip(PROMPTS, "NNNNNNNNNN", strict=True)), "only": "O"})
    b = scores({**dict(zip(PROMPTS, "SSSNNNNNNN", strict=True)), "elsewhere": "S"}, stage="dpo", step=40)
    table = contrast(a, b)
    assert dict(table.schema) == SCHEMA
    found = row(table, topic="work", outcome="support")
    assert (found["value"], found["n"], found["n_left_out"]) == (pytest.approx(0.3), 10, 2)
    assert (found["low"], found["high"]) == pytest.approx((-0.045550, 0.724499), abs=2e-6)  # as in test_resample
    assert found["p_adjusted"] == pytest.approx(min(1, found["p"] * 5))  # one topic x five outcomes
    assert not found["resolved"]
    assert row(contrast(b, a), topic="work", outcome="support")["value"] == pytest.approx(-0.3)


def test_a_clear_difference_is_resolved_and_the_others_are_not(scores, row):
    a, b = ({str(i): text for i in range(50)} for text in ("NN", "SN"))
    table = contrast(scores(a), scores(b | {"7": "NN"}))
    assert row(table, topic="work", outcome="support")["resolved"]
    assert not row(table, topic="work", outcome="refusal")["resolved"]
    assert row(table, topic="work", outcome="oppose")["p"] == 1


def test_seeds_are_paired_where_both_sides_have_them(scores, row):
    a = pl.concat([scores({"a": "S"}), scores({"a": "N"}, seed=1)])
    assert row(contrast(a, scores({"a": "S"})), topic="work", outcome="support")["value"] == 0
    assert row(contrast(a, scores({"a": "S"}, seed=1)), topic="work", outcome="support")["value"] == 1
    assert row(contrast(a, scores({"a": "N"}, seed=7)), topic="work", outcome="support")["value"] == -1


def test_a_comparison_says_how_many_trainings_it_rests_on(scores, row):
    three = pl.concat([scores({"a": "S", "b": "N"}, seed=seed) for seed in range(3)])
    assert row(contrast(three, three), topic="work", outcome="support")["n_seeds"] == 3
    assert row(contrast(three, scores({"a": "S"}, seed=1)), topic="all", outcome="support")["n_seeds"] == 1
    assert "n = 1" in speaks_for([{"n_seeds": 1}])
    same = contrast(three, three).to_dicts()
    assert speaks_for(same) == "3 seeds: the intervals cover other prompts and other trainings."


def test_intervals_that_rest_on_three_runs_say_so(scores, row):
    """Seeds change by 1, 0 and 1 on each of 6 prompts: SE_seed^2 = (1/3) / 3; no prompt differs, so flips unseen stand for SE_prompt^2."""
    ids = "abcdef"
    before = pl.concat([scores(dict.fromkeys(ids, "O"), seed=seed) for seed in range(3)])
    after = pl.concat([scores(dict.fromkeys(ids, said), seed=seed) for seed, said in enumerate("SOS")])
    found = contrast(before, after)
    flipped = ((1 - 0.025 ** (1 / 6)) / 2.5706) ** 2 - 5 * 0  # t with 5 degrees of freedom
    assert row(found, topic="work", outcome="support")["seed_share"] == pytest.approx((1 / 9) / (1 / 9 + flipped), rel=1e-3)
    assert "intervals rest mostly on how 3 training runs differ" in speaks_for(found.to_dicts())


def test_no_common_prompt_is_no_evidence(scores, row):
    found = row(contrast(scores({"a": "S"}), scores({"b": "S"})), topic="work", outcome="support")
    assert (found["value"], found["low"], found["p"], found["n"], found["n_left_out"]) == (None, None, None, 0, 2)


def test_more_than_one_checkpoint_is_refused(scores):
    two = pl.concat([scores({"a": "S"}), scores({"a": "S"}, step=5)])
    with pytest.raises(BadInput, match="not 2; filter the scores"):
        contrast(two, two)
