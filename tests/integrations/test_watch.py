"""Watching a folder from a process of our own: while a real trainer writes into it, and deletes from it."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from valuedrift.integrations.watch import Watching, watch
from valuedrift.nouns import BadInput
from valuedrift.plan import EvaluationSettings

from .test_trace import SIZES, tokenizer

pytestmark = pytest.mark.slow

ASKING = EvaluationSettings(topics=["work"], draws=1, max_new_tokens=6, judge="cues")
QUICK = {"settled_seconds": 0.0, "look_seconds": 0.05}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=0)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def checkpoint(base, out, step):
    folder = shutil.copytree(base, out / f"checkpoint-{step}")
    weights = {name: values + 0.02 * step for name, values in load_file(base / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def manifest(run):
    return [(line["step"], line["freed"]) for line in json.loads((run / "watched.json").read_text())]


def test_what_is_deleted_after_it_was_asked_stays_in_the_tables(base, tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"
    checkpoint(base, out, 1)
    watch(ASKING, Watching(out, str(base), until=1, **QUICK), run)
    shutil.rmtree(out / "checkpoint-1")
    checkpoint(base, out, 2)
    result = watch(ASKING, Watching(out, str(base), until=2, **QUICK), run)
    assert [one["step"] for one in result["checkpoints"]] == [0, 1, 2]
    profiles = pl.read_parquet(run / "profiles.parquet").filter(view="claim", topic="work", outcome="invalid")
    assert profiles["step"].to_list() == [0, 1, 2]
    assert profiles["n_answers"].to_list() == [50] * 3


def test_it_takes_what_comes_while_it_waits(base, tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"

    def train():
        for step in (1, 2):
            time.sleep(0.3)
            half = out / f"checkpoint-{step}"
            half.mkdir(parents=True)
            shutil.copy(base / "config.json", half)  # a checkpoint without its weights yet
            time.sleep(0.3)
            shutil.rmtree(half)
            checkpoint(base, out, step)

    trainer = threading.Thread(target=train)
    trainer.start()
    result = watch(ASKING, Watching(out, until=2, **QUICK), run)
    trainer.join()
    assert [one["step"] for one in result["checkpoints"]] == [1, 2]
    assert result["drifts"], "from the first to the second"


def test_only_what_the_manifest_lists_is_deleted_and_only_when_told_to(base, tmp_path, capsys):
    out, run = tmp_path / "out", tmp_path / "run"
    for step in (1, 2, 3, 4, 5):
        checkpoint(base, out, step)
    (out / "notes").mkdir()
    (out / "checkpoint-9").mkdir()  # holds no model
    watch(ASKING, Watching(out, until=5, **QUICK), run)
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-4",
        "checkpoint-5",
        "checkpoint-9",
        "notes",
    ]
    changed = load_file(out / "checkpoint-2" / "model.safetensors")
    save_file({name: values * 2 for name, values in changed.items()}, out / "checkpoint-2" / "model.safetensors", metadata={"format": "pt"})
    elsewhere = tmp_path / "elsewhere"
    shutil.move(out / "checkpoint-3", elsewhere)
    (out / "checkpoint-3").symlink_to(elsewhere)
    checkpoint(base, out, 6)
    watch(ASKING, Watching(out, keep=2, until=6, **QUICK), run)
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-5",
        "checkpoint-6",
        "checkpoint-9",
        "notes",
    ]
    assert elsewhere.is_dir()
    assert manifest(run) == [(1, False), (2, False), (3, False), (4, True), (5, False), (6, False)]
    assert "checkpoint-2 is kept: its weights have changed since it was evaluated" in capsys.readouterr().err


def test_wrong_settings_are_refused(base, tmp_path):
    with pytest.raises(BadInput, match="--keep 0 would delete the newest"):
        watch(ASKING, Watching(tmp_path, keep=0), tmp_path / "run")
    with pytest.raises(BadInput, match=r"no checkpoint came into .*is it the right folder"):
        watch(ASKING, Watching(tmp_path / "nowhere", idle_minutes=0.0, **QUICK), tmp_path / "run")


def test_a_watch_that_was_killed_goes_on(base, tmp_path):
    """The real command, a real kill -9, and Ctrl-C."""
    out, run = tmp_path / "out", tmp_path / "run"
    checkpoint(base, out, 1)
    command = [sys.executable, "-m", "valuedrift", "watch", str(out), "--base", str(base), "--topics", "work", "--draws", "1"]
    command += ["--max-new-tokens", "6", "--settled", "0", "--out", str(run)]

    def begun():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        return process, iter(process.stderr.readline, "")

    process, lines = begun()
    next(line for line in lines if "2 evaluated so far" in line)
    process.kill()
    process.wait()
    checkpoint(base, out, 2)
    process, lines = begun()
    next(line for line in lines if "3 evaluated so far" in line)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert process.returncode == 130
    assert manifest(run) == [(0, False), (1, False), (2, False)]
    watch(ASKING, Watching(out, str(base), until=2, **QUICK), tmp_path / "whole")
    tables = [pl.read_parquet(folder / "scores.parquet").filter(~pl.col("repeat")) for folder in (run, tmp_path / "whole")]
    assert tables[0].equals(tables[1])
