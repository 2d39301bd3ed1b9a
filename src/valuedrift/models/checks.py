"""Checks of a checkpoint before sampling: its prompts contain the questions, and its weights and logits are finite."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..nouns import BadInput, Checkpoint, Prompt, digest
from ..parts import read_once
from . import loading
from .adapters import is_adapter
from .chat_format import Format, PromptFormat, question
from .files import adapter_file, weight_files
from .gguf import is_gguf

PROBE = "Is this right?"


def folders(checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], format: Format) -> None:
    """Raise BadInput if a checkpoint cannot answer these prompts. Reads tokenizers and weights; loads a model only on suspicion."""
    seen: set[str] = set()
    for checkpoint in {one.model_key: one for one in checkpoints}.values():
        folder = loading.local_checkpoint(checkpoint.path)
        base = loading.base_of(folder) if is_adapter(folder) else folder
        written_by = digest(loading.tokenizer_parts(folder) or loading.tokenizer_parts(base), checkpoint.prompt_format)
        if written_by not in seen:
            carries(PromptFormat(loading.load_tokenizer(folder), format, checkpoint.path), [prompt.text for prompt in prompts])
            seen.add(written_by)
        if name := _not_finite({folder, base}):
            model, tokenizer = loading.load_model(checkpoint.path, dtype=checkpoint.dtype)
            logits(model, PromptFormat(tokenizer, format, checkpoint.path), name)


def carries(prompt_format: PromptFormat, texts: Sequence[str]) -> None:
    """Raise BadInput if the template omits words of a question or writes it differently each time."""
    name, conversations = prompt_format.name, [question(text) for text in texts]
    written = prompt_format.texts(conversations, ask=True)
    if prompt_format.texts(conversations, ask=True) != written:
        raise BadInput(f"the chat template of {name} writes the same question differently each time; remove the chance from the template")
    for text, prompt in zip(texts, written, strict=True):
        if "".join(text.split()) not in "".join(prompt.split()):
            raise BadInput(
                f"the chat template of {name} leaves out words of the question {text!r} and writes {prompt!r}; "
                "correct the template, or set prompt_format to 'plain' to do without it"
            )


def fits(model: Any, prompt_format: PromptFormat, ids: Mapping[str, Sequence[int]]) -> None:
    """Raise BadInput if a question's tokens are unknown, have no embedding, or leave no room for an answer."""
    rows, context = model.get_input_embeddings().weight.shape[0], loading.context_of(model)
    name, tokenizer = prompt_format.name, prompt_format.tokenizer
    for text, tokens in ids.items():
        if (highest := max(tokens)) >= rows:
            raise BadInput(
                f"{name}: the question {text!r} holds the token {tokenizer.convert_ids_to_tokens(highest)!r}, number {highest}, and the "
                f"model has {rows:,} embeddings; give it the tokenizer it was trained with, or resize its embeddings and save it again"
            )
        if context is not None and len(tokens) >= context:
            raise BadInput(
                f"{name} reads {context:,} tokens, and the question {text!r} takes {len(tokens):,}, which leaves no room for an answer; "
                "leave the question out of the suite, or ask a model with a longer context"
            )
        if tokenizer.unk_token_id is not None and 2 * list(tokens).count(tokenizer.unk_token_id) > len(tokens):
            raise BadInput(f"{name}: its tokenizer does not know most of the question {text!r}; give it the tokenizer it was trained with")


def logits(model: Any, prompt_format: PromptFormat, suspect: str = "") -> None:
    """Raise BadInput if the logits of a short question are not finite. `suspect` is a weight that is not finite."""
    import torch

    ids = torch.tensor(prompt_format.prompts([question(PROBE)]), device=model.device)
    rows = model.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        if torch.isfinite(model(input_ids=ids.clamp(max=rows - 1)).logits).all():
            return
        suspect = suspect or next((name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()), "")
    what = f"its weight {suspect} is not finite" if suspect else f"its weights are finite, so {model.dtype} cannot hold what they compute"
    raise BadInput(f"{prompt_format.name} gives logits that are not numbers: {what}; leave this checkpoint out, or copy or save it again")


def _not_finite(folders: set[Path]) -> str:
    """Return the name of the first weight that is not finite, or ""."""
    for file in itertools.chain.from_iterable(map(_weight_files, sorted(folders))):
        if name := _not_finite_in(file):
            return name
    return ""


def _weight_files(folder: Path) -> list[Path]:
    if is_gguf(folder):  # quantised weights are checked once they are dequantised, by their logits
        return []
    return [adapter_file(folder)] if is_adapter(folder) else weight_files(folder)


@read_once  # every adapter of a run has the same base
def _not_finite_in(path: Path) -> str:
    import torch
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return next((name for name, values in tensors.items() if not _finite(values)), "")
    with safe_open(path, framework="pt") as file:
        return next((name for name in file.keys() if not _finite(file.get_tensor(name))), "")  # noqa: SIM118


def _finite(values: Any) -> bool:
    """Return whether a weight is finite. One-byte types and integers count as finite."""
    import torch

    if not torch.is_tensor(values) or not values.is_floating_point() or values.element_size() < 2 or not values.numel():
        return True
    return all(math.isfinite(value) for value in torch.aminmax(values))  # ten times as fast as torch.isfinite, and propagates NaN
