"""Odds ratio preference optimisation: fine-tuning on the chosen answer plus a preference term, without a reference model."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .. import plan
from . import BaseAlgorithm, Batch


def log_odds(logps_B: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of p = exp(logps); the result is finite even if p rounds to one."""
    logps_B = logps_B.clamp(max=-torch.finfo(logps_B.dtype).eps)
    return logps_B - torch.log(-torch.expm1(logps_B))


def orpo_loss(chosen_B: Tensor, rejected_B: Tensor, odds_weight: float) -> Tensor:
    """Return -chosen - odds_weight * log sigmoid(log odds(chosen) - log odds(rejected)) per pair (Hong et al. 2024, eq. 6 and 7).

    Both arguments are the mean log-prob per token of a whole answer, its end token included (eq. 3). The first term is fine-tuning on the
    chosen answer. Here, as in the equation, it covers the answer's tokens and is a mean over pairs. TRL's ORPOTrainer also learns the
    prompt's tokens and takes the mean over all tokens of the batch.
    """
    return -chosen_B - odds_weight * F.logsigmoid(log_odds(chosen_B) - log_odds(rejected_B))


class Algorithm(BaseAlgorithm):
    """Make the chosen answer likely, with higher odds than the rejected one."""

    data_format = "pairs"

    class Settings(plan.Settings):
        """The settings of ORPO."""

        odds_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the preference term beside fine-tuning on the chosen answer: the paper's lambda, TRL's `beta`."""

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both log-probs, the fine-tuning term, the log odds ratio, and how often its sign is right."""
        chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
        chosen_mean_B, rejected_mean_B = (logps_RT.sum(1) / batch["answer_mask_RT"].sum(1)).chunk(2)
        log_odds_ratio_B = log_odds(chosen_mean_B) - log_odds(rejected_mean_B)
        metrics = {
            "chosen_logps": chosen_B,
            "rejected_logps": rejected_B,
            "chosen_nll": -chosen_mean_B,
            "log_odds_ratio": log_odds_ratio_B,
            "reward_accuracy": (log_odds_ratio_B > 0).float(),
        }
        return orpo_loss(chosen_mean_B, rejected_mean_B, self.settings.odds_weight), metrics
