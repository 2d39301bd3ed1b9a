"""Drifts by hand, and planted curves recovered."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuedrift.analyses.drift import Analysis
from valuedrift.nouns import OUTCOMES, BadInput
from valuedrift.stats.drift import SCHEMA, by_judge, drifts, paper_arrival

spec = importlib.util.spec_from_file_location("drift_time", Path(__file__).parents[2] / "benchmarks" / "drift_time.py")
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)
PROMPTS = "abcdefghij"
STAGE = [{"name": "sft", "after": "base", "seed": 0, "total_steps": 20, "steps": [0, 10, 20]}]
STEPS = [0, 1, 2, 4, 8, 16, 32, 64]
PLANTED = [{"name": "sft", "after": "base", "seed": 0, "total_steps": 64, "steps": STEPS}]


def steps(scores, texts, **more):
    return pl.concat([scores(dict(zip(PROMPTS, text, strict=True)), step=step, **more) for step, text in texts.items()])


def planted(scores, curve, noise=0.02, n_prompts=40, seed=0, topic="work"):
    """Support follows `curve` over STEPS, prompts differ widely (and stay different), every share has a little noise."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.1, 0.4, n_prompts)
    tables = []
    for step, moved in zip(STEPS, curve, strict=True):
        support = (base + moved + rng.normal(0, noise, n_prompts)).clip(0, 1)
        tables.append(scores({str(i): [[p, 1 - p, 0, 0, 0]] for i, p in enumerate(support)}, step=step, topic=topic))
    return pl.concat(tables)


def test_magnitude_interval_and_holm_by_hand(scores, row):
    table = drifts(steps(scores, {0: "NNNNNNNNNN", 10: "NNNNNNNNNN", 20: "SSSNNNNNNN"}), STAGE)
    assert dict(table.schema) == SCHEMA
    found = row(table, topic="work", stance="support")
    assert (found["stage"], found["from_step"], found["to_step"], found["n"]) == ("sft", 0, 20, 10)
    # the paired difference of test_resample: .3 - .345550, .3 + .345550 + .078949
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.3, -0.045550, 0.724499), abs=2e-6)
    assert found["p_adjusted"] == pytest.approx(min(1, 5 * found["p"]))  # one topic x five outcomes
    assert (found["resolved"], found["time"], found["status"], found["floor"]) == (False, None, "no drift", None)
    assert list(table.filter(topic="work")["stance"]) == list(OUTCOMES)


def test_drift_is_paired_over_prompts_read_at_both_ends(scores, row):
    table = drifts(steps(scores, {0: "SNNNNNNNNN", 20: "xSNNNNNNNN"}), STAGE)
    found = row(table, topic="work", stance="support")
    assert (found["value"], found["n"]) == (pytest.approx(1 / 9), 9)


def test_topics_and_their_mean_are_corrected_apart(scores, row):
    ends = {0: "N" * 10, 20: "SSSSSSSRRR"}
    table = drifts(pl.concat([steps(scores, ends, topic=topic) for topic in ("work", "race")]), STAGE)
    stance, refusal, overall = (row(table, topic=t, stance=s) for t, s in (("work", "support"), ("work", "refusal"), ("all", "support")))
    assert stance["p_adjusted"] == pytest.approx(min(1, 10 * stance["p"]))  # 2 topics x 5 outcomes; four equal p come first
    assert refusal["p_adjusted"] == pytest.approx(min(1, max(10 * stance["p"], 6 * refusal["p"])))  # then two of refusals
    assert overall["p_adjusted"] == pytest.approx(min(1, 5 * overall["p"]))


