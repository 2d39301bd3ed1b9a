"""Kahneman-Tversky optimisation, from pairs: the chosen answer is desirable, the rejected one undesirable."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from .. import plan
from . import Batch
from .logprobs import PairsAgainstReference, pair_metrics, pair_rises


def kto_loss(chosen_B: Tensor, rejected_B: Tensor, z0: Tensor, beta: float, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """Return per pair the mean over its two answers of weight - value (Ethayarajh et al. 2024, eq. 7).

    value = desirable_weight * sigmoid(beta * (chosen - z0)) and undesirable_weight * sigmoid(beta * (z0 - rejected)). The first two
    arguments are the rise of a whole answer's log-prob above the starting weights'. `z0`, the reference point, has no gradient.
    """
    desirable_B = desirable_weight * (1 - torch.sigmoid(beta * (chosen_B - z0)))
    undesirable_B = undesirable_weight * (1 - torch.sigmoid(beta * (z0 - rejected_B)))
    return (desirable_B + undesirable_B) / 2


class Algorithm(PairsAgainstReference):
    """Raise each desirable answer above a reference point and lower each undesirable one below it.

    The reference point z0 estimates the KL of the weights from the starting ones: the mean rise of the log-probs of mismatched answers over
    the whole optimiser step, and at least 0. TRL takes the mean over one forward pass, so that its z0 depends on how a step is split into
    passes; ours does not.
    """

    needs = frozenset({"reference", "kl_batch"})

    class Settings(plan.Settings):
        """The settings of KTO."""

        beta: Annotated[float, Field(gt=0)] = 0.1
        """Strength of the pull towards the starting weights."""
        desirable_weight: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the chosen answers."""
        undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the rejected answers."""

    def kl_estimate(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return the rise of mismatched answers' log-probs above the starting weights', the mean of both answers of a pair."""
        chosen_B, rejected_B = pair_rises(batch, logps_RT)
        return {"kl": (chosen_B + rejected_B) / 2}

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both log-probs, the reward margin, how often its sign is right, and z0 before the bound at 0."""
        settings, z0 = self.settings, batch["kl"].clamp(min=0)
        chosen_rise_B, rejected_rise_B = pair_rises(batch, logps_RT)
        loss_B = kto_loss(chosen_rise_B, rejected_rise_B, z0, settings.beta, settings.desirable_weight, settings.undesirable_weight)
        margin_B = settings.beta * (chosen_rise_B - rejected_rise_B)
        return loss_B, pair_metrics(logps_RT, margin_B) | {"kl": batch["kl"].expand(len(loss_B))}
