"""The formulas, by hand."""

import math

import pytest
import torch

from valuedrift.train import dpo, ipo, kto, orpo, sft, simpo

LN2 = math.log(2)
MASK_RT = torch.tensor([[True, True, False], [True, True, True], [True, False, False], [True, True, True]])
"""Two pairs, rows: chosen 1 and 2 of 2 and 3 tokens, rejected 1 and 2 of 1 and 3."""


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


def softplus(x):
    return math.log(1 + math.exp(x))


def test_simpo_loss_by_hand():
    # pair 1: mean log-probs -6/3 = -2 and -8/2 = -4: 1.5 * (-2 + 4) - 1 = 2, loss = ln(1 + e^-2)
    # pair 2: mean log-probs -4/1 = -4 and -9/3 = -3: 1.5 * (-4 + 3) - 1 = -2.5, loss = ln(1 + e^2.5)
    loss = simpo.simpo_loss(
        torch.tensor([-6.0, -4.0]), torch.tensor([-8.0, -9.0]), torch.tensor([3, 1]), torch.tensor([2, 3]), beta=1.5, gamma=1
    )
    assert loss.tolist() == pytest.approx([softplus(-2), softplus(2.5)])


def test_simpo_counts_certain_tokens_too():
    # mean log-probs: chosen -2/2 = -1 (its second token is certain) and -3/3 = -1; rejected -3/1 = -3 and 0/3 = 0
    logps_RT = torch.tensor([[-2.0, 0, 0], [-1, -1, -1], [-3, 0, 0], [0, 0, 0]])
    loss_B, metrics = simpo.Algorithm(simpo.Algorithm.Settings(beta=2, gamma=0.5)).loss({"answer_mask_RT": MASK_RT}, logps_RT)
    # margins: 2 * (-1 + 3) = 4 and 2 * (-1 - 0) = -2; losses ln(1 + e^-(4 - 0.5)) and ln(1 + e^(2 + 0.5))
    assert metrics["reward_margin"].tolist() == pytest.approx([4, -2])
    assert metrics["reward_accuracy"].tolist() == [1, 0]
    assert loss_B.tolist() == pytest.approx([softplus(-3.5), softplus(2.5)])


def test_ipo_loss_by_hand():
    # distance aimed at: 1 / (2 * 0.25) = 2. Pair 1 has 1 + 0.5 = 1.5, loss 0.5^2; pair 2 has -1 - 2 = -3, loss 5^2
    assert ipo.ipo_loss(torch.tensor([1.0, -1.0]), torch.tensor([-0.5, 2.0]), beta=0.25).tolist() == pytest.approx([0.25, 25])


def test_ipo_measures_rises_per_token():
    logps_RT = torch.tensor([[-1.0, -1, 0], [-1, -2, -3], [-5, 0, 0], [-1, -1, -1]])
    reference = {"reference_chosen_B": torch.tensor([-4.0, -3.0]), "reference_rejected_B": torch.tensor([-2.0, -9.0])}
    loss_B, metrics = ipo.Algorithm(ipo.Algorithm.Settings(beta=0.25)).loss({"answer_mask_RT": MASK_RT} | reference, logps_RT)
    # pair 1: (-2 + 4) / 2 - (-5 + 2) / 1 = 1 + 3 = 4; pair 2: (-6 + 3) / 3 - (-3 + 9) / 3 = -1 - 2 = -3
    assert metrics["margin_per_token"].tolist() == pytest.approx([4, -3])
    assert metrics["reward_accuracy"].tolist() == [1, 0]
    assert loss_B.tolist() == pytest.approx([(4 - 2) ** 2, (-3 - 2) ** 2])


def test_orpo_loss_by_hand():
    # probabilities per token 1/2 and 1/4: odds 1 and 1/3, ratio 3, sigmoid(ln 3) = 3/4: loss = ln 2 + 0.1 * ln(4/3)
    # the other way round: ratio 1/3, sigmoid(-ln 3) = 1/4: loss = 2 ln 2 + 0.1 * ln 4
    half, quarter = -LN2, -2 * LN2
    loss = orpo.orpo_loss(torch.tensor([half, quarter]), torch.tensor([quarter, half]), odds_weight=0.1)
    assert loss.tolist() == pytest.approx([LN2 + 0.1 * math.log(4 / 3), 2 * LN2 + 0.1 * math.log(4)])


