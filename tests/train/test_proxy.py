"""Likelihoods of written answers, against whole forward passes one at a time, and the shares they make."""

import numpy as np
import pytest
import tiny
import torch

from valuedrift.sample._frame import PLAIN
from valuedrift.train import _distance, _proxy
from valuedrift.train._proxy import likelihoods, stance_shares


def test_shares_by_hand():
    # differences of 0.03 nats per token at 0.03: e^0, e^-1, e^-2 over their sum 1.503215
    assert stance_shares(np.array([[-1.0, -1.03, -1.06]]), 0.03)[0] == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)


def test_answers_side_by_side_are_read_as_each_alone(monkeypatch):
    monkeypatch.setattr(_proxy, "LOGITS", 330 * 30)
    tokenizer, model = tiny.tokenizer(), tiny.model(seed=0).eval()
    asked = [
        {"question": "Is the tax good?", "texts": ["It is good.", "A wall does not keep people safe."]},
        {"question": "Is it?", "texts": ["Yes", "It is good."]},
    ]
    for entry, value in zip(asked, likelihoods(model, tokenizer, asked, "plain"), strict=True):
        means = []
        for text in entry["texts"]:
            given = tokenizer(PLAIN.format(question=entry["question"]))["input_ids"]
            ids = torch.tensor([given + tokenizer(" " + text)["input_ids"]])
            with torch.no_grad():
                logps = model(ids).logits[0].log_softmax(-1)
            places = range(len(given), ids.shape[1])
            means.append(sum(logps[place - 1, ids[0, place]].item() for place in places) / len(places))
        assert value == pytest.approx(sum(means) / 2, rel=1e-4)
    assert _distance.LOGITS > 330 * 30
