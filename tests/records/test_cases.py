"""The small inputs on which the reader once failed, beside the same data in a layout that it read."""

from pathlib import Path

import pytest

from valuedrift.nouns import BadInput, Example
from valuedrift.records import records

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="shared/cases is not beside this checkout")


def read(name, kind=None):
    return records.read(str(CASES / name), kind)


@pytest.mark.parametrize(
    ("name", "right", "n"),
    [
        ("messages-as-text/hf-to-csv.csv", "messages-as-text/right.jsonl", 12),
        ("messages-as-text/json-text.jsonl", "messages-as-text/right.jsonl", 6),
        ("prompt-repeated/with-prompt.jsonl", "prompt-repeated/without-prompt.jsonl", 12),
        ("hf-saved/saved", "messages-as-text/right.jsonl", 12),
        ("one-bad-row/null-chosen.jsonl", "messages-as-text/right.jsonl", 12),
        ("one-bad-row/hh-ends-in-human.jsonl", "messages-as-text/right.jsonl", 12),
        *((f"layouts/{name}.jsonl", "messages-as-text/right.jsonl", 3) for name in ("arena", "axolotl_pref", "helpsteer3", "openai_pref")),
        *((f"layouts/{name}.jsonl", "messages-as-text/right.jsonl", 3) for name in ("pku", "sharegpt_pref")),
    ],
)
def test_the_same_pairs(name, right, n):
    found = read(name)
    assert (len(found), found) == (n, read(right)[:n])
    left = [(rows.n, rows.bad) for rows in found.accounts[0].left_out.values()]
    assert left == ([(1, True)] if name.startswith("one-bad-row") else [])


def test_labelled_replies_are_the_pairs_they_came_from():
    found, right = read("kto-label-ignored/kto.jsonl"), read("kto-label-ignored/same-as-pairs.jsonl")
    assert (len(found), set(found) - set(right)) == (14, set())
    assert [rows.n for rows in found.accounts[0].left_out.values()] == [26]
    with pytest.raises(BadInput, match="the column 'label' says how good each reply is"):
        read("kto-label-ignored/kto.jsonl", "examples")


def test_nothing_of_a_row_is_lost():
    found = read("input-dropped/pairs.jsonl")
    assert found[0].prompt == (("user", "Answer the question below in two sentences.\n\nShould abortion be legal in all cases?"),)
    calls = read("one-bad-row/tool-call.jsonl")
    assert (len(calls), type(calls[0]), list(calls.accounts[0].left_out)) == (
        12,
        Example,
        ["a message calls a tool, which cannot be read as text"],
    )
    half = read("lone-surrogate/pairs.jsonl")
    assert half[0].chosen.endswith("done. ?")
    assert "in 4 rows half of a surrogate pair" in half.accounts[0].sentences()[1]
