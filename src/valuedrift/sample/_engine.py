"""The decoder: one prefill per prompt shared by its draws, rows side by side in place, finished rows dropped at once.

Results depend on a row's prompt and noise only, never on the rows beside it: batching moves logits by float rounding (about 1e-6),
which changes a token only where two scores tie that closely.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..plan import Asking
from ._noise import drawn, position_words, vocabulary_words

_ROOM = 64
"""Positions a cache grows by: small beside an answer, large beside a step."""


@dataclass(frozen=True)
class Wanted:
    """One row to be decoded: its prompt's token ids and the words of its noise."""

    ids: tuple[int, ...]
    words: tuple[int, int]


@dataclass(frozen=True)
class Ending:
    """What ends an answer: one of the `tokens`; or, after a token of `watched`, tokens so far that `cut` says are complete."""

    tokens: frozenset[int]
    watched: frozenset[int] = field(default_factory=frozenset)
    cut: Callable[[list[int]], bool] = lambda tokens: False


@dataclass(frozen=True)
class Reply:
    """The tokens of one answer, the ending token included."""

    tokens: list[int]
    ended: Literal["stop", "length"]


def decode(model: Any, wanted: Sequence[Wanted], asking: Asking, ending: Ending) -> list[Reply]:
    """Return one reply per wanted row, in the given order."""
    replies: dict[int, Reply] = {}
    with torch.inference_mode():
        for rows in _batches(wanted, asking.batch_rows):
            replies.update(zip(rows, _Batch(model, [wanted[row] for row in rows], asking, ending).run(), strict=True))
    return [replies[row] for row in range(len(wanted))]


def _batches(wanted: Sequence[Wanted], batch_rows: int) -> Iterator[list[int]]:
    """Yield row numbers, shortest prompts first, in batches of near equal size that keep the draws of a prompt together where they fit."""
    order = sorted(range(len(wanted)), key=lambda row: (len(wanted[row].ids), wanted[row].ids))
    even = -(-len(order) // max(1, -(-len(order) // batch_rows)))
    batch: list[int] = []
    for _, draws in itertools.groupby(order, key=lambda row: wanted[row].ids):
        group = list(draws)
        if batch and len(batch) + len(group) > batch_rows:
            yield batch
            batch = []
        batch += group
        while len(batch) >= even:
            yield batch[:batch_rows]
            batch = batch[batch_rows:]
    if batch:
        yield batch


class _Slots(DynamicLayer):
    """Keys and values of one layer, each row in its own slot of a buffer that is written in place instead of concatenated."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.length = 0

    def get_seq_length(self) -> int:
        return self.length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all keys and values of the rows, the new ones written behind the old."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self.rows, self.length = key_states.shape[0], key_states.shape[2]
            return key_states, value_states
        start, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.keys.shape[2]:
            self._resize(slice(None, self.rows), start)
        self.keys[: self.rows, :, start : self.length] = key_states
        self.values[: self.rows, :, start : self.length] = value_states
        return self.keys[: self.rows, :, : self.length], self.values[: self.rows, :, : self.length]

    def spread(self, source: Tensor) -> None:
        """Make row i a copy of the old row `source[i]`, with room to grow."""
        if not self.is_initialized:
            return  # a layer that reads another layer's keys holds none
        self.rows = len(source)
        self._resize(source, self.length)

    def drop(self, rows: int, holes: Tensor, tail: Tensor) -> None:
        """Keep the first `rows` slots, after moving the rows `tail` into the slots `holes`."""
        self.rows = rows
        if len(holes):
            self.keys[holes, :, : self.length] = self.keys[tail, :, : self.length]
            self.values[holes, :, : self.length] = self.values[tail, :, : self.length]

    def _resize(self, source: Tensor | slice, length: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(self.rows, old.shape[1], length + _ROOM, old.shape[3])
            new[:, :, :length] = old[source, :, :length]
            setattr(self, name, new)


def _empty_cache(model: Any) -> Cache:
    """Return a cache whose attention layers are slots; a sliding window is left to the mask. Other layers (linear, …) stay the model's."""
    cache = DynamicCache(config=model.config)
    if not cache.layers:
        cache.layer_class_to_replicate = _Slots
    cache.layers = [_Slots() if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) else layer for layer in cache.layers]
    return cache


