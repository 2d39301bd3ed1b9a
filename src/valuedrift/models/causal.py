"""Checks of a loaded model: it reads from left to right, and its embedding holds the tokens of its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..nouns import BadInput
from .adapters import SAVE_ROWS, is_adapter


def check_rows(model: Any, tokenizer: Any, folder: Path) -> None:
    """Raise BadInput if a token that the model needs has no row in its embedding.

    A padding token needs no row. An added token of a whole model needs one only if the chat template names it, because the model cannot
    write it otherwise. An adapter's added tokens need rows, because they were trained.
    """
    n_rows = model.get_input_embeddings().weight.shape[0]
    outside = {token: index for token, index in tokenizer.get_vocab().items() if index >= n_rows}
    added, template = tokenizer.get_added_vocab(), str(tokenizer.chat_template or "")
    spared = {tokenizer.pad_token} if is_adapter(folder) else added.keys() | {tokenizer.pad_token}
    used = {tokenizer.bos_token, tokenizer.eos_token}
    lost = [token for token in outside if token not in spared or token in used or token in template]
    if lost:
        shown = ", ".join(f"{token!r} ({outside[token]})" for token in sorted(lost, key=outside.__getitem__)[:5])
        advice = f"if they were trained, {SAVE_ROWS}" if is_adapter(folder) else "take the tokenizer of these weights, or save them resized"
        raise BadInput(
            f"{folder}: {len(lost)} tokens of the tokenizer have no row in the embedding, which has {n_rows}: "
            f"{shown}{', …' if lost[5:] else ''}; {advice}"
        )


def check_left_to_right(model: Any, path: Path | str) -> None:
    """Raise BadInput if a token's logits depend on later tokens, as in an encoder."""
    import torch

    n_rows = model.get_input_embeddings().weight.shape[0]
    ids_BT = (torch.arange(8, device=model.device) * 7919 % n_rows).expand(2, 8).clone()
    ids_BT[1, -1] = (ids_BT[1, -1] + 1) % n_rows
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
    apart = (logits_BTV[0] - logits_BTV[1]).abs().max()
    if apart > 8 * torch.finfo(model.dtype).eps * logits_BTV.abs().max():  # a causal model differs by 0, up to rounding
        raise BadInput(
            f"{path} is not a causal language model: what it says of a token depends on the tokens after it, as in an encoder; "
            "give the folder of a model that writes text"
        )
