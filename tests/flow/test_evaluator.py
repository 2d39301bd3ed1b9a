"""Answers are judged while others are sampled, which does not change what is found."""

import json
import os
import signal
import threading
import time

import polars as pl
import pytest

from valuedrift import pipeline, testing
from valuedrift.evaluate import Backend, answer_key
from valuedrift.judge import Judge
from valuedrift.nouns import OUTCOMES, Answer, BadInput, Reading, Stopped
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

pytestmark = pytest.mark.slow

SUITE = [{"id": str(n), "text": "Is tea good?" + "?" * n, "claim": "Tea is good.", "topic": "tea"} for n in range(4)]


class Waiting(Judge):
    """A judge behind a server: it takes its first answers only when the second checkpoint is being asked."""

    identity, note, batch_size, is_remote = "waiting/1", "", 2, True
    second_is_asked = threading.Event()
    first_is_judged = threading.Event()
    raises: BaseException | None = None

    def __init__(self, argument: str = ""):
        pass

    def read(self, items):
        if self.is_remote:
            assert self.second_is_asked.wait(20), "nothing is sampled while the judge reads"
        if Waiting.raises:
            raise Waiting.raises
        Waiting.first_is_judged.set()
        return [Reading(item.key, self.identity, tuple(float(len(item.text) % 5 == n) for n in range(len(OUTCOMES)))) for item in items]


class Parrot(Backend):
    """A backend that says which checkpoint it is and what it was asked; the last of a checkpoint's answers come first."""

    identity = "parrot/1"
    asked: list = []

    def sample(self, checkpoint, asked, sampling_seed):
        Parrot.asked.append((checkpoint.step, [(prompt.id, draw) for prompt, draw in asked]))
        if checkpoint.step == 1 and Waiting.is_remote:
            Waiting.second_is_asked.set()
            assert Waiting.first_is_judged.wait(20), "the judge does not read while the second checkpoint is asked"
        for place in reversed(range(len(asked))):
            prompt, draw = asked[place]
            text = f"{'so' * checkpoint.step} {prompt.id} {draw}"
            yield (
                place,
                Answer(
                    answer_key(checkpoint, prompt, draw, self.settings, sampling_seed), checkpoint.weights, prompt.id, draw, text, "stop", 3
                ),
            )


@pytest.fixture
def parts(monkeypatch):
    for name, value in (
        ("second_is_asked", threading.Event()),
        ("first_is_judged", threading.Event()),
        ("raises", None),
        ("is_remote", True),
    ):
        monkeypatch.setattr(Waiting, name, value)
    monkeypatch.setattr(Parrot, "asked", [])
    with testing.offering("judge", waiting=Waiting), testing.offering("backend", parrot=Parrot):
        yield


@pytest.fixture
def folders(tmp_path, tiny_model):
    """Two checkpoints of different weights."""
    import shutil

    import safetensors.torch

    changed = tmp_path / "changed"
    shutil.copytree(tiny_model, changed)
    tensors = {name: tensor + 0.1 for name, tensor in safetensors.torch.load_file(changed / "model.safetensors").items()}
    safetensors.torch.save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    return [tiny_model, changed]


def traced(folders, tmp_path, name, **changed):
    suite = tmp_path / "s.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in SUITE))
    given = {"draws": 2, "floor": False, "side_metrics": False, "batch_rows": 4, "backend": "parrot", "judge": "waiting"} | changed
    settings = EvaluationSettings(suite=str(suite), **given)
    return pipeline.trace_folders(settings, folders, None, tmp_path / name)


def test_the_judge_reads_while_the_next_checkpoint_is_asked(parts, folders, tmp_path, monkeypatch):
    """The judge waits for the second checkpoint to be asked, and that for a verdict: one after the other would wait for ever."""
    traced(folders, tmp_path, "beside")
    monkeypatch.setattr(Waiting, "is_remote", False)
    traced(folders, tmp_path, "after")
    for table in ("scores", "profiles", "drifts"):
        assert Store(tmp_path / "beside").read_table(table).equals(Store(tmp_path / "after").read_table(table)), table
    answers = [sorted(path.name for path in (tmp_path / name / "answers").iterdir()) for name in ("beside", "after")]
    assert answers[0] == answers[1]


def test_what_a_kill_left_out_is_asked_alone(parts, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(Waiting, "is_remote", False)
    traced(folders, tmp_path, "run")
    expected = [(row["id"], draw) for row in SUITE for draw in range(2)]
    assert Parrot.asked == [(0, expected), (1, expected)]
    whole = {path.name: path.read_bytes() for path in (tmp_path / "run" / "answers").iterdir()}
    step_1 = {answer["checkpoint"] for answer in Store(tmp_path / "run").answers().to_dicts()} - {
        Store(tmp_path / "run").checkpoints()[0].weights
    }
    for path in (tmp_path / "run" / "answers").iterdir():  # as if killed in the middle of step 1
        rows = pl.read_parquet(path)
        if set(rows["checkpoint"]) == step_1 and "0" in set(rows["prompt"]):
            path.unlink()
    Parrot.asked.clear()
    result = traced(folders, tmp_path, "run")
    assert Parrot.asked == [(1, expected[:4])]
    assert result["n_generated"] == 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "answers").iterdir()} == whole


@pytest.mark.parametrize("error", [BadInput("the server is gone"), Stopped("the budget is used up")])
def test_what_the_judge_raises_ends_the_sampling_and_keeps_what_was_sampled(parts, folders, tmp_path, monkeypatch, error):
    monkeypatch.setattr(Waiting, "raises", error)
    Waiting.first_is_judged.set()
    with pytest.raises(type(error), match=str(error)):
        traced(folders, tmp_path, "run")
    assert Store(tmp_path / "run").answers().height >= 8
    monkeypatch.setattr(Waiting, "raises", None)
    assert traced(folders, tmp_path, "run")["n_judged"] > 0


@pytest.mark.parametrize("error", [BadInput("the checkpoint is gone"), KeyboardInterrupt("the checkpoint is gone")])
def test_what_the_sampling_raises_ends_the_judging(parts, folders, tmp_path, monkeypatch, error):
    def gone(self, checkpoint, asked, sampling_seed):
        if checkpoint.step == 1:
            Waiting.second_is_asked.set()
            raise error
        yield from whole(self, checkpoint, asked, sampling_seed)

    whole = Parrot.sample
    monkeypatch.setattr(Parrot, "sample", gone)
    with pytest.raises(type(error), match="the checkpoint is gone"):
        traced(folders, tmp_path, "run")
    assert not any(thread.name == "judging" for thread in threading.enumerate())
    monkeypatch.setattr(Parrot, "sample", whole)
    assert traced(folders, tmp_path, "run")["n_generated"] == 8


def test_ctrl_c_while_only_the_judge_is_left_keeps_what_is_being_paid_for(parts, folders, tmp_path, monkeypatch):
    told = threading.Event()

    def read(self, items):
        readings = whole(self, items)
        if items[0].text.startswith("so"):  # of the second checkpoint: nothing is left to sample
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            assert told.wait(20), "the judge is not told to stop"
            raise Stopped("interrupted", readings)
        return readings

    whole = Waiting.read
    monkeypatch.setattr(Waiting, "read", read)
    monkeypatch.setattr(Waiting, "stop", lambda self: told.set(), raising=False)
    with pytest.raises(Stopped, match="interrupted; the same command again does the rest"):
        traced(folders, tmp_path, "run")
    assert Store(tmp_path / "run").readings().height == 8 + Waiting.batch_size
    assert not any(thread.name == "judging" for thread in threading.enumerate())
