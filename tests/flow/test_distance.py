"""The distance from a reference: against a sum over all answers, against whole forward passes, and which reference it is taken from."""

import itertools

import pytest
import torch

from valuedrift import testing
from valuedrift.evaluate import distance, side_metrics
from valuedrift.evaluate.distance import divergences, kl_nats
from valuedrift.evaluate.side_metrics import chosen
from valuedrift.evaluate.visit import Answered, Evaluation
from valuedrift.models.chat_format import PLAIN, PromptFormat, question
from valuedrift.nouns import Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings


def test_the_mean_over_answers_is_the_divergence_of_whole_answers():
    """Two tokens, two places: sum over the four answers y of p(y) * (sum of the KL at each place) = sum of p(y) log p(y) / q(y)."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(3, 2, generator=generator) for _ in "pq")  # row 0: the first place; 1 + y1: the second
    temperature = 0.7
    p, q = ((logits / temperature).softmax(-1) for logits in (first, second))
    nats = kl_nats(first, second, temperature)
    pairs = list(itertools.product(range(2), range(2)))
    estimated = sum(p[0, a] * p[1 + a, b] * (nats[0] + nats[1 + a]) for a, b in pairs)
    exact = sum(p[0, a] * p[1 + a, b] * torch.log(p[0, a] * p[1 + a, b] / (q[0, a] * q[1 + a, b])) for a, b in pairs)
    assert estimated.item() == pytest.approx(exact.item(), rel=1e-5)


def test_kl_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2 = 0.130812
    assert kl_nats(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]]), 1.0).item() == pytest.approx(0.130812, abs=1e-6)


def said(text, ended="stop", question="Is the tax good?"):
    return Answered("", text, ended, question)


def test_answers_side_by_side_are_read_as_each_alone(monkeypatch):
    """Every position of an answer counts, and the one more at which it ended."""
    monkeypatch.setattr(distance, "LOGITS", 330 * 30)  # several batches of several rows
    tokenizer, model, reference = testing.tokenizer(), testing.model(seed=0).eval(), testing.model(seed=1).eval()
    texts = [said("It is good."), said("A wall does not keep people safe.", "length"), said(""), said("Yes"), said("", "length")]
    found = divergences(model, tokenizer, reference, texts, EvaluationSettings(temperature=0.7))
    for answer, nats in zip(texts, found, strict=True):
        given = tokenizer(PLAIN.format(question=answer.question))["input_ids"]
        words = tokenizer(" " + answer.text)["input_ids"] if answer.text else []
        ids = torch.tensor([given + words])
        with torch.no_grad():
            logits, others = (each(ids).logits[0] for each in (model, reference))
        places = range(len(given) - 1, ids.shape[1] - (answer.ended == "length"))
        expected = sum(kl_nats(logits[[place]], others[[place]], 0.7).item() for place in places)
        assert nats == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found[4] == 0
    assert divergences(model, tokenizer, model, texts, EvaluationSettings()) == [0.0] * 5


def test_greedy_answers_are_measured_at_temperature_one():
    tokenizer, model, reference = testing.tokenizer(), testing.model(seed=0).eval(), testing.model(seed=1).eval()
    at = [divergences(model, tokenizer, reference, [said("Yes")], EvaluationSettings(temperature=t))[0] for t in (0, 1, 2)]
    assert at[0] == at[1] > at[2]


def test_an_answer_stands_behind_its_question():
    tokenizer = testing.tokenizer()
    ids, n = PromptFormat(tokenizer, "plain").with_reply(question("Is it?"), "Yes")
    assert tokenizer.decode(ids[:n]) == "Question: Is it?\nAnswer:"
    assert tokenizer.decode(ids[n:]) == " Yes"
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    ids, n = PromptFormat(tokenizer).with_reply(question("Is it?"), "Yes")
    assert tokenizer.decode(ids[n:]) == "Yes"
    assert tokenizer.decode(ids[:n]).endswith("<|assistant|>")


def test_the_same_prompts_spread_over_the_topics(monkeypatch):
    monkeypatch.setattr(side_metrics, "MOST_PROMPTS", 5)
    prompts = [Prompt(f"{topic}{k}", topic, f"{topic} {k}?", "It is.") for topic in "abc" for k in range(9)]
    found = chosen(prompts)
    assert sorted(prompt.topic for prompt in found)[::2] == ["a", "b", "c"]
    assert chosen(prompts[::-1]) == found
    assert {prompt.id[1] for prompt in found} != {"0", "1"}


def test_the_reference_is_the_nearest_supervised_stage_before():
    names = {"sft": ("base", "sft"), "dpo": ("sft", "dpo"), "ppo": ("dpo", "ppo"), "sft2": ("ppo", "sft"), "alone": ("base", "dpo")}
    stages = [{"name": name, "seed": 1, "after": after, "algorithm": kind} for name, (after, kind) in names.items()]
    checkpoints = [Checkpoint(name, step, "", f"{name}{step}", seed=1) for name in names for step in (0, 8)]
    evaluation = Evaluation(EvaluationSettings(), stages, checkpoints, [], [], {}, list)
    found = {}
    for checkpoint in checkpoints:
        label, at = evaluation.reference(checkpoint)
        found[checkpoint.stage] = (label, at.weights)
    assert found["sft"] == ("start", "sft0")
    assert found["dpo"] == found["ppo"] == ("sft", "sft8")
    assert found["sft2"] == ("start", "sft20")
    assert found["alone"] == ("start", "alone0")
