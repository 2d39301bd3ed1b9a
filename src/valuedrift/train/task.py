"""One stage to train as one folder: `task.json` holds all that its training needs, so that any process group can carry it out.

A stage is trained in the process of the command, or by a launcher (`torchrun`, `accelerate launch`) that starts
`valuedrift stage FOLDER` in several processes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .. import progress, registry
from ..nouns import BadInput, Stopped
from ..plan import Stage
from ..records import digest_of
from ..records.records import Records
from ..records.stances import Anchored
from ..store import Store
from . import processes

TASK, FAILED = "task.json", "failed.json"
SECONDS_TO_END = 60.0
"""How long a launcher may take to end its processes."""


@dataclass(frozen=True)
class Task:
    """`task.json`: what the training of one stage needs. Paths are relative to the folder in which the command was given."""

    name: str
    seed: int
    stage: Stage
    parent: str
    """The starting weights: a folder or a hub id."""
    parent_weights: str
    """The digest of the starting weights."""
    data: str
    """The digest of the records."""
    reward: str = ""
    """The folder of the reward model, if a stage of the plan trains it."""


@dataclass(frozen=True)
class Failure:
    """`failed.json`: why a launcher's processes stopped, in one sentence."""

    kind: Literal["BadInput", "Stopped"]
    sentence: str


def records_of(stage: Stage) -> Records:
    """Return the records that a stage trains on. A stage that answers prompts takes pairs or examples."""
    from ..records import records

    data_format = registry.algorithm(stage.algorithm).data_format
    return records.read(stage.data, None if data_format == "prompts" else data_format, stage.max_bad_rows)


def anchored_of(stage: Stage) -> list[Anchored]:
    """Return the questions of a stage's anchor; none if it has no anchor."""
    from ..records import stances

    return stances.read(stage.anchor.data, stage.anchor.target) if stage.anchor else []


def train(task: Task, folder: Path, records: Records, launcher: str = "") -> Any:
    """Train a stage in its folder and return its record (`done.json`); a launcher's command trains it in several processes."""
    from . import saved_stage

    about = vars(task) | {"stage": task.stage.model_dump()}
    Store(folder).write_json(TASK, about)
    if launcher and not saved_stage.finished(folder):
        _launch(shlex.split(launcher), folder, task.name)
    else:
        _train(task, folder, records)
    if not (folder / TASK).exists():  # it was set aside with a damaged folder
        Store(folder).write_json(TASK, about)
    return Store(folder).read_json(saved_stage.DONE, saved_stage.Done)


def _train(task: Task, folder: Path, records: Records) -> None:
    from .stage import run_stage

    shown: Any = contextlib.nullcontext() if processes.rank() else progress.training(f"train {task.name}, seed {task.seed}")
    with shown as tell:
        run_stage(task.stage, task.seed, task.parent, records, folder, tell, task.reward, anchored_of(task.stage))


# -- the launcher's side -------------------------------------------------------------------------------------------------


def _launch(launcher: Sequence[str], folder: Path, name: str) -> None:
    """Start a stage's processes and wait for their end. Raises what stopped them.

    If this process ends in any way, a kill included, the pipe to rank 0 closes, and the processes end.
    """
    (folder / FAILED).unlink(missing_ok=True)
    command = [*launcher, "-m", "valuedrift", "stage", str(folder), "--attached"]
    try:
        # stdout belongs to this command's result; a session of its own keeps Ctrl-C from reaching the processes twice
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
    except OSError as error:
        raise BadInput(f"the launcher {launcher[0]!r} cannot be started: {error.strerror}; correct --launch") from error
    with _ended(child):
        code = child.wait()
    failure = Store(folder).read_json(FAILED, Failure)
    if failure is not None:
        raise (BadInput if failure.kind == "BadInput" else Stopped)(failure.sentence)
    if code:
        raise Stopped(f"the processes that train {name} ended with exit code {code}; their own messages are above")


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a launcher and its processes when the block ends, however it ends."""
    try:
        yield
    finally:
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


# -- the side of a process that the launcher starts -----------------------------------------------------------------------


def stage_process(folder: Path, attached: bool = False) -> None:
    """Train the stage of a folder as one of a launcher's processes. With `attached`, rank 0 exits when its stdin closes."""
    if attached and not processes.rank():
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        train_folder(folder)
    except (BadInput, Stopped) as error:
        if processes.rank():
            time.sleep(10)  # rank 0 fails for the same reason and reports it; then the launcher ends this process
        if (folder / TASK).exists() and not (folder / FAILED).exists():
            Store(folder).write_json(FAILED, asdict(Failure("BadInput" if isinstance(error, BadInput) else "Stopped", str(error))))
        if processes.rank():
            raise SystemExit(1) from error
        raise
    processes.close()


def train_folder(folder: Path) -> None:
    """Train the stage of a folder. All ranks call this together. Raises BadInput if the data or the starting weights have changed."""
    from ..models import loading

    task = Store(folder).read_json(TASK, Task)
    if task is None:
        raise BadInput(f"{folder} is not the folder of a stage (it holds no {TASK}); 'valuedrift run' writes one for each stage")
    records = records_of(task.stage)
    weights = processes.broadcast(lambda: loading.weights_digest(task.parent))
    for what, known, found in ((task.stage.data, task.data, digest_of(records)), (task.parent, task.parent_weights, weights)):
        if known != found:
            raise BadInput(f"{what} has changed since {folder / TASK} was written; give the command that wrote it again")
    _train(task, folder, records)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
