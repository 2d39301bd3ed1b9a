"""Run a model on rows of different lengths: our own cache of keys and values, and the attention that reads it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "valuedrift"
"""The name of our attention among those of transformers."""
ROOM = 64
"""Number of positions by which the slots grow. An answer has more; a step needs one."""


class _Slots(DynamicLayer):
    """Keys and values of one layer: a slot per row, a column per position. Columns after a row's last token are masked."""

    keys: Any
    values: Any

    def __init__(self, packed: PackedModel, window: int | None):
        super().__init__()
        self.packed, self.window = packed, window

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of a pass, shape (B, H, T, D), into their slots; return the keys and values to attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                states.new_empty(self.packed.slots, states.shape[1], 0, states.shape[3]) for states in (key_states, value_states)
            )
        if (missing := self.packed.longest - self.keys.shape[2]) > 0:  # padded with zeros, because masked values must be finite
            self.keys, self.values = (F.pad(slots, (0, 0, 0, missing + ROOM)) for slots in (self.keys, self.values))
        keys = self.packed.written(self.keys, key_states)
        keys.layer = self  # type: ignore[attr-defined]  # models pass the keys unchanged to the attention
        return keys, self.packed.written(self.values, value_states)

    def move(self, source: list[int], target: list[int], longest: int) -> None:
        """Copy the first columns of some slots into others."""
        if self.is_initialized:  # a layer that reads another layer's keys holds none
            for slots in (self.keys, self.values):
                slots[target, :, :longest] = slots[source, :, :longest]


class PackedModel:
    """Runs a model on rows of different lengths: prompts are padded on the right, and each row steps at its own position."""

    def __init__(self, model: Any, slots: int):
        self.model, self.slots, self.longest = model, slots, 0
        accepted = inspect.signature(model.forward).parameters
        self.keeps_logits = "logits_to_keep" in accepted
        self.cache_name = cache_name(accepted)
        layers = DynamicCache(config=model.config).layers
        self.layers = [_Slots(self, getattr(layer, "sliding_window", None)) for layer in layers]
        self.cache = Cache(layers=list(self.layers))

    def prefill(self, prompts: Sequence[Sequence[int]], first: int, source: Sequence[int]) -> None:
        """Read prompts; slot `first + i` gets the keys and values of prompt `source[i]`."""
        if not (width := max(map(len, prompts))):
            return
        ids_BT = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in prompts], device=self.model.device)
        source_R = torch.tensor(source, device=self.model.device)

        def written(slots: Tensor, states_BHTD: Tensor) -> Tensor:
            slots[first : first + len(source), :, :width] = states_BHTD[source_R]
            return states_BHTD

        # Not even the last logits: for a batch of prompts, torch would copy the output layer's weights once per prompt
        none = torch.tensor([], dtype=torch.long, device=self.model.device)
        self._forward(ids_BT, torch.arange(width, device=self.model.device)[None], width, written, none)

    def step(self, ids_R: Tensor, position_R: Tensor, longest: int) -> Tensor:
        """Read one token per row, in the first slots; return the logits after it, shape (R, V). `longest` is the greatest position + 1."""
        slot_R = torch.arange(len(ids_R), device=ids_R.device)

        def written(slots: Tensor, states_RH1D: Tensor) -> Tensor:
            slots[slot_R, :, position_R] = states_RH1D[:, :, 0]
            return slots[: len(slot_R), :, :longest]

        return self._forward(ids_R[:, None], position_R[:, None], longest, written, 1)[:, -1]

    def _forward(
        self, ids_BT: Tensor, position_BT: Tensor, longest: int, written: Callable[[Tensor, Tensor], Tensor], keep: Tensor | int
    ) -> Tensor:
        self.longest, self.written, self.position_BT = longest, written, position_BT
        self.masks: dict[tuple[int | None, int], Tensor] = {}
        reads: dict[str, Any] = {"input_ids": ids_BT, "position_ids": position_BT.expand_as(ids_BT), self.cache_name: self.cache}
        if self.keeps_logits:
            reads["logits_to_keep"] = keep
        return self.model(**reads, use_cache=True).logits

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """Return the mask to add to attention scores (0 or -inf), shape (B or 1, 1, groups * T, L)."""
        if (window, groups) not in self.masks:
            behind_BTL = self.position_BT[..., None] - torch.arange(self.longest, device=self.position_BT.device)
            hidden_BTL = (behind_BTL < 0) if window is None else (behind_BTL < 0) | (behind_BTL >= window)
            mask_BTL = torch.zeros(hidden_BTL.shape, dtype=dtype, device=hidden_BTL.device).masked_fill_(hidden_BTL, -torch.inf)
            self.masks[window, groups] = mask_BTL[:, None].repeat(1, 1, groups, 1)
        return self.masks[window, groups]

    def move(self, source: list[int], target: list[int], longest: int) -> None:
        """Copy the first columns of some slots into others."""
        for layer in self.layers if source else []:
            layer.move(source, target, longest)


