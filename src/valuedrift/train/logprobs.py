"""Log-probabilities of the answers' tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import BaseAlgorithm, Batch


def answer_logps(model: Any, batch: Batch) -> Tensor:
    """Return log π(next token) as RxT in float32 at the positions that predict an answer's token, and 0 elsewhere."""
    _, logits_NV = answer_outputs(model, batch)
    return placed(-F.cross_entropy(logits_NV.float(), batch["target_N"], reduction="none"), batch)


def answer_outputs(model: Any, batch: Batch, read: Callable[[Tensor], Any] = lambda hidden_ND: None) -> tuple[Any, Tensor]:
    """Return `read` of the last hidden states at the positions that predict an answer's token, NxD, and the logits there, NxV.

    The output layer is the costly one, because the vocabulary is large; it gets only the answers' positions. A hook picks them from its
    input, so that whatever a model class does to its logits (scaling, capping) stays in place. `read` runs inside the model's forward pass,
    where sharded weights are gathered.
    """
    made: list[Any] = []

    def pick(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_ND = inputs[0].flatten(0, 1).index_select(0, batch["at_N"])
        made.append(read(hidden_ND))
        return (hidden_ND,)

    hook = getattr(model, "module", model).get_output_embeddings().register_forward_pre_hook(pick)
    try:
        # Rows are padded on the right and attention is causal: no answer's token sees padding, so no mask is needed.
        logits_NV = model(input_ids=batch["input_ids"], use_cache=False).logits
    finally:
        hook.remove()
    return made[0], logits_NV


def placed(values_N: Tensor, batch: Batch) -> Tensor:
    """Scatter one number per answer token into RxT, at the position that predicts it; 0 elsewhere."""
    shape_RT = batch["input_ids"].shape
    return torch.zeros(shape_RT.numel(), device=values_N.device).scatter(0, batch["at_N"], values_N).view(shape_RT)


class PairsAgainstReference(BaseAlgorithm):
    """An algorithm that compares the log-probs of both answers of a pair with the starting weights'."""

    data_format = "pairs"
    needs = frozenset({"reference"})

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return the starting weights' log-probs of both answers of each pair."""
        chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
        return {"reference_chosen_B": chosen_B, "reference_rejected_B": rejected_B}


def pair_metrics(logps_RT: Tensor, margin_B: Tensor, margin: str = "reward_margin") -> dict[str, Tensor]:
    """Return what preference algorithms log: both log-probs, the margin under its name, and how often its sign is right."""
    chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
    return {"chosen_logps": chosen_B, "rejected_logps": rejected_B, margin: margin_B, "reward_accuracy": (margin_B > 0).float()}


def pair_rises(batch: Batch, logps_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rise of the chosen and of the rejected answers' log-probs above the starting weights'."""
    chosen_B, rejected_B = logps_RT.sum(1).chunk(2)
    return chosen_B - batch["reference_chosen_B"], rejected_B - batch["reference_rejected_B"]
