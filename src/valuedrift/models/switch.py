"""Switch checkpoints: copy the weights of another checkpoint into a loaded model of the same architecture."""

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
"""Tokens whose logits show whether the outputs changed."""


def switch(model: Any, path: Path | str) -> int | None:
    """Copy the weights at `path` into a model of the same `likeness`; return how many tensors changed, or None if names do not match.

    Files are memory-mapped, and only tensors that differ are copied. If tensors changed and the outputs did not, the checkpoint is loaded
    again and compared. Raises BadInput if the outputs then differ: the switch did not reach the weights that the model uses.
    """
    import torch

    ours = dict(model.state_dict())
    homes: dict[str, Any] = {}
    for file in weight_files(local_folder(path)):
        with safe_open(file, framework="pt") as tensors:
            homes |= dict.fromkeys(tensors.keys(), file)
    stored_at = {ours[name].data_ptr() for name in homes if name in ours}
    if not homes.keys() <= ours.keys() or any(tensor.data_ptr() not in stored_at for tensor in ours.values()):
        return None  # transformers translates names, or fills in weights that the file lacks
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
    """Have the system read a checkpoint's files ahead, if it can; missing files are ignored."""
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
