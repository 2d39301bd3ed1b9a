"""A model with the architecture and tokenizer of another and random weights: `model = "random:FOLDER"` in a plan."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..caches import cache_root
from ..nouns import BadInput, digest
from . import loading
from .adapters import is_adapter


def folder_of(base: str) -> Path:
    """Return the cache folder of the random model; it may not exist yet."""
    folder = loading.local_folder(base)
    if is_adapter(folder):
        raise BadInput(f"random:{base} is an adapter, which has no architecture of its own; give the folder of a whole model")
    return cache_root() / f"random-{digest('random', loading.config_of(folder).to_dict(), loading.tokenizer_parts(folder))[:12]}"


def untrained(base: str) -> str:
    """Return a folder with weights as the architecture initialises them (seed 0), in float32; it is made once."""
    import torch
    import transformers

    folder = folder_of(base)
    if not folder.exists():
        tokenizer = loading.load_tokenizer(base)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(loading.config_of(loading.local_folder(base)), dtype=torch.float32)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            unfinished = Path(work) / "model"
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            unfinished.rename(folder)
    return str(folder)