def _attend(
    module: Any, query: Tensor, key: Any, value: Tensor, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend from each token to itself and the earlier tokens of its row, within the layer's window."""
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError("its attention has soft caps or sinks")
    groups = query.shape[1] // key.shape[1]
    mask = key.layer.packed.mask(key.layer.window, groups, query.dtype)
    # Heads that share keys become positions of one query, so that no key is repeated
    grouped_BKTD = query.unflatten(1, (-1, groups)).flatten(2, 3)
    out_BKTD = F.scaled_dot_product_attention(grouped_BKTD, key, value, attn_mask=mask, scale=scaling)
    return out_BKTD.unflatten(2, (groups, -1)).flatten(1, 2).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)


def cache_name(accepted: Collection[str]) -> str:
    """Return the name of the cache argument among those a model accepts; transformers 5.24 changed it."""
    return "cache" if "cache" in accepted else "past_key_values"


@contextlib.contextmanager
def driving(model: Any) -> Iterator[None]:
    """Replace a model's attention by ours.

    cuDNN's attention is off, because it plans again for every shape, and nearly every pass has a new one. On an H200 this took 1.7 ms a
    call, more than half of a pass.
    """
    before, planned = model.config._attn_implementation, torch.backends.cuda.cudnn_sdp_enabled()
    model.set_attn_implementation(ATTENTION)
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(planned)
        model.set_attn_implementation(before)


def why_not(model: Any) -> str:
    """Return the reason why an architecture needs `generate`, or "". The test compares steps with one pass on two short texts."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if kinds:
        return f"its layers keep a state that answers cannot share ({', '.join(sorted(kind.__name__ for kind in kinds))})"
    size, device = model.get_input_embeddings().weight.shape[0], model.device
    texts = [[(7 * row + 3 * place + row * place) % size for place in range(5 + 4 * row)] for row in range(2)]
    try:
        with torch.inference_mode():
            theirs_RV = torch.stack([model(input_ids=torch.tensor([text], device=device)).logits[0, -1] for text in texts])
            with driving(model):
                packed = PackedModel(model, 2)
                packed.prefill([text[:-2] for text in texts], 0, [0, 1])
                for place in (-2, -1):
                    ids_R = torch.tensor([text[place] for text in texts], device=device)
                    position_R = torch.tensor([len(text) + place for text in texts], device=device)
                    ours_RV = packed.step(ids_R, position_R, len(texts[1]) + place + 1)
    except Exception as error:  # a model's own code may raise anything
        return f"it cannot read several answers side by side ({type(error).__name__}: {error})".replace("\n", " ")
    differ, near = (ours_RV.float() - theirs_RV.float()).abs().max().item(), 1e-3 if model.dtype == torch.float32 else 0.05
    if not differ <= near * (1 + theirs_RV.abs().max().item()):
        return f"answers side by side disturb each other (logits differ by {differ:.2g})"
    return ""
