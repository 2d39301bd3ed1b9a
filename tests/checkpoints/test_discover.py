"""Folders of checkpoints become stages with steps, whatever wrote them."""

import json

import pytest

from valuedrift.checkpoints.discover import discover, step_of
from valuedrift.nouns import BadInput


def model(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def steps(found):
    return [(stage.name, [step for step, _ in stage.steps]) for stage in found]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("checkpoint-500", "checkpoint-1000", "checkpoint-60"), [60, 500, 1000]),
        (("epoch_0", "epoch_1"), [1, 2]),  # the first epoch is over when it is saved
        (("step_2k", "step_500", "step_1k", "checkpoint-1.5k"), [500, 1000, 1500, 2000]),
        (("epoch_0-step_50", "epoch_1-step_100", "epoch_1-step_150"), [50, 100, 150]),
        ((".", "checkpoint-10", "checkpoint-20"), [10, 20]),  # the final model beside them
    ],
)
def test_a_folder_of_checkpoints_is_sorted_by_step(tmp_path, names, expected):
    for name in names:
        model(tmp_path / "out" / name)
    (tmp_path / "out" / "runs").mkdir()
    (tmp_path / "out" / "checkpoint-9999").mkdir()  # holds no model: still being written
    assert steps(discover([tmp_path / "out"])) == [("out", expected)]


def test_a_base_is_step_zero_and_a_later_stage_starts_where_the_one_before_ended(tmp_path):
    base = model(tmp_path / "base")
    model(tmp_path / "sft" / "step_10")
    model(tmp_path / "dpo" / "step_20")
    found = discover([tmp_path / "sft", tmp_path / "dpo"], str(base))
    assert steps(found) == [("sft", [0, 10]), ("dpo", [0, 20])]
    assert found[0].steps[0][1] == str(base)
    assert found[1].steps[0][1] == found[0].steps[-1][1]
    (found,) = discover([model(tmp_path / "tuned")], str(base))
    assert found.steps == ((0, str(base)), (1, str(tmp_path / "tuned")))
    model(tmp_path / "sft" / "checkpoint-0")
    with pytest.raises(BadInput, match="is already step 0 of its stage; leave out --base"):
        discover([tmp_path / "sft"], str(base))


def test_single_checkpoints_in_a_row_are_one_stage(tmp_path):
    folders = [model(tmp_path / name) for name in ("raw", "tuned", "aligned")]
    assert steps(discover(folders)) == [(tmp_path.name, [0, 1, 2])]
    numbered = [model(tmp_path / f"m-step{n}") for n in (5, 20)]
    assert steps(discover(numbered)) == [(tmp_path.name, [5, 20])]
    assert steps(discover(list(reversed(numbered)))) == [(tmp_path.name, [0, 1])]
    assert discover(["openai:ft-step-10", "openai:ft-step-20"])[0].steps == ((10, "openai:ft-step-10"), (20, "openai:ft-step-20"))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert steps(discover([tmp_path / "lora"])) == [("lora", [0])]


