"""Complete checkpoints that cannot be loaded as the trainer left them: add settings and tokenizer files, merge FSDP shards."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from .. import progress
from ..models.files import TOKENIZER_FILES, WEIGHTS, json_of, reason_of, tensors_of, words_lent
from ..models.gguf import files_in as gguf_files
from ..models.loading import base_of, local_checkpoint, local_folder
from ..nouns import BadInput, digest
from .steps import step_of

SETTINGS = "config.json"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
SHARDS = "pytorch_model_fsdp_0"
"""Folder of a model's shards under FSDP, as accelerate (and so the Trainer) names it."""
FSDP = "pytorch_model_fsdp.bin"
"""File of the whole model under FSDP (FULL_STATE_DICT), as accelerate names it."""
BELOW = ("actor/huggingface", "model/consolidated")
"""Folders of the model of a step in verl and NeMo Automodel, two levels below the step."""


def has_weights(folder: Path) -> bool:
    """Return whether a folder contains the weights of a model or of an adapter."""
    return any((folder / name).exists() for name in (ADAPTER, *WEIGHTS, FSDP)) or bool(
        _shards(folder) or _deepspeed(folder) or gguf_files(folder)
    )


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder looks like one checkpoint: a model, an adapter, bare weights, or the shards of a model."""
    return (folder / SETTINGS).exists() or has_weights(folder)


def folders_in(folder: Path) -> list[Path]:
    """Return the sub-folders of a folder, sorted by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def models_in(folder: Path) -> list[Path]:
    """Return a folder if it is a checkpoint, else the checkpoints one level below it, as in step_500/hf. Folders of steps do not count."""
    if is_checkpoint(folder):
        return [folder]
    below = [path for path in folders_in(folder) if step_of(path.name) is None]
    return [path for path in [*below, *(folder / name for name in BELOW)] if path.is_dir() and is_checkpoint(path)]


def the_model(folder: Path) -> Path:
    """Return a folder if it is a checkpoint, else the only one a level below it. Raises BadInput if there are several."""
    models = models_in(folder)
    if len(models) == 1:
        return models[0]
    names = [str(model.relative_to(folder)) for model in models]
    raise BadInput(f"{folder} holds {len(models)} models ({', '.join(names)}); give the one of each step: {folder.parent}/*/{names[0]}")


def others_in(folder: Path, model: Path) -> list[Path]:
    """Return the models one level below a folder, without the one that is used."""
    return [path for path in folders_in(folder) if path != model and ((path / SETTINGS).exists() or (path / ADAPTER).exists())]


State = tuple[int, list[Any]]


def trained(folder: Path) -> State | None:
    """Return the step and the log of the Trainer's state in a folder; None if there is no state."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text())
        return int(state["global_step"]), list(state.get("log_history") or [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def one_training(one: State | None, other: State | None) -> bool:
    """Return whether two states of the Trainer may be of one training, that is, whether the later log continues the earlier one."""
    if one is None or other is None:
        return True
    (_, early), (_, late) = sorted((one, other), key=lambda state: state[0])
    return json.dumps(early) == json.dumps(late[: len(early)])


def whole(folder: Path, base: str | None, made: Path) -> Path:
    """Return a checkpoint that can be loaded: the folder itself, or one in `made` that links to it and adds the missing files.

    Missing settings and tokenizer files come from the folder around it (where a trainer saves the final model), else from `base`. An
    adapter gets `base` if the base that it names is gone. Whole weights next to an adapter already include it (torchtune), unless their
    names show that it is not merged (axolotl). Raises BadInput if nothing helps. For shards of DeepSpeed and verl the message gives the
    command that converts them.
    """
    around = [folder.parent, folder.parent.parent] if step_of(folder.parent.name) else [folder.parent]
    lenders = [*around, *([local_checkpoint(base)] if base else [])]
    plain = any((folder / name).exists() for name in (*WEIGHTS, FSDP)) and not ((folder / ADAPTER).exists() and _apart(folder))
    if not plain and (folder / ADAPTER).exists():
        return _rebased(folder, base, made, words_lent(folder, around))
    shards = None if plain else _shards(folder)
    if not plain and shards is None:
        if command := _deepspeed(folder) or _verl(folder):
            raise BadInput(command)
        return folder  # loading refuses a folder without weights
    lent = words_lent(folder, lenders)
    if not any((place / name).exists() for place in (folder, *lenders) for name in TOKENIZER_FILES):
        raise BadInput(f"{folder} has no tokenizer, nor has {folder.parent}; name the model it was trained from with --base")
    if not (folder / SETTINGS).exists():
        lender = next((place for place in lenders if (place / SETTINGS).exists()), None)
        if lender is None:
            raise BadInput(f"{folder} has no config.json, nor has {folder.parent}; name the model it was trained from with --base")
        lent[SETTINGS] = lender / SETTINGS
    if lent and not (folder / GENERATION).exists():
        lent |= dict([(GENERATION, place / GENERATION) for place in lenders if (place / GENERATION).exists()][:1])
    if not any((folder / name).exists() for name in WEIGHTS) and not shards:
        lent["pytorch_model.bin"] = folder / FSDP
    if not lent and not shards and not (folder / ADAPTER).exists():
        return folder
    return _assembled(folder, lent | _files(folder, "adapter_"), shards, made, {})


def _apart(folder: Path) -> bool:
    """Return whether weights hold an unmerged adapter, as in axolotl's final model after a DPO of an adapter."""
    try:
        index = json_of(folder / INDEX)
        names = tensors_of(folder / "model.safetensors") if index is None else index["weight_map"]
        return any(".base_layer." in name for name in names)
    except (OSError, KeyError, TypeError, BadInput):  # loading refuses damaged files
        return False


