"""Adapters: merge one into its base model, after resizing the base's embedding to the adapter's."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from ..nouns import BadInput
from .files import adapter_file, json_of, tensors_of

NO_TEXT = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM")
"""PEFT's task types of models other than causal language models."""
_COPIES = r"\.(modules_to_save|original_module|token_adapter)\."
"""Tensors of resized layers that PEFT saves a second time under these names and does not read again."""
SAVE_ROWS = "save the adapter with its embedding: save_embedding_layers=True in save_pretrained, or modules_to_save in its LoraConfig"


def is_adapter(folder: Path) -> bool:
    """Return whether a folder contains an adapter."""
    return (folder / "adapter_config.json").exists()


def merged(model: Any, adapter: Path) -> Any:
    """Return a model with an adapter merged into it, resized if the adapter's embedding has another number of rows."""
    from peft import PeftModel

    tied = _tied(model)
    _resize(model, adapter, tied)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the code below refuses what does not fit
        wrapped: Any = PeftModel.from_pretrained(model, str(adapter))
        if wrapped.active_peft_config.is_prompt_learning:
            raise BadInput(f"{adapter} is a prompt adapter, which cannot be merged into its base; use a LoRA-like adapter")
        fit = wrapped.load_adapter(str(adapter), wrapped.active_adapter)
        lost = [name for name in fit.unexpected_keys if not re.search(_COPIES, name)]
        if odd := [*fit.missing_keys, *lost]:
            what = "lacks tensors that its settings ask for" if fit.missing_keys else "contains tensors that its base has no place for"
            raise BadInput(
                f"{adapter} {what} ({len(odd)}, {odd[0]} first); check base_model_name_or_path in its adapter_config.json, or save it again"
            )
        if tied and any(_part(name, layer) for name in tensors_of(adapter_file(adapter)) for layer in _ends(model)):
            _untie(wrapped)
        return wrapped.merge_and_unload()


def _ends(model: Any) -> list[str]:
    """Return the names of the input embedding and the output layer."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is end for end in ends)]


def _tied(model: Any) -> bool:
    out = model.get_output_embeddings()
    return out is not None and out.weight is model.get_input_embeddings().weight


def _untie(wrapped: Any) -> None:
    """Untie the output layer: merging an adapter on one of two tied layers would change both."""
    import torch

    model = wrapped.get_base_model()
    out = model.get_output_embeddings()
    while hasattr(out, "base_layer") or hasattr(out, "original_module"):
        out = getattr(out, "base_layer", None) or out.original_module
    out.weight = torch.nn.Parameter(out.weight.detach().clone())
    model.config.tie_word_embeddings = False


def _part(tensor: str, layer: str) -> str:
    """Return the part of a tensor's name after the layer's name; "" if it belongs to another layer."""
    _, found, part = tensor.rpartition(f".{layer}.")
    return part if found else ""


def _resize(model: Any, adapter: Path, tied: bool) -> None:
    """Resize a base to the rows that an adapter was trained with. Raises BadInput if the adapter lacks the new rows.

    An adapter contains them as a whole embedding (PEFT saves a resized one) or one by one (trainable_token_indices).
    """
    settings, layers = json_of(adapter / "adapter_config.json") or {}, _ends(model)
    n_base = model.get_input_embeddings().weight.shape[0]
    saved: dict[str, int] = {}
    single: dict[str, set[int]] = {layer: set() for layer in layers}
    shared = n_base  # rows that two tied layers share
    adapted = {n_base}
    for tensor, shape in tensors_of(adapter_file(adapter)).items():
        for layer, part in ((layer, part) for layer in layers if (part := _part(tensor, layer))):
            if part.endswith("trainable_tokens_delta"):
                single[layer] = _token_indices(settings, layer)
            elif part.startswith(("lora_embedding_A", "lora_B")):
                adapted.add(shape[1] if part.startswith("lora_embedding_A") else shape[0])
            elif part.endswith("weight") and "lora" not in part:
                saved[layer] = shape[0]
                if tied and (part != "weight" or layer not in (settings.get("modules_to_save") or [])):
                    shared = shape[0]
    n_rows = max(saved.values()) if saved else max(adapted | {index + 1 for indices in single.values() for index in indices})
    if n_rows == n_base:
        return
    for layer in layers:
        if missing := sorted(set(range(saved.get(layer, shared), n_rows)) - single[layer]):
            raise BadInput(
                f"{adapter} was trained with {n_rows} rows of {layer}, of which its base has {n_base}, and it does not contain the rows "
                f"{', '.join(map(str, missing[:5]))}{', …' if missing[5:] else ''}; {SAVE_ROWS}"
            )
    model.resize_token_embeddings(n_rows, mean_resizing=False)


def _token_indices(settings: dict[str, Any], layer: str) -> set[int]:
    indices = settings.get("trainable_token_indices") or settings.get("token_indices") or []
    return set(indices.get(layer) or next(iter(indices.values())) if isinstance(indices, dict) else indices)
