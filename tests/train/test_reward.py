"""Reward models: the loss, what is scored, and what is saved."""

import copy
import json
import math

import checks
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from valuedrift import testing
from valuedrift.nouns import BadInput, Example
from valuedrift.plan import Stage
from valuedrift.train import collation, reward, reward_model, starting
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow


def stage(**keys):
    return Stage(**{"algorithm": "reward", "data": "x", "batch_size": 4, "learning_rate": 3e-3, "save_at": "log:1"} | keys)


def run(variant, root, out, progress=None):
    """Train a reward model; every save lies behind some steps of warm-up, and an adapter has dropout."""
    lora = {"r": 2, "lora_dropout": 0.2} if variant == "adapter" else None
    keys = {"steps": 8, "batch_size": 3, "gradient_accumulation_steps": 2, "save_at": [2, 4, 7], "warmup_ratio": 0.2, "weight_decay": 0.1}
    return run_stage(stage(lora=lora, **keys), 5, str(root / "base"), testing.pairs(26), out, progress)


@pytest.fixture
def base(tmp_path):
    return testing.save_model(tmp_path / "base", "qwen3")


def test_loss_by_hand():
    # pair 1: 2 - 0.5 = 1.5 and 0.1 * 2.5^2 = 0.625; pair 2: -1 - 1 = -2 and 0.1 * 0^2
    loss_B = reward.reward_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]), center_rewards_coefficient=0.1)
    assert loss_B.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)) + 0.625, math.log(1 + math.exp(2))])


def test_chosen_are_told_from_rejected():
    # two pairs, rows: chosen 1, chosen 2, rejected 1, rejected 2
    loss_B, metrics = reward.Algorithm(reward.Algorithm.Settings()).loss({}, torch.tensor([3.0, 1, 1, 2]))
    assert loss_B.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.e)])
    assert metrics["score_margin"].tolist() == [2, -1]
    assert metrics["reward_accuracy"].tolist() == [1, 0]


@pytest.mark.parametrize(("kind", "turns"), [("llama", True), ("qwen3", False)])
def test_it_agrees_with_trl(tmp_path, kind, turns):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    path, data = testing.save_model(tmp_path / "base", kind, turns), testing.pairs(7)
    words = starting.load_tokenizer(path, chat=True)
    records, _ = collation.tokenised(words, data, 100)
    pad = starting.padding(words, {int(row.ids[-1]) for record in records for row in record})
    torch.manual_seed(0)
    model = starting.load_scorer(path, stage(), pad)
    other = copy.deepcopy(model)
    rows = [
        {"prompt": [{"role": "user", "content": pair.prompt[0][1]}]}
        | {kind: [{"role": "assistant", "content": getattr(pair, kind)}] for kind in ("chosen", "rejected")}
        for pair in data
    ]
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    config = trl.RewardConfig(str(tmp_path / "trl"), max_length=100, center_rewards_coefficient=0.3, **options)
    trainer = trl.RewardTrainer(other, config, train_dataset=datasets.Dataset.from_list(rows), processing_class=words)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    batch = collation.collate_whole([(record, {}) for record in records], pad)
    algorithm = reward.Algorithm(reward.Algorithm.Settings(center_rewards_coefficient=0.3))
    loss_B, metrics = algorithm.loss(batch, reward_model.scores(model, batch))
    assert loss_B.mean().item() == pytest.approx(theirs.item(), abs=1e-5)
    assert metrics["score_margin"].mean().item() == pytest.approx(trainer._metrics["eval"]["margin"][0], rel=1e-4)
    loss_B.mean().backward()
    theirs.backward()
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_is_an_ordinary_folder(base, tmp_path):
    run_stage(stage(epochs=1), 0, base, testing.pairs(), tmp_path / "out")
    folder = str(tmp_path / "out" / "checkpoint-6")
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 1
    assert "score.weight" in model.state_dict()
    assert not (tmp_path / "out" / "checkpoint-6" / "optimizer.pt").exists()
    answers = [Example(pair.prompt, text) for pair in testing.pairs(5) for text in (pair.chosen, pair.rejected)]
    chats = [[{"role": "user", "content": item.prompt[0][1]}, {"role": "assistant", "content": item.text}] for item in answers]
    for padded in (True, False):  # all at once, and each alone
        groups = [chats] if padded else [[chat] for chat in chats]
        batches = [words.apply_chat_template(group, padding=True, return_tensors="pt", return_dict=True) for group in groups]
        expected = [score for batch in batches for score in model(**batch).logits[:, 0].tolist()]
        for size in (1, 4):
            assert reward_model.RewardModel(folder, "cpu").scores(answers, size).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("turns", [True, False])
