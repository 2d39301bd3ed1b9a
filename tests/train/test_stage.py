"""What a stage leaves behind, adapters, and faults that end in one sentence."""

import errno
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from valuedrift import testing
from valuedrift.nouns import BadInput, Example, Stopped
from valuedrift.plan import Stage
from valuedrift.train import collation, starting
from valuedrift.train.logprobs import answer_logps
from valuedrift.train.stage import run_stage
from valuedrift.train.step_counts import order

pytestmark = pytest.mark.slow


def stage(algorithm="sft", **keys):
    return Stage(
        **{"algorithm": algorithm, "data": "x", "steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_ratio": 0, "save_at": "every:2"}
        | keys
    )


@pytest.fixture
def base(tmp_path):
    return testing.save_model(tmp_path / "base")


def weights(path):
    return load_file(next(Path(path).glob("*model.safetensors")))


def test_checkpoints_are_ordinary_folders(base, tmp_path):
    out = tmp_path / "out"
    calls = []
    assert run_stage(stage(), 0, base, testing.examples(), out, lambda *call: calls.append(call)) == [2, 3]
    model = AutoModelForCausalLM.from_pretrained(out / "checkpoint-3")
    tokenizer = AutoTokenizer.from_pretrained(out / "checkpoint-3")
    assert model.dtype == torch.float32
    assert "<|assistant|>" in tokenizer.chat_template
    # generation stops at the template's end of a turn and at the end of text
    assert model.generation_config.eos_token_id == [1, tokenizer.convert_tokens_to_ids("<|end|>")]
    assert not [path for path in out.rglob("*") if path.name in ("optimizer.pt", "rng_state.pth", "training_args.bin")]
    done = json.loads((out / "done.json").read_text())
    assert len(done.pop("digest")) == 24
    assert {**done, "seconds": 0} == {"steps": [2, 3], "total": 3, "seconds": 0, "losses": "losses.json", "dropped": 0}
    losses = json.loads((out / "losses.json").read_text())
    assert calls == [(step["step"], 3, step["loss"]) for step in losses]
    assert {"loss", "grad_norm", "learning_rate", "step"} <= losses[0].keys()


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "simpo", "ipo", "orpo", "kto", "reward"])
def test_accumulation_changes_nothing(algorithm, base, tmp_path):
    data = testing.examples() if algorithm == "sft" else testing.pairs()
    # so that mismatched answers rise with the chosen ones and z0 leaves its bound
    own = {"kto": {"undesirable_weight": 0.2}, "reward": {"center_rewards_coefficient": 0.1}}.get(algorithm, {})
    ends = []
    for batch_size, accumulate in ((6, 1), (2, 3)):
        out = tmp_path / f"out-{accumulate}"
        run_stage(stage(algorithm, batch_size=batch_size, gradient_accumulation_steps=accumulate, **own), 0, base, data, out)
        # before the first change every pair is a tie, which rounding decides
        curve = json.loads((out / "losses.json").read_text())
        ends.append([{name: value for name, value in step.items() if name != "reward_accuracy"} for step in curve])
    for whole, parts in zip(*ends, strict=True):
        assert parts == pytest.approx(whole, rel=2e-3, abs=1e-5)
    if algorithm == "kto":
        assert ends[0][-1]["kl"] > 1