@pytest.mark.parametrize(
    ("name", "unit", "number"),
    [
        ("checkpoint-500", "steps", 500),  # Trainer, TRL, axolotl, LLaMA-Factory, ms-swift
        ("step_20", "steps", 20),  # accelerate, open-instruct, NeMo RL
        ("step-20", "steps", 20),  # torchtitan
        ("step143000", "steps", 143000),  # Pythia
        ("step1000-unsharded", "steps", 1000),  # OLMo
        ("stage1-step1000-tokens5B", "steps", 1000),
        ("stage2-ingredient1-step5000-tokens21B", "steps", 5000),
        ("global_step300", "steps", 300),  # DeepSpeed
        ("global_step300_hf", "steps", 300),  # OpenRLHF
        ("global_step_300", "steps", 300),  # verl
        ("iter_0000100", "steps", 100),  # Megatron
        ("epoch_0_step_20", "steps", 20),  # NeMo Automodel
        ("model--val_loss=1.25-step=500-consumed_samples=4000.0-last", "steps", 500),  # NeMo
        ("ep0-ba500-rank0", "steps", 500),  # Composer
        ("TinyLlama-1.1B-intermediate-step-1431k-3T", "steps", 1_431_000),
        ("ckpt_356", "steps", 356),
        ("checkpoint-10-merged", "steps", 10),
        ("step-2k", "steps", 2000),
        ("step_1.5M", "steps", 1_500_000),
        ("tokens50B", "tokens", 50 * 10**9),
        ("50B tokens", "tokens", 50 * 10**9),
        ("checkpoint-1.5T-tokens", "tokens", 1500 * 10**9),
        ("epoch-3", "epochs", 3),
        ("epoch_0", "epochs", 0),  # torchtune
    ],
)
def test_steps_that_names_state(name, unit, number):
    assert step_of(name)[:2] == (unit, number)


@pytest.mark.parametrize(
    "name",
    [
        *("dpo-beta-0.1", "run-seed2", "v2", "llama-3", "model-7", "500", "Llama-3.1-8B", "main", "lr1e-5", "v0-20240101-123456"),
        *("footstep3", "step_1.5", "epoch_0.5", "50B", "tmp-checkpoint-500", "2024-01-01", "best", "multistep-3"),
    ],
)
def test_other_numbers_are_no_steps(name):
    assert step_of(name) is None


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ("dpo-beta-0.1", "dpo-beta-0.5"),
            r"2 models whose names state no step .*\(dpo-beta-0.1, dpo-beta-0.5\); if they are checkpoints of",
        ),
        (("run-seed1", "run-seed2"), "one by one, in the order of training; if they are different trainings, trace each"),
        (("100", "200"), "state no step"),
        (("seed1-step_100", "seed2-step_200"), "do not say whether they are of one training"),
        (("tokens5B", "step_100"), "in tokens"),
        (("step_500", "epoch_1"), "counts epoch_1 in epochs and step_500 in steps"),
        (("checkpoint-5", "step_5"), r"checkpoint-5 and .*step_5 both name step 5"),
        (("epoch_1-step_100", "epoch_2-step_50"), "from 0 in each epoch"),
        (("epoch_1-step_50", "epoch_2-step_50"), "from 0 in each epoch"),
    ],
)
def test_names_that_leave_the_step_open_are_refused(tmp_path, names, says):
    for name in names:
        model(tmp_path / "out" / name)
    with pytest.raises(BadInput, match=says):
        discover([tmp_path / "out"])
    one_by_one = discover([tmp_path / "out" / name for name in names])
    assert len(one_by_one) == 1
    assert [path for _, path in one_by_one[0].steps] == [str(tmp_path / "out" / name) for name in names]


def state(folder, step, *losses):
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": [{"loss": loss} for loss in losses]}))
    return folder


def test_the_trainers_state_tells_the_step_of_its_own_training_only(tmp_path):
    state(model(tmp_path / "out" / "checkpoint-100"), 100, 0.7)
    state(model(tmp_path / "out" / "final"), 150, 0.7, 0.6)
    state(model(tmp_path / "out" / "dpo"), 120, 0.69, 0.5)  # another training
    (found,) = discover([tmp_path / "out"])
    assert steps([found]) == [("out", [100, 150])]
    state(model(tmp_path / "other"), 620)  # the model that training ended in
    model(tmp_path / "other" / "checkpoint-500")
    assert steps(discover([tmp_path / "other"])) == [("other", [500, 620])]
    assert found.left_out == ("dpo (nothing states its step)",)


