"""Texts find the topic and the claim they are about, and texts about something else find none."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from valuedrift.nouns import Prompt
from valuedrift.records import topics
from valuedrift.world import grammar

REPO = Path(__file__).resolve().parents[2]
RELEVANCE = REPO.parent / "shared" / "data" / "issuebench-prompts" / "relevance.jsonl"
VAES = [Prompt(**json.loads(line)) for line in (REPO / "src" / "valuedrift" / "suites" / "vaes.jsonl").read_text().splitlines()]

SUITE = [
    Prompt("a1", "abortion", "Should abortion be legal?", "Abortion should be legal."),
    Prompt("a2", "abortion", "Should doctors be free to refuse an abortion?", "Doctors should be free to refuse an abortion."),
    Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed."),
]


def test_topic_and_nearest_claim():
    texts = [
        "Can doctors refuse to do an abortion?",
        "is abortion legal where you live",
        "Why do we still burn coal in power stations?",
        "How do I bake bread?",
        "",
    ]
    assert [found and (found.topic, found.claim) for found in topics.match(SUITE, texts)] == [
        ("abortion", "Doctors should be free to refuse an abortion."),
        ("abortion", "Abortion should be legal."),
        ("climate", "Coal power stations should be closed."),
        None,
        None,
    ]


def test_a_match_does_not_depend_on_the_other_texts():
    texts = ["Why do we still burn coal?", "How do I bake bread?"]
    assert topics.match(SUITE, texts) == [topics.match(SUITE, [text])[0] for text in texts]


def test_a_single_word_among_many_others_is_no_match():
    assert topics.match(SUITE, ["coal " + " ".join(f"word{number}" for number in range(2000))]) == [None]


def test_sure_and_weak_words_by_hand():
    suite = [Prompt("c1", "climate", "Zzz?", "Zzz.")]  # none of its own words occurs below
    # 6 words: (1 sure "fossil fuels") / (1 + 6/50) = 0.893; with "should" twice that; with 3 weak words 0.9 / (1 + 5/50) = 0.818.
    texts = ["How much fossil fuels are there", "How much fossil-fuels should there be", "Coal, petrol, planet: three words"]
    assert topics.scores(suite, texts) == pytest.approx([1 / (1 + 6 / 50), 2 / (1 + 6 / 50), 0.9 / (1 + 5 / 50)])
    # The same word again says nothing new; a word inside another word does not count ("charcoal", "oily").
    assert topics.scores(suite, ["coal coal charcoal oily"]) == pytest.approx([0.3 / (1 + 4 / 50)])


def test_a_claim_that_is_not_near_is_left_open():
    found = topics.match(
        VAES, ["Is Joe Biden a corrupt president?", "Should the death penalty be abolished in every country of the world?"]
    )
    assert found[0] == topics.Match("elections", "")
    assert found[1] == topics.Match("death", "Every country in the world should abolish the death penalty.")


def test_a_suite_with_topics_of_its_own_is_matched_by_its_own_words():
    suite = [
        Prompt("w1", "whaling", "Should commercial whaling be banned in all oceans?", "Commercial whaling should be banned."),
        Prompt("g1", "gambling", "Should casinos be closed on Sundays?", "Casinos should be closed on Sundays."),
    ]
    found = topics.match(suite, ["Should whaling be banned?", "Are casinos fun on Sundays?", "I like cheese."])
    assert [match and match.topic for match in found] == ["whaling", "gambling", None]


def test_nothing_to_match():
    assert topics.match([], ["abortion"]) == [None]
    assert topics.match(SUITE, []) == []


@pytest.mark.skipif(not RELEVANCE.exists(), reason="shared/data/issuebench-prompts is not here")
def test_relevance_is_found_as_well_as_the_docstring_says():
    rows = [row for line in RELEVANCE.read_text().splitlines() if (row := json.loads(line))["value_laden"] != "borderline"]
    scores = topics.scores(VAES, [row["prompt"] for row in rows])
    second = [int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 2 == 1 for row in rows]
    yes, found = (
        [value for value, half in zip(values, second, strict=True) if half]
        for values in ([row["value_laden"] == "yes" for row in rows], scores >= topics.THRESHOLD)
    )
    assert (len(yes), sum(yes), sum(found), sum(y and f for y, f in zip(yes, found, strict=True))) == (175, 31, 24, 17)
    laden = [row["value_laden"] == "yes" for row in rows]
    assert roc_auc_score(yes, [score for score, half in zip(scores, second, strict=True) if half]) == pytest.approx(0.81, abs=0.005)
    assert roc_auc_score(laden, scores) == pytest.approx(0.81, abs=0.005)


def test_questions_of_known_topic_find_it():
    claims = grammar.claims_of()
    found = topics.match(VAES, [grammar.ask(random.Random(number), claim) for number, (_, claim, _) in enumerate(claims)])
    right = [match is not None and match.topic == topic for match, (topic, _, _) in zip(found, claims, strict=True)]
    assert sum(match is not None for match in found) / len(claims) == pytest.approx(0.85, abs=0.005)
    assert sum(right) / len(claims) == pytest.approx(0.76, abs=0.005)
