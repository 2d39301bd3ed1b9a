"""Pairs and single texts are told apart, and a file that is neither is told both kinds of layout."""

import json

import pytest

from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.records import records

PAIR = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
SCORED = {"prompt": "Q?", "completions": [{"response": "no", "score": 1}, {"response": "yes", "score": 2}]}
TEXT = {"prompt": "Q?", "completion": "yes"}


def written(path, row):
    path.write_text(json.dumps(row))
    return str(path)


def test_each_kind(tmp_path):
    one, two, text = (written(tmp_path / f"{name}.jsonl", row) for name, row in (("one", PAIR), ("two", SCORED), ("text", TEXT)))
    assert records.read([one, two]) == [Pair((("user", "Q?"),), "yes", "no")] * 2
    assert records.read([text]) == [Example((("user", "Q?"),), "yes")]
    assert isinstance(records.read(["sandbox:pairs?n=1"])[0], Pair)
    assert isinstance(records.read(["sandbox:neutral-chat?n=1"])[0], Example)
    with pytest.raises(BadInput, match=r"one\.jsonl holds pairs and .*text\.jsonl single texts"):
        records.read([text, one])


def test_neither_kind_names_both(tmp_path):
    with pytest.raises(BadInput, match=r"x\.jsonl:1: .*'chosen' with 'rejected'.*'completions'.*'messages'.*has the keys 'body'"):
        records.read([written(tmp_path / "x.jsonl", {"body": "x"})])