def test_orpo_takes_means_per_token():
    # chosen: (ln 1/2 + ln 1/2) / 2 and (0 + 0 + 3 ln 1/4) / 3; rejected: ln 1/4 and (ln 1/2) * 3 / 3
    logps_RT = -LN2 * torch.tensor([[1.0, 1, 0], [0, 0, 6], [2, 0, 0], [1, 1, 1]])
    loss_B, metrics = orpo.Algorithm(orpo.Algorithm.Settings(odds_weight=0.1)).loss({"answer_mask_RT": MASK_RT}, logps_RT)
    assert metrics["chosen_nll"].tolist() == pytest.approx([LN2, 2 * LN2])
    assert metrics["chosen_logps"].tolist() == pytest.approx([-2 * LN2, -6 * LN2])
    assert metrics["log_odds_ratio"].tolist() == pytest.approx([math.log(3), -math.log(3)])
    assert metrics["reward_accuracy"].tolist() == [1, 0]
    assert loss_B.tolist() == pytest.approx([LN2 + 0.1 * math.log(4 / 3), 2 * LN2 + 0.1 * math.log(4)])


def test_orpo_stays_finite_where_an_answer_is_certain():
    chosen_B, rejected_B = torch.zeros(1, requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    orpo.orpo_loss(chosen_B, rejected_B, odds_weight=1).sum().backward()
    assert chosen_B.grad.isfinite().all()
    assert rejected_B.grad.isfinite().all()


def test_kto_loss_by_hand():
    # z0 = 1, beta = 0.5. Pair 1: chosen rose by 3: sigmoid(0.5 * 2) = s(1); rejected fell by 1: sigmoid(0.5 * 2) = s(1)
    # pair 2: chosen fell by 1: s(-1); rejected rose by 2: s(-0.5). Weights 2 and 4; 1 - s(x) = s(-x); halved: 1 and 2
    def s(x):
        return 1 / (1 + math.exp(-x))

    loss = kto.kto_loss(torch.tensor([3.0, -1.0]), torch.tensor([-1.0, 2.0]), torch.tensor(1.0), 0.5, 2, 4)
    assert loss.tolist() == pytest.approx([1 * s(-1) + 2 * s(-1), 1 * s(1) + 2 * s(0.5)])


@pytest.mark.parametrize(("rise", "z0"), [(2.0, 2.0), (-3.0, 0.0)])
def test_kto_measures_rises_and_bounds_the_reference_point(rise, z0):
    logps_RT = torch.tensor([[-1.0, -1, 0], [-1, -2, -3], [-5, 0, 0], [-1, -1, -1]])
    reference = {"reference_chosen_B": torch.tensor([-4.0, -3.0]), "reference_rejected_B": torch.tensor([-2.0, -9.0])}
    algorithm = kto.Algorithm(kto.Algorithm.Settings(beta=0.5, desirable_weight=2, undesirable_weight=4))
    # rises: chosen -2 + 4 = 2 and -6 + 3 = -3; rejected -5 + 2 = -3 and -3 + 9 = 6; means per pair -0.5 and 1.5
    assert algorithm.kl_estimate(reference, logps_RT)["kl"].tolist() == [-0.5, 1.5]
    loss_B, metrics = algorithm.loss(reference | {"kl": torch.tensor(rise)}, logps_RT)
    expected = kto.kto_loss(torch.tensor([2.0, -3.0]), torch.tensor([-3.0, 6.0]), torch.tensor(z0), 0.5, 2, 4)
    assert loss_B.tolist() == pytest.approx(expected.tolist())
    assert metrics["reward_margin"].tolist() == pytest.approx([0.5 * 5, 0.5 * -9])
    assert metrics["reward_accuracy"].tolist() == [1, 0]
    assert metrics["kl"].tolist() == [rise, rise]
