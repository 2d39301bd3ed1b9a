"""Every fault of an imported suite is named with its line."""

import json
import os

import pytest

from valuedrift import registry, suites
from valuedrift.nouns import BadInput, Prompt
from valuedrift.suites import jsonl


def written(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("café", "cafÃ©"),
        ("don’t", "donâ€™t"),
        ("“so”", "â€œsoâ€\x9d"),
        ("5 €", "5 â‚¬"),
        ("a\xa0b", "aÂ\xa0b"),
        ("Öl", "Ã–l"),
        ("где", "Ð³Ð´Ðµ"),
        ("😀", "ðŸ˜€"),
    ],
)
def test_garbled_text_is_told_from_good_text(good, bad):
    if "\x9d" not in bad:  # a byte that Windows-1252 leaves out
        assert good.encode().decode("cp1252") == bad  # this is how such text comes about
    assert jsonl.broken(good) == ""
    assert jsonl.broken(bad) != ""


@pytest.mark.parametrize(
    "text",
    ["groß“", "„Spaß“", "CAFÉ”", "MANHÃ”", "NÃO", "âge", "Ångström…", "ÂNGULO", "Ñandú", "naïve – and", "‘É…’", "a\n\tb", "日本", "Ω≈"],
)
def test_text_of_many_languages_is_not_broken(text):
    assert jsonl.broken(text) == ""


@pytest.mark.parametrize("character", ["\ufffd", "\x07", chr(0xD83D), "\ufeff", "\x85", "\ue000"])
def test_broken_characters_are_found(character):
    assert jsonl.broken(f"Is bread {character} good?") == character


def test_every_fault_of_a_line_is_named(tmp_path):
    path = written(
        tmp_path / "own.jsonl",
        {"id": "a", "topic": "caf\ufffd", "text": "Is bread goodâ€™?", "claim": "It is Ã©.", "polarity": 2},
        {"id": "b\x00", "topic": "", "text": "Is water wet?", "polarity": True},
        {"id": ["c"], "text": "Is fire hot?", "claim": None},
        '{"id": "d", "text": "Is \\ud800 high?"}',
        "[" * 100_000,
        {"id": "e", "text": "Is bread really good for all?"},
        {"id": "f", "text": "is BREAD really good, for all"},
    )
    faults = [fault.removeprefix(f"{path}:") for fault in jsonl.check(path)]
    assert [int(fault.partition(":")[0]) for fault in faults] == [1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 7]
    assert faults[0] == "1: broken character '�' in the topic; fix the encoding"
    assert faults[1] == "1: broken character 'â€' in the text; fix the encoding"
    assert faults[2] == "1: broken character 'Ã©' in the claim; fix the encoding"
    assert faults[3] == "1: polarity must be 1, -1 or 0, not 2"
    assert "in the id" in faults[4]
    assert faults[5] == "2: the topic must be a text, not ''"
    assert faults[6] == "2: polarity must be 1, -1 or 0, not True"
    assert faults[7] == "3: the id must be a text or a whole number, not ['c']"
    assert faults[10] == "5: not valid JSON (nested too deeply); correct or remove the line"
    assert faults[11] == "7: 'f' is nearly the same question as 'e' on line 6 (similarity 1.00); reword or remove one"


def test_a_faulty_question_is_compared_with_the_others_too(tmp_path):
    path = written(tmp_path / "own.jsonl", {"id": "a", "text": "Is bread good?", "polarity": 2}, {"id": "b", "text": "Is bread good??"})
    assert [fault.removeprefix(f"{path}:") for fault in jsonl.check(path)] == [
        "1: polarity must be 1, -1 or 0, not 2",
        "2: 'b' is nearly the same question as 'a' on line 1 (similarity 1.00); reword or remove one",
    ]


def test_a_pipe_or_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", tmp_path):
        with pytest.raises(BadInput, match="is no regular file"):
            jsonl.check(path)


def test_a_suite_is_checked_by_name(monkeypatch, tmp_path):
    class Double:
        def __init__(self, argument):
            pass

        def prompts(self):
            return [Prompt("a", "bread", "Is bread good?", "Bread is good."), Prompt("a", "all", "Is bread good??", "Bread is good.")]

    assert jsonl.check("vaes") == []
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Double if name == "vaes" else find(kind, name))
    assert [fault.partition(": ")[0] for fault in jsonl.check("vaes")] == ["vaes:2", "vaes:2", "vaes:2"]
    with pytest.raises(BadInput, match="there is no suite file"):
        jsonl.check("veas")
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "vaes", {"text": "Is tea good?", "polarity": 3})  # a file of that name goes first
    assert jsonl.check("vaes") == ["vaes:1: polarity must be 1, -1 or 0, not 3"]


def test_near_duplicates_are_found_across_parts(monkeypatch):
    texts = [f"Question {number} on {word}?" for number, word in enumerate(["bread", "rivers", "engines", "bridges"])] + [
        "question 0 on bread"
    ]
    whole = jsonl.near_duplicates(texts, threshold=0.5), jsonl.near_duplicates(texts[:2], texts[2:], threshold=0.2)
    monkeypatch.setattr(jsonl, "TOGETHER", 2)
    assert (jsonl.near_duplicates(texts, threshold=0.5), jsonl.near_duplicates(texts[:2], texts[2:], threshold=0.2)) == whole
    assert (0, 4, 1.0) in whole[0]


def test_a_suite_with_faults_is_not_loaded(tmp_path):
    path = written(tmp_path / "own.jsonl", {"text": "Is tea good?", "polarity": 1.0}, {"text": "", "topic": 3})
    with pytest.raises(BadInput, match=r"own.jsonl:1: polarity must be 1, -1 or 0, not 1.0 \(and 2 more"):
        suites.load(str(path))
