"""The base of judges that read with a sequence classifier (`nli`, `trained`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import judge
from ..models import loading, precision
from ..nouns import Item, Reading
from . import DIGITS, INVALID, rounded, wordless

LONGEST = 512
"""Tokens of a row if the model sets no limit. Classifiers are trained on no more."""


class Classifier(judge.Judge):
    """Reads an item as one or several rows of token ids. A judge overrides `rows` and `weights`."""

    def __init__(self, path: str, dtype: str, batch: int):
        self.path, self.dtype, self.batch = path, precision.dtype_of(path, dtype), batch
        self.models = (path,)
        self.loaded: Callable[[], tuple[Any, Any, int]] = functools.cache(functools.partial(load, path, self.dtype))
        """Returns what `load` returns. Copies of this judge in other wordings share it."""

    def rows(self, item: Item) -> list[dict[str, list[int]]]:
        """Return the token ids of an item's rows; none if the item leaves no room for an answer."""
        raise NotImplementedError

    def weights(self, logits_RL: Sequence[Any]) -> list[float]:
        """Return the weight of each outcome from the logits of an item's rows."""
        raise NotImplementedError

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. A wordless answer is invalid, without asking the model."""
        encoded = {item: self.rows(item) for item in dict.fromkeys(items) if not wordless(item.text)}
        rows = [row for rows in encoded.values() for row in rows]
        logits = iter(_logits(*self.loaded()[:2], rows, self.batch) if rows else ())
        read = {item: self._reading(item, [next(logits) for _ in rows]) for item, rows in encoded.items()}
        return [read.get(item) or Reading(item.key, self.identity, INVALID) for item in items]

    def _reading(self, item: Item, logits_RL: Sequence[Any]) -> Reading:
        if not logits_RL:
            reason = f"the claim leaves no room for an answer within the {self.loaded()[2]} tokens that the model reads"
            return Reading(item.key, self.identity, failure="unparsed", reason=reason)
        weights = self.weights(logits_RL)
        if not all(value == value for value in weights):  # not a number
            return Reading(item.key, self.identity, failure="unparsed", reason="the model's logits are not numbers")
        probs, missing = verdict(weights)
        return Reading(item.key, self.identity, probs, missing=missing)


def verdict(weights: Sequence[float]) -> tuple[tuple[float, float, float, float, float], float]:
    """Return weights as probabilities, and the unassigned mass max(0, 1 - sum of the weights), rounded to DIGITS."""
    return rounded(weights), round(max(0.0, 1 - sum(weights)), DIGITS)


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


def _logits(model: Any, tokenizer: Any, rows: Sequence[dict[str, list[int]]], batch_size: int) -> list[Any]:
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
