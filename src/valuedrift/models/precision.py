"""The precision in which a model is loaded and computes."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from . import gguf, loading
from .adapters import is_adapter
from .files import json_of, weight_files

LARGE = 50e6
"""Parameters above which bfloat16 pays on a CPU: below, the products are too small to gain from it."""


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return whether this machine multiplies matrices faster in bfloat16 than in float32, as torch knows it."""
    import torch

    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def dtype_of(path: Path | str, wanted: str = "auto", merges: bool = True) -> str:
    """Return the dtype in which a model is loaded: the wanted one, or for "auto" the best for this machine.

    On an accelerator that is the checkpoint's own. On a CPU it is bfloat16 if the processor multiplies it fast and the model has more than
    LARGE parameters, else float32. An adapter that is merged into a base of 16 bits is loaded in float32: most changes of a short training
    are smaller than the distance between two numbers of 16 bits, and would be rounded away.
    """
    import torch

    if wanted != "auto":
        return wanted
    own, accelerated = _own(path), torch.accelerator.current_accelerator()
    if merges and is_adapter(loading.local_checkpoint(path)) and own != "float32":
        return "float32"
    if accelerated:
        return own
    return "bfloat16" if multiplies_bfloat16() and n_parameters(path) > LARGE else "float32"


def autocasts(path: Path | str) -> bool:
    """Return whether a training of float32 weights computes in bfloat16 on this machine if its dtype is "auto"."""
    import torch

    return multiplies_bfloat16() and (torch.cuda.is_available() or n_parameters(path) > LARGE)


def n_parameters(path: Path | str) -> float:
    """Return the number of a model's parameters, without its adapter. Weights that are not safetensors are taken for float32."""
    from safetensors import safe_open

    total, folder = 0.0, _whole(path)
    if gguf.is_gguf(folder):
        return gguf.header(folder).n_parameters
    for file in weight_files(folder):
        if file.suffix != ".safetensors":
            total += file.stat().st_size / 4
            continue
        with safe_open(file, framework="np") as tensors:
            names = list(tensors.keys())
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return total


def _own(path: Path | str) -> str:
    """Return the dtype that a checkpoint is saved in."""
    from safetensors import safe_open

    folder = _whole(path)
    if gguf.is_gguf(folder):
        return gguf.header(folder).dtype
    config: dict[str, Any] = json_of(folder / "config.json") or {}
    if named := config.get("dtype") or config.get("torch_dtype"):
        return str(named)
    file = weight_files(folder)[0]
    if file.suffix != ".safetensors":
        return "float32"
    with safe_open(file, framework="np") as tensors:
        saved = tensors.get_slice(next(iter(tensors.keys()))).get_dtype()
    return {"BF16": "bfloat16", "F16": "float16"}.get(saved, "float32")


def _whole(path: Path | str) -> Path:
    folder = loading.local_checkpoint(path)
    return Path(loading.base_of(folder)) if is_adapter(folder) else folder