def test_the_last_step_of_an_epoch_may_be_short(base, tmp_path):
    # 5 records in steps of 4: the second step holds one record, and its loss is that record's mean over tokens
    run_stage(stage(steps=None, learning_rate=1e-30), 0, base, testing.examples(5), tmp_path / "out")
    losses = json.loads((tmp_path / "out" / "losses.json").read_text())
    tokenizer = starting.load_tokenizer(base, chat=True)
    records, _ = collation.tokenised(tokenizer, testing.examples(5), 999)
    batch = collation.collate([(records[order(5, 5, 0)[4]], {})])
    logps_RT = answer_logps(AutoModelForCausalLM.from_pretrained(base), batch)
    assert len(losses) == 2
    assert losses[1]["loss"] == pytest.approx(-logps_RT[batch["answer_mask_RT"]].mean().item(), rel=1e-4)


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_an_adapter_is_saved_beside_its_base_and_can_be_trained_on(algorithm, base, tmp_path):
    data = testing.pairs() if algorithm == "dpo" else testing.examples()
    lora = {"r": 4, "lora_alpha": 8}
    first = tmp_path / "first"
    run_stage(stage(algorithm, lora=lora), 0, base, data, first)
    config = json.loads((first / "checkpoint-3" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), first / "checkpoint-3").merge_and_unload()
    assert any(not torch.equal(value, weights(base)[name]) for name, value in adapted.state_dict().items() if name in weights(base))

    second = tmp_path / "second"
    run_stage(stage(algorithm, lora=lora), 0, str(first / "checkpoint-3"), data, second)
    config = json.loads((second / "checkpoint-3" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(second / "start")
    start = weights(second / "start")
    for name, value in adapted.state_dict().items():
        if name in start:
            torch.testing.assert_close(start[name], value)
    if algorithm == "dpo":
        # at step 1 policy and reference are the same weights: loss ln 2
        assert json.loads((second / "losses.json").read_text())[0]["loss"] == pytest.approx(0.6931, abs=1e-3)

    third = tmp_path / "third"
    run_stage(stage(algorithm), 0, str(second / "checkpoint-3"), data, third)
    assert not (third / "checkpoint-3" / "adapter_config.json").exists()
    assert (third / "checkpoint-3" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("keys", "data", "sentence"),
    [
        ({"algorithm": "dpo"}, testing.examples(), "dpo learns from pairs, but its data holds examples"),
        ({}, testing.pairs(), "sft learns from examples, but its data holds pairs"),
        ({}, [], "data is empty"),
    ],
)
def test_bad_input(keys, data, sentence, base, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        run_stage(stage(**keys), 0, base, data, tmp_path / "out")


def test_a_model_that_cannot_be_read(base, tmp_path):
    with pytest.raises(BadInput, match=r"there is no checkpoint folder .*nowhere"):
        run_stage(stage(), 0, str(tmp_path / "nowhere"), testing.examples(), tmp_path / "out")
    file = Path(base) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match=f"{base} cannot be loaded as a model to train"):
        run_stage(stage(), 0, base, testing.examples(), tmp_path / "out")


@pytest.mark.parametrize(
    ("target", "fault", "reason"),
    [
        ((PreTrainedModel, "save_pretrained"), OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            (PreTrainedModel, "save_pretrained"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on device",
        ),
        (  # torch does not say why; this disk has space left
            (torch, "save"),
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            "a file could not be written to its end",
        ),
    ],
)
def test_a_full_disk_keeps_earlier_checkpoints(target, fault, reason, base, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", getattr(*target)

    def full(*arguments, **options):
        if "checkpoint-3" in str(arguments):
            raise fault
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(BadInput, match=f"cannot write .*checkpoint-3: {reason}"):
            run_stage(stage(), 0, base, testing.examples(), out)
    assert (out / "checkpoint-2" / "complete.json").exists()
    assert not (out / "checkpoint-3").exists()
    assert run_stage(stage(), 0, base, testing.examples(), out) == [2, 3]


def test_a_loss_that_is_no_number_stops(base, tmp_path):
    with pytest.raises(Stopped, match=r"the loss is nan at step \d+; lower learning_rate or max_grad_norm"):
        run_stage(stage(learning_rate=1e30, steps=6, weight_decay=1e9), 0, base, testing.examples(), tmp_path / "out")


def test_running_text_and_answers_together(base, tmp_path):
    data = [*testing.examples(6), *(Example((), text) for text in testing.TEXT)]
    run_stage(stage(), 0, base, data, tmp_path / "out")
    assert (tmp_path / "out" / "checkpoint-3" / "chat_template.jinja").exists()
    run_stage(stage(), 0, base, data[6:], tmp_path / "text")
    assert not (tmp_path / "text" / "checkpoint-3" / "chat_template.jinja").exists()
