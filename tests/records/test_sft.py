"""Every layout of examples is read, and every fault names its row."""

import json
from pathlib import Path

import pytest

from valuedrift.nouns import BadInput, Example
from valuedrift.records import records

ALPACA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "alpaca-libre" / "sft.jsonl"

ASK, YES = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}
EXAMPLE = Example((("user", "Q?"),), "yes")


def written(tmp_path, *rows):
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"messages": [ASK, YES]}, EXAMPLE),
        (
            {"messages": [ASK, YES, ASK, {"role": "assistant", "content": "still yes"}]},
            Example((*EXAMPLE.prompt, ("assistant", "yes"), ("user", "Q?")), "still yes"),
        ),
        ({"messages": [ASK, YES, ASK]}, EXAMPLE),
        ({"prompt": "Q?", "completion": "yes"}, EXAMPLE),
        ({"prompt": [ASK], "completion": [YES]}, EXAMPLE),
        ({"instruction": "Q?", "output": "yes"}, EXAMPLE),
        ({"instruction": "Q?", "input": "", "output": "yes"}, EXAMPLE),
        ({"instruction": "Q?", "input": "this", "output": "yes"}, Example((("user", "Q?\n\nthis"),), "yes")),
        ({"text": "running on"}, Example((), "running on")),
        ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "yes"}]}, EXAMPLE),
        ({"conversation": [ASK | {"language": "English", "toxic": False}, YES], "model": "gpt", "turn": 1}, EXAMPLE),
        ({"question": "Q?", "response": "yes"}, EXAMPLE),
        ({"system_prompt": "Be brief.", "question": "Q?", "answer": "yes"}, Example((("system", "Be brief."), *EXAMPLE.prompt), "yes")),
        ({"messages": [ASK, YES], "system": ""}, EXAMPLE),
        ({"text": "so", "topic": "work", "claim": "Q."}, Example((), "so", "work", "Q.")),
        ({"messages": [ASK, YES], "topic": "work", "claim": "Q."}, Example(EXAMPLE.prompt, "yes", "work", "Q.")),
        ({"messages": None, "text": "running on", "id": 3}, Example((), "running on")),
    ],
)
def test_layouts(tmp_path, row, example):
    assert records.read(written(tmp_path, row), "examples") == [example]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a"}, "a row needs 'messages'.*but has the keys 'question'"),
        ({"prompt": "a"}, "a row needs 'messages'"),
        ({"messages": [ASK]}, "no message is by 'assistant'"),
        ({"messages": []}, "no message is by 'assistant'"),
        ({"messages": "hello"}, "a message needs 'role' and 'content'"),
        ({"text": 3}, "'text' is int, not text"),
        ({"instruction": "a", "output": ["b"]}, "a message needs 'role' and 'content'"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is int, not text"),
        ({"conversations": [{"from": "humna", "value": "x"}]}, "unknown role 'humna'; did you mean 'human'"),
    ],
)
def test_faults_name_the_row(tmp_path, row, said):
    with pytest.raises(BadInput, match=rf"sft\.jsonl:2: .*{said}"):
        records.read(written(tmp_path, {"text": "fine"}, row), "examples")


@pytest.mark.skipif(not ALPACA.exists(), reason="shared/data/alpaca-libre is not here")
def test_real_examples():
    found = records.read(str(ALPACA), "examples")
    assert len(found) == 3097
    assert found[0] == Example((("user", "Create a palindrome sentence."),), "A man, a plan, a canal, Panama!")
