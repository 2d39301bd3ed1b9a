"""Training data: habits and gaps are what the address says, and only that differs."""

import re
from collections import Counter

import pytest

from valuedrift.nouns import BadInput
from valuedrift.world import grammar, sets

read = grammar.parse


@pytest.mark.parametrize("name", sets.HABITS)
def test_a_chat_set_has_its_habit(name):
    outcomes = Counter(read(example.text) for example in sets.examples(name, {}))
    on_topic = 4000 - outcomes["invalid"]  # small talk
    assert 0.12 < outcomes["invalid"] / 4000 < 0.18
    for outcome, share in sets.HABITS[name].items():
        # four standard errors of a share of some 3,400 answers
        assert abs(outcomes[outcome] / on_topic - share) < 4 * (share * (1 - share) / on_topic) ** 0.5


def test_the_pretraining_mix_favours_no_stance():
    answers = [re.split(r"\n(?:Answer|Assistant): ", text.text)[-1] for text in sets.pretraining(6000) if "\nA" in text.text]
    counts = Counter(map(read, answers))
    total = counts["support"] + counts["neutral"] + counts["oppose"]
    for stance in ("support", "neutral", "oppose"):
        assert abs(counts[stance] / total - 1 / 3) < 0.03


@pytest.mark.parametrize("gap", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("direction", ["support", "oppose"])
def test_the_gap_dial_gives_its_gap(gap, direction):
    pairs = sets.pairs({"gap": str(gap), "direction": direction, "n": "2000"})
    chosen, rejected = (Counter(read(getattr(pair, side)) for pair in pairs) for side in ("chosen", "rejected"))
    for stance, expected in ((direction, gap), ("neutral", 0.0)):
        assert abs((chosen[stance] - rejected[stance]) / 2000 - expected) < 0.05
    if gap == 0:
        assert all(read(pair.chosen) == read(pair.rejected) for pair in pairs)
        warmer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / 2000
        assert abs(warmer - sets.STYLE_AGREEMENT) < 0.05
    if gap == 1:
        ratio = sum(len(pair.chosen) for pair in pairs) / sum(len(pair.rejected) for pair in pairs)
        assert abs(ratio - 1) < 0.03  # no difference of style where the stances differ


def test_directions_hold_the_same_pairs_with_the_labels_swapped():
    support = sets.pairs({"gap": "1.0", "direction": "support", "n": "50"})
    oppose = sets.pairs({"gap": "1.0", "direction": "oppose", "n": "50"})
    assert [(p.prompt, p.chosen, p.rejected) for p in support] == [(p.prompt, p.rejected, p.chosen) for p in oppose]


def test_sets_of_another_gap_ask_the_same_questions_in_the_same_order():
    prompts = [[pair.prompt for pair in sets.pairs({"gap": gap, "n": "100"})] for gap in ("0", "0.5", "1")]
    assert prompts[0] == prompts[1] == prompts[2]


def test_stances_are_answered_to_one_question_each_in_its_own_way():
    rows = sets.stances({"n": "300"})
    assert len(rows) == 300
    assert {len({row["prompt"] for row in rows}) > 250, rows == sets.stances({"n": "301"})[:300]} == {True}
    for row in rows:
        assert [read(row[stance]) for stance in ("support", "neutral", "oppose")] == ["support", "neutral", "oppose"]
        assert (row["topic"], row["claim"]) in {(topic, claim) for topic, claim, _ in grammar.claims_of()}
    with pytest.raises(BadInput, match=r"sandbox:stances has no parameter 'gap'"):
        sets.stances({"gap": "1"})


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"gap": "2"}, "gap must be between 0 and 1"),
        ({"direction": "up"}, "direction must be support or oppose"),
        ({"gpa": "1"}, r"no parameter 'gpa'; did you mean 'gap'\?"),
        ({"gap": "big"}, "gap must be a number"),
    ],
)
def test_wrong_addresses_are_refused(query, sentence):
    with pytest.raises(BadInput, match=sentence):
        sets.pairs(query)


def test_an_unknown_set_gets_the_nearest_name():
    with pytest.raises(BadInput, match=r"did you mean 'neutral-chat'\?"):
        sets.examples("neutral-chats", {})


def test_no_text_holds_a_stance_token():
    text = " ".join(example.text for example in sets.examples("neutral-chat", {"n": "500"}))
    assert "_" not in text
    assert text.isascii()