def test_a_swing_to_one_side_of_every_axis_shows_on_the_axis_alone(scores, row):
    # Six claims on each side of each axis. The model agrees with half of either at first, and at the end with all on one side.
    polarity = {f"p{i:02}": 1 if i < 6 else -1 for i in range(12)}
    texts = {0: "SSSOOOSSSOOO", 20: "SSSSSSOOOOOO"}
    table = pl.concat(
        scores(dict(zip(polarity, text, strict=True)), topic=topic, step=step, polarity=polarity)
        for topic in ("death", "race", "war", "work")
        for step, text in texts.items()
    )
    found = drifts(table, STAGE, "claim", "axis")
    claim, axis = (row(found, view=view, topic="all", stance="support") for view in ("claim", "axis"))
    assert (claim["value"], claim["resolved"], claim["status"]) == (0, False, "no drift")
    assert (axis["value"], axis["resolved"]) == (0.5, True)
    assert axis["p_adjusted"] == pytest.approx(min(1, 10 * axis["p"])), "one mean x 5 outcomes x 2 views"
    alone = row(drifts(table, STAGE, "axis"), topic="all", stance="support")
    assert (alone["value"], alone["p_adjusted"]) == (0.5, pytest.approx(5 * axis["p"]))
    about_claim, about_axis = Analysis().findings({"drifts": found}, "claim")
    assert about_claim.startswith("sft, claim (agreement with what is claimed): over all topics no drift is resolved; 0 of 12")
    head = "sft, axis (movement towards one side of each topic's axis): over all topics "
    assert re.match(re.escape(head) + r"(support \+0\.50|oppose -0\.50) .*; (support \+0\.50|oppose -0\.50)", about_axis)


def test_a_topic_without_polarity_has_no_evidence_on_an_axis(scores, row):
    ends = [scores(dict.fromkeys(PROMPTS, said), step=step, polarity=dict.fromkeys(PROMPTS, 0)) for step, said in ((0, "N"), (20, "S"))]
    found = drifts(pl.concat(ends), STAGE, "claim", "axis")
    assert row(found, view="claim", topic="work", stance="support")["value"] == 1
    for topic in ("work", "all"):
        axis = row(found, view="axis", topic=topic, stance="support")
        assert (axis["value"], axis["low"], axis["p"], axis["n"], axis["status"]) == (None, None, None, 0, "no evidence")


def test_planted_arrival_is_placed_between_its_steps(scores, row):
    found = row(drifts(planted(scores, [0, 0.05, 0.1, 0.2, 0.5, 0.5, 0.5, 0.5]), PLANTED), topic="work", stance="support")
    # 0.8 x 0.5 = 0.4 lies two thirds of the way from 0.2 at step 4 to 0.5 at step 8
    assert (found["status"], found["time"]) == ("reached", pytest.approx((4 + 4 * 2 / 3) / 64, abs=0.005))
    assert (found["time_low"], found["time_high"], found["paper_time"]) == (4 / 64, 8 / 64, 8 / 64)
    assert found["low"] < 0.5 < found["high"]
    mirrored = row(drifts(planted(scores, [0, 0.05, 0.1, 0.2, 0.5, 0.5, 0.5, 0.5]), PLANTED), topic="work", stance="neutral")
    assert [mirrored[name] for name in ("status", "time", "time_low", "time_high", "paper_time")] == [
        "reached", pytest.approx(found["time"]), 4 / 64, 8 / 64, 8 / 64,
    ]  # fmt: skip
    assert mirrored["value"] == pytest.approx(-found["value"])


def test_time_is_a_share_of_the_stages_steps_even_where_the_last_were_not_saved(scores, row):
    longer = [PLANTED[0] | {"total_steps": 128}]
    found = row(drifts(planted(scores, [0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], noise=0.1), longer), topic="work", stance="support")
    assert (found["time"], found["time_low"], found["time_high"]) == (pytest.approx(0.8 / 128, abs=2e-3), 0, 1 / 128)


@pytest.mark.parametrize(
    ("curve", "status", "paper"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], "no drift", None),
        ([0, 0.2, 0.4, 0.5, 0.4, 0.3, 0.2, 0.2], "non-monotone", 4 / 64),
        ([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], "still moving", None),
    ],
)
def test_planted_curves_get_their_honest_status(scores, row, curve, status, paper):
    found = row(drifts(planted(scores, curve), PLANTED), topic="work", stance="support")
    assert (found["status"], found["paper_time"]) == (status, paper)
    # 0.8 x 0.2 first at 0.8 of a step; 0.8 x 0.5 at step 32
    expected = {"no drift": None, "non-monotone": 0.8 / 64, "still moving": 32 / 64}[status]
    assert found["time"] == (None if expected is None else pytest.approx(expected, abs=0.05))


