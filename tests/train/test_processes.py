"""Several processes that train together, started by the real launchers: the losses of one process."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from valuedrift import pipeline, testing, training
from valuedrift.distributed import local
from valuedrift.nouns import BadInput
from valuedrift.plan import Stage, load
from valuedrift.store import Store
from valuedrift.train import processes, saved_stage, task
from valuedrift.train.stage import check_processes

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
# The last step of dpo and kto holds 6 of 8 samples, so that in its last batch the second process has no record.
PLAN = """model = "{model}"
judge = "oracle"
topics = ["work"]
draws = 1
max_new_tokens = 4
floor = false
side_metrics = false

[stage.sft]
algorithm = "sft"
data = "sandbox:neutral-chat?n=45"
batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 3e-3
lora = {{ r = 4, lora_alpha = 8 }}

[stage.dpo]
after = "sft"
algorithm = "dpo"
data = "sandbox:pairs?n=22"
batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 1e-3

[stage.dpo.anchor]
data = "sandbox:stances"
weight = 0.5
temperature = 1.0

[stage.kto]
after = "sft"
algorithm = "kto"
data = "sandbox:pairs?n=22"
batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 1e-3

[stage.rm]
after = "sft"
algorithm = "reward"
data = "sandbox:pairs?n=22"
batch_size = 4
learning_rate = 1e-3

[stage.ppo]
after = "sft"
algorithm = "ppo"
data = "sandbox:pairs?n=22"
reward = "rm"
batch_size = 4
gradient_accumulation_steps = 2
steps = 4
max_new_tokens = 6
num_ppo_epochs = 2
whiten_rewards = true
target_kl = 1.0
learning_rate = 1e-3

[stage.trl-sft]
like = "sft"
algorithm = "trl:SFTTrainer"

[stage.trl-dpo]
like = "kto"
algorithm = "trl:DPOTrainer"

[stage.trl-reward]
like = "trl-dpo"
algorithm = "trl:RewardTrainer"

[stage.trl-kto]
like = "trl-dpo"
algorithm = "trl:KTOTrainer"

[stage.trl-grpo]
like = "trl-dpo"
algorithm = "trl:GRPOTrainer"
reward = "rm"
steps = 4
num_generations = 2
max_completion_length = 6
"""


@pytest.fixture(scope="module")
def plan(tiny_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("together") / "plan.toml"
    file.write_text(PLAN.format(model=tiny_model))
    return file


@pytest.fixture(scope="module")
def alone(plan):
    training.train_all(load(plan), Store(plan.parent / "alone"), local.Engine())
    return plan.parent / "alone"


@pytest.fixture
def small(tiny_model, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text(testing.PLAN.format(model=tiny_model))
    return file


OF_TWO = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0", "RANK": "0"}
"""The environment of the first of two processes."""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]


def launched(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(plan, out, *more):
    return launched([sys.executable, "-m", "valuedrift", "run", str(plan), "--out", str(out), "--launch", shlex.join(TORCHRUN), *more])


def ended(process, code=0):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said[-3000:]
    return said


def losses(run):
    """Return what each stage logged at its steps, by algorithm."""
    files = {file.parent.name.split("-")[0]: json.loads(file.read_text()) for file in run.glob("stages/*/losses.json")}
    return {name: [row for row in rows if "loss" in row] for name, rows in files.items()}


UNLIKE = {"dpo": {"reward_accuracy"}, "kto": {"reward_accuracy"}, "trl_KTOTrainer": {"kl"}}
"""What one process logs otherwise. Before the first step both answers of a pair stand at 0, and rounding says which is above; TRL's KTO
compares answers within each process's share."""


def same_losses(run, alone):
    found, expected = losses(run), losses(alone)
    assert set(found) >= {"sft", "dpo", "kto", "reward", "trl_SFTTrainer", "trl_DPOTrainer", "trl_RewardTrainer", "trl_KTOTrainer"}
    assert len(found.pop("trl_GRPOTrainer")) == 4  # each process samples answers of its own
    for name in found:
        rows = expected[name]
        assert [list(row) for row in found[name]] == [list(row) for row in rows]
        for mine, row in zip(found[name], rows, strict=True):
            same = row.keys() - UNLIKE.get(name, set())
            assert {key: mine[key] for key in same} == pytest.approx({key: row[key] for key in same}, rel=2e-4, abs=2e-5), (
                name,
                row["epoch"],
            )


def children(pid):
    """Return the ids of all processes below one."""
    found = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return found + [below for child in found for below in children(child)]


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stopped(process, signalled, file):
    """Send a signal to a command when a file is there, and wait until all of its processes are gone."""
    until = time.monotonic() + 200
    while not list(file[0].glob(file[1])):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.01)
    below = children(process.pid)
    assert len(below) >= 3  # the launcher and two processes
    os.kill(process.pid, signalled)
    process.communicate(timeout=120)
    until = time.monotonic() + 60
    while any(running(pid) for pid in below):
        assert time.monotonic() < until, "the training goes on without its command"
        time.sleep(0.1)
    return process.returncode


