"""Any mixture of layouts, written in any format and compressed or not, reads back as the same records."""

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import polars as pl
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.records import cell_text, records

datasets.disable_progress_bars()
LETTERS = st.one_of(st.sampled_from("ab, '\"\\[]{}:;\n\té–😀#@0"), st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
TEXTS = st.text(LETTERS, min_size=1, max_size=25).map(str.strip).filter(bool)


def turns(prompt, *more):
    return [{"role": role, "content": text} for role, text in (*prompt, *more)]


def spoken(prompt, *more):
    return [{"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in (*prompt, *more)]


def by(text):
    return ("assistant", text)


def reply(text):
    return turns((), by(text))


def hh(prompt, reply):
    return "".join(f"\n\n{'Human' if role == 'user' else 'Assistant'}: {text}" for role, text in (*prompt, by(reply)))


# What each layout makes of (prompt, better reply, worse reply); those of the second list hold a prompt of one question alone.
DEEP = [
    lambda p, yes, no: [{"prompt": turns(p), "chosen": reply(yes), "rejected": reply(no)}],
    lambda p, yes, no: [{"chosen": turns(p, by(yes)), "rejected": turns(p, by(no))}],
    lambda p, yes, no: [{"conversations": spoken(p), "chosen": spoken((), by(yes))[0], "rejected": spoken((), by(no))[0]}],
    lambda p, yes, no: [{"messages": turns(p, by(yes)), "rejected_response": no}],
    lambda p, yes, no: [{"input": {"messages": turns(p)}, "preferred_output": reply(yes), "non_preferred_output": reply(no)}],
    lambda p, yes, no: [{"conversation_a": turns(p, by(no)), "conversation_b": turns(p, by(yes)), "winner": "model_b"}],
    lambda p, yes, no: [{"context": turns(p), "response1": yes, "response2": no, "overall_preference": -1}],
    lambda p, yes, no: [{"messages": turns(p, by(text)), "label": text == yes} for text in (no, yes)],
    lambda p, yes, no: [{"prompt": turns(p), "completions": [{"response": no, "score": 1.5}, {"response": yes, "score": 2.5}]}],
]
FLAT = [
    lambda p, yes, no: [{"prompt": p, "chosen": yes, "rejected": no, "id": 3}],
    lambda p, yes, no: [{"chosen": hh([("user", p)], yes), "rejected": hh([("user", p)], no), "prompt": f"\n\nHuman: {p}\n\nAssistant:"}],
    lambda p, yes, no: [{"prompt": p, "response_0": no, "response_1": yes, "better_response_id": 1}],
    lambda p, yes, no: [{"prompt": p, "completion": text, "label": text == yes} for text in (yes, no)],
    lambda p, yes, no: [{"history": p, "human_ref_A": yes, "human_ref_B": no, "labels": 1}],
]


@st.composite
def mixtures(draw):
    """Draw rows in any mixture of layouts, and the pairs they stand for; every prompt is another one."""
    rows, pairs = [], []
    for number in range(draw(st.integers(1, 5))):
        yes, no = draw(st.lists(TEXTS, min_size=2, max_size=2, unique=True))
        question = f"{number}. {draw(TEXTS)}"
        if draw(st.booleans()):
            rows += draw(st.sampled_from(FLAT))(question, yes, no)
            prompt = (("user", question),)
        else:
            opening = draw(st.sampled_from([(), (("system", "Be brief."),), (("user", "hi"), ("assistant", draw(TEXTS)))]))
            prompt = (*opening, ("user", question))
            rows += draw(st.sampled_from(DEEP))(prompt, yes, no)
        pairs.append(Pair(prompt, yes, no))
    return rows, pairs


def columns(rows, native):
    """Return the rows with every column; a cell of a column whose types differ, or of any column if not native, is written as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: {type(row[name]) for row in rows if row.get(name) is not None} for name in names}
    keep = {name: len(kinds[name]) == 1 and (native or not kinds[name] & {list, dict}) for name in names}
    return [{name: _cell(row.get(name), keep[name]) for name in names} for row in rows]


def _cell(value, keep):
    return value if keep or value is None or isinstance(value, str) else json.dumps(value)


def as_numpy(value):
    """Return a cell as Dataset.to_csv writes it."""
    if not isinstance(value, list):
        return value if isinstance(value, str) or value is None else str(value)
    found = np.empty(len(value), object)
    found[:] = value
    return str(found)


def write(folder, rows, form):
    path = Path(folder) / f"x.{form}"
    kind, _, packed = form.partition(".")
    if kind == "jsonl":
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    elif kind == "json":
        content = json.dumps(rows, indent=1).encode()
    elif kind.endswith("csv"):
        cells = {
            "csv": lambda cell: _cell(cell, False),
            "python-csv": lambda cell: cell if cell is None else str(cell),
            "numpy-csv": as_numpy,
        }
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = [{name: cells[kind](row.get(name)) for name in names} for row in rows]
        content = pl.DataFrame(table, schema=dict.fromkeys(names, pl.String)).write_csv().encode()
        path = path.with_name("x.csv" + (f".{packed}" if packed else ""))
    elif kind == "parquet":
        pl.DataFrame(columns(rows, native=True), infer_schema_length=None).write_parquet(path)
        return str(path)
    else:
        datasets.Dataset.from_list(columns(rows, native=True)).save_to_disk(path)
        return f"hf:{path}" if packed else str(path)
    if packed == "zst":
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(gzip.compress(content) if packed else content)
    return str(path)


FORMS = [
    *("jsonl", "jsonl.gz", "jsonl.zst", "json", "json.gz", "parquet", "saved", "saved.hf"),
    *("csv", "csv.gz", "csv.zst", "python-csv", "numpy-csv"),
]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30, deadline=None)
@given(mixtures())
def test_any_mixture_reads_back(form, mixture):
    rows, pairs = mixture
    with TemporaryDirectory() as folder:
        assert records.read(write(folder, rows, form)) == pairs


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.sampled_from(FORMS))
def test_texts_to_imitate_read_back(said, form):
    layouts = [
        lambda ask, text: {"messages": turns([("user", ask)], by(text))},
        lambda ask, text: {"conversations": spoken([("user", ask)], by(text))},
        lambda ask, text: {"instruction": ask, "input": "", "output": text},
    ]
    rows = [layouts[at % 3](f"{at}. {ask}", text) for at, (ask, text) in enumerate(said)]
    with TemporaryDirectory() as folder:
        found = records.read(write(folder, rows, form))
    assert found == [Example((("user", f"{at}. {ask}"),), text) for at, (ask, text) in enumerate(said)]


def test_what_the_library_writes_reads_back(tmp_path):
    rows = [
        {"prompt": "Q?", "chosen": turns([("user", "Q?")], by(f"it's {text}")), "rejected": turns([("user", "Q?")], by("no"))}
        for text in "ab"
    ]
    pairs = [Pair((("user", "Q?"),), f"it's {text}", "no") for text in "ab"]
    made = datasets.Dataset.from_list(rows)
    made.to_csv(tmp_path / "x.csv")
    made.to_json(tmp_path / "x.jsonl")
    made.to_parquet(tmp_path / "x.parquet")
    assert [records.read(str(tmp_path / f"x.{form}")) for form in ("csv", "jsonl", "parquet")] == [pairs] * 3


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_name_is_no_pattern(tmp_path, kind):
    for name, answer in (("a[1]*", "yes"), ("a1", "no")):
        getattr(pl.DataFrame([{"prompt": "Is it?", "response": answer}]), f"write_{kind}")(tmp_path / f"{name}.{kind}")
    assert [example.text for example in records.read(str(tmp_path / f"a[1]*.{kind}"))] == ["yes"]


def test_a_damaged_table_at_which_polars_panics_is_refused(tmp_path):
    pl.DataFrame({"prompt": ["Is it?"] * 3, "response": ["yes"] * 3}).write_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    refused = 0
    for at in range(4, len(whole), 7):
        (tmp_path / "a.parquet").write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
        try:
            records.read(str(tmp_path / "a.parquet"))
        except BadInput:
            refused += 1
    assert refused


def test_the_split_of_a_saved_set_is_chosen(tmp_path):
    one, two = (datasets.Dataset.from_list([{"prompt": "Q?", "chosen": "yes", "rejected": text}]) for text in ("no", "never"))
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "both")
    datasets.DatasetDict({"test": two}).save_to_disk(tmp_path / "one")
    one.save_to_disk(tmp_path / "none")
    read = [("both", "no"), ("both?split=test", "never"), ("one", "never"), ("none", "no"), ("none?split=train", "no")]
    for start in ("", "hf:"):
        assert [records.read(f"{start}{tmp_path}/{name}")[0].rejected for name, _ in read] == [text for _, text in read]
        with pytest.raises(BadInput, match="has no split 'tset'; did you mean 'test'"):
            records.read(f"{start}{tmp_path}/both?split=tset")
    (tmp_path / "none" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(BadInput, match="none cannot be loaded from the folder"):
        records.read(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['one' 'two']", ["one", "two"]),
        ("[1. 2.5]", [1.0, 2.5]),
        ("{'a': array(['x', 'y'], dtype=object), 'b': None}", {"a": ["x", "y"], "b": None}),
        ("[{'a': \"it's\"}\n {'a': 'so'}]", [{"a": "it's"}, {"a": "so"}]),
        ('{"a": [true, null, -1e3]}', {"a": [True, None, -1000.0]}),
        ("('a', 1)", ["a", 1]),
    ],
)
def test_lists_and_objects_as_text(text, value):
    assert cell_text.parsed(text) == value


@pytest.mark.parametrize(
    "text", ["[{'a': 1} ... {'a': 2}]", "[{'a': 'b'}", "[a]", "{'a'}", "[1] and more", "['a'", "[" * 5000, "open('x')[0]", ""]
)
def test_other_text_is_no_list(text):
    with pytest.raises(ValueError):
        cell_text.parsed(text)
