"""A stage's folder: its checkpoints, whether their files are intact, and the files that only a resume needs."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from .. import progress
from ..models.files import tensors_of
from ..nouns import BadInput, Stopped
from ..parts import file_digest
from ..store import Store, disk_fault, sealed, set_aside
from . import processes

VALUE_HEAD, ROLLOUTS, ANSWERS = "value_head.safetensors", "rollouts.safetensors", "generated-*.pt"
FOR_RESUME = (
    *("optimizer.pt", "scheduler.pt", "rng_state*.pth", "scaler.pt", "training_args.bin", ROLLOUTS, VALUE_HEAD, ANSWERS),
    *("optimizer.bin", "optimizer_[0-9]*", "pytorch_model_fsdp*"),  # FSDP
    *("global_step[0-9]*", "latest", "zero_to_*.py"),  # DeepSpeed
)
"""Files that only a resume needs. They are deleted when a newer checkpoint is complete, and at the end."""
NEARLY_FULL = 1 << 20
"""If a save failed and fewer bytes than this are free, the disk was full: the truncated file may already be gone."""
COMPLETE, DONE = "complete.json", "done.json"


@with_config({"extra": "allow"})
class Complete(TypedDict):
    """`complete.json`, the mark of a complete checkpoint: the SHA-256 of its files, its step and its training time."""

    step: int
    seconds: float
    total: NotRequired[int]
    precision: NotRequired[str]  # absent up to version 0.2.0
    files: NotRequired[dict[str, str]]  # absent up to version 0.1.0


@with_config({"extra": "allow"})
class Done(TypedDict):
    """`done.json`, the mark of a trained stage."""

    steps: list[int]
    total: int
    seconds: float
    dropped: int


class Key(TypedDict):
    """`stage.json`: the digest of what is trained in the folder."""

    key: str


def train_once(store: Store, key: str, train: Callable[[], tuple[list[int], int, int]]) -> list[int]:
    """Train a stage unless its folder holds it finished; return the steps saved. All ranks call this together.

    `train` returns the steps saved, the total steps, and the number of records dropped.
    """
    done = processes.broadcast(lambda: begun(store, key))
    if done is None:
        found = train()
        done = processes.broadcast(lambda: finish(store, *found))
    return done["steps"]


def begun(store: Store, key: str) -> Any:
    """Write the stage's key into its folder, so that a resume never mixes two stages. Return the record of a finished stage, or None.

    A folder with a damaged checkpoint is set aside and the stage is trained again, because flipped bits would change every later figure.
    """
    if fault := damage(store.root):
        aside = set_aside(store.root)
        progress.say(f"{fault}; the folder of its stage was set aside as {aside.name}, and the stage is trained again")
        store = Store(store.root)
    held = store.read_json("stage.json", Key)
    if held is None:
        store.write_json("stage.json", {"key": key})
    elif held["key"] != key:
        raise BadInput(f"{store.root} contains a stage with other settings, seed or data; delete it or train into another folder")
    try:
        return store.read_json(DONE, Done)
    except BadInput as error:  # the checkpoints' marks contain the same
        progress.say(f"{error.args[0].partition(';')[0]}; it was set aside as {set_aside(store.root / DONE).name} and is written again")
        return None


def finished(out: Path) -> Any:
    """Return the record of a finished stage, or None if the next run would train it."""
    if not out.exists() or damage(out):
        return None
    with contextlib.suppress(BadInput):
        return Store(out).read_json(DONE, Done)
    return None


def damage(out: Path) -> str:
    """Return a sentence about the first damaged file of a stage, or "".

    Files that only a resume needs are checked in the newest checkpoint of an unfinished stage, and nowhere else.
    """
    steps = complete(out)
    for step in steps:
        folder = out / f"checkpoint-{step}"
        try:
            found = record(out, step)
        except BadInput:
            return f"{folder / COMPLETE} is not as it was written"
        needed = step == steps[-1] and step < found.get("total", step)
        for name, digest in found.get("files", {}).items():
            path = folder / name
            if (needed or not _only_for_resume(name)) and (not path.is_file() or file_digest(path) != digest):
                return f"{path} is {'not as it was saved' if path.exists() else 'gone'}"
    return ""


def record(out: Path, step: int) -> Complete:
    """Return the mark of a complete checkpoint. Step 0 is the start."""
    return Store(out).read_json(f"checkpoint-{step}/{COMPLETE}", Complete, {"step": 0, "seconds": 0.0})


def mark(out: Path, step: int, total: int, seconds: float, precision: str) -> None:
    """Mark a checkpoint as complete, and delete the resume files of older ones."""
    folder = out / f"checkpoint-{step}"
    older = [one for one in complete(out) if one < step]
    seal(folder, step=step, total=total, seconds=seconds, precision=precision)
    for one in older:
        clear(out / f"checkpoint-{one}")


def seal(folder: Path, **about: Any) -> None:
    """Write the mark of a complete folder: the digests of its files, and `about`."""
    files = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    Store(folder).write_json(COMPLETE, sealed({**about, "files": files}))


def is_whole(folder: Path) -> bool:
    """Tell whether a folder's files match its mark. A folder of version 0.1.0 has no mark and is trusted."""
    try:
        files = Store(folder).read_json(COMPLETE, dict[str, Any], {}).get("files", {})
        return all(file_digest(folder / name) == digest for name, digest in files.items())
    except (BadInput, OSError):
        return False


