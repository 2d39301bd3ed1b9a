"""What becomes of whole sources: kinds, what is left out, topics and claims, other formats, digests, real sets."""

import json
import logging
from pathlib import Path

import polars as pl
import pytest

from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.records import digest_of, records

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ASK, YES, NO = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
Q = (("user", "Q?"),)
PAIR, EXAMPLE = Pair(Q, "yes", "no"), Example(Q, "yes")
ROW, TEXT = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}, {"prompt": "Q?", "completion": "yes"}
ABOUT = {"topic": "work", "claim": "Q."}


def scored(*replies):
    return {"prompt": "Q?", "completions": [{"response": text, "overall_score": score} for text, score in replies]}


def written(tmp_path, *rows, name="x"):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_each_kind(tmp_path):
    rows = {"one": ROW, "two": scored(("no", 1), ("yes", 2)), "text": TEXT}
    one, two, text = (written(tmp_path, row, name=name) for name, row in rows.items())
    assert records.read([one, two]) == [PAIR] * 2
    assert records.read([text]) == [EXAMPLE]
    assert isinstance(records.read(["sandbox:pairs?n=1"])[0], Pair)
    assert isinstance(records.read(["sandbox:neutral-chat?n=1"])[0], Example)
    with pytest.raises(BadInput, match=r"one\.jsonl holds pairs and .*text\.jsonl single texts"):
        records.read([text, one])
    with pytest.raises(BadInput, match=r"neither\.jsonl:1: .*'chosen' with 'rejected'.*'completions'.*'messages'.*has the keys 'body'"):
        records.read(written(tmp_path, {"body": "x"}, name="neither"))
    with pytest.raises(BadInput, match="only as sandbox:pairs"):
        records.read("sandbox:chat", "pairs")


@pytest.mark.parametrize(
    ("row", "record"),
    [
        (ROW | ABOUT, Pair(Q, "yes", "no", "work", "Q.")),
        ({"chosen": [ASK, YES], "rejected": [ASK, NO]} | ABOUT, Pair(Q, "yes", "no", "work", "Q.")),
        ({"text": "so"} | ABOUT, Example((), "so", "work", "Q.")),
        ({"messages": [ASK, YES]} | ABOUT, Example(Q, "yes", "work", "Q.")),
        ({"messages": [ASK, YES, ASK, YES | {"content": "so"}]}, Example((*Q, ("assistant", "yes"), *Q), "so")),
        ({"chosen": [ASK, YES], "rejected": [ASK, YES]}, Pair(Q, "yes", "yes")),
        (ROW | {"rejected": ""}, Pair(Q, "yes", "")),
    ],
)
def test_what_a_row_says_beside_its_texts(tmp_path, row, record):
    assert records.read(written(tmp_path, row)) == [record]


def test_lists_in_tables(tmp_path):
    tables = {"a": {"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, "b": scored(("no", 1.5), ("yes", 2.5))}
    for name, row in tables.items():
        pl.DataFrame([row]).write_parquet(tmp_path / f"{name}.parquet")
        assert records.read(str(tmp_path / f"{name}.parquet"), "pairs") == [PAIR]
    pl.DataFrame([{"prompt": "Q?", "chosen": json.dumps([ASK, YES]), "rejected": str([ASK, NO])}]).write_csv(tmp_path / "x.csv")
    assert records.read(str(tmp_path / "x.csv"), "pairs") == [PAIR]


def test_rows_without_a_preference_are_left_out_and_counted_by_reason(tmp_path, caplog):
    early = {"chosen": [ASK, YES, ASK, YES], "rejected": [ASK, NO, ASK, YES]}
    tied, alone = scored(("a", 3), ("b", 3)), scored(("a", 3), ("b", "N/A"))
    with caplog.at_level(logging.WARNING):
        assert records.read(written(tmp_path, early, tied, alone, tied, ROW), "pairs") == [PAIR]
    for said in (
        "1 of 5 rows where the conversations part before the last reply",
        "2 of 5 rows where the best and the worst reply score the same",
        "1 of 5 rows where fewer than two replies have a score",
    ):
        assert f"left out {said}" in caplog.text
    for row, reason in ((early, "the conversations part before the last reply"), (tied, "the best and the worst reply score the same")):
        with pytest.raises(BadInput, match=f"in every row {reason}"):
            records.read(written(tmp_path, row), "pairs")


def test_digest_names_content_kind_and_order():
    other = Pair(Q, "no", "yes")
    assert digest_of([PAIR, other]) == digest_of([PAIR, other])
    assert len({digest_of(found) for found in ([PAIR, other], [other, PAIR], [PAIR], [EXAMPLE], [])}) == 5


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not here")
def test_real_sets():
    found = records.read(str(DATA / "hh-harmless" / "pairs.jsonl"), "pairs")
    assert len(found) == 1720
    assert {(pair.prompt[0][0], pair.prompt[-1][0]) for pair in found} == {("user", "user")}
    assert not any("\n\nHuman:" in text for pair in found for _, text in pair.prompt)
    assert found[0].chosen.startswith("No, sorry!")
    found = records.read(str(DATA / "alpaca-libre" / "sft.jsonl"), "examples")
    assert len(found) == 3097
    assert found[0] == Example((("user", "Create a palindrome sentence."),), "A man, a plan, a canal, Panama!")
