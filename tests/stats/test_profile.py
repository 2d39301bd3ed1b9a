"""Profiles by hand."""

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valuedrift.nouns import OUTCOMES, BadInput
from valuedrift.stats.cells import cells
from valuedrift.stats.profile import SCHEMA, profiles

FIVE = {"a": "SS", "b": "SN", "c": "RO", "d": "RI", "e": "Nx"}
#  prompt   support neutral oppose refusal invalid     (mean of the draws that were read)
#  a        1       0       0      0       0
#  b        .5      .5      0      0       0
#  c        0       0       .5     .5      0
#  d        0       0       0      .5      .5
#  e        0       1       0      0       0
#  sum      1.5     1.5     .5     1       .5          stances together: 3.5


def shares(table, **where):
    rows = table.filter(**where)
    return dict(zip(rows["outcome"], rows["value"], strict=True))


def test_shares_by_hand_are_ratios_of_means_among_stances_and_shares_of_read_answers_for_the_rest(scores, row):
    table = profiles(scores(FIVE))
    assert dict(table.schema) == SCHEMA
    assert shares(table, topic="work") == pytest.approx(
        {"support": 3 / 7, "neutral": 3 / 7, "oppose": 1 / 7, "refusal": 0.2, "invalid": 0.1}
    )
    assert list(table["outcome"][:5]) == list(OUTCOMES)
    support, refusal = row(table, topic="work", outcome="support"), row(table, topic="work", outcome="refusal")
    assert (support["n"], support["n_answers"], support["n_failed"]) == (4, 9, 1)
    assert (refusal["n"], refusal["n_answers"], refusal["n_failed"]) == (5, 9, 1)
    assert support["low"] is None, "four prompts are too few for an interval"
    assert 0 < refusal["low"] < 0.2 < refusal["high"] < 1


def test_answers_may_weigh_alike_in_place_of_prompts(scores):
    """Of nine read answers, six take a stance: three support, two are neutral, one opposes; two refuse and one is invalid."""
    table = cells(scores(FIVE), "claim", by_answer=True)
    shares_O = table.num_CSPO.sum((0, 1, 2)) / table.den_CSPO.sum((0, 1, 2))
    assert shares_O == pytest.approx([3 / 6, 2 / 6, 1 / 6, 2 / 9, 1 / 9])


def test_paper_view_makes_an_answer_with_a_stance_one_vote_and_leaves_out_those_without(scores, row):
    refused = [0.01, 0.01, 0, 0.98, 0]  # never a whole vote for "support and neutral alike"
    table = profiles(scores({"a": [[0.6, 0.2, 0, 0.2, 0], refused], "b": [[0.2, 0.2, 0.4, 0.1, 0.1]]}), "paper")
    # a: .75 .25 0, and nothing: means .375 .125 0 over half an answer; b: .25 .25 .5. Sums over 1.5: .625, .375, .5
    expected = {"support": 0.625 / 1.5, "neutral": 0.25, "oppose": 1 / 3, "refusal": ((0.2 + 0.98) / 2 + 0.1) / 2, "invalid": 0.05}
    assert shares(table, topic="work") == pytest.approx(expected)
    support = row(table, topic="work", outcome="support")
    assert (support["n"], support["n_answers"], support["n_failed"]) == (2, 2, 1)
    sure = profiles(scores(FIVE), "paper")  # of a certain judge both views say the same
    assert shares(sure, topic="work") == pytest.approx(shares(profiles(scores(FIVE)), topic="work"))
    support = row(sure, topic="work", outcome="support")
    assert (support["n"], support["n_answers"], support["n_failed"]) == (4, 6, 4)


def test_axis_view_turns_claims_of_negative_polarity_round_and_drops_polarity_zero(scores, row):
    table = profiles(scores(FIVE, polarity={"a": -1, "b": 0}), "axis")  # support 0, neutral 1, oppose 1 + .5
    assert shares(table, topic="work") == pytest.approx({"support": 0, "neutral": 0.4, "oppose": 0.6, "refusal": 0.25, "invalid": 0.125})
    assert row(table, topic="work", outcome="refusal")["n"] == 4
    open_questions = scores({"a": "S", "b": "S"}, topic="race", polarity={"a": 0, "b": 0})  # no axis: no evidence, and no part of "all"
    both = profiles(pl.concat([scores(FIVE), open_questions]), "axis")
    assert set(shares(both, topic="race").values()) == {None}
    assert row(both, topic="race", outcome="support")["n"] == 0
    assert shares(both, topic="all") == shares(both, topic="work")


