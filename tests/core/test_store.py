"""The run folder: whole files or none, immutable parts, one process at a time."""

import contextlib
import dataclasses
import errno
import multiprocessing
import os
import re
from pathlib import Path

import polars as pl
import pytest

from valuedrift.nouns import Answer, BadInput, Checkpoint, Reading
from valuedrift.store import Store, sealed

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


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def other_text(path):
    pl.read_parquet(path).with_columns(text=pl.lit("x")).write_parquet(path)


def other_types(path):
    path.with_name("zz.parquet").write_bytes(b"")
    pl.DataFrame({"key": [1], "text": [2]}).write_parquet(path.with_name("zz.parquet"))


@pytest.mark.parametrize(
    ("harm", "why", "left"),
    [
        (lambda path: path.write_bytes(b""), "does not have the digest in its name", 1),
        (cut, "does not have the digest in its name", 1),
        (other_text, "does not have the digest in its name", 1),
        (lambda path: path.rename(path.with_name("a" * 24 + ".parquet")).write_bytes(b"no parquet"), "cannot be read as Parquet", 1),
        (other_types, "zz.parquet was not written by valuedrift", 3),
    ],
)
def test_a_damaged_part_is_named_and_set_aside_by_a_command_that_can_make_it_again(tmp_path, capsys, harm, why, left):
    store = Store(tmp_path)
    store.add_answers(ANSWERS[:2])
    first = next((tmp_path / "answers").iterdir())
    store.add_answers(ANSWERS[2:])
    harm(first)
    with pytest.raises(BadInput, match=rf"{why}.*: it sets the file aside"):
        store.answers()
    with store.locked():
        assert store.answers().height == left
    assert re.search(rf"{why}.* set aside as \S+\.damaged, and what it held is made again", capsys.readouterr().err)
    assert store.answers().height == left
    if left == 1:
        store.add_answers(ANSWERS[:2])
    assert store.answers()["text"].sort().to_list() == ["text 0", "text 1", "text 2"]


def test_one_key_has_one_content(tmp_path):
    store = Store(tmp_path)
    store.add_answers(ANSWERS)
    store.add_answers([dataclasses.replace(ANSWERS[1], prompt="another id")])  # equal questions share their answers
    store.add_answers([dataclasses.replace(ANSWERS[1], text="other", prompt="third")])
    with pytest.raises(
        BadInput, match=r"answers/\w+-\w+.parquet and .*answers/\w+-\w+.parquet hold different contents under one key \(k1\)"
    ):
        store.answers()
    with store.locked(), pytest.raises(BadInput, match="hold different contents under one key"):
        store.answers()
    store.add_readings([Reading("a", "j", failure="judge_error"), Reading("a", "other", (0, 1.0, 0, 0, 0))])
    store.add_readings([Reading("a", "j", (1.0, 0, 0, 0, 0))])
    assert store.readings().height == 3  # what failed may be tried again
    store.add_readings([Reading("a", "j", (0.5, 0.5, 0, 0, 0))])
    with pytest.raises(BadInput, match=r"under one key \(a, j\)"):
        store.readings()


def table(number):
    return pl.DataFrame({"a": [number]})


NEW = {"scores.parquet": table(1), "drifts.parquet": table(2), "stages.json": [], "effects.parquet": None}


def test_derived_files_are_replaced_together(tmp_path, monkeypatch):
    """A commit that stops before any of its renames and deletions leaves the old set or the new one."""
    old = {"scores.parquet": table(3), "drifts.parquet": table(4), "effects.parquet": table(5)}

    def stopping(work, left):
        def step(*given, **more):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return work(*given, **more)

        return step

    def state(store):
        tables = {name: store.read_table(name)["a"][0] for name in ("scores", "drifts")}
        return *tables.values(), store.find_table("effects") is not None

    seen = set()
    for moment in range(12):
        root = tmp_path / str(moment)
        store, left = Store(root), [moment]
        store.publish(old)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping(os.replace, left))
            patch.setattr(Path, "unlink", stopping(Path.unlink, left))
            with contextlib.suppress(KeyboardInterrupt):
                store.publish(NEW)
        seen.add(state(Store(root)))
        with Store(root).locked():
            assert not list(root.glob(".next-*"))
        seen.add(state(Store(root)))
        Store(root).check_tables()
    assert seen == {(3, 4, True), (1, 2, False)}


