"""Texts find the prompt they are about, and texts about something else find none."""

import json
from pathlib import Path

import pytest

from valuedrift.data import topics
from valuedrift.nouns import Prompt

REPO = Path(__file__).resolve().parents[2]
RELEVANCE = REPO.parent / "shared" / "data" / "issuebench-prompts" / "relevance.jsonl"
VAES = REPO / "src" / "valuedrift" / "suites" / "vaes.jsonl"

SUITE = [
    Prompt("a1", "abortion", "Should abortion be legal?", "Abortion should be legal."),
    Prompt("a2", "abortion", "Should doctors be free to refuse an abortion?", "Doctors should be free to refuse an abortion."),
    Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed."),
]


def test_nearest_prompt_of_the_nearest_topic():
    texts = [
        "Can doctors refuse to do an abortion?",
        "is abortion legal where you live",
        "Why do we still burn coal?",
        "How do I bake bread?",
        "",
    ]
    assert [found and found.id for found in topics.match(SUITE, texts)] == ["a2", "a1", "c1", None, None]


def test_a_match_does_not_depend_on_the_other_texts():
    texts = ["Why do we still burn coal?", "How do I bake bread?"]
    assert topics.match(SUITE, texts) == [topics.match(SUITE, [text])[0] for text in texts]


def test_a_single_word_among_many_others_is_no_match():
    assert topics.match(SUITE, ["coal " + " ".join(f"word{number}" for number in range(2000))]) == [None]


def test_the_nearest_prompt_is_looked_for_inside_the_nearest_topic():
    suite = [
        *(Prompt(f"a-{place}", "abortion", f"Should abortion be legal in {place}?", "Abortion.") for place in ("Peru", "Spain", "Kenya")),
        Prompt("c1", "climate", "Coal burns?", "Coal."),
        Prompt("c2", "climate", "Wind turbines turn?", "Wind."),
        Prompt("c3", "climate", "Abortion, rivers, lakes?", "Rivers, lakes."),
    ]
    # c3 alone is nearest to "abortion rivers", but its topic is mostly about other things.
    assert topics.match(suite[3:], ["legal abortion rivers"])[0].id == "c3"
    assert topics.match(suite, ["legal abortion rivers"])[0].id == "a-Peru"


def test_nothing_to_match():
    assert topics.match([], ["abortion"]) == [None]
    assert topics.match(SUITE, []) == []


@pytest.mark.skipif(not RELEVANCE.exists(), reason="shared/data/issuebench-prompts is not here")
def test_threshold_does_what_its_reason_says():
    suite = [Prompt(**json.loads(line)) for line in VAES.read_text().splitlines()]
    rows = [row for line in RELEVANCE.read_text().splitlines() if (row := json.loads(line))["value_laden"] != "borderline"]
    matched = topics.match(suite, [row["prompt"] for row in rows])
    hits = [row["value_laden"] == "yes" for row, found in zip(rows, matched, strict=True) if found]
    assert (len(rows), len(hits), sum(hits)) == (346, 36, 22)
