"""Every layout of preference pairs gives the same pair, and every fault names its row."""

import dataclasses
import json
import logging
from pathlib import Path

import polars as pl
import pytest

from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.records import digest_of, records

HH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hh-harmless" / "pairs.jsonl"

ASK, YES, NO = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
PAIR = Pair((("user", "Q?"),), "yes", "no")
DEEP = Pair((("user", "hi"), ("assistant", "hello"), ("user", "Q?")), "yes", "no")
SHAREGPT = [{"from": "human", "value": "Q?"}]
TALK = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: Q?\n\nAssistant:"


def written(tmp_path, *rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored(text, score):
    return {"model": "a", "response": text, "overall_score": score}


def rated(text, honest, helpful, overall):
    return scored(text, overall) | {"annotations": {"honesty": {"Rating": honest}, "helpfulness": {"Rating": helpful, "Type": None}}}


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
        ({"prompt": TALK, "chosen": TALK + " yes", "rejected": TALK + " no"}, DEEP),
        ({"prompt": "Human: ok?", "chosen": "yes", "rejected": ""}, Pair((("user", "ok?"),), "yes", "")),
        (
            {"prompt": "Assistant: what is that?", "chosen": "yes", "rejected": "no"},
            Pair((("user", "Assistant: what is that?"),), "yes", "no"),
        ),
        ({"instruction": "Q?", "chosen_response": "yes", "rejected_response": "no", "chosen_avg_rating": 4.5}, PAIR),
        ({"question": "Q?", "chosen": "yes", "rejected": "no", "score_chosen": 1.0, "score_rejected": 9.0}, PAIR),
        (
            {"system": "Be brief.", "question": "Q?", "chosen": "yes", "rejected": "no"},
            Pair((("system", "Be brief."), *PAIR.prompt), "yes", "no"),
        ),
        ({"chosen": [*SHAREGPT, {"from": "gpt", "value": "yes"}], "rejected": [*SHAREGPT, {"from": "gpt", "value": "no"}]}, PAIR),
        ({"prompt": SHAREGPT, "chosen": "yes", "rejected": "no"}, PAIR),
        (
            {"prompt": "Q?", "chosen": "yes", "rejected": "no", "topic": "work", "claim": "Q."},
            dataclasses.replace(PAIR, topic="work", claim="Q."),
        ),
        ({"prompt": "Q?", "chosen": "yes", "rejected": "no", "topic": "work"}, PAIR),
        (
            {"chosen": [ASK, YES], "rejected": [ASK, NO], "topic": "work", "claim": "Q."},
            dataclasses.replace(PAIR, topic="work", claim="Q."),
        ),
        ({"instruction": "Q?", "completions": [scored("so", 2), scored("yes", 3), scored("no", 1)]}, PAIR),
        ({"prompt": "Q?", "responses": ["no", "yes"], "scores": [-0.5, 0.5]}, PAIR),
        ({"prompt": "Q?", "all_generated_responses": ["no", "so", "yes"], "all_rm_scores": [0, 1, "2"]}, PAIR),
        # The ratings go before the overall score: (5 + 3) / 2 = 4 against (4 + 2) / 2 = 3.
        ({"instruction": "Q?", "completions": [rated("no", "4", "2", overall=10), rated("yes", "5", "3", overall=2)]}, PAIR),
        # A rating that is missing leaves the overall score.
        ({"instruction": "Q?", "completions": [rated("yes", "N/A", "1", overall=7), rated("no", "N/A", "5", overall=2)]}, PAIR),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, ASK], "chosen": [YES], "rejected": [NO]},
            Pair((("system", "Be brief."), ("user", "Q?")), "yes", "no"),
        ),
    ],
)
def test_layouts(tmp_path, row, pair):
    assert records.read(written(tmp_path, row), "pairs") == [pair]


def test_messages_in_parquet(tmp_path):
    pl.DataFrame([{"prompt": [ASK], "chosen": [YES], "rejected": [NO]}]).write_parquet(tmp_path / "x.parquet")
    assert records.read(str(tmp_path / "x.parquet"), "pairs") == [PAIR]


def test_equal_replies_keep_the_whole_prompt(tmp_path):
    assert records.read(written(tmp_path, {"chosen": [ASK, YES], "rejected": [ASK, YES]}), "pairs") == [Pair(PAIR.prompt, "yes", "yes")]


