"""Log-probs of a few short continuations of many prompts with a common beginning, which is computed once.

Results depend only on a prompt and the continuations. Batching changes them by float rounding (about 1e-6 in float32).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..models.packed import cache_name

Ids = tuple[int, ...]


def log_probs(model: Any, prompts: Sequence[Ids], continuations: Sequence[Ids], batch_rows: int) -> Tensor:
    """Return log P(continuation | prompt), shape (prompts, continuations) float64: the sum of the log-probs of its tokens.

    The common beginning is computed once. Recurrent models, which have no cache of keys and values, read whole prompts, because their
    state cannot be continued by several tokens.
    """
    logps_NC = torch.empty(len(prompts), len(continuations), dtype=torch.float64)
    forward = _Forward(model)
    with torch.inference_mode():
        shared = _shared(prompts) if prompts and forward.keeps_keys_and_values else 0
        beginning = forward.beginning(prompts[0][:shared]) if shared else DynamicCache()
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
        for start in range(0, len(order), batch_rows):
            rows = order[start : start + batch_rows]
            ends = [prompts[row][shared:] for row in rows]
            if forward.keeps_keys_and_values:
                logps_NC[rows] = forward.behind(beginning, ends, continuations)
            else:
                logps_NC[rows] = forward.whole(ends, continuations)
    return logps_NC


def log_probs_of_engine(engine: Any, prompts: Sequence[Ids], continuations: Sequence[Ids]) -> list[list[float]]:
    """Return the result of `log_probs` from a vLLM engine, with one request per prompt and beginning of a continuation.

    The engine's prefix cache holds the prompt from the second request on.
    """
    from vllm import SamplingParams

    following: dict[Ids, set[int]] = {}
    for ids in continuations:
        for place, token in enumerate(ids):
            following.setdefault(ids[:place], set()).add(token)
    asked = [(prompt, beginning) for prompt in prompts for beginning in following]
    settings = [SamplingParams(max_tokens=1, logprob_token_ids=sorted(following[beginning])) for _, beginning in asked]
    found = engine.generate([{"prompt_token_ids": [*prompt, *beginning]} for prompt, beginning in asked], settings, use_tqdm=False)
    read = iter(found)
    rows = []
    for _ in prompts:
        behind = {beginning: next(read).outputs[0].logprobs[0] for beginning in following}
        rows.append([sum(behind[ids[:place]][token].logprob for place, token in enumerate(ids)) for ids in continuations])
    return rows


def _shared(prompts: Sequence[Ids]) -> int:
    """Return the length of the common beginning; each prompt keeps at least one token of its own."""
    first, last = min(prompts), max(prompts)  # in lexicographic order the first and the last have the least in common
    alike = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return min(alike, min(map(len, prompts)) - 1)


def _padded(rows: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return right-padded token ids and the lengths. Right, because attention windows count padding too."""
    length = max(map(len, rows))
    ids_BT = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in rows], device=device)
    return ids_BT, torch.tensor([len(ids) for ids in rows], device=device)


