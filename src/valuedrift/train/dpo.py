"""Direct preference optimisation."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .. import plan
from . import Batch
from .logprobs import PairsAgainstReference, pair_metrics, pair_rises


def dpo_loss(chosen_B: Tensor, rejected_B: Tensor, reference_chosen_B: Tensor, reference_rejected_B: Tensor, beta: float) -> Tensor:
    """Return -log sigmoid(beta * [(chosen - reference) - (rejected - reference)]) per pair (Rafailov et al. 2023, eq. 7).

    Every argument is the summed log-prob of a whole answer, its end token included.
    """
    return -F.logsigmoid(beta * ((chosen_B - reference_chosen_B) - (rejected_B - reference_rejected_B)))


class Algorithm(PairsAgainstReference):
    """Make the chosen answer more likely than the rejected one, relative to the starting weights."""

    class Settings(plan.Settings):
        """The settings of DPO."""

        beta: Annotated[float, Field(gt=0)] = 0.1
        """Strength of the pull towards the starting weights."""

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both log-probs, the reward margin, and how often its sign is right."""
        chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
        chosen_rise_B, rejected_rise_B = pair_rises(batch, logps_RT)
        loss_B = dpo_loss(chosen_B, rejected_B, batch["reference_chosen_B"], batch["reference_rejected_B"], self.settings.beta)
        return loss_B, pair_metrics(logps_RT, self.settings.beta * (chosen_rise_B - rejected_rise_B))
