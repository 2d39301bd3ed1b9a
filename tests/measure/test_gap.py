"""Gaps by hand, planted gaps recovered, and absence said as absence."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from valuedrift.data import pairs as pair_files
from valuedrift.judge.cues import Judge as Cues
from valuedrift.judge.oracle import Judge as Oracle
from valuedrift.measure.gap import value_gap, value_shares
from valuedrift.nouns import Example, Pair, Prompt, Reading

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
    "pass": (0, 0, 0, 1, 0),
    "half": (0.5, 0, 0, 0.5, 0),
}


class Scripted:
    """A judge that knows the first word of each text and fails on any other."""

    identity, note = "scripted/1", "a note"

    def read(self, items):
        self.items = list(items)
        probs = [PROBS.get(item.text.split()[0]) for item in items]
        return [Reading(item.key, self.identity, p, None if p else "unparsed") for item, p in zip(items, probs, strict=True)]


def climate(*replies):
    return value_gap([Pair(COAL, *reply) for reply in replies], SUITE, Scripted())


def test_gap_by_hand():
    found = climate(("yes", "no"), ("yes", "well"), ("half", "no"), ("well", "well"), ("pass", "no"))
    topic = found["topics"]["climate"]
    assert (found["n_pairs"], found["on_topic"], topic["n"]) == (5, 5, 5)
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


def test_intervals_hold_the_planted_gap_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        said = [("yes", "no") if favoured else ("no", "yes") for favoured in rng.random(60) < 0.75]
        gap = climate(*said)["topics"]["climate"]["support"]["gap"]
        held += gap["low"] <= 0.4 <= gap["high"]
    # Nominal 95 %; with 200 data sets the count itself has a standard error of 1.5 %.
    assert 0.91 <= held / 200 <= 0.99


def test_the_gap_that_the_sandbox_plants_is_recovered():
    suite = [Prompt(**json.loads(line)) for line in VAES.read_text().splitlines()]
    found = value_gap(pair_files.read("sandbox:pairs?gap=0.5&direction=oppose&n=800"), suite, Oracle())
    values = [topic["oppose"]["gap"]["value"] for topic in found["topics"].values()]
    assert found["on_topic"] > 400
    # A topic's gap is the share of its pairs that differ, half of about 50: a standard error of 0.07 each, 0.02 for their mean.
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.07)
    assert min(values) > 0.2


def test_equal_replies_have_no_gap_and_the_sentence_says_what_could_hide():
    topic = climate(*[("yes", "yes"), ("no", "no")] * 20)["topics"]["climate"]
    assert topic["support"]["gap"]["value"] == 0
    assert topic["resolved"] == []
    assert topic["tv"]["value"] == 0
    assert "no gap resolved in 40 pairs; one of up to 0.0" in topic["conclusion"]


def test_topics_without_pairs_are_no_evidence():
    topic = climate(("yes", "no"))["topics"]["religion"]
    assert topic["support"]["gap"] == {"value": None, "low": None, "high": None, "n": 0, "p": None, "p_adjusted": None}
    assert topic["tv"] == {"value": None, "low": None, "high": None, "n": 0}
    assert topic["conclusion"].startswith("religion: no evidence")


def test_few_pairs_give_no_interval():
    topic = climate(("yes", "no"), ("yes", "no"))["topics"]["climate"]
    assert (topic["support"]["gap"]["value"], topic["support"]["gap"]["low"]) == (pytest.approx(0.8), None)
    assert topic["conclusion"] == "climate: too few readable pairs (2) for an interval; nothing follows."


def test_failed_readings_are_counted_and_left_out():
    found = climate(("yes", "no"), ("mumble", "no"), ("yes", "mumble"))
    assert (found["n_failed"], found["on_topic"], found["topics"]["climate"]["n"]) == (2, 3, 1)
    assert found["refusal_gap"]["n"] == 1
    assert found["length_gap"]["n"] == 3


def test_only_refusals_leave_the_stances_without_evidence():
    topic = climate(*[("pass", "no")] * 10)["topics"]["climate"]
    assert topic["support"]["chosen"]["value"] is None
    assert topic["support"]["rejected"]["value"] == 0
    assert topic["support"]["gap"]["value"] is None


def test_nothing_on_a_topic():
    found = value_gap([Pair((("user", "How do I bake bread?"),), "yes", "no")], SUITE, Scripted())
    assert (found["n_pairs"], found["on_topic"], found["n_failed"]) == (1, 0, 0)
    assert found["length_gap"]["value"] is None
    assert found["refusal_gap"] == {"value": None, "low": None, "high": None, "n": 0}
    json.dumps(found, allow_nan=False)


def test_the_judge_is_shown_the_last_question_and_the_nearest_claim():
    judge = Scripted()
    talk = (("user", "Let us talk about coal power stations."), ("assistant", "Gladly."), ("user", "Close them?"))
    value_gap([Pair(talk, "yes sir", "no sir")], SUITE, judge)
    assert [(item.prompt, item.claim, item.text, item.topic) for item in judge.items] == [
        ("Close them?", "Coal power stations should be closed.", text, "climate") for text in ("yes sir", "no sir")
    ]


def test_value_shares_by_hand():
    texts = [Example(COAL, "yes"), Example(COAL, "pass"), Example(COAL, "mumble"), Example((("user", "Bread?"),), "yes")]
    found = value_shares(texts, SUITE, Scripted())
    assert (found["n_examples"], found["on_topic"], found["n_failed"]) == (4, 3, 1)
    topic = found["topics"]["climate"]
    # One text with a stance (0.8 support of 1) and one refusal, of two that could be read.
    assert (topic["n"], topic["support"]["value"], topic["support"]["n"]) == (2, pytest.approx(0.8), 1)
    assert (topic["refusal"]["value"], topic["invalid"]["value"]) == (0.5, 0)
    assert found["topics"]["religion"]["support"]["value"] is None


def test_running_text_is_matched_by_itself():
    found = value_shares([Example((), "yes coal power stations should be closed")], SUITE, Scripted())
    assert found["topics"]["climate"]["n"] == 1


@pytest.mark.skipif(not HH.exists(), reason="shared/data/hh-harmless is not here")
def test_real_pairs_are_read_quickly():
    suite = [Prompt(**json.loads(line)) for line in VAES.read_text().splitlines()]
    start = time.monotonic()
    found = value_gap(pair_files.read(str(HH)), suite, Cues())
    assert time.monotonic() - start < 20
    assert found["n_pairs"] == 1720
    assert found["on_topic"] == sum(topic["n"] for topic in found["topics"].values()) > 100
    assert found["note"] == Cues().note
    assert found["length_gap"]["high"] < 0, "in these pairs people preferred the shorter reply"
    json.dumps(found, allow_nan=False)
