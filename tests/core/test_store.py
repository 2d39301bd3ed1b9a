"""The run folder: whole files or none, immutable parts, one process at a time."""

import errno
import multiprocessing
import os

import polars as pl
import pytest

from valuedrift.nouns import Answer, BadInput, Checkpoint, Reading
from valuedrift.store import Store

ANSWERS = [Answer(f"k{i}", "w", "p", i, f"text {i}", "stop", 3) for i in range(3)]


def test_parts_are_named_by_content_and_read_back(tmp_path):
    store = Store(tmp_path)
    store.add_answers(ANSWERS[:2])
    store.add_answers(ANSWERS[2:])
    names = sorted(path.name for path in (tmp_path / "answers").iterdir())
    assert store.answers()["key"].sort().to_list() == ["k0", "k1", "k2"]
    again = Store(tmp_path / "again")
    again.add_answers(ANSWERS[:2])
    again.add_answers(ANSWERS[2:])
    assert sorted(path.name for path in (again.root / "answers").iterdir()) == names
    for name in names:
        assert (tmp_path / "answers" / name).read_bytes() == (again.root / "answers" / name).read_bytes()


def test_a_failed_reading_is_stored_with_its_reason_and_no_number(tmp_path):
    store = Store(tmp_path)
    store.add_readings([Reading("a", "j", (1.0, 0, 0, 0, 0)), Reading("b", "j", failure="judge_error")])
    rows = store.readings().sort("item").to_dicts()
    assert rows[0]["support"] == 1.0
    assert rows[1]["support"] is None
    assert rows[1]["failure"] == "judge_error"


def test_a_full_disk_is_one_sentence_and_leaves_finished_parts(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.add_answers(ANSWERS[:2])

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"No space left on device; free some space and run the same command again"):
        store.add_answers(ANSWERS[2:])
    monkeypatch.undo()
    assert store.answers().height == 2
    assert len(list((tmp_path / "answers").iterdir())) == 1  # nothing half written is left behind


def test_a_file_left_by_a_kill_is_not_read(tmp_path):
    store = Store(tmp_path)
    store.add_answers(ANSWERS)
    (tmp_path / "answers" / ".tmp-x.parquet").write_bytes(b"half")
    assert store.answers().height == 3


def test_a_damaged_part_is_named(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match=r"x.parquet cannot be read"):
        store.answers()


def _try_lock(root, result):
    try:
        with Store(root).locked():
            result.put("locked")
    except BadInput as error:
        result.put(str(error))


def test_a_second_process_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    with Store(tmp_path).locked():
        process = context.Process(target=_try_lock, args=(tmp_path, result))
        process.start()
        assert "another valuedrift process" in result.get(timeout=60)
        process.join()


def test_checkpoints_and_tables_go_round(tmp_path):
    store = Store(tmp_path)
    checkpoint = Checkpoint("sft", 3, "/m", "w", "plain", 1)
    store.write_checkpoints([checkpoint])
    assert store.checkpoints() == [checkpoint]
    table = pl.DataFrame({"a": [1, 2]})
    store.write_table("profiles", table)
    assert store.read_table("profiles").equals(table)
    with pytest.raises(BadInput, match=r"holds no drifts\.parquet"):
        store.read_table("drifts")
