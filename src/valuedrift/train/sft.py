"""Supervised fine-tuning (and pretraining, where an example has no prompt)."""

from __future__ import annotations

from torch import Tensor

from . import BaseAlgorithm, Batch


def sft_loss(logps_N: Tensor) -> Tensor:
    """Return -log π(token | what stands before it), one number per answer token; the prompt's tokens are not learnt."""
    return -logps_N


class Algorithm(BaseAlgorithm):
    """Make the answers likely."""

    data_format = "examples"
    loss_reduction = "tokens"

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per answer token, flat, in the order of rows."""
        return sft_loss(logps_RT[batch["answer_mask_RT"]]), {}
