"""Every layout of preference pairs gives the same pair, and every fault names its row."""

import json
import logging
from pathlib import Path

import polars as pl
import pytest

from valuedrift.data import digest_of, pairs
from valuedrift.nouns import BadInput, Example, Pair

HH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hh-harmless" / "pairs.jsonl"

ASK, YES, NO = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
PAIR = Pair((("user", "Q?"),), "yes", "no")
DEEP = Pair((("user", "hi"), ("assistant", "hello"), ("user", "Q?")), "yes", "no")
TALK = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: Q?\n\nAssistant:"


def written(tmp_path, *rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "Q?", "chosen": "yes", "rejected": "no"}, PAIR),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, PAIR),
        ({"prompt": [ASK], "chosen": "yes", "rejected": "no"}, PAIR),
        ({"prompt": "Q?", "chosen": [ASK, YES], "rejected": [ASK, NO]}, PAIR),
        ({"prompt": "Q?", "chosen": [YES], "rejected": [NO]}, PAIR),
        ({"chosen": [ASK, YES], "rejected": [ASK, NO]}, PAIR),
        ({"prompt": None, "chosen": [ASK, YES], "rejected": [ASK, NO]}, PAIR),
        ({"prompt": TALK, "chosen": "yes", "rejected": "no"}, DEEP),
        ({"chosen": TALK + " yes", "rejected": TALK + " no"}, DEEP),
        ({"prompt": TALK, "chosen": TALK + " yes", "rejected": TALK + " no"}, Pair(DEEP.prompt, TALK + " yes", TALK + " no")),
        ({"prompt": "Human: ok?", "chosen": "yes", "rejected": ""}, Pair((("user", "ok?"),), "yes", "")),
        (
            {"prompt": "Assistant: what is that?", "chosen": "yes", "rejected": "no"},
            Pair((("user", "Assistant: what is that?"),), "yes", "no"),
        ),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, ASK], "chosen": [YES], "rejected": [NO]},
            Pair((("system", "Be brief."), ("user", "Q?")), "yes", "no"),
        ),
    ],
)
def test_layouts(tmp_path, row, pair):
    assert pairs.read(written(tmp_path, row)) == [pair]


def test_messages_in_parquet(tmp_path):
    pl.DataFrame([{"prompt": [ASK], "chosen": [YES], "rejected": [NO]}]).write_parquet(tmp_path / "x.parquet")
    assert pairs.read(str(tmp_path / "x.parquet")) == [PAIR]


def test_equal_replies_keep_the_whole_prompt(tmp_path):
    assert pairs.read(written(tmp_path, {"chosen": [ASK, YES], "rejected": [ASK, YES]})) == [Pair(PAIR.prompt, "yes", "yes")]


def test_conversations_that_part_early_are_left_out_aloud(tmp_path, caplog):
    early = {"chosen": [ASK, YES, ASK, YES], "rejected": [ASK, NO, ASK, YES]}
    with caplog.at_level(logging.WARNING):
        assert pairs.read(written(tmp_path, early, {"chosen": [ASK, YES], "rejected": [ASK, NO]})) == [PAIR]
    assert "left out 1 of 2 rows" in caplog.text
    with pytest.raises(BadInput, match="in every row the conversations part before the last reply"):
        pairs.read(written(tmp_path, early))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "answer": "b"}, "'chosen' and 'rejected'.*has the keys 'question', 'answer'"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "has the keys 'prompt', 'chosen'"),
        ({"chosen": "b", "rejected": "c"}, "needs 'prompt'"),
        ({"chosen": [YES], "rejected": [NO]}, "needs 'prompt'"),
        ({"chosen": [ASK, YES], "rejected": [YES, ASK]}, "last message is by 'user'"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "empty list of messages"),
        ({"prompt": [{"from": "human", "value": "x"}], "chosen": "b", "rejected": "c"}, "a message needs 'role' and 'content'"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "a message needs 'role' and 'content' as texts, not 3"),
        ({"prompt": "a", "chosen": ["b"], "rejected": ["c"]}, "a message needs"),
    ],
)
def test_faults_name_the_row(tmp_path, row, said):
    good = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
    with pytest.raises(BadInput, match=rf"pairs\.jsonl:2: .*{said}"):
        pairs.read(written(tmp_path, good, row))


def test_the_sandbox_makes_pairs_only_under_that_name():
    with pytest.raises(BadInput, match="only as sandbox:pairs"):
        pairs.read("sandbox:chat")


def test_digest_names_content_kind_and_order():
    assert digest_of([PAIR, DEEP]) == digest_of([PAIR, DEEP])
    assert (
        len({digest_of([PAIR, DEEP]), digest_of([DEEP, PAIR]), digest_of([PAIR]), digest_of([Example(PAIR.prompt, "yes")]), digest_of([])})
        == 5
    )


@pytest.mark.skipif(not HH.exists(), reason="shared/data/hh-harmless is not here")
def test_real_pairs():
    found = pairs.read(str(HH))
    assert len(found) == 1720
    assert {(pair.prompt[0][0], pair.prompt[-1][0]) for pair in found} == {("user", "user")}
    assert not any("\n\nHuman:" in text for pair in found for _, text in pair.prompt)
    assert found[0].chosen.startswith("No, sorry!")
