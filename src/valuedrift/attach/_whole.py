"""Checkpoints that cannot be loaded as a trainer left them, completed: settings and tokenizer lent by others, FSDP shards put together."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .. import progress
from ..nouns import BadInput, digest
from ..sample._load import TOKENIZER_FILES, WEIGHTS, base_of, first_sentence, local_folder

SETTINGS = "config.json"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
BESIDE = ("generation_config.json", "chat_template.jinja")
SHARDS = "pytorch_model_fsdp_0"
"""Where accelerate, and the Trainer through it, puts the shards of a model under FSDP."""


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder looks like one checkpoint: a model, an adapter, bare weights, or the shards of a model."""
    return any((folder / name).exists() for name in (SETTINGS, ADAPTER, *WEIGHTS)) or bool(_shards(folder) or _deepspeed(folder))


def trained_steps(folder: Path) -> int | None:
    """Return the step at which the Trainer saved its state into a folder; None where it did not."""
    try:
        return int(json.loads((folder / "trainer_state.json").read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole(folder: Path, base: str | None, made: Path) -> Path:
    """Return a checkpoint that can be loaded: the folder itself, or one in `made` that links to it and holds what it lacks.

    Settings and tokenizer are lent by the folder around it (where a trainer saves the final model), else by `base`. An adapter whose base
    is no longer where it says belongs to `base`. Where an adapter stands beside whole weights, those hold it already (torchtune), unless
    their names keep the two apart (axolotl). Raises BadInput where nothing helps, for DeepSpeed shards with the command that converts them.
    """
    lenders = [folder.parent, *([local_folder(base)] if base else [])]
    has_weights = any((folder / name).exists() for name in WEIGHTS) and not ((folder / ADAPTER).exists() and _apart(folder))
    if not has_weights and (folder / ADAPTER).exists():
        return _rebased(folder, base, made)
    shards = None if has_weights else _shards(folder)
    if not has_weights and shards is None:
        if _deepspeed(folder):
            raise BadInput(_command(folder))
        return folder  # a folder without weights is refused where it is loaded
    lacking = [names for names in ((SETTINGS,), TOKENIZER_FILES) if not any((folder / name).exists() for name in names)]
    if not lacking and not shards and not (folder / ADAPTER).exists():
        return folder
    lent: dict[str, Path] = {}
    for names in lacking:
        lender = next((place for place in lenders if any((place / name).exists() for name in names)), None)
        if lender is None:
            what = "config.json" if SETTINGS in names else "tokenizer"
            raise BadInput(f"{folder} has no {what}, nor has {folder.parent}; name the model it was trained from with --base")
        lent |= {name: lender / name for name in (*names, *BESIDE) if (lender / name).exists() and not (folder / name).exists()}
    return _assembled(folder, lent | _files(folder, "adapter_"), shards, made, {})


def _apart(folder: Path) -> bool:
    """Tell whether weights hold an adapter that is not merged into them, as in axolotl's final model after a DPO of an adapter."""
    try:
        if (folder / INDEX).exists():
            names = list(json.loads((folder / INDEX).read_text())["weight_map"])
        else:
            with safe_open(folder / "model.safetensors", framework="pt") as tensors:
                names = list(tensors.keys())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):  # what is damaged is refused where it is loaded
        return False
    return any(".base_layer." in name for name in names)


def _rebased(folder: Path, base: str | None, made: Path) -> Path:
    """Return an adapter's folder; where the base model that it names is not there, one that names `base`."""
    try:
        base_of(folder)
    except BadInput:
        if base is None:
            raise
        settings = json.loads((folder / ADAPTER).read_text()) | {
            "base_model_name_or_path": str(local_folder(base).resolve()),
            "revision": None,
        }
        progress.say(f"{folder} names a base model that is not there; {base} is taken for it")
        return _assembled(folder, _files(folder, ADAPTER), None, made, {ADAPTER: json.dumps(settings, indent=2)})
    return folder


def _files(folder: Path, without: str) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if path.is_file() and not path.name.startswith(without)}


def _assembled(folder: Path, files: dict[str, Path], shards: Path | None, made: Path, written: dict[str, str]) -> Path:
    """Return a folder in `made` with links to some files and what is written or put together; named by what is in it, and made once."""
    seen = [[name, str(path.resolve()), *_stamp(path)] for name, path in sorted(files.items())]
    seen += [[path.name, *_stamp(path)] for path in sorted(shards.iterdir())] if shards else []
    place = made / f"{folder.parent.name}-{folder.name}-{digest('made', seen, written)[:12]}"
    if place.exists():
        return place
    unfinished = made / f".tmp-{place.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, path in files.items():
        (unfinished / name).symlink_to(path.resolve())
    for name, text in written.items():
        (unfinished / name).write_text(text)
    if shards:
        _put_together(shards, unfinished)
    os.replace(unfinished, place)
    return place


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _shards(folder: Path) -> Path | None:
    """Return the folder of a model's shards in torch's distributed format, which a `.metadata` file marks."""
    return next((place for place in (folder / SHARDS, folder) if (place / ".metadata").exists()), None)


def _put_together(shards: Path, out: Path) -> None:
    """Write the weights of FSDP shards as `out`/model.safetensors."""
    from accelerate.utils import merge_fsdp_weights
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader

    progress.say(f"putting the shards of {shards} together")
    try:
        names: Any = FileSystemReader(shards).read_metadata().state_dict_metadata
        if lora := next((name for name in names if "lora_" in name), None):
            raise BadInput(f"{shards} holds the shards of an adapter ({lora}); save it whole (fsdp_state_dict_type: FULL_STATE_DICT)")
        if other := next((name for name in names if name.startswith("optim")), None):
            raise BadInput(
                f"{shards} holds the optimiser beside the model ({other}), as torchtitan writes it; convert it with "
                "torchtitan's scripts/checkpoint_conversion/convert_to_hf.py and give the folders it writes"
            )
        merge_fsdp_weights(str(shards), str(out))
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, CheckpointException) as error:
        first: Any = next((one for one, _ in error.failures.values()), error) if isinstance(error, CheckpointException) else error
        raise BadInput(f"the shards of {shards} cannot be put together: {first_sentence(first)}; copy the checkpoint again") from error


def _deepspeed(folder: Path) -> bool:
    """Tell whether DeepSpeed saved its own shards here: a tag named in `latest`, and a folder of that name."""
    return (folder / "zero_to_fp32.py").exists() and any(folder.glob("global_step*/*_states.pt"))


def _command(folder: Path) -> str:
    return (
        f"{folder} holds DeepSpeed's shards, which only DeepSpeed can read; run '{Path(sys.executable).name} {folder}/zero_to_fp32.py "
        f"{folder} {folder} --safe_serialization' where it is installed, and the same command again"
    )
