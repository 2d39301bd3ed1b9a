"""Gaps by hand, planted gaps recovered, and absence said as absence."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from valuedrift.cli.data import show_gap
from valuedrift.judge import Judge
from valuedrift.judge.cues import Judge as Cues
from valuedrift.judge.oracle import Judge as Oracle
from valuedrift.nouns import Example, Pair, Prompt, Reading
from valuedrift.records import records
from valuedrift.stats.gap import value_gap

REPO = Path(__file__).resolve().parents[2]
HH = REPO.parent / "shared" / "data" / "hh-harmless" / "pairs.jsonl"
VAES = REPO / "src" / "valuedrift" / "suites" / "vaes.jsonl"

SUITE = [
    Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed."),
    Prompt("r1", "religion", "Should churches pay taxes?", "Churches should pay taxes."),
]
COAL = (("user", "Should coal power stations be closed?"),)
PROBS = {
    "yes": (0.8, 0.2, 0, 0, 0),
    "well": (0.2, 0.6, 0.2, 0, 0),
    "no": (0, 0.2, 0.8, 0, 0),
    "nay": (0, 0.2, 0.8, 0, 0),
    "pass": (0, 0, 0, 1, 0),
    "half": (0.5, 0, 0, 0.5, 0),
    "hm": (0.3, 0.4, 0.3, 0, 0),
}


class Scripted(Judge):
    """A judge that knows the first word of each text and fails on any other."""

    identity, note = "scripted/1", "a note"

    def read(self, items):
        self.items = list(items)
        probs = [PROBS.get(item.text.split()[0]) for item in items]
        return [Reading(item.key, self.identity, p, None if p else "unparsed") for item, p in zip(items, probs, strict=True)]


def climate(*replies, **settings):
    """Return the gap of pairs that each have a prompt of their own."""
    pairs = [Pair((("system", f"Number {number}."), *COAL), *reply) for number, reply in enumerate(replies)]
    return value_gap(pairs, SUITE, Scripted(), **settings)


def test_gap_by_hand():
    found = climate(("yes", "no"), ("yes", "well"), ("half", "no"), ("well", "well"), ("pass", "no"))
    topic = found["topics"]["climate"]
    assert (found["n_pairs"], found["n_prompts"], found["on_topic"], topic["n"], topic["n_pairs"]) == (5, 5, 5, 5, 5)
    # Chosen: support 0.8 + 0.8 + 0.5 + 0.2 + 0 = 2.3 of a stance mass of 1 + 1 + 0.5 + 1 + 0 = 3.5.
    assert topic["support"]["chosen"]["value"] == pytest.approx(2.3 / 3.5)
    # Rejected: support 0 + 0.2 + 0 + 0.2 + 0 of 5.
    assert topic["support"]["rejected"]["value"] == pytest.approx(0.4 / 5)
    assert topic["support"]["gap"]["value"] == pytest.approx(2.3 / 3.5 - 0.08)
    assert sum(topic[stance]["gap"]["value"] for stance in ("support", "neutral", "oppose")) == pytest.approx(0)
    # Half the absolute differences: yes-no 0.8, yes-well 0.6, half-no (0.5+0.2+0.8+0.5)/2 = 1, none 0, pass-no 1.
    assert topic["tv"]["value"] == pytest.approx(3.4 / 5)
    # Refusals: chosen 0.5 + 1 of 5.
    assert found["refusal_gap"]["value"] == pytest.approx(1.5 / 5)


def test_length_gap_in_words():
    found = climate(*[("yes one two three", "no")] * 3, *[("yes", "no one")] * 3)
    # Three pairs of 4 - 1 = 3 words, three of 1 - 2 = -1: the mean is 1; by t with 5 degrees of freedom ± 2.57 * 2.19 / sqrt(6) = 2.3.
    assert found["length_gap"]["value"] == pytest.approx(1)
    assert found["length_gap"]["unit"] == "words"
    assert found["length_gap"]["low"] == pytest.approx(1 - 2.3, abs=0.7)
    assert found["length_gap"]["high"] == pytest.approx(1 + 2.3, abs=0.7)


@pytest.mark.parametrize("direction", [1, -1])
def test_planted_gap_is_recovered(direction):
    found = climate(*([("yes", "no")[::direction]] * 75 + [("no", "yes")[::direction]] * 25))["topics"]["climate"]
    # (0.75 - 0.25) * 0.8 = 0.4 for the stance that the labels favour; each pair's difference is 0.8 or -0.8, so that the
    # standard error is 0.8 * sqrt(1 - 0.5^2) / sqrt(99) = 0.07 and the interval about ± 0.14.
    gap = found["support"]["gap"]
    assert gap["value"] == pytest.approx(direction * 0.4)
    assert (gap["low"], gap["high"]) == (pytest.approx(direction * 0.4 - 0.14, abs=0.02), pytest.approx(direction * 0.4 + 0.14, abs=0.02))
    assert found["resolved"] == ["support", "oppose"]
    assert f"support {direction * 0.4:+.2f} [" in found["conclusion"]


def test_the_gap_that_the_sandbox_plants_is_recovered():
    suite = [Prompt(**json.loads(line)) for line in VAES.read_text().splitlines()]
    found = value_gap(records.read("sandbox:pairs?gap=0.5&direction=oppose&n=800"), suite, Oracle())
    values = [topic["oppose"]["gap"]["value"] for topic in found["topics"].values()]
    assert found["on_topic"] == sum(topic["claims"]["data"] for topic in found["topics"].values()) == 800
    # A topic's gap is the share of its pairs that differ, half of about 73: a standard error of 0.06 each, 0.02 for their mean.
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.06)
    assert min(values) > 0.25
    assert {topic["verdict"] for topic in found["topics"].values()} == {"could move"}
    assert all("could move a model towards oppose" in topic["conclusion"] for topic in found["topics"].values())


def test_pairs_of_one_prompt_are_one_unit():
    replies = [("yes", "no")] * 12 + [("no", "yes")] * 8
    pairs = [Pair((("system", f"Number {number}."), *COAL), *reply) for number, reply in enumerate(replies)]
    once, thrice = (value_gap(some, SUITE, Scripted())["topics"]["climate"] for some in (pairs, pairs * 3))
    assert (once["n"], once["n_pairs"], thrice["n"], thrice["n_pairs"]) == (20, 20, 20, 60)
    for name in ("value", "low", "high", "n", "p"):
        assert thrice["support"]["gap"][name] == pytest.approx(once["support"]["gap"][name])
    # Different replies to one prompt are one change of that prompt: here none, as if both replies were equal.
    both = [Pair((("system", f"Number {number // 2}."), *COAL), *replies[number % 2 - 1]) for number in range(40)]
    gap, equal = value_gap(both, SUITE, Scripted()), climate(*[("yes", "yes")] * 20)
    gap, equal = (found["topics"]["climate"]["support"]["gap"] | {"standardised": None} for found in (gap, equal))
    assert gap == equal


def test_a_record_s_own_topic_and_claim_go_first():
    judge = Scripted()
    pair = Pair((("user", "Should churches pay taxes?"),), "yes sir", "no sir", "whaling", "Whaling is fine.")
    found = value_gap([pair, Pair(COAL, "yes", "no", "climate", "Coal is bad."), Pair(COAL, "yes", "no", "climate")], SUITE, judge)
    assert {(item.claim, item.topic) for item in judge.items} == {
        ("Whaling is fine.", "whaling"),
        ("Coal is bad.", "climate"),
        ("Coal power stations should be closed.", "climate"),
    }
    assert list(found["topics"]) == ["climate", "religion", "whaling"]
    assert found["topics"]["climate"]["claims"] == {"data": 1, "suite": 1, "user": 0}
    assert found["claims_note"] == ""


def test_equal_replies_are_unlikely_to_move_a_model():
    topic = climate(*[("yes", "yes"), ("no", "no")] * 20)["topics"]["climate"]
    assert topic["support"]["gap"]["value"] == 0
    assert topic["resolved"] == []
    assert topic["tv"]["value"] == 0
    # Where none of 40 prompts differs, 1 - 0.025 ** (1 / 40) = 0.088 of all prompts may: within 0.1, not within 0.05.
    assert topic["conclusion"] == (
        "climate: unlikely to move a model by 0.1 or more: support +0.00 [-0.09, +0.09] in 40 prompts (claim view), "
        "every stance within ±0.09."
    )
    stricter = climate(*[("yes", "yes"), ("no", "no")] * 20, matters=0.05)["topics"]["climate"]
    assert (topic["verdict"], stricter["verdict"]) == ("unlikely", "undecided")
    assert "a gap of up to 0.09 may be missed" in stricter["conclusion"]


def test_a_judge_that_wavers_cannot_say_unlikely():
    topic = climate(*[("hm", "hm")] * 40)["topics"]["climate"]
    assert (topic["confidence"], topic["verdict"]) == (pytest.approx(0.4), "undecided")
    assert "the judge gives its likeliest outcome only 0.40 on average" in topic["conclusion"]


def test_a_larger_difference_of_style_is_named():
    # Support: 30 of 40 pairs +0.8, 10 -0.8: mean 0.4, deviation 0.8 * sqrt(1 - 0.25) * sqrt(40/39) = 0.70, so 0.57 in deviations.
    # Length: 20 pairs +9 words, 20 pairs +11: mean 10, deviation 1.01, so 9.9.
    replies = [("yes" if n % 4 else "nay", "nay" if n % 4 else "yes") for n in range(40)]
    longer = [(chosen + " word" * (9 if n % 2 else 11), rejected) for n, (chosen, rejected) in enumerate(replies)]
    plain, styled = (climate(*pairs)["topics"]["climate"] for pairs in (replies, longer))
    assert styled["support"]["gap"]["standardised"] == pytest.approx(0.4 / (0.8 * (0.75 * 40 / 39) ** 0.5))
    assert styled["style"]["length"]["standardised"] == pytest.approx(10 / (40 / 39) ** 0.5)
    assert "Style" not in plain["conclusion"]
    assert "Style differs more, in standard deviations of the pairs (length +9.87" in styled["conclusion"]
    regular = climate(*[("yes" + " word" * (9 + n % 3), "no") for n in range(20)])["topics"]["climate"]
    assert (regular["support"]["gap"]["standardised"], "Style" in regular["conclusion"]) == (None, False)


def test_examples_are_the_most_telling_ones_and_some_by_chance():
    found = climate(*[("well", "well")] * 6, ("yes", "no"), ("yes", "well"), ("mumble", "no"))["examples"]
    assert [row["why"] for row in found["climate"]] == ["Among the clearest"] * 2 + ["Selected at random"] * 2
    # Total variation 0.8 and 0.6; the rest are equal readings, and the pair without a verdict is never shown.
    shown = [(row["chosen"]["text"], row["rejected"]["text"]) for row in found["climate"]]
    assert shown == [("yes", "no"), ("yes", "well"), *[("well", "well")] * 2]
    assert found["climate"][0]["chosen"]["probs"] == {"support": 0.8, "neutral": 0.2, "oppose": 0, "refusal": 0, "invalid": 0}
    assert (found["climate"][0]["claim"], found["climate"][0]["put_by"]) == ("Coal power stations should be closed.", "suite")
    assert found["religion"] == []
    twice = value_gap([Pair(COAL, "yes", "no"), Pair(COAL, "no", "yes")], SUITE, Scripted())["examples"]["climate"]
    assert len(twice) == 1, "one prompt is shown once"


def test_few_pairs_give_no_interval_and_none_no_evidence():
    topics = climate(("yes", "no"), ("yes", "no"))["topics"]
    few, none = topics["climate"], topics["religion"]
    assert (few["support"]["gap"]["value"], few["support"]["gap"]["low"]) == (pytest.approx(0.8), None)
    assert few["conclusion"] == "climate: too few readable prompts (2) with a stance for an interval; no conclusion."
    absent = {"value": None, "low": None, "high": None, "n": 0}
    assert none["support"]["gap"] == absent | {"p": None, "standardised": None, "p_adjusted": None}
    assert none["tv"] == absent
    assert none["conclusion"].startswith("religion: no evidence")


def test_failed_readings_are_counted_and_left_out():
    found = climate(("yes", "no"), ("mumble", "no"), ("yes", "mumble"))
    assert (found["n_failed"], found["on_topic"], found["topics"]["climate"]["n"]) == (2, 3, 1)
    assert found["refusal_gap"]["n"] == 1
    assert found["length_gap"]["n"] == 1


def test_only_refusals_leave_the_stances_without_evidence():
    topic = climate(*[("pass", "no")] * 10)["topics"]["climate"]
    assert topic["support"]["chosen"]["value"] is None
    assert topic["support"]["rejected"]["value"] == 0
    assert topic["support"]["gap"]["value"] is None


def test_nothing_on_a_topic():
    found = value_gap([Pair((("user", "How do I bake bread?"),), "yes", "no")], SUITE, Scripted())
    assert (found["n_pairs"], found["on_topic"], found["n_failed"]) == (1, 0, 0)
    assert found["length_gap"]["value"] is None
    assert found["refusal_gap"] == {"value": None, "low": None, "high": None, "n": 0, "standardised": None, "unit": "share"}
    json.dumps(found, allow_nan=False)


def test_the_judge_is_shown_the_last_question_and_the_nearest_claim():
    judge = Scripted()
    talk = (("user", "Let us talk about coal power stations."), ("assistant", "Gladly."), ("user", "Close them?"))
    value_gap([Pair(talk, "yes sir", "no sir")], SUITE, judge)
    assert [(item.prompt, item.claim, item.text, item.topic) for item in judge.items] == [
        ("Close them?", "Coal power stations should be closed.", text, "climate") for text in ("yes sir", "no sir")
    ]


def test_value_shares_by_hand():
    other = (("user", "Should we close coal power stations?"),)
    texts = [Example(COAL, "yes"), Example(other, "pass"), Example(COAL, "mumble"), Example((("user", "Bread?"),), "yes")]
    found = value_gap(texts, SUITE, Scripted())
    assert (found["n_examples"], found["on_topic"], found["n_failed"]) == (4, 3, 1)
    topic = found["topics"]["climate"]
    # One text with a stance (0.8 support of 1) and one refusal, of two that could be read.
    assert (topic["n"], topic["support"]["value"], topic["support"]["n"]) == (2, pytest.approx(0.8), 1)
    assert (topic["refusal"]["value"], topic["invalid"]["value"]) == (0.5, 0)
    assert found["topics"]["religion"]["support"]["value"] is None
    alone = value_gap([Example((), "yes coal power stations should be closed")], SUITE, Scripted())
    assert alone["topics"]["climate"]["n"] == 1, "running text is matched by itself"


def test_value_shares_conclude_from_what_leads():
    def told(*replies):
        texts = [Example((("system", str(number)), *COAL), reply) for number, reply in enumerate(replies)]
        return value_gap(texts, SUITE, Scripted())["topics"]["climate"]

    # 18 of 20 with 0.8 support, 2 with 0.8 oppose: support 0.72, neutral 0.2, ahead by 0.52.
    found = told(*["yes"] * 18, *["no"] * 2)
    assert found["lead"]["value"] == pytest.approx(0.52)
    assert "climate: imitation would teach support most: support 0.72 [" in found["conclusion"]
    assert "ahead of neutral by 0.52 [" in found["conclusion"]
    assert "no lead is resolved" in told(*["yes"] * 10, *["no"] * 10)["conclusion"]
    assert "the judge gives its likeliest outcome only 0.40" in told(*["hm"] * 20)["conclusion"]
    assert [found["style"][name]["value"] for name in ("length", "lists")] == [1, 0]


def test_differences_have_signs_and_levels_have_none(capsys):
    show_gap(value_gap([Example((("system", str(number)), *COAL), "yes") for number in range(20)], SUITE, Scripted()) | {"cost": 0})
    printed = capsys.readouterr().out
    assert "0.800 [" in printed
    assert "+0." not in printed.partition("- climate")[0]


SIDED = [
    Prompt("i1", "immigration", "Should borders open?", "Borders should open.", 1),
    Prompt("i2", "immigration", "Should fewer come?", "Fewer people should come.", -1),
    Prompt("i3", "immigration", "Is it a hard question?", "It is a hard question.", 0),
]


def sided(*pairs, **settings):
    """Return the gap on immigration of (number of the claim, chosen, rejected)."""
    made = [
        Pair((("user", f"Number {n}?"),), chosen, rejected, "immigration", SIDED[claim].claim)
        for n, (claim, chosen, rejected) in enumerate(pairs)
    ]
    return value_gap(made, SIDED, settings.pop("judge", Scripted()), **settings)["topics"]["immigration"]


def test_pairs_that_favour_one_side_of_an_axis_move_a_model_though_half_their_claims_lie_against_it():
    # Chosen replies take the same side: support (0.8) of claims along the axis, oppose (0.8) of claims against it; rejected ones the other.
    topic = sided(*[(0, "yes", "no"), (1, "no", "yes")] * 30, *[(2, "well", "well")] * 5)
    # Towards the claims: chosen 30 * 0.8 + 5 * 0.2 and rejected the same. Along the axis all 60 pairs show 0.8 - 0.
    assert topic["support"]["gap"]["value"] == pytest.approx(0)
    axis = topic["axis"]
    assert (axis["n"], axis["n_pairs"], axis["resolved"]) == (60, 60, ["support", "oppose"])
    assert (axis["support"]["chosen"]["value"], axis["support"]["gap"]["value"], axis["oppose"]["gap"]["value"]) == pytest.approx(
        (0.8, 0.8, -0.8)
    )
    assert topic["verdict"] == "could move"
    assert "could move a model towards support on the topic's axis: " in topic["conclusion"]
    assert "in 60 prompts (axis view)" in topic["conclusion"]
    assert "claim view" not in topic["conclusion"]


def test_pairs_that_favour_agreement_with_either_side_are_resolved_towards_the_claims_alone():
    topic = sided(*[(0, "yes", "no"), (1, "yes", "no")] * 30)
    assert (topic["resolved"], topic["axis"]["resolved"]) == (["support", "oppose"], [])
    assert topic["axis"]["support"]["gap"]["value"] == pytest.approx(0)
    assert "could move a model towards support: " in topic["conclusion"]
    assert "in 60 prompts (claim view)" in topic["conclusion"]


@pytest.mark.parametrize("claims", [(0, 1), (2,)])
def test_replies_that_differ_without_direction_are_never_unlikely_to_move_a_model(claims):
    both = [(claim, *reply) for claim in claims for reply in (("yes", "no"), ("no", "yes"))]
    topic = sided(*both * (2400 // len(both)))
    # Each pair is 0.8 apart, half of them either way: no direction in either view, to within 1.96 * 0.8 / sqrt(2400) = 0.03.
    assert max(-topic["support"]["gap"]["low"], topic["support"]["gap"]["high"]) == pytest.approx(0.032, abs=0.002)
    assert topic["verdict"] == "undecided"
    assert "the replies of a pair differ in stance (total variation 0.80 [0.80, 0.80]) but not in one direction" in topic["conclusion"]
    assert ("side of the topic" in topic["conclusion"]) == (claims == (2,))


def test_unlikely_holds_in_both_views():
    assert sided(*[(0, "yes", "yes"), (1, "no", "no")] * 40)["verdict"] == "unlikely"
    # 200 of no side, equal replies; six of a side whose axis gap may be as large as 1 - 0.025 ** (1 / 6) = 0.46.
    few = sided(*[(2, "yes", "yes")] * 200, *[(0, "yes", "yes")] * 6)
    assert few["verdict"] == "undecided"
    assert "up to 0.46 may be missed" in few["conclusion"]
    # No side known at all, and one pair in eleven 0.8 apart, either way: 0.073 at the mean, and perhaps more than 0.1.
    mixed = sided(*[(2, "yes", "yes")] * 200, *[(2, "yes", "no"), (2, "no", "yes")] * 10, matters=0.08)
    assert mixed["verdict"] == "undecided"
    assert "the replies of a pair may differ by up to 0.11" in mixed["conclusion"]


def test_a_claim_of_the_suite_that_is_found_keeps_its_polarity():
    suite = [Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed.", -1)]
    topic = value_gap([Pair((("system", str(n)), *COAL), "yes", "no") for n in range(6)], suite, Scripted())["topics"]["climate"]
    assert topic["claims"] == {"data": 0, "suite": 6, "user": 0}
    assert (topic["support"]["gap"]["value"], topic["axis"]["oppose"]["gap"]["value"]) == pytest.approx((0.8, 0.8))


def test_without_a_near_claim_the_user_s_words_are_the_claim_and_have_no_side():
    judge, words = Scripted(), "It is what my church and faith say."
    talk = (("user", "I believe God is love."), ("assistant", "Why?"), ("user", words))
    found = value_gap([Pair((("system", str(n)), *talk), "yes", "no") for n in range(30)], SUITE, judge)
    topic = found["topics"]["religion"]
    assert {(item.claim, item.topic) for item in judge.items} == {(words, "religion")}
    assert found["claims_note"].startswith(
        "For 30 of 30 pairs on a topic, no claim of the suite is close. For these, support means agreeing"
    )
    assert (topic["claims"]["user"], topic["axis"]["n"], topic["axis"]["support"]["gap"]["value"]) == (30, 0, None)
    assert topic["conclusion"].startswith("religion, as agreement with what the user says (in 30 of 30 pairs): could move a model towards")


@pytest.mark.parametrize("f1", [0.65, 0.75])
def test_nothing_is_concluded_from_a_judge_that_agrees_with_people_too_little(f1):
    judge, prompts = Scripted(), [(("user", f"Number {n}?"),) for n in range(30)]
    judge.agreement = {"macro_f1": f1, "n": 220, "intervals": {"macro_f1": [f1 - 0.05, f1 + 0.05]}, "n_failed": 0, "n_read": 220}
    pairs = value_gap([Pair(prompt, "yes", "no", "climate", "Coal.") for prompt in prompts], SUITE, judge)
    texts = value_gap([Example(prompt, "yes", "climate", "Coal.") for prompt in prompts], SUITE, judge)
    of_pairs, of_texts = (found["topics"]["climate"] for found in (pairs, texts))
    assert of_pairs["support"]["gap"]["value"] == pytest.approx(0.8), "the numbers stay"
    assert pairs["validity"]["headlined"] == texts["validity"]["headlined"] == (f1 > 0.7)
    assert of_pairs["verdict"] == ("could move" if f1 > 0.7 else "not headlined")
    assert ("would teach support most" in of_texts["conclusion"]) == (f1 > 0.7)
    for topic in (of_pairs, of_texts):
        assert topic["conclusion"].endswith("no conclusion, because the judge agrees too little with people.") == (f1 < 0.7)


def test_texts_that_take_one_side_of_an_axis_teach_it():
    said = [(0, "yes"), (1, "no")] * 20
    texts = [Example((("user", f"Number {n}?"),), text, "immigration", SIDED[claim].claim) for n, (claim, text) in enumerate(said)]
    topic = value_gap(texts, SIDED, Scripted())["topics"]["immigration"]
    assert (topic["support"]["value"], topic["axis"]["support"]["value"], topic["axis"]["n"]) == pytest.approx((0.4, 0.8, 40))
    assert "would teach support most on the topic's axis" in topic["conclusion"]
    assert "in 40 prompts (axis view), ahead of neutral by 0.60" in topic["conclusion"]


@pytest.mark.slow
@pytest.mark.parametrize("each", [8, 25])
def test_equal_stances_on_many_topics_teach_none_most(each):
    class Sure(Scripted):
        def read(self, items):
            return [Reading(item.key, self.identity, SURELY[item.text]) for item in items]

    stances = ["support", "neutral", "oppose"]
    SURELY = {stance: tuple(float(stance == other) for other in (*stances, "refusal", "invalid")) for stance in stances}
    rng, wrong, files = np.random.default_rng(0), 0, 100
    for _ in range(files):
        texts = [
            Example((("user", f"Number {n}?"),), str(rng.choice(["support", "oppose"])), f"topic {n % 11}", "Yes.")
            for n in range(11 * each)
        ]
        found = value_gap(texts, [], Sure())["topics"].values()
        wrong += any("imitation would teach" in topic["conclusion"] for topic in found)
    # At most 5 % of files may conclude anything; the count itself has a standard error of 2.2 %. Uncorrected, some 40 % did.
    assert wrong / files <= 0.05 + 2 * 0.022


@pytest.mark.skipif(not HH.exists(), reason="shared/data/hh-harmless is not here")
def test_real_pairs_are_read_quickly():
    suite = [Prompt(**json.loads(line)) for line in VAES.read_text().splitlines()]
    start = time.monotonic()
    found = value_gap(records.read(str(HH)), suite, Cues())
    assert time.monotonic() - start < 20
    assert found["n_pairs"] == 1720
    assert found["on_topic"] == sum(topic["n_pairs"] for topic in found["topics"].values()) > 300
    assert not {topic["verdict"] for topic in found["topics"].values()} & {"unlikely"}, "cues is too unsure of short replies to say that"
    assert (found["note"], found["validity"]["headlined"]) == (Cues().note, False)
    assert all("what the user says" in topic["conclusion"] for topic in found["topics"].values() if topic["verdict"] != "no evidence")
    assert found["length_gap"]["high"] < 0, "in these pairs people preferred the shorter reply"
    json.dumps(found, allow_nan=False)
