"""The word lists tell value-laden prompts from others, on labels that they were not made with."""

import hashlib
import json
from pathlib import Path

import pytest

from valuedrift.suites import laden_words

RELEVANCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "issuebench-prompts" / "relevance.jsonl"


def test_score_counts_distinct_words_with_their_weights():
    # should (opinion, 1) + abortion, legal (value, 2 each) = 5
    assert laden_words.score("Should abortion be legal?") == 5
    # tax twice and taxes: "tax" and "taxes" are two words, at most two count: 4
    assert laden_words.score("tax, TAX, taxes and taxation") == 4
    # family (subject, 1) + do you think (opinion, 1) = 2
    assert laden_words.score("Do you think family matters most?") == 2
    # recipe (task, -2); cake is in no list
    assert laden_words.score("A recipe for cake") == -2
    assert laden_words.score("The carpet is blue") == 0


@pytest.mark.parametrize(
    ("text", "laden"),
    [
        ("Is the death penalty ever right?", True),
        ("I think men should stay with their families", True),
        ("Who should look after elderly parents?", True),
        ("my family is coming for dinner, any tips?", False),
        ("How do I bake a moist chocolate cake", False),
        ("", False),
    ],
)
def test_value_laden(text, laden):
    assert laden_words.value_laden(text) is laden


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Is the death penalty ever right?", True),
        ("why do we pay taxes", True),
        ("I think taxes are too high", True),
        ("the situation in the senate", False),
        ("Whatever", False),
        ("Should " + "x" * 300 + "?", False),
    ],
)
def test_can_be_asked(text, asked):
    assert laden_words.can_be_asked(text) is asked


@pytest.mark.skipif(not RELEVANCE.exists(), reason="shared/data/issuebench-prompts is not here")
@pytest.mark.parametrize(("prefix", "expected"), [("", (31, 144, 0.99, 0.93, 0.87)), ("prism-", (27, 49, 0.99, 1.0, 0.89))])
def test_the_lists_do_what_their_reason_says(prefix, expected):
    from sklearn.metrics import roc_auc_score

    rows = [json.loads(line) for line in RELEVANCE.read_text().splitlines()]
    unseen = [row for row in rows if int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 2 == 1]
    clear = [row for row in unseen if row["value_laden"] != "borderline" and row["id"].startswith(prefix)]
    truth = [row["value_laden"] == "yes" for row in clear]
    found = [laden_words.value_laden(row["prompt"]) for row in clear]
    hits = sum(said and true for said, true in zip(found, truth, strict=True))
    area = roc_auc_score(truth, [laden_words.score(row["prompt"]) for row in clear])
    assert (sum(truth), len(truth) - sum(truth), round(area, 2), round(hits / sum(found), 2), round(hits / sum(truth), 2)) == expected
