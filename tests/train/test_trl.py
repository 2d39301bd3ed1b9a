"""Losses and gradients agree with TRL's own trainers on the same ragged batches, from the text on."""

import copy

import numpy as np
import pytest
import torch

from valuedrift import testing
from valuedrift.nouns import Example, Pair
from valuedrift.train import collation, dpo, ipo, kto, orpo, sft, simpo, starting
from valuedrift.train.logprobs import answer_logps

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

OPTIONS = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}


def tokenizer(path, turns):
    return starting.load_tokenizer(testing.save_model(path, turns=turns), chat=True)


def messages(prompt):
    return [{"role": role, "content": text} for role, text in prompt]


def answer(text):
    return [{"role": "assistant", "content": text}]


def assert_same(ours, theirs, model, other):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-5)  # an IPO loss of 288 is known to 3e-5
    ours.backward()
    theirs.backward()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def loss_of(trainer):
    """Return the trainer's own loss of its whole data set as one batch."""
    return trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))


CHATS, TEXTS = testing.examples(7), [Example((), text) for text in testing.TEXT]


@pytest.mark.parametrize(
    ("kind", "turns", "max_length", "data"),
    [("llama", True, 100, CHATS), ("qwen3", False, 100, CHATS), ("llama", False, 30, CHATS), ("llama", True, 20, TEXTS)],
)
def test_sft(tmp_path, kind, turns, max_length, data):
    words, model = tokenizer(tmp_path, turns), testing.model(kind)
    other = copy.deepcopy(model)
    rows = [{"prompt": messages(one.prompt), "completion": answer(one.text)} if one.prompt else {"text": one.text} for one in data]
    config = trl.SFTConfig(str(tmp_path / "trl"), max_length=max_length, **OPTIONS)
    trainer = trl.SFTTrainer(other, config, train_dataset=datasets.Dataset.from_list(rows), processing_class=words)
    theirs = loss_of(trainer)

    records, _ = collation.tokenised(words, data, max_length)
    assert len(records) == len(trainer.train_dataset)
    assert (len(records) < len(data)) == (max_length == 30)
    batch = collation.collate([(record, {}) for record in records])
    losses, _ = sft.Algorithm(sft.Algorithm.Settings()).loss(batch, answer_logps(model, batch))
    assert_same(losses.mean(), theirs, model, other)


def pair_rows(data):
    return datasets.Dataset.from_list(
        [{"prompt": messages(pair.prompt), "chosen": answer(pair.chosen), "rejected": answer(pair.rejected)} for pair in data]
    )


def views(algorithm, records, model, reference):
    """Return the batch of all records with what is kept of the reference's view, and the model's log-probs."""
    batch = collation.collate([(record, {}) for record in records])
    with torch.no_grad():
        kept = algorithm.prepare(batch, answer_logps(reference, batch))
    return batch | kept, answer_logps(model, batch)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
@pytest.mark.parametrize(("kind", "turns", "max_length"), [("llama", True, 100), ("qwen3", False, 100), ("qwen3", True, 40)])
def test_dpo_and_ipo(tmp_path, kind, turns, max_length, loss_type):
    words = tokenizer(tmp_path, turns)
    data = testing.pairs(7)
    model, reference = testing.model(kind), testing.model(kind, seed=1)
    other = copy.deepcopy(model)
    config = trl.DPOConfig(str(tmp_path / "trl"), beta=0.03, max_length=max_length, loss_type=loss_type, **OPTIONS)
    trainer = trl.DPOTrainer(other, reference, config, train_dataset=pair_rows(data), processing_class=words)
    theirs = loss_of(trainer)

    records, _ = collation.tokenised(words, data, max_length)
    assert len(records) == len(trainer.train_dataset)
    module = {"sigmoid": dpo, "ipo": ipo}[loss_type]
    algorithm = module.Algorithm(module.Algorithm.Settings(beta=0.03))
    loss_B, metrics = algorithm.loss(*views(algorithm, records, model, reference))
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    same = {"chosen_logps": "logps/chosen"}
    if loss_type == "sigmoid":  # TRL logs DPO's rewards whatever the loss
        same |= {"reward_margin": "rewards/margins", "reward_accuracy": "rewards/accuracies"}
    for mine, its in same.items():
        assert metrics[mine].mean().item() == pytest.approx(logged[its], rel=1e-5)
    assert_same(loss_B.mean(), theirs, model, other)


