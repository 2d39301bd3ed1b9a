"""Watches the folder that another trainer writes checkpoints into."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import pipeline, progress, resolve
from ..checkpoints.complete import models_in, the_model, whole
from ..checkpoints.steps import in_order, step_of
from ..models import loading
from ..nouns import BadInput, Checkpoint, StageRecord
from ..plan import BASE, EvaluationSettings
from ..store import Store
from ..training import describe

WATCHED = "watched.json"
"""The manifest: every evaluated checkpoint, with its folder and its digest."""


@dataclass
class Seen:
    """One line of the manifest."""

    step: int
    source: str
    """The trainer's folder. The checkpoint's path may be another one that was completed from it."""
    checkpoint: Checkpoint
    freed: bool = False


@dataclass(frozen=True)
class Watching:
    """How to watch. A checkpoint is finished after `settled_seconds` without a change; `keep` is how many of the newest stay."""

    folder: Path
    base: str | None = None
    keep: int | None = None
    until: int | None = None
    idle_minutes: float | None = None
    tensorboard: Path | None = None
    settled_seconds: float = 10.0
    look_seconds: float = 5.0


def watch(settings: EvaluationSettings, how: Watching, out: Path) -> dict[str, Any]:
    """Evaluate each checkpoint when it is finished, and report; return the JSON of the last trace.

    Watching ends after the checkpoint of step `until`, after `idle_minutes` without a new checkpoint, or by an interrupt. Results stay when
    the trainer deletes the checkpoint. With `keep`, older evaluated checkpoints are deleted, except the first, because distances are
    measured from it. Only folders in the manifest whose content has not changed are deleted.
    """
    if how.keep is not None and how.keep < 1:
        raise BadInput(f"--keep {how.keep} would delete the newest checkpoint, which the trainer may still need; keep 1 or more")
    if how.folder.exists() and not how.folder.is_dir():
        raise BadInput(f"{how.folder} is a file; give the folder that the trainer writes its checkpoints into")
    store = Store(out)
    tell = _board(how.tensorboard, settings.view)
    result: dict[str, Any] = {}
    with store.locked():
        seen = store.read_json(WATCHED, list[Seen], [])
        if how.base and not seen:
            path = resolve.resolve_model(how.base)
            seen = [Seen(0, path, describe(path, _name(how.folder), 0, settings))]
        _free(how, seen, store)  # an earlier command may have been killed before it
        said, since, changes = "", time.monotonic(), Changes()
        while True:
            new, why = _finished(how, settings, seen, store, changes)
            for one in new:
                seen = sorted([*seen, one], key=lambda each: each.step)
                result = _trace(store, settings, how, seen, settings.floor and one.step == how.until)
                store.write_json(WATCHED, [asdict(each) for each in seen])
                tell(store, one.step)
                _free(how, seen, store)
                since = time.monotonic()
            if how.until is not None and any(each.step >= how.until for each in seen):
                return result or _trace(store, settings, how, seen, settings.floor)
            if how.idle_minutes is not None and time.monotonic() - since > 60 * how.idle_minutes:
                if not seen:
                    raise BadInput(f"no checkpoint came into {how.folder} in {how.idle_minutes:g} minutes{why}; is it the right folder?")
                return _trace(store, settings, how, seen, settings.floor)
            waiting = f"waiting for checkpoints in {how.folder} ({len(seen)} evaluated so far){why}"
            if waiting != said:
                progress.say(said := waiting)
            time.sleep(how.look_seconds)


Changes = dict[Path, tuple[float, float]]
"""The newest time of a folder's files, and when it was first seen, by the monotonic clock."""


