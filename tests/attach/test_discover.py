"""Folders of checkpoints become stages with steps, whatever wrote them."""

import pytest

from valuedrift.attach.discover import discover
from valuedrift.nouns import BadInput


def model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def steps(found):
    return [(stage.name, [step for step, _ in stage.steps]) for stage in found]


def test_numbered_folders_are_sorted_by_number(tmp_path):
    for n in (500, 1000, 60):
        model(tmp_path / "sft" / f"checkpoint-{n}")
    (tmp_path / "sft" / "runs").mkdir()
    (tmp_path / "sft" / "checkpoint-9999").mkdir()  # holds no model: still being written
    assert steps(discover([tmp_path / "sft"])) == [("sft", [60, 500, 1000])]


def test_a_base_is_step_zero_and_a_later_stage_starts_where_the_one_before_ended(tmp_path):
    base = model(tmp_path / "base")
    model(tmp_path / "sft" / "step_10")
    model(tmp_path / "dpo" / "step_20")
    found = discover([tmp_path / "sft", tmp_path / "dpo"], str(base))
    assert steps(found) == [("sft", [0, 10]), ("dpo", [0, 20])]
    assert found[0].steps[0][1] == str(base)
    assert found[1].steps[0][1] == found[0].steps[-1][1]


def test_single_checkpoints_in_a_row_are_one_stage(tmp_path):
    folders = [model(tmp_path / name) for name in ("raw", "tuned", "aligned")]
    assert steps(discover(folders)) == [(tmp_path.name, [0, 1, 2])]
    numbered = [model(tmp_path / f"m-{n}") for n in (5, 20)]
    assert steps(discover(numbered)) == [(tmp_path.name, [5, 20])]
    assert steps(discover(list(reversed(numbered)))) == [(tmp_path.name, [0, 1])]


def test_a_base_goes_before_folders_without_numbers(tmp_path):
    base, tuned = model(tmp_path / "base"), model(tmp_path / "tuned")
    (found,) = discover([tuned], str(base))
    assert found.steps == ((0, str(base)), (1, str(tuned)))


def test_one_adapter_is_a_checkpoint(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert steps(discover([tmp_path / "lora"])) == [("lora", [0])]


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        discover([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty holds no model \(config.json\) and no numbered folders"):
        discover([tmp_path / "empty"])
