"""Forced choices between short answers, against whole forward passes one at a time, and the shares they make."""

import numpy as np
import pytest
import torch

from valuedrift import testing
from valuedrift.evaluate import likelihood
from valuedrift.evaluate.likelihood import ANSWERS, QUESTION, forced_choices, stance_shares
from valuedrift.models.chat_format import PLAIN


def test_shares_by_hand():
    """e^0, e^-1, e^-2 over their sum 1.503215; and the mean of two wordings that say the opposite."""
    assert stance_shares(np.array([[[-1.0, -2.0, -3.0]]]))[0] == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)
    assert stance_shares(np.array([[[0.0, -1e3, -1e3], [-1e3, -1e3, 0.0]]]))[0] == pytest.approx([0.5, 0, 0.5])


def test_prompts_side_by_side_are_read_as_each_alone(monkeypatch):
    monkeypatch.setattr(likelihood, "ROWS", 2)
    tokenizer, model = testing.tokenizer(), testing.model(seed=0).eval()
    claims = ["The tax is good.", "It is good.", "A wall keeps people safe."]
    for claim, shares in zip(claims, forced_choices(model, tokenizer, claims, "plain"), strict=True):
        given = tokenizer(PLAIN.format(question=QUESTION.format(claim=claim)))["input_ids"]
        logps = []
        for text in (text for wording in ANSWERS for text in wording):
            ids = torch.tensor([given + tokenizer(" " + text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                logps_TV = model(ids).logits[0].log_softmax(-1)
            logps.append(sum(logps_TV[place - 1, ids[0, place]].item() for place in range(len(given), ids.shape[1])))
        assert shares == pytest.approx(stance_shares(np.array(logps).reshape(1, 2, 3))[0], rel=1e-4)
        assert shares.sum() == pytest.approx(1)
