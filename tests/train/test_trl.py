"""Losses and gradients agree with TRL's own trainers on the same ragged batches, from the text on."""

import copy

import pytest
import tiny
import torch

from valuedrift.nouns import Example
from valuedrift.train import _batches, _start, dpo, sft
from valuedrift.train._logprobs import answer_logps

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

OPTIONS = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}


def tokenizer(path, turns):
    return _start.load_tokenizer(tiny.folder(path, turns=turns), chat=True)


def messages(prompt):
    return [{"role": role, "content": text} for role, text in prompt]


def answer(text):
    return [{"role": "assistant", "content": text}]


def assert_same(ours, theirs, model, other):
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    ours.backward()
    theirs.backward()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("kind", "turns", "max_length"), [("llama", True, 100), ("qwen3", False, 100), ("llama", False, 30)])
def test_sft(tmp_path, kind, turns, max_length):
    words = tokenizer(tmp_path, turns)
    data = tiny.examples(7)
    model = tiny.model(kind)
    other = copy.deepcopy(model)
    rows = datasets.Dataset.from_list([{"prompt": messages(item.prompt), "completion": answer(item.text)} for item in data])
    config = trl.SFTConfig(str(tmp_path / "trl"), max_length=max_length, **OPTIONS)
    trainer = trl.SFTTrainer(other, config, train_dataset=rows, processing_class=words)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))

    records, dropped = _batches.tokenised(words, data, max_length)
    assert len(records) == len(trainer.train_dataset)
    assert (dropped > 0) == (max_length < 100)
    batch = _batches.collate([(record, {}) for record in records])
    losses, _ = sft.Algorithm(sft.Algorithm.Settings()).loss(batch, answer_logps(model, batch))
    assert_same(losses.mean(), theirs, model, other)


def test_running_text(tmp_path):
    words = tokenizer(tmp_path, True)
    model = tiny.model()
    other = copy.deepcopy(model)
    config = trl.SFTConfig(str(tmp_path / "trl"), max_length=20, **OPTIONS)
    rows = datasets.Dataset.from_list([{"text": text} for text in tiny.TEXT])
    trainer = trl.SFTTrainer(other, config, train_dataset=rows, processing_class=words)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    records, _ = _batches.tokenised(words, [Example((), text) for text in tiny.TEXT], 20)
    batch = _batches.collate([(record, {}) for record in records])
    losses, _ = sft.Algorithm(sft.Algorithm.Settings()).loss(batch, answer_logps(model, batch))
    assert_same(losses.mean(), theirs, model, other)


@pytest.mark.parametrize(("kind", "turns", "max_length"), [("llama", True, 100), ("qwen3", False, 100), ("qwen3", True, 40)])
def test_dpo(tmp_path, kind, turns, max_length):
    words = tokenizer(tmp_path, turns)
    data = tiny.pairs(7)
    model, reference = tiny.model(kind), tiny.model(kind, seed=1)
    other = copy.deepcopy(model)
    rows = datasets.Dataset.from_list(
        [{"prompt": messages(pair.prompt), "chosen": answer(pair.chosen), "rejected": answer(pair.rejected)} for pair in data]
    )
    config = trl.DPOConfig(str(tmp_path / "trl"), beta=0.03, max_length=max_length, **OPTIONS)
    trainer = trl.DPOTrainer(other, reference, config, train_dataset=rows, processing_class=words)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))

    records, _ = _batches.tokenised(words, data, max_length)
    assert len(records) == len(trainer.train_dataset)
    algorithm = dpo.Algorithm(dpo.Algorithm.Settings(beta=0.03))
    batch = _batches.collate([(record, {}) for record in records])
    with torch.no_grad():
        kept = algorithm.prepare(batch, answer_logps(reference, batch))
    loss_B, metrics = algorithm.loss(batch | kept, answer_logps(model, batch))
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    for mine, its in {"chosen_logps": "logps/chosen", "reward_margin": "rewards/margins", "reward_accuracy": "rewards/accuracies"}.items():
        assert metrics[mine].mean().item() == pytest.approx(logged[its], rel=1e-5)
    assert_same(loss_B.mean(), theirs, model, other)