def test_two_checkpoints_tell_no_time(scores, row):
    table = planted(scores, [0, 0, 0, 0, 0, 0, 0, 0.5]).filter(pl.col("step").is_in([0, 64]))
    found = row(drifts(table, PLANTED), topic="work", stance="support")
    assert [found[name] for name in ("resolved", "status", "time", "time_low", "paper_time")] == [True, "undecided", None, None, None]


def test_a_step_or_seed_that_is_missing_on_the_way_leaves_the_time(scores, row):
    curve = [0, 0.05, 0.1, 0.2, 0.5, 0.5, 0.5, 0.5]
    whole, other = planted(scores, curve), planted(scores, curve, seed=3).with_columns(seed=pl.lit(1, pl.Int64))
    expected = row(drifts(whole, PLANTED), topic="work", stance="support")
    unread = whole.with_columns(pl.when(pl.col("step") != 2).then(pl.col(name)).alias(name) for name in OUTCOMES)
    for table in (unread, pl.concat([whole, other.filter(pl.col("step") != 2)])):
        found = row(drifts(table, PLANTED), topic="work", stance="support")
        assert found["time"] == pytest.approx(expected["time"], abs=0.01)
        assert found["time_low"] <= 4 / 64 < 8 / 64 <= found["time_high"]


@pytest.mark.slow
@pytest.mark.parametrize(("n_prompts", "size"), [(50, 0.3), (550, 0.3)])
@pytest.mark.parametrize(
    ("curve", "least"),
    [
        ("straight to the end", {50: {"reached": (0, 0.05)}, 550: {"still moving": (0.9, 1), "reached": (0, 0.05)}}),
        ("flat from 0.6 on", {50: {"still moving": (0, 0.1)}, 550: {"reached": (0.8, 1), "still moving": (0, 0.1)}}),
        ("jump at 0.7", {50: {"still moving": (0, 0.1)}, 550: {"reached": (0.8, 1), "still moving": (0, 0.1)}}),
        ("back by a third", {50: {"still moving": (0, 0.1)}, 550: {"non-monotone": (0.9, 1)}}),
    ],
)
def test_statuses_and_the_interval_of_the_time_hold_in_simulated_stages(n_prompts, size, curve, least):
    """Compact form of benchmarks/drift_time.py, with room for the chance of 100 runs."""
    found = simulation.figures(curve, n_prompts, size, np.linspace(0, 1, 12), runs=100)
    assert found["held"] >= 0.9
    for status, (low, high) in least[n_prompts].items():
        assert low <= found[status] <= high, (status, found)


def test_the_papers_time_takes_prompts_that_differ_for_good_for_what_they_are():
    # the share's own interval would be +-.15 and hold every step from the first on; the paired change's is +-.02
    change = np.array([0, 0.02, 0.1, 0.11])
    assert paper_arrival(change, change - 0.02, change + 0.02) == 2
    assert paper_arrival(change, change - 0.005, change + 0.005) is None


def test_a_prompt_set_too_small_is_no_evidence(scores, row):
    table = pl.concat([scores(dict(zip("abcd", text, strict=True)), step=step) for step, text in ((0, "NNNN"), (20, "SSSS"))])
    found = row(drifts(table, STAGE), topic="work", stance="support")
    assert (found["value"], found["low"], found["p"], found["detectable"], found["status"]) == (1, None, None, None, "no evidence")
    silent = row(drifts(steps(scores, {0: "N" * 10, 20: "x" * 10}), STAGE), topic="work", stance="support")
    assert (silent["value"], silent["n"], silent["resolved"], silent["status"]) == (None, 0, False, "no evidence")


def test_a_topic_of_one_prompt_leaves_the_mean_over_topics_unresolved(scores, row):
    many = steps(scores, {0: "NNNNNNNNNN", 20: "SSSSSSSSSN"})
    one = pl.concat([scores({"a": said}, topic="race", step=step) for step, said in ((0, "N"), (20, "S"))])
    found = row(drifts(pl.concat([many, one]), STAGE), topic="all", stance="support")
    assert (found["value"], found["n"], found["low"], found["p"]) == (0.95, 11, None, None)
    assert (found["resolved"], found["status"]) == (False, "no evidence")