def test_conversations_that_part_early_are_left_out_aloud(tmp_path, caplog):
    early = {"chosen": [ASK, YES, ASK, YES], "rejected": [ASK, NO, ASK, YES]}
    with caplog.at_level(logging.WARNING):
        assert records.read(written(tmp_path, early, {"chosen": [ASK, YES], "rejected": [ASK, NO]}), "pairs") == [PAIR]
    assert "left out 1 of 2 rows" in caplog.text
    with pytest.raises(BadInput, match="in every row the conversations part before the last reply"):
        records.read(written(tmp_path, early), "pairs")


def test_rows_without_a_preference_are_left_out_and_counted_by_reason(tmp_path, caplog):
    tied = {"prompt": "Q?", "completions": [scored("a", 3), scored("b", 3)]}
    alone = {"prompt": "Q?", "completions": [scored("a", 3), scored("b", "N/A")]}
    with caplog.at_level(logging.WARNING):
        assert records.read(
            written(tmp_path, tied, alone, tied, {"prompt": "Q?", "completions": [scored("yes", 3), scored("no", 1)]}), "pairs"
        ) == [PAIR]
    assert "left out 2 of 4 rows where the best and the worst reply score the same" in caplog.text
    assert "left out 1 of 4 rows where fewer than two replies carry a score" in caplog.text
    with pytest.raises(BadInput, match="in every row the best and the worst reply score the same"):
        records.read(written(tmp_path, tied), "pairs")


def test_score_lists_in_parquet(tmp_path):
    pl.DataFrame([{"prompt": "Q?", "completions": [scored("no", 1.5), scored("yes", 2.5)]}]).write_parquet(tmp_path / "x.parquet")
    assert records.read(str(tmp_path / "x.parquet"), "pairs") == [PAIR]


def test_message_lists_in_csv(tmp_path):
    pl.DataFrame([{"prompt": "Q?", "chosen": json.dumps([ASK, YES]), "rejected": str([ASK, NO])}]).write_csv(tmp_path / "x.csv")
    assert records.read(str(tmp_path / "x.csv"), "pairs") == [PAIR]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "answer": "b"}, "'chosen' with 'rejected'.*has the keys 'question', 'answer'"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "has the keys 'prompt', 'chosen'"),
        ({"chosen": "b", "rejected": "c"}, "needs 'prompt'"),
        ({"chosen": [YES], "rejected": [NO]}, "needs 'prompt'"),
        ({"chosen": [ASK, YES], "rejected": [YES, ASK]}, "last message is by 'user'"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "empty list of messages"),
        ({"prompt": [{"from": "human"}], "chosen": "b", "rejected": "c"}, "a message needs 'role' and 'content'"),
        ({"prompt": [{"role": "narrator", "content": "x"}], "chosen": "b", "rejected": "c"}, "unknown role 'narrator'"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, r"a message needs 'role' and 'content' \(or .*as texts, not 3"),
        ({"completions": [{"response": "a", "score": 1}]}, "needs .*'completions'"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [1]}, r"2 replies and the scores \[1\]"),
        ({"prompt": "a", "completions": [{"score": 1}]}, "a reply needs its text"),
        ({"prompt": "a", "chosen": ["b"], "rejected": ["c"]}, "a message needs"),
    ],
)
def test_faults_name_the_row(tmp_path, row, said):
    good = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
    with pytest.raises(BadInput, match=rf"pairs\.jsonl:2: .*{said}"):
        records.read(written(tmp_path, good, row), "pairs")


def test_the_sandbox_makes_pairs_only_under_that_name():
    with pytest.raises(BadInput, match="only as sandbox:pairs"):
        records.read("sandbox:chat", "pairs")


def test_digest_names_content_kind_and_order():
    assert digest_of([PAIR, DEEP]) == digest_of([PAIR, DEEP])
    assert (
        len({digest_of([PAIR, DEEP]), digest_of([DEEP, PAIR]), digest_of([PAIR]), digest_of([Example(PAIR.prompt, "yes")]), digest_of([])})
        == 5
    )


@pytest.mark.skipif(not HH.exists(), reason="shared/data/hh-harmless is not here")
def test_real_pairs():
    found = records.read(str(HH), "pairs")
    assert len(found) == 1720
    assert {(pair.prompt[0][0], pair.prompt[-1][0]) for pair in found} == {("user", "user")}
    assert not any("\n\nHuman:" in text for pair in found for _, text in pair.prompt)
    assert found[0].chosen.startswith("No, sorry!")
