"""Switching checkpoints: the weights of another checkpoint of the same architecture are copied over those of a loaded model."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..nouns import BadInput
from .files import weight_files
from .loading import load_model, local_folder

_PROBE = 16
"""Tokens whose logits show whether the outputs moved."""


def switch(model: Any, path: Path | str) -> int | None:
    """Copy the weights at `path` into a model of the same `likeness`; return how many tensors changed, None where names do not match.

    Files are mapped into memory and only tensors that differ are copied. Where tensors changed and the outputs did not move at all, the
    checkpoint is loaded anew beside it and compared. Raises BadInput where that moves them: the switch did not reach what the model uses.
    """
    import torch

    ours = dict(model.state_dict())
    homes: dict[str, Any] = {}
    for file in weight_files(local_folder(path)):
        with safe_open(file, framework="pt") as tensors:
            homes |= dict.fromkeys(tensors.keys(), file)
    stored_at = {ours[name].data_ptr() for name in homes if name in ours}
    if not homes.keys() <= ours.keys() or any(tensor.data_ptr() not in stored_at for tensor in ours.values()):
        return None  # names that transformers translates, or weights that the file leaves to it
    before, changed = _outputs(model), 0
    with torch.no_grad():
        for file in dict.fromkeys(homes.values()):
            with safe_open(file, framework="pt") as tensors:
                for name in (name for name, home in homes.items() if home == file):
                    new = tensors.get_tensor(name).to(ours[name].dtype)
                    if new.shape != ours[name].shape:
                        raise BadInput(
                            f"{file}: {name} has the shape {tuple(new.shape)}, which its config.json does not give it; save it again"
                        )
                    if not torch.equal(new.to(ours[name].device), ours[name]):
                        ours[name].copy_(new)
                        changed += 1
    if changed and torch.equal(_outputs(model), before):
        fresh = load_model(path, str(model.device), str(model.dtype).removeprefix("torch."))[0]
        if not torch.equal(_outputs(fresh), before):
            raise BadInput(
                f"{path}: {changed} tensors were switched in place and the model's outputs did not move; report this architecture"
            )
    return changed


def expect(path: Path | str) -> None:
    """Have the system read a checkpoint's files ahead, where it can; says nothing of files that are not there yet."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in Path(path).glob("*.safetensors"):
        with contextlib.suppress(OSError), open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _outputs(model: Any) -> Any:
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        return model(input_ids=torch.arange(_PROBE, device=model.device)[None] * 7919 % size).logits
