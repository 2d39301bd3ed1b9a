"""Reward modelling: learn a scalar score per answer from preference pairs."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .. import plan
from . import BaseAlgorithm, Batch


def reward_loss(chosen_B: Tensor, rejected_B: Tensor, center_rewards_coefficient: float) -> Tensor:
    """Return -log sigmoid(chosen - rejected) + center_rewards_coefficient * (chosen + rejected)^2 per pair.

    The first term is the negative log-likelihood of the Bradley-Terry model (Stiennon et al. 2020, section 3.4), which leaves the scores'
    level open. The second keeps them around zero (Eisenstein et al. 2023, section 2; the setting has TRL's name).
    """
    return -F.logsigmoid(chosen_B - rejected_B) + center_rewards_coefficient * (chosen_B + rejected_B) ** 2


class Algorithm(BaseAlgorithm):
    """Score the chosen answer above the rejected one. The trained model gives scores and no answers."""

    data_format = "pairs"
    needs = frozenset({"score"})

    class Settings(plan.Settings):
        """The settings of a reward model."""

        center_rewards_coefficient: Annotated[float, Field(ge=0)] = 0.0
        """Weight of the squared sum of a pair's scores, which pulls the scores towards 0."""

    def loss(self, batch: Batch, scores_R: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both scores, their difference, and how often its sign is right."""
        chosen_B, rejected_B = scores_R.chunk(2)
        metrics = {
            "chosen_score": chosen_B,
            "rejected_score": rejected_B,
            "score_margin": chosen_B - rejected_B,
            "reward_accuracy": (chosen_B > rejected_B).float(),
        }
        return reward_loss(chosen_B, rejected_B, self.settings.center_rewards_coefficient), metrics