def _finished(how: Watching, settings: EvaluationSettings, seen: list[Seen], store: Store, changes: Changes) -> tuple[list[Seen], str]:
    """Return the finished checkpoints that were not evaluated, and the reason why the first other one is not finished."""
    if not how.folder.is_dir():
        return [], ", which is not there yet"
    known = {each.source for each in seen}
    there = {path.name: str(path) for path in how.folder.iterdir() if path.is_dir() and step_of(path.name) and _like_one(path)}
    found, why = [], ""
    for step, source in in_order(there, str(how.folder)):
        if source in known or any(each.step == step for each in seen):
            continue
        try:
            if not _settled(Path(source), how.settled_seconds, changes):
                raise BadInput("it is being written")
            path = whole(the_model(Path(source)), how.base, store.root / "made")
            found.append(Seen(step, source, describe(str(path), _name(how.folder), step, settings)))
        except (BadInput, OSError) as error:  # the trainer may write it, or delete it, at this moment
            why = why or f"; {Path(source).name} is not ready: {error}"
    if unnamed := sorted(path.name for path in how.folder.iterdir() if path.is_dir() and not step_of(path.name) and _like_one(path)):
        why += f"; not evaluated, because their names state no step: {', '.join(unnamed)}"
    return found, why


def _like_one(path: Path) -> bool:
    try:
        return bool(models_in(path))
    except OSError:
        return False


def _settled(folder: Path, seconds: float, changes: Changes) -> bool:
    """Tell whether nothing in a folder has changed for some seconds. If a time lies ahead of the clock, the seconds are counted here."""
    newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
    if changes.get(folder, (None,))[0] != newest:
        changes[folder] = newest, time.monotonic()
    return time.time() - newest >= seconds or time.monotonic() - changes[folder][1] >= seconds


def _trace(store: Store, settings: EvaluationSettings, how: Watching, seen: list[Seen], floor: bool) -> dict[str, Any]:
    """Trace all checkpoints seen; only new ones are sampled. The noise floor is sampled once, at the end."""
    floor = floor and Path(seen[-1].checkpoint.path).is_dir()
    checkpoints = [each.checkpoint for each in seen]
    steps = [each.step for each in seen]
    stage = StageRecord.untrained(_name(how.folder), BASE, steps, max(steps[-1], _most(seen)))
    settings = settings.model_copy(update={"floor": floor})
    work = pipeline.Work(store, settings)
    pipeline.begin(work, [stage], checkpoints, settings.model_dump() | {"watched": str(how.folder), "base": how.base})
    return pipeline.carry_out(work, pipeline.evaluate, pipeline.judge, pipeline.analyse)


def _most(seen: list[Seen]) -> int:
    """Return the total steps of the training by the Trainer's state; 0 if unknown."""
    for each in reversed(seen):
        try:
            return int(json.loads((Path(each.source) / "trainer_state.json").read_text())["max_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return 0


def _free(how: Watching, seen: list[Seen], store: Store) -> None:
    """Delete the folders of evaluated checkpoints, except the first and the newest."""
    if how.keep is None:
        return
    inside = [each for each in seen[1:] if Path(each.source).resolve().parent == how.folder.resolve()]
    for each in inside[: max(0, len(inside) - how.keep)]:
        source = Path(each.source)
        going = source.with_name(f".deleted-{source.name}")  # so that a kill leaves no half of a checkpoint
        if not going.exists():
            if each.freed or source.is_symlink() or not source.is_dir():
                continue
            try:
                same = loading.weights_digest(each.checkpoint.path) == each.checkpoint.weights
            except BadInput:
                same = False
            if not same:
                progress.say(f"{source} is kept: its weights have changed since it was evaluated")
                continue
            os.replace(source, going)
        each.freed = True
        store.write_json(WATCHED, [asdict(one) for one in seen])
        shutil.rmtree(going)
        progress.say(f"deleted {source}, which was evaluated")


def _board(folder: Path | None, view: str) -> Callable[[Store, int], None]:
    """Return a function that writes the shares of a step to TensorBoard; it does nothing if no folder is given."""
    if folder is None:
        return lambda store, step: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("--tensorboard needs the package tensorboard; install it with: pip install tensorboard") from error
    writer = SummaryWriter(str(folder))

    def tell(store: Store, step: int) -> None:
        from .callback import curves

        for name, value in curves(store.read_table("profiles").filter(step=step, view=view)).items():
            writer.add_scalar(name.replace("_", "/", 1), value, step)
        writer.flush()

    return tell


def _name(folder: Path) -> str:
    name = folder.resolve().name
    return f"{name}-1" if name == BASE else name or "training"