def test_no_answer_ends_with_padding(turns, tmp_path):
    # without turn tokens an answer ends with the end-of-text token, which many models pad with: the token before it would be scored
    path = testing.save_model(tmp_path / "base", turns=turns)
    words = AutoTokenizer.from_pretrained(path)
    words.pad_token = words.eos_token
    words.save_pretrained(path)
    run_stage(stage(epochs=1), 0, path, testing.pairs(), tmp_path / "out")
    folder = tmp_path / "out" / "checkpoint-6"
    config, saved = json.loads((folder / "config.json").read_text()), AutoTokenizer.from_pretrained(folder)
    assert config["pad_token_id"] == saved.pad_token_id
    assert (saved.pad_token_id == words.eos_token_id) == turns
    (row,) = collation.in_tokens(saved, [(testing.pairs(1)[0].prompt, "Yes.")])
    assert row.ids[-1] != saved.pad_token_id


def test_a_model_without_padding_is_scored_at_the_end(base):
    model = reward_model.RewardModel(folder_of(base), "cpu")
    answers = [Example(pair.prompt, pair.chosen) for pair in testing.pairs(5)]
    expected = model.scores(answers, 5)
    model.model.config.pad_token_id = model.tokenizer.pad_token = None
    torch.testing.assert_close(model.scores(answers, 5), expected)


def folder_of(base):
    """Return a reward model of a random score layer."""
    torch.manual_seed(3)
    model = starting.load_scorer(base, stage(), 0)
    model.save_pretrained(f"{base}-rm")
    testing.tokenizer().save_pretrained(f"{base}-rm")
    return f"{base}-rm"


def test_texts_are_padded_behind_their_end():
    records = [(row(5, 6, 7), row(8)), (row(9, 5), row(6, 7))]
    batch = collation.collate_whole([(record, {}) for record in records], pad=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 5, 3], [8, 3, 3], [6, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert batch["n_records"] == 2


def row(*ids):
    return collation.Row(np.array(ids, dtype=np.int32), 0)


def test_what_is_no_reward_model_is_refused(base, tmp_path):
    config = AutoConfig.from_pretrained(base)
    config.num_labels = 1  # which says nothing of the weights
    config.save_pretrained(base)
    with pytest.raises(BadInput, match="base is not a reward model: it has no score layer; give a model with one output"):
        reward_model.RewardModel(base, "cpu")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(BadInput, match="three is not a reward model: it has 3 outputs"):
        reward_model.RewardModel(str(tmp_path / "three"), "cpu")
    with pytest.raises(BadInput, match="nowhere cannot be read"):
        reward_model.RewardModel(str(tmp_path / "nowhere"), "cpu")


def test_killed(base, tmp_path):
    variants = ["full", "adapter"]
    checks.killed("test_reward", "6", variants, tmp_path)
    assert checks.finished("test_reward", variants, tmp_path) == [[5, 6, 7, 8]] * 2
    for variant in variants:
        out = tmp_path / "killed" / variant
        assert len(checks.left(out)) == 5
        assert checks.left(out) == checks.left(tmp_path / variant)