def test_a_run_stopped_in_the_middle_leaves_no_process_and_goes_on(small, tmp_path):
    out = tmp_path / "out"
    assert stopped(run(small, out), signal.SIGINT, (out, "stages/sft*/checkpoint-2/complete.json")) == 130
    assert stopped(run(small, out), signal.SIGKILL, (out, "stages/dpo*/checkpoint-3/complete.json")) == -signal.SIGKILL
    assert not list(out.glob("stages/dpo*/done.json"))
    ended(run(small, out))
    pipeline.run(load(small), tmp_path / "alone")
    found, expected = losses(out), losses(tmp_path / "alone")
    for name in ("sft", "dpo"):
        assert [row["loss"] for row in found[name]] == pytest.approx([row["loss"] for row in expected[name]], rel=2e-4)
    assert not [*out.glob("stages/*/checkpoint-*/rng_state*"), *out.glob("stages/*/checkpoint-*/optimizer*")]


def test_a_failure_in_the_processes_is_one_sentence(small, tmp_path):
    said = ended(run(small, tmp_path / "out", "--set", "stage.sft.batch_size=3"), 2)
    sentence = "batch_size 3 cannot be split over 2 processes; make it a multiple of that"
    assert f"sft, seed 0, failed: {sentence}" in said
    assert said.endswith(f"valuedrift: {sentence}\n")


def test_a_launcher_that_is_not_there(small, tmp_path):
    with pytest.raises(BadInput, match="the launcher 'tochrun' cannot be started: No such file or directory; correct --launch"):
        pipeline.run(load(small), tmp_path / "out", launcher="tochrun -n 2")


def test_a_stage_is_trained_again_from_its_folder(small, tmp_path):
    training.train_all(load(small), Store(tmp_path / "out"), local.Engine())
    (folder,) = tmp_path.glob("out/stages/sft*")
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "task.json").write_bytes(before["task.json"])
    task.train_folder(copied)
    assert (copied / "losses.json").read_bytes() == before["losses.json"]
    assert (copied / "stage.json").read_bytes() == before["stage.json"]
    (copied / "task.json").write_text((copied / "task.json").read_text().replace("n=", "n=1"))
    with pytest.raises(BadInput, match="has changed since"):
        task.train_folder(copied)
    with pytest.raises(BadInput, match="is not the folder of a stage"):
        task.train_folder(tmp_path / "other")


def test_a_command_in_several_processes_is_refused(small, tmp_path, monkeypatch):
    for name, value in OF_TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=r"started in 2 processes.*give the launcher to --launch"):
        pipeline.run(load(small), tmp_path / "out")


@pytest.mark.parametrize("recipe", ["", "fsdp2.yaml", "deepspeed.yaml"])
def test_two_processes_have_the_losses_of_one(plan, alone, recipe):
    if recipe == "deepspeed.yaml":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    out = plan.parent / f"again-{recipe}"
    launcher = [*ACCELERATE, "--config_file", str(RECIPES / recipe)] if recipe else TORCHRUN
    ended(launched([*launcher, str(Path(__file__).with_name("train_again.py")), str(alone), str(out)]))
    same_losses(out, alone)
    (adapter,) = out.glob("stages/sft*/checkpoint-6/adapter_model.safetensors")
    whole = load_file(next(alone.glob("stages/sft*/checkpoint-6/adapter_model.safetensors")))
    assert set(load_file(adapter)) == set(whole)
    kept = {path.name for path in adapter.parent.iterdir()}
    assert kept == {path.name for path in next(alone.glob("stages/sft*/checkpoint-6")).iterdir()}


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    with pytest.raises(BadInput, match="was saved without weights: its launcher keeps them in shards"):
        saved_stage.check_saved(tmp_path)
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="set fsdp_state_dict_type: FULL_STATE_DICT"):
        saved_stage.check_saved(tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "batch_size", "sharding", "sentence"),
    [
        ("sft", 3, {}, "batch_size 3 cannot be split over 2 processes; make it a multiple of that"),
        ("ppo", 4, {"ACCELERATE_USE_FSDP": "true"}, "ppo cannot sample from the shards of FSDP 1; use FSDP2"),
        ("trl:GRPOTrainer", 4, {"ACCELERATE_USE_FSDP": "true"}, "trl:GRPOTrainer cannot sample from the shards of FSDP 1"),
        ("ppo", 4, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, ""),
        ("ppo", 4, {"ACCELERATE_USE_DEEPSPEED": "true"}, ""),
    ],
)
def test_what_two_processes_can_train(monkeypatch, algorithm, batch_size, sharding, sentence):
    for name, value in (OF_TWO | sharding).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=sentence) if sentence else contextlib.nullcontext():
        check_processes(Stage(algorithm=algorithm, data="sandbox:pairs", batch_size=batch_size))


@pytest.mark.parametrize(("n", "size", "n_samples"), [(1, 4, 10), (2, 2, 22), (3, 2, 13), (2, 4, 1)])
def test_every_record_is_seen_once_and_all_have_equally_many_batches(monkeypatch, n, size, n_samples):
    seen, batches, shares, together = [], set(), {}, {}
    for rank in range(n):
        monkeypatch.setattr(processes, "world_size", lambda: n)
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        sampler = processes.DistributedBatchSampler(n_samples, size)
        batches.add(len(sampler))
        for number, batch in enumerate(sampler):
            assert len(batch) == max(1, sampler.n_local(number))
            seen += batch[: sampler.n_local(number)]
            shares[number] = [*shares.get(number, []), sampler.n_local(number)]
            together[number] = sampler.n_global(number)
    assert sorted(seen) == list(range(n_samples))
    assert batches == {-(-n_samples // (n * size))}
    assert together == {number: sum(share) for number, share in shares.items()}
