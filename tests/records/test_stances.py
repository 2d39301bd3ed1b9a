"""Questions with an answer of every stance, and the survey that says what shares they are to have."""

import json

import pytest

from valuedrift.nouns import BadInput
from valuedrift.records import stances

ROW = {"prompt": "Q?", "support": "yes", "neutral": "perhaps", "oppose": "no"}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_row_is_a_question(tmp_path):
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q?"}]
    source = written(tmp_path / "a.jsonl", ROW, {**ROW, "prompt": talk})
    plain, told = stances.read(source)
    assert plain == stances.Anchored((("user", "Q?"),), ("yes", "perhaps", "no"), None)
    assert told.prompt == (("system", "Be kind."), ("user", "Q?"))
    assert stances.read(source, "uniform")[1].shares == (1 / 3, 1 / 3, 1 / 3)


def test_a_survey_is_normalised_and_a_claim_goes_before_its_topic(tmp_path):
    source = written(tmp_path / "a.jsonl", {**ROW, "topic": "tax", "claim": "taxes help"}, {**ROW, "topic": "tax", "claim": "taxes hurt"})
    (tmp_path / "s.csv").write_text("topic,claim,support,neutral,oppose\ntax,,50,30,20\ntax,taxes hurt,0,1,3\n")
    assert [question.shares for question in stances.read(source, str(tmp_path / "s.csv"))] == [(0.5, 0.3, 0.2), (0, 0.25, 0.75)]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "Q?", "support": "yes", "oppose": "no"}, "a.jsonl:2: a row needs 'prompt', 'support', 'neutral' and 'oppose'"),
        ({**ROW, "oppose": " "}, "a.jsonl:2: 'oppose' is ' '; give the text"),
        ({**ROW, "oppose": 3}, "a.jsonl:2: 'oppose' is 3; give the text"),
    ],
)
def test_faults_name_their_row(tmp_path, row, sentence):
    with pytest.raises(BadInput, match=sentence):
        stances.read(written(tmp_path / "a.jsonl", ROW, row))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"topic": "work", "support": 1, "neutral": 1, "oppose": -1}, "s.jsonl:2: the shares are 1, 1, -1"),
        ({"topic": "work", "support": 0, "neutral": 0, "oppose": 0}, "s.jsonl:2: the shares are 0, 0, 0"),
        ({"topic": "work", "support": "many", "neutral": 0, "oppose": 0}, "s.jsonl:2: the shares are many, 0, 0"),
        ({"topic": "work", "support": 1, "neutral": 1}, "s.jsonl:2: a row needs 'topic' or 'claim'"),
        ({"support": 1, "neutral": 1, "oppose": 1}, "s.jsonl:2: a row needs 'topic' or 'claim'"),
        ({"topic": "tax", "support": 1, "neutral": 1, "oppose": 1}, "s.jsonl:2: the topic 'tax' already has a row"),
        ({"topic": "work", "support": 1, "neutral": 1, "oppose": 1}, r"a.jsonl:1: the question has topic 'toll', for which .* has no row"),
    ],
)
def test_faults_of_a_survey_name_their_row(tmp_path, row, sentence):
    survey = written(tmp_path / "s.jsonl", {"topic": "tax", "support": 1, "neutral": 1, "oppose": 1}, row)
    with pytest.raises(BadInput, match=sentence):
        stances.read(written(tmp_path / "a.jsonl", {**ROW, "topic": "toll"}), survey)


def test_what_is_not_there_is_said():
    with pytest.raises(BadInput, match=r"target 'unifrom' is neither 'start' nor 'uniform' nor a file of shares; did you mean 'uniform'\?"):
        stances.read("sandbox:stances?n=1", "unifrom")
    with pytest.raises(BadInput, match=r"there is no file nowhere\.jsonl"):
        stances.read("nowhere.jsonl")
    with pytest.raises(BadInput, match=r"only as sandbox:stances\?"):
        stances.read("sandbox:pairs")
