"""Supervised fine-tuning, or pretraining if examples have no prompt."""

from __future__ import annotations

from torch import Tensor

from . import BaseAlgorithm, Batch


def sft_loss(logps_N: Tensor) -> Tensor:
    """Return -log π(token | what stands before it), one number per answer token. The prompt's tokens have no loss."""
    return -logps_N


class Algorithm(BaseAlgorithm):
    """Make the answers likely."""

    data_format = "examples"
    loss_reduction = "tokens"

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per answer token, row after row."""
        return sft_loss(logps_RT[batch["answer_mask_RT"]]), {}
