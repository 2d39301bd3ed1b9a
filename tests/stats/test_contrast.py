"""Contrasts by hand, and which comparisons of a run hold everything else fixed."""

import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES, BadInput
from valuedrift.stats.contrast import SCHEMA, Comparison, comparisons, contrast, effects, speaks_for

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
    assert speaks_for(same) == "3 seeds: the intervals cover other prompts and other training runs."


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


# -- effects ---------------------------------------------------------------------------------------------------------------


def stage(name, after, settings=None, steps=(0, 4), seed=0):
    return {"name": name, "after": after, "settings": settings, "steps": list(steps), "seed": seed}


def test_siblings_are_held_against_the_first_of_them():
    stages = [stage("sft", "base", "s"), stage("a", "sft", "1"), stage("b", "sft", "2"), stage("c", "sft", "3")]
    assert comparisons(stages) == [Comparison("stage", "a", "b"), Comparison("stage", "a", "c")]


def test_one_stage_from_two_starts():
    stages = [stage("sft", "base", "s"), stage("dpo", "sft", "d"), stage("alone", "base", "d")]
    # alone and sft are siblings too: one stage in place of another
    assert comparisons(stages) == [Comparison("stage", "sft", "alone"), Comparison("start", "dpo", "alone")]


def test_the_same_stages_in_the_other_order():
    stages = [stage("sft", "base", "s"), stage("dpo", "sft", "d"), stage("dpo1", "base", "d"), stage("sft2", "dpo1", "s")]
    assert Comparison("order", "dpo", "sft2") in comparisons(stages)
    assert Comparison("order", "sft", "sft2") not in comparisons(stages)
    assert Comparison("start", "sft", "sft2") in comparisons(stages)


def test_found_checkpoints_have_no_settings_and_are_not_compared():
    assert comparisons([stage("a", "base"), stage("b", "a"), stage("c", "b")]) == []


def answer(name, prompt, support, seed=0, step=4, repeat=False):
    probs = {"support": support, "neutral": 0.0, "oppose": 1 - support, "refusal": 0.0, "invalid": 0.0}
    at = {"stage": name, "step": step, "seed": seed, "repeat": repeat, "topic": "work", "prompt": f"p{prompt}", "polarity": 1}
    return at | {"draw": 0, "answer": f"{name}{prompt}{seed}", "item": "i", **probs, "failure": None}


def test_the_difference_is_paired_and_taken_at_the_ends():
    # a: 0, 0, 1, 1, 0, 0; b: 1, 0, 1, 1, 1, 0 -> mean of b - a = 2/6
    a, b = [0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0]
    rows = [answer(name, n, float(value)) for name, values in (("a", a), ("b", b)) for n, value in enumerate(values)]
    rows += [answer("b", n, 0.0, step=2) for n in range(6)] + [answer("b", n, 0.0, repeat=True) for n in range(6)]
    scores = pl.DataFrame(rows, schema_overrides={"failure": pl.String})
    found = effects(scores, [stage("a", "base", "1"), stage("b", "base", "2")])
    row = found.filter((pl.col("topic") == "work") & (pl.col("outcome") == "support")).row(0, named=True)
    assert (row["kind"], row["first"], row["second"], row["n"]) == ("stage", "a", "b", 6)
    assert row["value"] == pytest.approx(2 / 6)
    assert row["low"] < 2 / 6 < row["high"]
    assert set(found["outcome"]) == set(OUTCOMES)
