"""Effects: which comparisons hold everything else fixed, and their numbers by hand."""

import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES
from valuedrift.stats.effects import Comparison, comparisons, effects


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