def _rebased(folder: Path, base: str | None, made: Path, lent: dict[str, Path]) -> Path:
    """Return an adapter's folder, or one with the files it lacks, and with `base` if the base that it names is missing."""
    try:
        below = base_of(folder)
        if not lent:
            return folder
    except BadInput:
        if base is None:
            raise
        below = local_folder(base)
        progress.say(f"{folder} names a base model that does not exist; using {base} in its place")
    settings = json.loads((folder / ADAPTER).read_text()) | {"base_model_name_or_path": str(below.resolve()), "revision": None}
    return _assembled(folder, lent | _files(folder, ADAPTER), None, made, {ADAPTER: json.dumps(settings, indent=2)})


def _files(folder: Path, without: str) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if path.is_file() and not path.name.startswith(without)}


def _assembled(folder: Path, files: dict[str, Path], shards: Path | None, made: Path, written: dict[str, str]) -> Path:
    """Return a folder in `made` with links to some files, plus the written files and the merged shards.

    Its name is a digest of its content, so that it is made once.
    """
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

    progress.say(f"merging the shards of {shards}")
    try:
        names: Any = FileSystemReader(shards).read_metadata().state_dict_metadata
        if lora := next((name for name in names if "lora_" in name), None):
            raise BadInput(f"{shards} holds the shards of an adapter ({lora}); save it whole (fsdp_state_dict_type: FULL_STATE_DICT)")
        if other := next((name for name in names if name.startswith("optim")), None):
            raise BadInput(
                f"{shards} holds the optimiser with the model ({other}), as torchtitan writes it; convert it with "
                "torchtitan's scripts/checkpoint_conversion/convert_to_hf.py and give the folders it writes"
            )
        merge_fsdp_weights(str(shards), str(out))
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, CheckpointException) as error:
        first: Any = next((one for one, _ in error.failures.values()), error) if isinstance(error, CheckpointException) else error
        raise BadInput(f"the shards of {shards} cannot be merged: {reason_of(first)}; copy the checkpoint again") from error


def _deepspeed(folder: Path) -> str:
    """Return how to convert the shards that DeepSpeed saved here (a tag named in `latest`, and its folder); "" if there are none."""
    if not (folder / "zero_to_fp32.py").exists() or not any(folder.glob("global_step*/*_states.pt")):
        return ""
    return (
        f"{folder} holds DeepSpeed's shards, which only DeepSpeed can read; run '{Path(sys.executable).name} {folder}/zero_to_fp32.py "
        f"{folder} {folder} --safe_serialization' where it is installed, and the same command again"
    )


def _verl(folder: Path) -> str:
    """Return how to convert the shards that verl saved around a folder of settings; "" if there are none."""
    if not any(folder.parent.glob("model_world_size_*_rank_*.pt")):
        return ""
    return (
        f"{folder.parent} holds verl's shards, which only verl can read; run '{Path(sys.executable).name} -m verl.model_merger merge "
        f"--backend fsdp --local_dir {folder.parent} --target_dir {folder}' where it is installed, and the same command again"
    )
