"""A trained reward model: one score per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import loading, precision
from ..nouns import BadInput, Example
from . import Batch, collation, processes, starting


def scores(model: Any, batch: Batch) -> Tensor:
    """Return the model's score of each row, in float32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].float()


class RewardModel:
    """Scores answers to prompts with any model of one output that `AutoModelForSequenceClassification` loads.

    It reads text and uses its own chat template and tokenizer, which may differ from the policy's.
    """

    def __init__(self, path: str, device: Any, dtype: str = "auto"):
        self.path = path
        self.model = processes.broadcast_weights(_loaded(path, dtype).to(device).eval().requires_grad_(False))
        self.tokenizer = starting.load_tokenizer(path, chat=True)

    def scores(self, answers: Sequence[Example], batch_size: int) -> Tensor:
        """Return one score per answer, in order, on the CPU."""
        rows = collation.in_tokens(self.tokenizer, [(answer.prompt, answer.text) for answer in answers])
        config = self.model.config.get_text_config()
        if config.pad_token_id is None:
            config.pad_token_id = starting.padding(self.tokenizer, {int(row.ids[-1]) for row in rows})
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        scores_R = torch.zeros(len(rows))
        for start in range(0, len(rows), batch_size):
            part = by_length[start : start + batch_size]
            batch = collation.padded([rows[index] for index in part], config.pad_token_id)
            with torch.no_grad():
                scores_R[part] = scores(self.model, {name: values.to(self.model.device) for name, values in batch.items()}).cpu()
        return scores_R


def check(path: str) -> None:
    """Raise BadInput for a folder that `RewardModel` cannot use. Does not read weights."""
    _loaded(path, "float32", weights=False)
    starting.load_tokenizer(path, chat=True)


def _loaded(path: str, dtype: str, weights: bool = True) -> Any:
    """Return a reward model, with an adapter merged into its base. Raises BadInput for any other model."""
    try:
        folder = loading.local_folder(path)
    except BadInput as error:
        raise BadInput(f"the model {path} cannot be read: {error}") from error
    try:
        model = loading.load_classifier(folder, precision.dtype_of(folder, dtype), weights)
        what = "" if model.config.num_labels == 1 else f"has {model.config.num_labels} outputs"
    except loading.NoScore:
        what = "has no score layer"
    if what:
        raise BadInput(
            f"{path} is not a reward model: it {what}; give a model with one output, such as a stage with algorithm 'reward' trains"
        )
    return model
