"""A stage killed twice ends with the same bytes as one that ran through."""

import checks
import pytest

from valuedrift import testing
from valuedrift.nouns import BadInput
from valuedrift.plan import Stage
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

ADAPTED = ("dpo", "kto")


def stage(algorithm, **keys):
    # 26 records, 6 a step: shuffles are laid end to end inside a step; dropout and log-spaced saves at 1, 2, 4, 7, 8, 12
    lora = {"r": 2, "lora_dropout": 0.2} if algorithm in ADAPTED else None
    return Stage(
        algorithm=algorithm,
        data="x",
        steps=12,
        batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        save_at=[1, 2, 4, 7, 8],
        lora=lora,
        **keys,
    )


def data(algorithm):
    return testing.examples(26) if algorithm == "sft" else testing.pairs(26)


def run(algorithm, root, out, progress=None):
    return run_stage(stage(algorithm), 5, str(root / "base"), data(algorithm), out / "stage", progress)


def weights(out):
    files = [*out.glob("checkpoint-*/*.safetensors"), *out.parent.glob("reference/*.safetensors"), out / "losses.json"]
    return {str(path.relative_to(out.parent)): path.read_bytes() for path in files}


def test_killed_twice(tmp_path):
    algorithm = "dpo"
    base, out, whole = testing.save_model(tmp_path / "base"), tmp_path / "killed" / algorithm / "stage", tmp_path / "whole" / "stage"
    checks.killed("test_resume", "6", [algorithm], tmp_path)
    assert sorted(path.parent.name for path in out.glob("checkpoint-*/complete.json")) == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]
    assert (out / "checkpoint-4" / "optimizer.pt").exists()
    assert not (out / "checkpoint-2" / "optimizer.pt").exists()
    checks.killed("test_resume", "saving 8", [algorithm], tmp_path)
    assert (out / "checkpoint-8").exists()
    assert not (out / "checkpoint-8" / "complete.json").exists()
    seen = []
    steps = run_stage(stage(algorithm), 5, base, data(algorithm), out, lambda step, *_: seen.append(step))
    assert seen == [8, 9, 10, 11, 12]
    assert steps == [1, 2, 4, 7, 8, 12]
    run_stage(stage(algorithm), 5, base, data(algorithm), whole)
    assert len(weights(out)) == 8  # six checkpoints, the losses, and DPO's reference
    assert weights(out) == weights(whole)


def test_killed_once(tmp_path):
    base, n_references = testing.save_model(tmp_path / "base"), {"sft": 0, "kto": 2}  # of the answers, and of the mismatched ones
    checks.killed("test_resume", "6", list(n_references), tmp_path)
    for algorithm, n in n_references.items():
        out, whole = tmp_path / "killed" / algorithm / "stage", tmp_path / "whole" / algorithm / "stage"
        assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]
        run_stage(stage(algorithm), 5, base, data(algorithm), out)
        run_stage(stage(algorithm), 5, base, data(algorithm), whole)
        assert len(weights(out)) == 7 + n
        assert weights(out) == weights(whole)


def test_a_finished_stage_is_left_alone_and_another_is_refused(tmp_path):
    base, out = testing.save_model(tmp_path / "base"), tmp_path / "out"
    short = stage("sft").model_copy(update={"steps": 2, "save_at": "log:2"})
    assert run_stage(short, 5, base, data("sft"), out) == [1, 2]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_stage(short, 5, "nowhere", data("sft"), out) == [1, 2]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="other settings, seed or data"):
        run_stage(short, 6, base, data("sft"), out)
    with pytest.raises(BadInput, match="other settings, seed or data"):
        run_stage(short, 5, base, data("sft")[1:], out)


def test_killed_between_the_last_save_and_the_end(tmp_path):
    base, out = testing.save_model(tmp_path / "base"), tmp_path / "out"
    short = stage("sft").model_copy(update={"steps": 2, "save_at": "log:1"})
    run_stage(short, 5, base, data("sft"), out)
    losses = (out / "losses.json").read_text()
    for name in ("done.json", "losses.json"):
        (out / name).unlink()
    assert run_stage(short, 5, base, data("sft"), out, lambda *_: pytest.fail("nothing is left to train")) == [2]
    assert (out / "losses.json").read_text() == losses
