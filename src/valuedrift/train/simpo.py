"""Simple preference optimisation: length-normalised, without a reference model."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .. import plan
from . import BaseAlgorithm, Batch
from .logprobs import pair_metrics


def simpo_loss(chosen_B: Tensor, rejected_B: Tensor, n_chosen_B: Tensor, n_rejected_B: Tensor, beta: float, gamma: float) -> Tensor:
    """Return -log sigmoid(beta * chosen / n_chosen - beta * rejected / n_rejected - gamma) per pair (Meng et al. 2024, eq. 6).

    The first two arguments are the summed log-prob of a whole answer, its end token included. The next two are its number of tokens, from
    the answer mask: a token of probability one still counts.
    """
    return -F.logsigmoid(beta * (chosen_B / n_chosen_B - rejected_B / n_rejected_B) - gamma)


class Algorithm(BaseAlgorithm):
    """Make the chosen answer's mean log-prob per token higher than the rejected one's by a margin."""

    data_format = "pairs"

    class Settings(plan.Settings):
        """The defaults are those of the paper's Llama-3-Base runs."""

        beta: Annotated[float, Field(gt=0)] = 2.0
        """Scale of the reward, the mean log-prob per token."""
        gamma: Annotated[float, Field(ge=0)] = 1.0
        """Target margin between the two rewards, on the same scale: TRL's `simpo_gamma`, not gamma / beta."""

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both log-probs, the reward margin before gamma, and how often its sign is right."""
        chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
        n_chosen_B, n_rejected_B = batch["answer_mask_RT"].sum(1).chunk(2)
        loss_B = simpo_loss(chosen_B, rejected_B, n_chosen_B, n_rejected_B, self.settings.beta, self.settings.gamma)
        margin_B = self.settings.beta * (chosen_B / n_chosen_B - rejected_B / n_rejected_B)
        return loss_B, pair_metrics(logps_RT, margin_B)