def test_what_looks_like_a_checkpoint_and_is_left_out_is_named(tmp_path):
    out = tmp_path / "out"
    for step in (10, 20):
        model(out / f"checkpoint-{step}")
    model(out / "best")
    state(model(out / "final"), 20)
    model(out / "dpo" / "checkpoint-5")
    (out / "checkpoint-30").mkdir()
    (out / "checkpoint-20" / "reference").mkdir()
    (out / "checkpoint-20" / "reference" / "adapter_config.json").write_text("{}")
    (out / "latest").symlink_to(out / "checkpoint-20")
    (out / "config.json").write_text("{}")
    (out / "model.safetensors").write_text("")
    (out / "logs").mkdir()
    (found,) = discover([out])
    assert [step for step, _ in found.steps] == [10, 20]
    assert sorted(found.left_out) == [
        "best (nothing states its step)",
        "checkpoint-20/reference (another model of that step is used)",
        "checkpoint-30 (it contains no model)",
        "dpo (it contains checkpoints)",
        "final (at step 20, like checkpoint-20)",
        "the model in the folder itself (nothing states its step)",
    ]


def test_epochs_are_not_mixed_with_the_steps_of_the_trainers_state(tmp_path):
    state(model(tmp_path / "out"), 620)
    model(tmp_path / "out" / "epoch_0")
    (found,) = discover([tmp_path / "out"])
    assert (steps([found]), found.left_out) == ([("out", [1])], ("the model in the folder itself (nothing states its step)",))


@pytest.mark.parametrize("below", ["hf", "policy", "actor/huggingface", "model/consolidated"])
def test_a_model_may_lie_below_its_step(tmp_path, below):
    for step in (100, 200):
        model(tmp_path / "out" / f"global_step_{step}" / below)
    assert steps(discover([tmp_path / "out"])) == [("out", [100, 200])]
    one_by_one = discover([tmp_path / "out" / f"global_step_{step}" for step in (100, 200)])
    assert steps(one_by_one) == [("out", [100, 200])]
    assert [path for _, path in one_by_one[0].steps] == [str(tmp_path / "out" / f"global_step_{step}" / below) for step in (100, 200)]


def test_several_models_below_a_step_are_asked_for(tmp_path):
    for name in ("reference", "train"):
        model(tmp_path / "out" / "checkpoint-100" / name)
    for target in ("out", "out/checkpoint-100"):
        with pytest.raises(BadInput, match=r"holds 2 models \(reference, train\); give the one of each step: .*out/\*/reference"):
            discover([tmp_path / target])
    model(tmp_path / "out" / "checkpoint-200" / "train")
    assert steps(discover([tmp_path / "out" / f"checkpoint-{step}" / "train" for step in (100, 200)])) == [("out", [100, 200])]


def test_models_named_by_their_methods_are_a_stage_each(tmp_path):
    base, sft, dpo, final = [str(model(tmp_path / f"Tulu-3-8B{end}")) for end in ("-base", "-SFT", "-DPO", "")]
    found = discover([base, sft, dpo, final])
    assert [(stage.name, stage.steps) for stage in found] == [
        ("sft", ((0, base), (1, sft))),
        ("dpo", ((0, sft), (1, dpo))),
        ("final", ((0, dpo), (1, final))),
    ]
    assert steps(discover([sft, dpo], base)) == [("sft", [0, 1]), ("dpo", [0, 1])]


def test_a_stage_never_takes_the_name_of_the_base_or_of_another(tmp_path):
    for place in ("base", "a/sft", "b/sft"):
        model(tmp_path / place / "checkpoint-1")
    names = [stage.name for stage in discover([tmp_path / place for place in ("base", "a/sft", "b/sft")])]
    assert names == ["base-2", "sft", "sft-2"]


def test_folders_without_checkpoints_are_refused(tmp_path):
    for stage in ("sft", "dpo"):
        model(tmp_path / "out" / stage / "checkpoint-5")
    with pytest.raises(BadInput, match="its sub-folders dpo, sft do: give those"):
        discover([tmp_path / "out"])
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        discover([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty holds no model \(config.json\) and no numbered folders"):
        discover([tmp_path / "empty"])
