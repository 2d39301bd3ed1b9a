"""Identity preference optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from .. import plan
from . import Batch
from .logprobs import PairsAgainstReference, pair_metrics, pair_rises


def ipo_loss(chosen_B: Tensor, rejected_B: Tensor, beta: float) -> Tensor:
    """Return (chosen - rejected - 1 / (2 * beta))^2 per pair (Azar et al. 2023, eq. 17, where beta is called tau).

    The arguments are the rise of an answer's log-prob above the starting weights'. The paper's equation sums over the answer's tokens.
    Here, as in TRL, it is the mean per token, so that one beta suits answers of any length. According to TRL, the authors confirm that they
    computed their results so.
    """
    return (chosen_B - rejected_B - 1 / (2 * beta)) ** 2


class Algorithm(PairsAgainstReference):
    """Bring the chosen answer's log-prob per token a fixed distance above the rejected one's, relative to the starting weights."""

    class Settings(plan.Settings):
        """The settings of IPO."""

        beta: Annotated[float, Field(gt=0)] = 0.1
        """Strength of the pull towards the starting weights: the target distance is 1 / (2 beta) nats per token."""

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per pair. Logs both log-probs, the difference of their rises per token, and how often its sign is right."""
        n_chosen_B, n_rejected_B = batch["answer_mask_RT"].sum(1).chunk(2)
        chosen_rise_B, rejected_rise_B = pair_rises(batch, logps_RT)
        chosen_rise_B, rejected_rise_B = chosen_rise_B / n_chosen_B, rejected_rise_B / n_rejected_B
        metrics = pair_metrics(logps_RT, chosen_rise_B - rejected_rise_B, "margin_per_token")
        return ipo_loss(chosen_rise_B, rejected_rise_B, self.settings.beta), metrics
