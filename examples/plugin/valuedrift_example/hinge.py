"""A hinge on log-probs: the rank calibration loss of SLiC-HF."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from valuedrift import plan
from valuedrift.train import BaseAlgorithm, Batch


def hinge_loss(chosen_B: Tensor, rejected_B: Tensor, delta: float) -> Tensor:
    """Return max(0, delta - chosen + rejected) per pair (SLiC-HF, Zhao et al. 2023, without its regularisation term).

    Both arguments are summed log-probs of whole answers. There is no reference model.
    """
    return F.relu(delta - chosen_B + rejected_B)


class Algorithm(BaseAlgorithm):
    """Push the chosen answer's log-prob `delta` above the rejected one's, and no further."""

    data_format = "pairs"

    class Settings(plan.Settings):
        """`delta` is the margin in nats; a pair that reaches it has a loss of 0."""

        delta: Annotated[float, Field(gt=0)] = 10.0

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair, and log the share of pairs that have reached the margin."""
        chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
        loss_B = hinge_loss(chosen_B, rejected_B, self.settings.delta)
        return loss_B, {"margin_reached": (loss_B == 0).float()}