def finish(store: Store, steps: list[int], total: int, dropped: int) -> Any:
    """Write the record of a finished stage and return it."""
    history = store.read_json(f"checkpoint-{total}/trainer_state.json", dict[str, Any])["log_history"]
    store.write_json("losses.json", history)
    seconds = record(store.root, total)["seconds"]
    done = sealed({"steps": steps, "total": total, "seconds": seconds, "losses": "losses.json", "dropped": dropped})
    store.write_json(DONE, done)
    clear(store.root / f"checkpoint-{total}")
    return done


def complete(out: Path) -> list[int]:
    """Return the steps of the complete checkpoints."""
    return sorted(int(path.parent.name.split("-")[1]) for path in out.glob(f"checkpoint-*/{COMPLETE}"))


def newest(out: Path) -> int:
    """Return the step of the newest complete checkpoint, or 0. Deletes incomplete checkpoints."""
    steps = complete(out)
    for folder in out.glob("checkpoint-*"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    return steps[-1] if steps else 0


def saved(checkpoint: Path) -> None:
    """Wait until all processes have written their parts of a checkpoint, then check that it holds weights."""
    processes.all_gather(None)
    if not processes.rank():
        check_saved(checkpoint)


def check_saved(checkpoint: Path) -> None:
    """Raise BadInput if a checkpoint holds no weights, which happens if its launcher saves shards."""
    for path in [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]:
        if tensors_of(path):
            return
    raise BadInput(
        f"{checkpoint} was saved without weights: its launcher keeps them in shards; set fsdp_state_dict_type: FULL_STATE_DICT (FSDP) "
        "or zero3_save_16bit_model: true (DeepSpeed) in its configuration"
    )


def clear(checkpoint: Path) -> None:
    """Delete the files that only a resume needs."""
    for path in (path for name in FOR_RESUME for path in checkpoint.glob(name)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _only_for_resume(name: str) -> bool:
    return any(fnmatch.fnmatch(name.partition("/")[0], pattern) for pattern in FOR_RESUME)


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Turn a full disk while `folder` is written into one sentence, and delete the folder."""
    try:
        yield
    except (BadInput, Stopped):
        raise
    except Exception as error:  # tokenizers raises nothing more specific
        fault = _system_error(error, folder)
        if fault is None:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise disk_fault(folder, fault) from error


def _system_error(error: BaseException | None, folder: Path) -> OSError | None:
    """Return the system's error behind a failed save, or None. safetensors and torch.save keep only its text."""
    words = ""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        words, error = words + str(error), error.__cause__ or error.__context__
    cut_off = "PytorchStreamWriter" in words or "inline_container" in words
    if "No space left" in words or (cut_off and shutil.disk_usage(folder.parent).free < NEARLY_FULL):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(errno.EIO, "a file could not be written to its end") if cut_off else None
