"""A judge trained from labels: the split, the temperature, and a planted rule that a tiny model learns."""

import json

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from valuedrift import testing, verbs
from valuedrift.judge import make
from valuedrift.judge.trained import TEMPLATE
from valuedrift.judge.training import fitted_temperature, split
from valuedrift.judge.training_settings import TrainingSettings
from valuedrift.nouns import OUTCOMES, BadInput, Item
from valuedrift.records.gold import Gold, read_gold

SAYS = {"support": "The tax is good because it helps the poor.", "oppose": "border border border wall wall wall"}


def save(folder):
    """Save a judge of random weights, as `train-judge` would."""
    testing.save_model(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(OUTCOMES))
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    (folder / "judge.json").write_text(json.dumps({"template": TEMPLATE, "temperature": 1.0, "max_length": 64, "agreement": None}))
    return folder


def gold(prompt, claim, group=""):
    return Gold(Item(prompt, claim, "text"), "support", group or claim, "")


def test_texts_that_share_a_prompt_or_a_claim_stay_together():
    rows = [gold(f"p{i // 2}", f"c{(i + 1) // 2}") for i in range(6)] + [gold(f"q{i}", f"d{i}") for i in range(200)]
    parts = split(rows, 0.4, seed=1)
    assert len(set(parts[:6])) == 1, "each shares its prompt with one neighbour and its claim with the other"
    shares = [parts[6:].count(part) / 200 for part in ("train", "validation", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.08)
    assert split([*rows[6:], gold("new", "new")], 0.4, seed=1)[:200] == parts[6:], "more labels move no text to another part"
    assert split(rows, 0.4, seed=2) != parts


def test_the_temperature_undoes_a_scale():
    """Labels drawn from softmax(z) and logits 3 z: the temperature with the least log loss is 3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probs.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert fitted_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A file of 120 prompts whose answers say one of two sentences, which decides the label."""
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = []
    for n in range(120):
        stance = "support" if n % 2 else "oppose"
        rows.append({"prompt": f"What about {n}?", "claim": f"Thing {n} is good.", "text": SAYS[stance], "stance": stance})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_planted_rule_is_learnt_measured_and_kept(labels, tmp_path, monkeypatch, capsys):
    base = testing.save_model(tmp_path / "base")
    how = TrainingSettings(num_train_epochs=6, learning_rate=3e-3, batch_size=8, held_out=0.3)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"claim": f"Claim {n}", "text": SAYS["oppose"], "stance": "against"}) + "\n" for n in range(12)))
    result = verbs.train_judge([labels], base, tmp_path / "judge", how, [other])
    assert capsys.readouterr().out == "", "stdout belongs to the result"
    assert result["agreement"]["accuracy"] == 1
    assert result["by_file"][str(other)]["accuracy"] == 1
    judge = make(result["judge"])
    assert judge.agreement["macro_f1"] == 1
    supported, opposed, empty = judge.read([Item("Q?", "C", text) for text in (*SAYS.values(), " ... ")])
    assert OUTCOMES[np.argmax(supported.probs)] == "support"
    assert OUTCOMES[np.argmax(opposed.probs)] == "oppose"
    assert empty.probs[OUTCOMES.index("invalid")] == 1
    card = json.loads((tmp_path / "judge" / "judge.json").read_text())
    assert card["temperature"] < 1, "every label of the validation part is right, so that sharper probabilities fit better"
    assert sum(sum(part.values()) for part in card["labels"].values()) == 120
    assert set(card["files"]) == {str(labels), str(other)}
    assert not (tmp_path / "judge" / "checkpoints").exists()
    with pytest.raises(BadInput, match="holds a trained judge already"):
        verbs.train_judge([labels], base, tmp_path / "judge", how)
    (tmp_path / "judge" / "judge.json").write_text(json.dumps(card | {"agreement": None}))  # as a kill before the measuring leaves it
    monkeypatch.setattr("valuedrift.judge.training.train", lambda *_: {str(labels): read_gold(labels)})
    assert verbs.train_judge([labels], base, tmp_path / "judge", how)["agreement"]["n"] == 120


def test_what_cannot_be_trained_on_is_said_before(labels, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(labels.read_text().splitlines(keepends=True)[:12]))
    with pytest.raises(BadInput, match="different labels; label more texts of more prompts"):
        verbs.train_judge([few], testing.save_model(tmp_path / "base"), tmp_path / "judge", TrainingSettings())
    assert not (tmp_path / "judge").exists()
    with pytest.raises(BadInput, match=r"12 texts of \S+few.jsonl share a prompt or a claim with the labels to train on"):
        verbs.train_judge([labels], "unused", tmp_path / "judge", TrainingSettings(), [few])
    with pytest.raises(BadInput, match=r"holds no judge\.json"):
        make(f"trained:{testing.save_model(tmp_path / 'plain')}")
    assert len(read_gold(few)) == 12
