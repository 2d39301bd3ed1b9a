"""The formulas, by hand."""

import math

import pytest
import torch

from valuedrift.train import dpo, sft


def test_sft_loss_by_hand():
    # tokens of probability 1/2 and 1/8: ln 2 and 3 ln 2
    assert sft.sft_loss(torch.tensor([0.5, 0.125]).log()).tolist() == pytest.approx([math.log(2), 3 * math.log(2)])


def test_dpo_loss_by_hand():
    # pair 1: chosen rose by 2, rejected fell by 1: margin 0.5 * (2 + 1) = 1.5, loss = ln(1 + e^-1.5)
    # pair 2: chosen fell by 1, rejected rose by 3: margin 0.5 * (-1 - 3) = -2, loss = ln(1 + e^2)
    loss = dpo.dpo_loss(
        torch.tensor([-8.0, -6.0]), torch.tensor([-9.0, -2.0]), torch.tensor([-10.0, -5.0]), torch.tensor([-8.0, -5.0]), beta=0.5
    )
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2))])


def test_dpo_sums_each_answer_and_splits_chosen_from_rejected():
    # two pairs, rows: chosen 1, chosen 2, rejected 1, rejected 2
    logps_RT = torch.tensor([[0.0, -1, -2], [0, -4, 0], [-1, -1, -1], [0, 0, -2]])
    algorithm = dpo.Algorithm(dpo.Algorithm.Settings(beta=0.5))
    assert {name: values.tolist() for name, values in algorithm.prepare({}, logps_RT).items()} == {
        "reference_chosen_B": [-3, -4],
        "reference_rejected_B": [-3, -2],
    }
    reference = {"reference_chosen_B": torch.tensor([-4.0, -4.0]), "reference_rejected_B": torch.tensor([-3.0, -3.0])}
    loss_B, metrics = algorithm.loss(reference, logps_RT)
    # margins: 0.5 * ((-3 + 4) - (-3 + 3)) = 0.5 and 0.5 * ((-4 + 4) - (-2 + 3)) = -0.5
    assert metrics["reward_margin"].tolist() == pytest.approx([0.5, -0.5])
    assert metrics["reward_accuracy"].tolist() == [1, 0]
    assert metrics["chosen_logps"].tolist() == [-3, -4]
    assert metrics["rejected_logps"].tolist() == [-3, -2]
    assert loss_B.tolist() == pytest.approx([math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5))])


def test_sft_learns_a_certain_token_too():
    # a token of probability one has log-prob 0, like a masked place: the mask decides, not the number
    batch = {"answer_mask_RT": torch.tensor([[False, True, True]])}
    losses, metrics = sft.Algorithm(sft.Algorithm.Settings()).loss(batch, torch.tensor([[0.0, 0.0, -3.0]]))
    assert losses.tolist() == [0, 3]
    assert metrics == {}
