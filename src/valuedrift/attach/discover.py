"""Finding the checkpoints in folders that any trainer wrote."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns import BadInput
from ..plan import BASE

MARKS = ("config.json", "adapter_config.json")
"""A folder that holds one of these is a model or an adapter."""


@dataclass(frozen=True)
class Found:
    """The checkpoints of one stage: (step, path), in the order of training."""

    name: str
    steps: tuple[tuple[int, str], ...]
    counted: bool = True
    """Whether the folders' own names give the steps."""


def discover(folders: Sequence[Path], base: str | None = None) -> list[Found]:
    """Return the stages that some folders hold, one after the other.

    A folder that is itself a checkpoint (or several such folders in a row) gives one stage whose steps are 0, 1, … in the order
    given, or the numbers at the end of the names where all have one and they rise. A folder of checkpoints (`checkpoint-500`,
    `step_500`, …) gives a stage of its own, sorted by that number. `base`, a model folder or hub id, is step 0 of the first stage; a
    later stage starts from the last checkpoint of the one before. Raises BadInput for missing and empty folders.
    """
    stages: list[Found] = []
    single: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise BadInput(f"there is no folder {folder}; give folders that hold model checkpoints")
        if not folder.is_dir():
            raise BadInput(f"{folder} is a file; give the folder of a checkpoint")
        if _is_model(folder) and not _numbered(folder):
            single.append(folder)
            continue
        if single:
            stages, single = [*stages, _in_a_row(single)], []
        stages.append(_gathered(folder))
    if single:
        stages.append(_in_a_row(single))
    return _chained(stages, base)


def _is_model(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Return the numbered checkpoints inside a folder, sorted by number."""
    return sorted(
        (number, path) for path in folder.iterdir() if (number := _number(path)) is not None and path.is_dir() and _is_model(path)
    )


def _gathered(folder: Path) -> Found:
    """Return the numbered checkpoints of a folder; a final model that a trainer saved beside them is left out."""
    numbered = _numbered(folder)
    if not numbered:
        raise BadInput(
            f"{folder} holds no model (config.json) and no numbered folders of checkpoints (checkpoint-100, step_100, …); "
            "give the folder that does"
        )
    for (step, first), (again, second) in itertools.pairwise(numbered):
        if step == again:
            raise BadInput(f"{first} and {second} both name step {step}; move one of them away or give the folders one by one")
    return Found(folder.resolve().name, tuple((step, str(path)) for step, path in numbered))


def _in_a_row(folders: Sequence[Path]) -> Found:
    numbers: list[Any] = [_number(folder) for folder in folders]
    rising = None not in numbers and all(before < after for before, after in itertools.pairwise(numbers))
    steps = numbers if rising else range(len(folders))
    name = folders[0].resolve().parent.name if len(folders) > 1 else folders[0].resolve().name
    return Found(name or "checkpoints", tuple((step, str(folder)) for step, folder in zip(steps, folders, strict=True)), rising)


def _number(folder: Path) -> int | None:
    match = re.search(r"(\d+)$", folder.resolve().name)
    return int(match[1]) if match else None


def _chained(stages: list[Found], base: str | None) -> list[Found]:
    chained: list[Found] = []
    for stage in stages:
        taken = {BASE, *(other.name for other in chained)}
        name = next(name for n in itertools.count(1) if (name := stage.name if n == 1 else f"{stage.name}-{n}") not in taken)
        before = chained[-1].steps[-1][1] if chained else base
        steps = stage.steps
        if before and steps[0][0] > 0:
            steps = ((0, before), *steps)
        elif before and not stage.counted:  # the numbers are ours, so that they can make room for step 0
            steps = ((0, before), *((step + 1, path) for step, path in steps))
        elif before and before == base:
            raise BadInput(f"{steps[0][1]} is step 0 of its stage already; leave out --base")
        chained.append(Found(name, steps, stage.counted))
    return chained
