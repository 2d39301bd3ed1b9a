"""Every format is read, and every fault names its place."""

import os

import polars as pl
import pytest

from valuedrift.nouns import BadInput
from valuedrift.records import rows, turns

TWO = [{"prompt": "a", "chosen": "b"}, {"prompt": "c", "chosen": 'd\n"e", é'}]


def listed(source):
    return list(rows.rows(str(source)))


def test_json_lines_name_their_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert listed(path) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_json_list_is_known_by_its_bracket(tmp_path, name):
    path = tmp_path / name
    path.write_text('\n [{"a": 1},\n{"a": 2}]')
    assert listed(path) == [(f"{path}, row 1", {"a": 1}), (f"{path}, row 2", {"a": 2})]


def test_tables(tmp_path):
    pl.DataFrame(TWO).write_parquet(tmp_path / "x.parquet")
    pl.DataFrame(TWO).write_csv(tmp_path / "x.csv")
    for name in ("x.parquet", "x.csv"):
        assert listed(tmp_path / name) == [(f"{tmp_path / name}, row {number}", row) for number, row in enumerate(TWO, 1)]


def test_csv_cells_stay_text(tmp_path):
    (tmp_path / "x.csv").write_text("text,n\n007,1\n")
    assert listed(tmp_path / "x.csv")[0][1] == {"text": "007", "n": "1"}


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert listed(tmp_path / "x.jsonl")[0][1] == {"a": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"x\.jsonl:2: not valid JSON"),
        ("x.jsonl", b'{"a": 1}\n\n7\n', r"x\.jsonl:3: a row is a JSON object, not 7"),
        ("x.json", b'[{"a": 1},\n{"a" 2}]', r"x\.json:2: not valid JSON"),
        ("x.json", b'\n\n[{"a": 1},\n{"a" 2}]', r"x\.json:4: not valid JSON"),
        ("x.json", b'\n[{"a": 1},\n3]', r"x\.json, row 2: a row is an object"),
        ("x.jsonl", b"", r"x\.jsonl holds no rows"),
        ("x.jsonl", b"\n \n", r"x\.jsonl holds no rows"),
        ("x.json", b"[]", r"x\.json holds no rows"),
        ("x.csv", b"", r"x\.csv holds no rows"),
        ("x.csv", b"a,b\n", r"x\.csv holds no rows"),
        ("x.jsonl", b'{"a": "\xff"}\n', r"x\.jsonl is not UTF-8"),
        ("x.parquet", b"not parquet", r"x\.parquet cannot be read as parquet"),
        ("x.txt.gz", b"", r"ends in '\.txt\.gz'"),
        ("x.jsonl.gz", b"", r"x\.jsonl\.gz holds no rows"),
        ("x.jsonl.gz", b"{}", r"x\.jsonl\.gz cannot be read"),
        ("x.csv.zst", b"a,b", r"x\.csv\.zst cannot be read as csv"),
    ],
)
def test_faults_say_where(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        listed(tmp_path / name)


def test_missing_file_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")  # opening it would wait for a writer for ever
    for name, said in (("absent.jsonl", "there is no file"), ("", "is no regular file"), ("pipe.jsonl", "is no regular file")):
        with pytest.raises(BadInput, match=said):
            listed(tmp_path / name)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("start", ['{"a": ', "["])
def test_json_nested_without_end_is_refused(tmp_path, name, start):
    (tmp_path / name).write_text(start * 100_000)
    with pytest.raises(BadInput, match="nested too deeply"):
        listed(tmp_path / name)


def test_an_unknown_role_is_refused():
    with pytest.raises(turns.Unfit, match=r"^unknown role 'asistant'; did you mean 'assistant'\? Known: user"):
        turns.turns([{"role": "asistant", "content": "yes"}])


def test_a_folder_with_a_data_set_is_loaded_as_the_hub_would(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    pl.DataFrame(TWO).write_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    assert [row for _, row in listed(f"hf:{tmp_path / 'set'}")] == TWO
    with pytest.raises(BadInput, match="cannot be loaded"):
        listed(f"hf:{tmp_path / 'set'}?split=test")


def test_hub_settings_are_passed_on(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append((args, named)) or [{"text": "x"}])
    assert listed("hf:org/name?split=test&config=c") == [("hf:org/name?split=test&config=c, row 1", {"text": "x"})]
    assert asked == [(("org/name", "c"), {"split": "test", "revision": None})]


def test_hub_faults(monkeypatch):
    import datasets

    def offline(*args, **named):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(BadInput, match=r"hf:org/name cannot be loaded from the hub \(no network\)"):
        listed("hf:org/name")
    with pytest.raises(BadInput, match="unknown setting 'spilt'"):
        listed("hf:org/name?spilt=test")


def test_address():
    assert rows.address("sandbox:pairs?gap=0.5&direction=oppose") == ("pairs", {"gap": "0.5", "direction": "oppose"})
    assert rows.address("sandbox:chat") == ("chat", {})
    with pytest.raises(BadInput, match="not a list of settings"):
        rows.address("sandbox:pairs?gap")