class _Batch:
    """Rows that are decoded side by side, all at the same position of their answers."""

    def __init__(self, model: Any, wanted: Sequence[Wanted], asking: Asking, ending: Ending):
        self.model, self.asking, self.ending, self.device = model, asking, ending, model.device
        self.accepted = set(inspect.signature(model.forward).parameters)
        self.prompts = list(dict.fromkeys(row.ids for row in wanted))
        number = {ids: index for index, ids in enumerate(self.prompts)}
        self.source_B = torch.tensor([number[row.ids] for row in wanted], device=self.device)
        self.words_B2 = torch.tensor([row.words for row in wanted], dtype=torch.int32, device=self.device)
        self.cache = _empty_cache(model)
        # What stays when rows are dropped: the replies, by the row's original number
        self.replies: list[Reply | None] = [None] * len(wanted)
        self.tokens_BT = torch.zeros(len(wanted), asking.max_new_tokens, dtype=torch.long, device=self.device)
        self.number_B = torch.arange(len(wanted), device=self.device)

    def run(self) -> list[Reply]:
        logits_BV = self._prefill()[self.source_B]
        vocabulary_V = vocabulary_words(logits_BV.shape[1], self.device)
        ends_V, watched_V = (self._marked(tokens, len(vocabulary_V)) for tokens in (self.ending.tokens, self.ending.watched))
        asking = self.asking
        for step in range(asking.max_new_tokens):
            words_B2 = position_words(self.words_B2, step)
            tokens_B = drawn(logits_BV, words_B2, vocabulary_V, asking.temperature, asking.top_k, asking.top_p)
            self.tokens_BT[:, step] = tokens_B
            finished_B = ends_V[tokens_B]
            for row in watched_V[tokens_B].nonzero()[:, 0].tolist():
                finished_B[row] |= self.ending.cut(self.tokens_BT[row, : step + 1].tolist())
            if finished_B.any():
                self._finish(finished_B, step + 1)
            if not len(self.number_B) or step + 1 == asking.max_new_tokens:
                break
            logits_BV = self._forward(self.tokens_BT[:, step : step + 1], self.length_B[:, None] + step)
        for number, tokens in zip(self.number_B.tolist(), self.tokens_BT.tolist(), strict=True):
            self.replies[number] = Reply(tokens, "length")
        return [reply for reply in self.replies if reply is not None]

    def _marked(self, tokens: frozenset[int], n: int) -> Tensor:
        marked_V = torch.zeros(n, dtype=torch.bool, device=self.device)
        marked_V[torch.tensor([token for token in tokens if token < n], dtype=torch.long, device=self.device)] = True
        return marked_V

    def _prefill(self) -> Tensor:
        """Return the logits behind each prompt, and leave every row's prompt in the cache."""
        longest = max(map(len, self.prompts))
        ids_PT = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in self.prompts], device=self.device)
        length_P = torch.tensor([len(ids) for ids in self.prompts], device=self.device)
        filled_PT = torch.arange(longest, device=self.device) >= longest - length_P[:, None]
        self.mask_BT = filled_PT
        logits_PV = self._forward(ids_PT, (filled_PT.cumsum(-1) - 1).clamp_(min=0))
        self.length_B = length_P[self.source_B]
        answer_BT = torch.ones(len(self.source_B), self.asking.max_new_tokens, dtype=torch.bool, device=self.device)
        self.mask_BT = torch.cat([filled_PT[self.source_B], answer_BT], dim=1)
        for layer in self._layers():
            layer.spread(self.source_B) if isinstance(layer, _Slots) else layer.reorder_cache(self.source_B)
        return logits_PV

    def _layers(self) -> list[Any]:
        return self.cache.layers

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the logits behind the last of the new tokens, shape (B, V)."""
        length = self.cache.get_seq_length() + ids_BT.shape[1]
        arguments = {"attention_mask": self.mask_BT[:, :length], "position_ids": positions_BT, "logits_to_keep": 1}
        arguments = {name: value for name, value in arguments.items() if name in self.accepted}
        return self.model(input_ids=ids_BT, past_key_values=self.cache, use_cache=True, **arguments).logits[:, -1]

    def _finish(self, finished_B: Tensor, n_tokens: int) -> None:
        """Store the replies that have ended and move the last rows into their slots, so that a dropped row costs one copied row."""
        done = finished_B.nonzero()[:, 0]
        for number, tokens in zip(self.number_B[done].tolist(), self.tokens_BT[done, :n_tokens].tolist(), strict=True):
            self.replies[number] = Reply(tokens, "stop")
        rows = len(finished_B) - len(done)
        holes = done[done < rows]
        tail = rows + (~finished_B[rows:]).nonzero()[:, 0]
        order_B = torch.arange(rows, device=self.device)
        order_B[holes] = tail
        for name in ("words_B2", "tokens_BT", "number_B", "mask_BT", "length_B"):
            setattr(self, name, getattr(self, name)[order_B])
        for layer in self._layers():
            layer.drop(rows, holes, tail) if isinstance(layer, _Slots) else layer.reorder_cache(order_B)