class _Forward:
    """Computes a model's log-probs at given positions only."""

    def __init__(self, model: Any):
        self.model, self.device = model, model.device
        self.accepted = set(inspect.signature(model.forward).parameters)
        self.cache_name = cache_name(self.accepted)
        layers = _layers(DynamicCache(config=model.config)) if self.cache_name in self.accepted else [None]
        self.keeps_keys_and_values = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)

    def beginning(self, ids: Ids) -> DynamicCache:
        """Return the keys and values of the common beginning. All are kept; the mask applies attention windows."""
        cache = DynamicCache()
        ids_1T = torch.tensor([ids], device=self.device)
        self._logps(ids_1T, torch.ones_like(ids_1T), torch.zeros_like(ids_1T[:, :1]), cache)
        return cache

    def behind(self, beginning: DynamicCache, ends: Sequence[Ids], continuations: Sequence[Ids]) -> Tensor:
        """Return log P, shape (rows, continuations): one pass over the ends, then one per continuation of several tokens."""
        shared, rows = beginning.get_seq_length(), len(ends)
        cache = _expanded(beginning, rows)
        ids_BT, length_B = _padded(ends, self.device)
        filled_BT = torch.arange(shared + ids_BT.shape[1], device=self.device) < shared + length_B[:, None]
        first_BV = self._logps(ids_BT, filled_BT, length_B[:, None] - 1, cache)[:, 0]
        logps_BC = first_BV[:, [ids[0] for ids in continuations]].double()
        if all(len(ids) == 1 for ids in continuations):
            return logps_BC.cpu()
        filled_BT = _to_the_end(cache, filled_BT)
        for column, ids in enumerate(continuations):
            if len(ids) > 1:
                said_BT = torch.tensor([ids[:-1]] * rows, device=self.device)
                mask_BT = torch.cat([filled_BT, torch.ones_like(said_BT, dtype=torch.bool)], 1)
                logps_BTV = self._logps(said_BT, mask_BT, torch.arange(len(ids) - 1, device=self.device).expand(rows, -1), cache)
                logps_BC[:, column] += _of(logps_BTV, ids[1:])
                cache.crop(1 - len(ids))
        return logps_BC.cpu()

    def whole(self, prompts: Sequence[Ids], continuations: Sequence[Ids]) -> Tensor:
        """Return the same without a cache: one pass for all one-token continuations together, and one for each longer one."""
        logps_BC = torch.empty(len(prompts), len(continuations), dtype=torch.float64)
        for said in sorted({ids[:-1] for ids in continuations}):
            ids_BT, length_B = _padded([(*prompt, *said) for prompt in prompts], self.device)
            mask_BT = torch.arange(ids_BT.shape[1], device=self.device) < length_B[:, None]
            at_BT = length_B[:, None] + torch.arange(-len(said) - 1, 0, device=self.device)
            logps_BTV = self._logps(ids_BT, mask_BT, at_BT)
            for column, ids in enumerate(continuations):
                if ids[:-1] == said:
                    logps_BC[:, column] = _of(logps_BTV, ids).cpu()
        return logps_BC

    def _logps(self, ids_BT: Tensor, mask_BT: Tensor, at_BK: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Return the next-token log-probs after the new tokens with index `at_BK`, shape (rows, K, vocabulary) float32."""
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp_(min=0)[:, -ids_BT.shape[1] :]
        arguments = {"attention_mask": mask_BT, "position_ids": positions_BT, self.cache_name: cache, "use_cache": cache is not None}
        arguments = {name: value for name, value in arguments.items() if name in self.accepted}
        rows_B1 = torch.arange(len(ids_BT), device=self.device)[:, None]
        head = self.model.get_output_embeddings()
        # Only these positions go through the output layer: for a large vocabulary it costs as much as the other layers
        hook = head.register_forward_pre_hook(lambda _, states: (states[0][rows_B1, at_BK], *states[1:]))
        try:
            return self.model(input_ids=ids_BT, **arguments).logits.float().log_softmax(-1)
        finally:
            hook.remove()


def _of(logps_BTV: Tensor, ids: Ids) -> Tensor:
    """Return the summed log-prob of one token per position, shape (rows,) float64."""
    return logps_BTV[:, range(len(ids)), ids].double().sum(-1)


def _layers(cache: DynamicCache) -> list[Any]:
    return cache.layers


def _expanded(beginning: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache with `beginning` in every row. Nothing is copied until a layer is written to."""
    cache = DynamicCache()
    for layer in _layers(beginning):
        own = copy.copy(layer)
        if own.is_initialized:  # a layer that reads another layer's keys holds none
            own.keys, own.values = own.keys.expand(rows, -1, -1, -1), own.values.expand(rows, -1, -1, -1)
        cache.layers.append(own)
    return cache


def _to_the_end(cache: DynamicCache, filled_BT: Tensor) -> Tensor:
    """Shift each row's tokens to the right end, so that new tokens follow directly; return which positions are filled."""
    length = filled_BT.shape[1]
    padding_B = length - filled_BT.sum(-1)
    source_BT = (torch.arange(length, device=filled_BT.device) - padding_B[:, None]) % length
    for layer in _layers(cache):
        if layer.is_initialized:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                setattr(layer, name, old.gather(2, source_BT[:, None, :, None].expand_as(old)))
    return filled_BT.gather(1, source_BT)
