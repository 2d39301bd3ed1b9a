"""Contrasts by hand."""

import polars as pl
import pytest

from valuedrift.measure.contrast import SCHEMA, contrast, speaks_for
from valuedrift.nouns import BadInput

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
    assert "n = 1" in speaks_for(1)
    assert "other trainings" in speaks_for(3)


def test_no_common_prompt_is_no_evidence(scores, row):
    found = row(contrast(scores({"a": "S"}), scores({"b": "S"})), topic="work", outcome="support")
    assert (found["value"], found["low"], found["p"], found["n"], found["n_left_out"]) == (None, None, None, 0, 2)


def test_more_than_one_checkpoint_is_refused(scores):
    two = pl.concat([scores({"a": "S"}), scores({"a": "S"}, step=5)])
    with pytest.raises(BadInput, match="not 2; filter the scores"):
        contrast(two, two)
