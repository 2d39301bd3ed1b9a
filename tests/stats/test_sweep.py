"""Sweep response: numbers by hand, planted curves, ragged evidence."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuedrift.analyses.sweep import Analysis
from valuedrift.nouns import OUTCOMES
from valuedrift.stats.intervals import Sample, ratio
from valuedrift.stats.sweep import CURVE, SCHEMA, Family, fitted, line_weights, sweep_response, sweeps

spec = importlib.util.spec_from_file_location("planted_sweeps", Path(__file__).resolve().parent / "planted_sweeps.py")
planted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)
UNITS, hinge, scores_of, swept = planted.UNITS, planted.hinge, planted.scores_of, planted.swept
GAPS = [0, 0.25, 0.5, 0.75, 1.0]


# -- families --------------------------------------------------------------------------------------------------------------


def test_a_family_differs_in_one_number_and_starts_at_one_place():
    stages = swept([0, 0.5, 1], seeds=(0, 1)) + swept([0, 0.5, 1], name="ppo", after="other")
    assert sweeps(stages) == [
        Family("dpo", "gap", {0.0: "dpo[gap=0]", 0.5: "dpo[gap=0.5]", 1.0: "dpo[gap=1]"}),
        Family("ppo", "gap", {0.0: "ppo[gap=0]", 0.5: "ppo[gap=0.5]", 1.0: "ppo[gap=1]"}),
    ]


def test_another_swept_setting_splits_the_family():
    stages = swept([1, 0, 0.5], held={"beta": 0.1}) + swept([0, 0.5, 1], held={"beta": 0.2})
    found = sweeps(stages)  # beta has two values only
    assert [(family.name, family.setting) for family in found] == [("dpo[beta=0.1]", "gap"), ("dpo[beta=0.2]", "gap")]
    assert list(found[0].stages) == [0, 0.5, 1]


def test_two_values_words_truths_and_other_starts_are_no_sweeps():
    moved = [stage | {"after": f"sft[{k}]"} for k, stage in enumerate(swept([0, 0.5, 1]))]
    plain = [{key: value for key, value in stage.items() if key != "sweep"} for stage in swept([0, 0.5, 1])]
    assert not sweeps(swept([0, 1]) + swept(["a", "b", "c"]) + swept([True, False, 2, 3], setting="lora.on")[:3] + moved + plain)


def test_the_scale_is_the_one_on_which_values_are_even():
    family = Family("simpo", "learning_rate", {1e-6: "a", 1e-5: "b", 1e-4: "c"})
    assert (family.scale, family.span) == ("log", pytest.approx(2))
    assert family.units_K == pytest.approx([0, 0.5, 1])
    assert family.value_at(0.5) == pytest.approx(1e-5)
    assert Family("dpo", "gap", {0.1: "a", 0.25: "b", 0.5: "c", 1.0: "d"}).scale == "log"
    even = Family("dpo", "gap", {0.25: "a", 0.5: "b", 0.75: "c"})
    assert (even.scale, even.span, even.value_at(0.5)) == ("linear", 0.5, 0.5)
    assert Family("dpo", "gap", {0.0: "a", 0.1: "b", 1.0: "c"}).scale == "linear"


# -- numbers by hand -------------------------------------------------------------------------------------------------------


def test_weights_by_hand():
    # at 0, 1/2, 1 the line's change is last - first; at the lowest value the fit is (5, 2, -1) / 6
    ends = line_weights(np.array([0, 0.5, 1]), np.array([0.0, 1.0]))
    assert ends[1] - ends[0] == pytest.approx([-1, 0, 1])
    assert ends[0] == pytest.approx([5 / 6, 2 / 6, -1 / 6])


def answers(shares):
    """Return scores of three values with one seed and ten prompts, one answer each, of the shares by value; all start at 0."""
    stages = swept([0, 1, 2])
    table = scores_of(stages, {"work": np.zeros(3)}, n_prompts=10)
    now = {(stage["name"], prompt): float(prompt < count) for stage, count in zip(stages, shares, strict=True) for prompt in range(10)}
    number = pl.col("prompt").str.split("/").list.last().cast(pl.Int64)
    value = pl.struct("stage", number, "step").map_elements(
        lambda row: now[row["stage"], row["prompt"]] if row["step"] else 0.0, return_dtype=pl.Float64
    )
    return stages, table.with_columns(support=value).with_columns(oppose=1 - pl.col("support"))


def test_the_line_by_hand(row):
    # support of 1, 2 and 6 of 10 prompts at values 0, 1, 2: the line changes by .5, .25 per unit
    stages, scores = answers((1, 2, 6))
    table, curve = sweep_response(scores, stages)
    found = row(table, topic="work", outcome="support")
    assert found["value"] == pytest.approx(0.5)
    assert found["slope"] == pytest.approx(0.25)
    # the change is that of the last against the first: 5 of 10 prompts, SE = sqrt(.25 / 9), t with 9 df = 2.262
    assert found["p"] == pytest.approx(0.0150, abs=2e-4)
    assert found["low"] == pytest.approx(0.5 - 2.262 / 6, abs=1e-3)
    assert (found["lowest"], found["highest"], found["n_values"], found["n"]) == (0, 2, 3, 10)
    observed = curve.filter(topic="work", outcome="support", kind="observed").sort("swept")
    assert observed["value"].to_list() == pytest.approx([0.1, 0.2, 0.6])
    fitted = curve.filter(topic="work", outcome="support", kind="fitted").sort("swept")
    assert fitted["value"][0] == pytest.approx((5 * 0.1 + 2 * 0.2 - 0.6) / 6)
    assert (table.columns, curve.columns) == (list(SCHEMA), list(CURVE))


# -- planted curves --------------------------------------------------------------------------------------------------------


def many(curve, n_sets=300, n_prompts=110, seed=5, **noise):
    """Return the fit of many data sets at once, each in the place of an outcome."""
    start, ends = planted.drawn(np.random.default_rng(seed), curve, (n_sets, 3, n_prompts), 5, **noise)
    shares = [ratio(each, np.ones_like(each)) for each in (start, *ends)]
    changes = [each - shares[0] for each in shares[1:]]
    drifts = Sample(*(np.stack([getattr(each, name) for each in changes]) for name in ("value_S", "parts_SP", "n", "n_strata")))
    return fitted(drifts, UNITS)


NOISE = {"agreeing": {}, "wandering": {"slopes": 0.05, "wander": 0.03}}


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
def test_a_straight_line_is_seldom_called_bent(noise):
    fit = many(hinge(0.4, 0), **NOISE[noise])
    assert (fit.p_straight < 0.05).mean() <= 0.07
    assert (fit.line.low[0] <= 0.4).mean() > 0.93


def test_no_response_is_seldom_seen():
    fit = many(np.zeros(5), wander=0.03)
    assert (fit.line.p < 0.05).mean() <= 0.07


# -- a run -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def response():
    stages = swept(GAPS, seeds=(0, 1, 2))
    curves = {"flat": np.zeros(5), "levels": 0.5 * np.minimum(UNITS / 0.25, 1), "line": hinge(0.5, 0)}
    return sweep_response(scores_of(stages, curves, n_prompts=110), stages)


def test_each_topic_gets_the_shape_that_was_planted(response, row):
    table, curve = response
    found = {topic: row(table, topic=topic, outcome="support") for topic in ("flat", "levels", "line")}
    assert {topic: (each["resolved"], each["straight"]) for topic, each in found.items()} == {
        "flat": (False, True),
        "levels": (True, False),
        "line": (True, True),
    }
    drawn = curve.filter(kind="fitted", outcome="support")
    assert set(drawn["topic"]) >= {"flat", "line"}
    assert "levels" not in set(drawn["topic"])
    assert drawn.filter((pl.col("low") > pl.col("value")) | (pl.col("high") < pl.col("value"))).is_empty()
    rest = row(table, topic="line", outcome="oppose")
    assert rest["value"] == pytest.approx(-found["line"]["value"])


def test_the_sentence_says_the_change_and_whether_a_line_fits(response):
    (said,) = Analysis().findings({"sweep_response": response[0].filter(pl.col("topic").is_in(["all", "line"]))}, "claim")
    assert said.startswith("dpo, gap 0 to 1, claim, over all topics: ")
    assert "support changes by +0." in said
    levels, flat = (response[0].filter(topic=topic).with_columns(topic=pl.lit("all")) for topic in ("levels", "flat"))
    assert "a straight line does not fit" in Analysis().findings({"sweep_response": levels}, "claim")[0]
    assert "no change from the lowest to the highest value is resolved" in Analysis().findings({"sweep_response": flat}, "claim")[0]


def test_a_seed_that_lacks_a_value_counts_at_none(row):
    stages = swept(GAPS, seeds=(0, 1, 2))
    scores = scores_of(stages, {"work": hinge(0.5, 0)})
    ragged = scores.filter(~((pl.col("seed") == 2) & (pl.col("stage") == "dpo[gap=0.5]")))
    two, _ = sweep_response(scores.filter(pl.col("seed") < 2), stages)
    assert sweep_response(ragged, stages)[0].equals(two)
    alone = ragged.filter((pl.col("seed") == 2) | (pl.col("stage") == "dpo[gap=0.5]"))  # no seed has all values
    assert row(sweep_response(alone, stages)[0], topic="work", outcome="support")["straight"] is None


def test_a_topic_without_evidence_at_one_value_has_none_and_is_left_out_of_the_mean(row):
    stages = swept(GAPS, seeds=(0, 1))
    scores = scores_of(stages, {"work": hinge(0.5, 0), "silent": hinge(0.5, 0)})
    gone = (pl.col("topic") == "silent") & (pl.col("stage") == "dpo[gap=1.0]") & (pl.col("step") > 0)
    failed = scores.with_columns(pl.when(~gone).then(pl.col(name)).alias(name) for name in OUTCOMES)
    table, curve = sweep_response(failed, stages)
    silent, work, overall = (row(table, topic=topic, outcome="support") for topic in ("silent", "work", "all"))
    assert (silent["value"], silent["p"], silent["straight"]) == (None, None, None)
    assert overall["value"] == pytest.approx(work["value"])
    assert curve.filter(topic="silent", kind="fitted").is_empty()


def test_four_prompts_say_nothing(row):
    stages = swept(GAPS)
    table, _ = sweep_response(scores_of(stages, {"work": hinge(0.5, 0)}, n_prompts=4), stages)
    found = row(table, topic="work", outcome="support")
    assert (found["low"], found["p"], found["straight"], found["resolved"]) == (None, None, None, False)


def test_a_run_without_a_sweep_has_no_rows():
    stages = swept([0, 1])
    table, curve = sweep_response(scores_of(stages, {"work": np.zeros(2)}), stages)
    assert (table.height, curve.height) == (0, 0)
