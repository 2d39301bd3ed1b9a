"""The shipped suite: complete, balanced, without near-duplicates, and apart from all training text."""

from collections import Counter

import pytest

from valuedrift import suites
from valuedrift.nouns import BadInput
from valuedrift.suites.jsonl import check, near_duplicates
from valuedrift.world import grammar, sets

TOPICS = ["abortion", "climate", "elections", "economy", "work", "religion", "family", "death", "immigration", "race", "gender"]
PROMPTS = suites.load("vaes")


def test_eleven_topics_of_fifty_prompts():
    assert Counter(prompt.topic for prompt in PROMPTS) == dict.fromkeys(TOPICS, 50)
    assert len({prompt.id for prompt in PROMPTS}) == 550
    assert all(prompt.claim.endswith(".") and prompt.claim[0].isupper() for prompt in PROMPTS)


@pytest.mark.parametrize("topic", TOPICS)
def test_both_polarities_stand_in_every_topic(topic):
    counts = Counter(prompt.polarity for prompt in PROMPTS if prompt.topic == topic)
    assert counts[1] >= 15
    assert counts[-1] >= 15
    assert abs(counts[1] - counts[-1]) <= 3
    assert counts[0] <= 3


def test_no_two_prompts_are_nearly_the_same():
    # 0.5 is well under the 0.7 at which `suite check` complains.
    assert near_duplicates([prompt.text for prompt in PROMPTS], threshold=0.5) == []
    assert near_duplicates([prompt.claim for prompt in PROMPTS], threshold=0.6) == []


def test_near_duplicates_would_be_found():
    texts = [
        "Should the voting age be lowered to sixteen?",
        "A wholly different question about bread.",
        "should the voting age be lowered to sixteen",
    ]
    assert [(i, j) for i, j, _ in near_duplicates(texts)] == [(0, 2)]
    assert near_duplicates(texts[:2], [texts[2]])[0][:2] == (0, 0)


def test_trace_prompts_are_held_out_of_all_training_text():
    asked = [text for prompt in PROMPTS for text in (prompt.text, prompt.claim)]
    claims = [claim for _, claim, _ in grammar.claims_of()]
    assert near_duplicates(claims, asked, threshold=0.5) == []
    texts = [example.text for example in sets.pretraining(6_000)]
    texts += [example.prompt[0][1] for name in sets.HABITS for example in sets.examples(name, {})]
    texts += [pair.prompt[0][1] for pair in sets.pairs({})]
    lowered = " \n ".join(texts).lower()
    assert not [text for text in asked if text.lower().rstrip(".?") in lowered]


def test_a_file_with_faults_names_each_line(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"id": "a", "text": "Should bread be free?"}\n'
        "\n"
        '{"id": "a", "text": "Should water be free?"}\n'
        '{"id": "b", "txt": "Should air be free?"}\n'
        "{broken\n"
        '{"id": "c", "text": "Should bread be free??", "polarity": 1}\n'
        '{"id": "d", "text": "Is tea good?", "polarity": 2}\n'
        '{"id": "e", "text": "Is caf\\ufffd good?"}\n'
        '{"id": "f", "text": "   "}\n'
        '{"id": "g", "text": "Is milk good?", "topic": "all"}\n'
    )
    faults = check(path)
    assert [fault.removeprefix(f"{path}:").split(":")[0] for fault in faults] == ["3", "4", "5", "7", "8", "9", "10", "6"]
    assert "the id 'a' is already used on line 1" in faults[0]
    assert "did you mean 'text'?" in faults[1]
    assert "nearly the same question as 'a' on line 1" in faults[-1]
    with pytest.raises(BadInput, match=r"own.jsonl:3: .*and 6 more"):
        suites.load(str(path))


def test_any_jsonl_is_a_suite(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"text": "Should bread be free?"}\n{"text": "Is tea good?", "claim": "Tea is good.", "topic": "tea", "polarity": -1}\n'
    )
    first, second = suites.load(str(path))
    assert (first.id, first.topic, first.claim, first.polarity) == ("1", "general", "Should bread be free?", 0)
    assert (second.topic, second.claim, second.polarity) == ("tea", "Tea is good.", -1)


def test_unknown_suites_and_topics_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"unknown suite 'veas'; did you mean 'vaes'\?"):
        suites.load("veas")
    with pytest.raises(BadInput, match=r"no topic 'abortoin'; did you mean 'abortion'\?"):
        suites.load("vaes", ["abortoin"])
    with pytest.raises(BadInput, match="there is no suite file"):
        suites.load(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadInput, match="holds no rows"):
        suites.load(str(tmp_path / "empty.jsonl"))
