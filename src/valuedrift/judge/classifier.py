"""Sequence classifiers: loading one, and the logits of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..models import loading

LONGEST = 512
"""Tokens of a row if the model sets no limit. Classifiers are trained on no more."""


def load(path: str, dtype: str) -> tuple[Any, Any, int]:
    """Return (sequence classifier in eval mode, tokenizer, maximum number of tokens). Raises BadInput if something is missing."""
    import torch

    device = str(torch.accelerator.current_accelerator() or "cpu")
    tokenizer, model = loading.load_tokenizer(path), loading.load_classifier(path, dtype)
    if tokenizer.pad_token is None:  # decoder models: padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    named = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else LONGEST  # transformers writes 10**30 for "unknown"
    return model.to(device), tokenizer, min(named, getattr(model.config, "max_position_embeddings", None) or named)


def logits(model: Any, tokenizer: Any, rows: Sequence[dict[str, list[int]]], batch_size: int) -> list[Any]:
    """Return the logits of each row of token ids, on the CPU in float32. Rows of similar length share a batch, which saves padding."""
    import torch

    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))
    found: list[Any] = [None] * len(rows)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch = tokenizer.pad([rows[index] for index in part], return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits_BL = model(**batch).logits.float().cpu()
        for index, logits_L in zip(part, logits_BL, strict=True):
            found[index] = logits_L
    return found
