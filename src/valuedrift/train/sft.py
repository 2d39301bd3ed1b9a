"""Supervised fine-tuning (and pretraining, where an example has no prompt)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import plan
from . import Averages, Batch, Eats


def sft_loss(logps_N: Tensor) -> Tensor:
    """Return -log π(token | what stands before it), one number per answer token; the prompt's tokens are not learnt."""
    return -logps_N


class Algorithm:
    """Make the answers likely."""

    eats: ClassVar[Eats] = "examples"
    needs: ClassVar[frozenset[str]] = frozenset()
    averages: ClassVar[Averages] = "tokens"

    class Settings(plan.Settings):
        """SFT has no settings of its own."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return nothing: SFT has no reference."""
        return {}

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per answer token, flat, in the order of rows."""
        return sft_loss(logps_RT[batch["answer_mask_RT"]]), {}