def test_tables_are_told_from_damaged_missing_and_outdated_ones(tmp_path):
    store = Store(tmp_path)
    store.add_answers(ANSWERS[:2])
    with pytest.raises(BadInput, match=r"holds no tables.json, which says whether its tables are whole"):
        store.check_tables()
    store.publish(NEW)
    Store(tmp_path).check_tables()
    (part,) = (tmp_path / "answers").iterdir()
    whole = part.read_bytes()

    def refused(why):
        with pytest.raises(BadInput, match=why):
            Store(tmp_path).check_tables()

    part.write_bytes(whole[:-1])
    refused(r"answers/\S+ is damaged")
    part.unlink()
    refused(r"answers/\S+ is gone, of which the tables of \S+ were made")
    part.write_bytes(whole)
    store.add_readings([Reading("a", "j", (1.0, 0, 0, 0, 0))])
    refused(r"the tables of \S+ are older than \S+readings/\S+; run the command that made it again, or 'valuedrift judge'")
    store.publish({})
    flipped = bytearray((tmp_path / "drifts.parquet").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "drifts.parquet").write_bytes(flipped)
    refused("drifts.parquet is missing or is not as it was written")
    with pytest.raises(BadInput, match="is not as it was written"):
        Store(tmp_path).read_table("drifts")
    (tmp_path / "drifts.parquet").unlink()
    refused("drifts.parquet is missing")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"plan": 3, "view": "claim", "judge": {}}', b"null", b"\xff", b"", b"[" * 5000])
@pytest.mark.parametrize("name", ["provenance.json", "stages.json", "checkpoints.json", "prompts.json", "tables.json"])
def test_json_of_another_shape_is_one_sentence(tmp_path, name, content):
    if content == b"[]" and name not in ("provenance.json", "tables.json"):
        return  # none of them
    (tmp_path / name).write_bytes(content)
    store = Store(tmp_path)
    read = {"provenance.json": store.provenance, "stages.json": store.stages, "checkpoints.json": store.checkpoints}
    read |= {"prompts.json": store.prompts, "tables.json": store.check_tables}
    with pytest.raises(BadInput, match=rf"{name} is not as valuedrift writes it \([^\n]+\); restore it from a copy, or delete it and run"):
        read[name]()


def test_a_sealed_record_that_changed_is_refused(tmp_path):
    store = Store(tmp_path)
    store.write_json("done.json", sealed({"steps": [1, 2], "seconds": 0.1}))
    assert store.read_json("done.json")["steps"] == [1, 2]
    (tmp_path / "done.json").write_text((tmp_path / "done.json").read_text().replace("2", "3", 1))
    with pytest.raises(BadInput, match=r"done.json is not as it was written"):
        store.read_json("done.json")


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
    store.write_json("checkpoints.json", [dataclasses.asdict(checkpoint)])
    assert store.checkpoints() == [checkpoint]
    old = {("frame" if name == "prompt_format" else name): value for name, value in dataclasses.asdict(checkpoint).items()}
    store.write_json("checkpoints.json", [old])  # of version 0.1.0: its format must not be taken for the default
    with pytest.raises(BadInput, match=r"checkpoints.json is not as valuedrift writes it \(0.frame: Unexpected keyword argument\)"):
        store.checkpoints()
    table = pl.DataFrame({"a": [1, 2]})
    store.publish({"profiles.parquet": table})
    assert store.read_table("profiles").equals(table)
    with pytest.raises(BadInput, match=r"holds no drifts\.parquet"):
        store.read_table("drifts")