def test_no_change_keeps_the_bound_of_what_may_be_unseen(scores, row):
    found = row(drifts(steps(scores, {0: "N" * 10, 20: "N" * 10}), STAGE), topic="work", stance="support")
    assert (found["value"], found["p"], found["status"]) == (0, 1, "no drift")
    assert (found["low"], found["high"]) == pytest.approx((-(1 - 0.025**0.1), 1 - 0.025**0.1))


def test_floor_stands_beside_each_drift(scores, row):
    table = pl.concat([steps(scores, {0: "N" * 10, 20: "SSNNNNNNNN"}), steps(scores, {20: "SSSNNNNNNN"}, repeat=True)])
    found = drifts(table, STAGE)
    assert row(found, topic="work", stance="support")["floor"] == pytest.approx(1.96 * 0.1)
    assert row(found, topic="all", stance="support")["floor"] == pytest.approx(1.96 * 0.1)


def test_seeds_that_disagree_widen_the_interval_and_copies_of_a_seed_do_not(scores, row):
    one = planted(scores, [0, 0, 0, 0, 0.2, 0.2, 0.2, 0.2], noise=0.01)
    copies = [one.with_columns(seed=pl.lit(seed, pl.Int64)) for seed in range(3)]
    other = [
        one,
        *(
            planted(scores, [0, 0, 0, 0, move, move, move, move], 0.01).with_columns(seed=pl.lit(s, pl.Int64))
            for s, move in ((1, 0.3), (2, 0.1))
        ),
    ]
    single, same, apart = (row(drifts(pl.concat(t), PLANTED), topic="work", stance="support") for t in ([one], copies, other))
    for name in ("value", "low", "high", "p", "detectable"):
        assert same[name] == pytest.approx(single[name], abs=1e-12)
    # t with 2 degrees of freedom on an SD of .1, and the bound on flips because prompts hardly differ: (4.303 * .1)^2 / 3 + .088^2 = .263^2
    assert (apart["high"] - apart["low"]) / 2 == pytest.approx(0.263, rel=0.02)
    assert (same["high"] - same["low"]) / 2 == pytest.approx(0.088, rel=0.02)
    assert single["resolved"]
    assert not apart["resolved"]


def test_same_rows_in_any_order_give_the_same_table(scores):
    table = pl.concat([planted(scores, [0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3]), planted(scores, [0] * 8, topic="race", seed=1)])
    assert drifts(table.sample(fraction=1, shuffle=True, seed=4), PLANTED).equals(drifts(table, PLANTED))


def test_one_checkpoint_is_no_drift_and_an_unknown_stage_is_named(scores):
    assert drifts(scores({"a": "S"}), STAGE).height == 0
    with pytest.raises(BadInput, match="follow the stage 'dpo'"):
        drifts(steps(scores, {0: "N" * 10, 20: "S" * 10}, stage="dpo"), STAGE)


# -- several judges --------------------------------------------------------------------------------------------------------


def judged(*rows):
    return pl.DataFrame(
        [
            {
                "stage": "sft",
                "view": "claim",
                "topic": topic,
                "stance": "support",
                "value": value,
                "low": None,
                "high": None,
                "resolved": resolved,
            }
            for topic, value, resolved in rows
        ],
        schema_overrides={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
    )


def test_every_case():
    panel = judged(("a", 0.3, True), ("b", 0.3, True), ("c", 0.3, True), ("d", 0.1, False), ("e", 0.0, False), ("f", 0.3, True))
    member = judged(("a", 0.2, True), ("b", -0.2, True), ("c", 0.1, False), ("d", 0.2, True), ("e", 0.0, False), ("f", None, False))
    found = by_judge(panel, {"other": member})
    assert dict(found.select("topic", "says").iter_rows()) == {
        "a": "confirms",
        "b": "contradicts",
        "c": "undecided",
        "d": "alone",
        "e": "none",
        "f": "undecided",
    }
    assert found["judge"].unique().to_list() == ["other"]


def test_one_judge_is_no_panel():
    assert by_judge(judged(("a", 0.3, True)), {}) is None