@pytest.mark.parametrize(("kind", "turns"), [("llama", True), ("qwen3", False)])
def test_kto(tmp_path, kind, turns):
    words = tokenizer(tmp_path, turns)
    data = testing.pairs(7)
    # larger weights spread probability less evenly: mismatched answers are less likely to the reference, so that z0 is above its bound
    model, reference = testing.model(kind, scale=0.1), testing.model(kind, seed=1, scale=0.3)
    other = copy.deepcopy(model)
    weights = {"beta": 0.03, "desirable_weight": 1.3, "undesirable_weight": 0.6}
    # one forward pass over all 14 answers, chosen ones first: then TRL's mismatched answers are those of one step of ours
    config = trl.KTOConfig(str(tmp_path / "trl"), max_length=100, per_device_train_batch_size=14, **weights, **OPTIONS)
    trainer = trl.KTOTrainer(other, reference, config, train_dataset=pair_rows(data), processing_class=words)
    theirs = loss_of(trainer)

    algorithm = kto.Algorithm(kto.Algorithm.Settings(**weights))
    records, _ = collation.tokenised(words, data, 100)
    assert 2 * len(records) == len(trainer.train_dataset)
    others = collation.kl_records(records, np.arange(7), 7, 100)
    with torch.no_grad():
        seen = algorithm.kl_estimate(*views(algorithm, others, model, reference))
    means = {name: values.mean() for name, values in seen.items()}
    batch, logps_RT = views(algorithm, records, model, reference)
    loss_B, metrics = algorithm.loss(batch | means, logps_RT)
    (kl,) = trainer._metrics["train"]["kl"]
    assert kl > 1
    assert metrics["kl"].tolist() == pytest.approx([kl] * 7, rel=1e-5)
    assert metrics["reward_margin"].mean().item() == pytest.approx(trainer._metrics["train"]["rewards/margins"][0], rel=1e-4)
    assert_same(loss_B.mean(), theirs, model, other)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_simpo(tmp_path, kind):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    # CPOTrainer appends the end-of-text token to the templated text: only without turns do its answers end as ours do
    words = tokenizer(tmp_path, False)
    data = testing.pairs(7)
    model = testing.model(kind)
    other = copy.deepcopy(model)
    weights = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 1.7, "simpo_gamma": 0.4}
    config = CPOConfig(str(tmp_path / "trl"), max_length=100, **weights, **OPTIONS)
    trainer = CPOTrainer(other, config, train_dataset=pair_rows(data), processing_class=words)
    theirs, logged = trainer.get_batch_loss_metrics(trainer.model, trainer.data_collator(list(trainer.train_dataset)))

    algorithm = simpo.Algorithm(simpo.Algorithm.Settings(beta=1.7, gamma=0.4))
    loss_B, metrics = algorithm.loss(*views(algorithm, collation.tokenised(words, data, 100)[0], model, model))
    assert metrics["reward_margin"].mean().item() == pytest.approx(logged["rewards/margins"], rel=1e-4)
    assert_same(loss_B.mean(), theirs, model, other)


def test_orpo(tmp_path):
    # TRL fine-tunes on the prompt too and averages over the tokens of a batch: a pair without a prompt, alone, is where both are one
    words, model = tokenizer(tmp_path, False), testing.model()
    other = copy.deepcopy(model)
    trainer = orpo_trainer(tmp_path, words, other, [{"prompt": "", "chosen": testing.TEXT[0], "rejected": testing.TEXT[1]}])
    theirs, logged = trainer.get_batch_loss_metrics(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    algorithm = orpo.Algorithm(orpo.Algorithm.Settings(odds_weight=0.7))
    records, _ = collation.tokenised(words, [Pair((), testing.TEXT[0], testing.TEXT[1])], 100)
    loss_B, metrics = algorithm.loss(*views(algorithm, records, model, model))
    assert metrics["log_odds_ratio"].item() == pytest.approx(logged["log_odds_chosen"], abs=1e-5)
    assert_same(loss_B.mean(), theirs, model, other)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_orpo_with_prompts(tmp_path, kind):
    words, model, data = tokenizer(tmp_path, False), testing.model(kind), testing.pairs(7)
    other = copy.deepcopy(model)
    trainer = orpo_trainer(tmp_path, words, other, pair_rows(data))
    forward = trainer.concatenated_forward(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    # its fine-tuning term is replaced by the paper's, from its own mean log-probs of the chosen answers
    theirs = -forward[0].mean() - trainer.odds_ratio_loss(*forward[:2])[0].mean()
    algorithm = orpo.Algorithm(orpo.Algorithm.Settings(odds_weight=0.7))
    loss_B, _ = algorithm.loss(*views(algorithm, collation.tokenised(words, data, 100)[0], model, model))
    assert_same(loss_B.mean(), theirs, model, other)


def orpo_trainer(path, words, model, rows):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(str(path / "trl"), max_length=100, beta=0.7, **OPTIONS)
    rows = rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_list(rows)
    return ORPOTrainer(model, config, train_dataset=rows, processing_class=words)
