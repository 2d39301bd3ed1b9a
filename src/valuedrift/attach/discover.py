"""Finding the checkpoints in folders that any trainer wrote."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns import BadInput

MARKS = ("config.json", "adapter_config.json")
"""A folder that holds one of these is a model or an adapter."""


@dataclass(frozen=True)
class Found:
    """The checkpoints of one stage: (step, path), in the order of training."""

    name: str
    steps: tuple[tuple[int, str], ...]


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
        if _is_model(folder):
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


def _gathered(folder: Path) -> Found:
    numbered = [(_number(path), path) for path in folder.iterdir() if path.is_dir() and _number(path) is not None and _is_model(path)]
    if not numbered:
        raise BadInput(
            f"{folder} holds no model (config.json) and no numbered folders of checkpoints (checkpoint-100, step_100, …); "
            "give the folder that does"
        )
    return Found(folder.resolve().name, tuple((step, str(path)) for step, path in sorted(numbered)))  # type: ignore[misc]


def _in_a_row(folders: Sequence[Path]) -> Found:
    numbers: list[Any] = [_number(folder) for folder in folders]
    rising = None not in numbers and all(before < after for before, after in itertools.pairwise(numbers))
    steps = numbers if rising else range(len(folders))
    name = folders[0].resolve().parent.name if len(folders) > 1 else folders[0].resolve().name
    return Found(name or "checkpoints", tuple((step, str(folder)) for step, folder in zip(steps, folders, strict=True)))


def _number(folder: Path) -> int | None:
    match = re.search(r"(\d+)$", folder.resolve().name)
    return int(match[1]) if match else None


def _chained(stages: list[Found], base: str | None) -> list[Found]:
    chained: list[Found] = []
    names: set[str] = set()
    for stage in stages:
        name = stage.name if stage.name not in names else f"{stage.name}-{len(names) + 1}"
        names.add(name)
        before = chained[-1].steps[-1][1] if chained else base
        steps = stage.steps
        if before:  # what came before is step 0, and makes room where the folders were numbered from 0
            shift = int(steps[0][0] == 0)
            steps = ((0, before), *((step + shift, path) for step, path in steps))
        chained.append(Found(name, steps))
    return chained