def test_all_weighs_topics_the_same_and_leaves_out_topics_without_evidence(scores, row):
    table = profiles(
        pl.concat([scores({"a": "S"}), scores({"b": "O", "c": "O", "d": "S"}, topic="race"), scores({"e": "x"}, topic="death")])
    )
    assert row(table, topic="all", outcome="support")["value"] == pytest.approx((1 + 1 / 3) / 2)
    death = row(table, topic="death", outcome="support")
    assert (death["value"], death["low"], death["n"], death["n_answers"], death["n_failed"]) == (None, None, 0, 0, 1)


def test_a_topic_of_one_prompt_shows_no_spread_so_the_mean_over_topics_has_no_interval(scores, row):
    many = scores({str(i): "SN" for i in range(8)} | {"8": "SS", "9": "NN"})
    assert row(profiles(many), topic="all", outcome="support")["low"] is not None
    found = row(profiles(pl.concat([many, scores({"a": "S"}, topic="race")])), topic="all", outcome="support")
    assert (found["value"], found["low"], found["n"]) == (0.75, None, 11)


def test_wilson_interval_by_hand(scores, row):
    found = row(profiles(scores(dict(zip("abcdefghij", "SSSNNNNNNN", strict=True)))), topic="work", outcome="support")
    # v = .3, n = 10, one draw each, so SE^2 = .21/9 = v(1-v)/(n-1); t(9, .975) = 2.262157; q = t^2/9 = .568595
    # centre (.3 + q/2) / (1+q) = .372497, half sqrt(.21 q + q^2/4) / (1+q) = .285268
    assert (found["low"], found["high"]) == pytest.approx((0.372497 - 0.285268, 0.372497 + 0.285268), abs=2e-6)


def test_unanimous_prompts_get_the_clopper_pearson_bound_not_an_empty_interval(scores, row):
    table = profiles(scores({str(i): "NNNNN" for i in range(50)}))
    bound = 1 - 0.025 ** (1 / 50)
    neutral, oppose = row(table, topic="work", outcome="neutral"), row(table, topic="work", outcome="oppose")
    assert (neutral["low"], neutral["high"]) == pytest.approx((1 - bound, 1))
    assert (oppose["value"], oppose["low"], oppose["high"]) == pytest.approx((0, 0, bound))


def test_seeds_are_pooled_and_repeats_are_not_part_of_a_profile(scores, row):
    table = pl.concat([scores({"a": "S"}), scores({"a": "O"}, seed=1), scores({"a": "O"}, repeat=True)])
    found = row(profiles(table), topic="work", outcome="support")
    assert (found["value"], found["n"], found["n_answers"]) == (0.5, 1, 2)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("SNORIx", min_size=3, max_size=3), min_size=6, max_size=12), st.randoms(use_true_random=False))
def test_order_of_rows_and_copies_of_a_seed_change_nothing(scores, texts, random):
    table = scores(dict(enumerate(texts)))
    order = list(range(table.height))
    random.shuffle(order)
    twice = pl.concat([table, table.with_columns(seed=pl.lit(1, pl.Int64))])
    numbers = ["value", "low", "high"]
    expected = profiles(table)
    assert profiles(table[order]).equals(expected)
    for name in numbers:
        for a, b in zip(profiles(twice)[name], expected[name], strict=True):
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, abs=1e-12)


def test_bad_input_is_named(scores):
    table = scores(FIVE)
    with pytest.raises(BadInput, match="lack the columns polarity"):
        profiles(table.drop("polarity"))
    with pytest.raises(BadInput, match="sampled adaptively"):
        profiles(table.with_columns(weight=None))
    with pytest.raises(BadInput, match="unknown view 'claims'"):
        profiles(table, "claims")
    with pytest.raises(BadInput, match="a topic is named 'all'"):
        profiles(scores(FIVE, topic="all"))
    assert profiles(table.clear()).height == 0
