"""Finding the checkpoints that any trainer left: in folders, under the revisions of a hub id, behind an API."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns import BadInput
from ..plan import BASE
from ..sample._load import API, base_of
from ._whole import ADAPTER, is_checkpoint, trained_steps, whole

COUNTED = (r"step[-_]?(\d+)", r"checkpoint[-_]?(\d+)", r"iter(?:ation)?[-_]?(\d+)", r"epoch[-_]?(\d+)", r"(\d+)$")
"""How names tell the step, the surest way first: "stage1-step1000-tokens5B" ends in a number of something else."""
EPOCHS = 3
"""The place among them where epochs are counted."""
HUB = r"([\w.-]+/[\w.-]+)@([\w./*?,\[\]-]+)"
METHODS = r"(?:^|[-_./])(sft|dpo|ppo|simpo|orpo|kto|ipo|grpo|rlvr|rlhf|instruct)(?=$|[-_./])"
"""What models that stand for a whole stage are named after, as in Tulu-3-8B-SFT, Tulu-3-8B-DPO."""


@dataclass(frozen=True)
class Found:
    """The checkpoints of one stage: (step, path), in the order of training."""

    name: str
    steps: tuple[tuple[int, str], ...]
    counted: bool = True
    """Whether the checkpoints' own names give the steps."""


def discover(targets: Sequence[Path | str], base: str | None = None, made: Path | None = None) -> list[Found]:
    """Return the stages that some folders, hub ids and models behind an API hold, one after the other.

    A folder of checkpoints (`checkpoint-500`, `step_500`, `epoch_0`, …) gives a stage, sorted by step, and so does a hub id with several
    revisions ("org/name@step1,step10", "org/name@step*"), or several stages where the revisions name them ("stage1-step100"). What is
    one checkpoint itself gives, together with its neighbours in the row, one stage whose steps are 0, 1, … or the rising numbers in their
    names; or a stage each where the names tell the methods (…-SFT, …-DPO). `base` is step 0 of the first stage, and lends what checkpoints
    lack; a later stage starts from the last checkpoint of the one before.

    Checkpoints that cannot be loaded as they stand (no settings or tokenizer beside the weights, FSDP shards) are completed in `made`. In
    a later stage the whole model that the one before ended in stands for `base`: a DPO of an adapter starts from a whole SFT model.
    Raises BadInput for what is missing, empty, or cannot be completed.
    """
    stages: list[Found] = []
    single: list[str] = []
    start = base
    for target in [*targets, None]:
        gathered = [] if target is None else _gathered(str(target))
        if target is not None and not gathered:
            single.append(str(target))
            continue
        if single:
            row = _in_a_row(single)
            if len(row) > 1 and not start and not stages:  # the first of them is what the others were made from
                start, row = row[0].steps[0][1], row[1:]
            stages, single = [*stages, *row], []
        stages += gathered
    completed: list[Found] = []
    named = None
    for stage in _chained(stages, start):
        if named and made:
            _check_bases(stage, named)
        completed.append(_completed(stage, base, made))
        base = _ending(completed[-1]) or base
        named = _named_base(stage.steps[-1][1])
    return completed


def step_of(name: str) -> tuple[int, int] | None:
    """Return the step that a checkpoint's name tells, behind the place in COUNTED of the way it does; None where it tells none."""
    for place, pattern in enumerate(COUNTED):
        if match := re.search(pattern, name):
            return place, int(match[1])
    return None


# -- what a target holds -----------------------------------------------------------------------------------------------------


def _gathered(target: str) -> list[Found]:
    """Return the stages of a target that holds several checkpoints; none where it is one itself."""
    if target.startswith(API):
        return []
    folder = Path(target)
    if not folder.exists() and (match := re.fullmatch(HUB, target)):
        return _of_hub(*match.groups()) if re.search(r"[*?,\[]", match[2]) else []
    if not folder.exists():
        raise BadInput(
            f"there is no folder {target}; give folders that hold model checkpoints, or a hub id with revisions (org/name@step*)"
        )
    if not folder.is_dir():
        raise BadInput(f"{target} is a file; give the folder of a checkpoint")
    inside = {path.name: str(path) for path in sorted(folder.iterdir()) if path.is_dir() and step_of(path.name) and is_checkpoint(path)}
    if not inside:
        if is_checkpoint(folder):
            return []
        raise BadInput(
            f"{folder} holds no model (config.json) and no numbered folders of checkpoints (checkpoint-100, step_100, …); {_hint(folder)}"
        )
    steps = counted(inside, str(folder))
    if is_checkpoint(folder) and (last := trained_steps(folder)) and last > steps[-1][0]:  # the end of training fell between two savings
        steps = (*steps, (last, str(folder)))
    return [Found(folder.resolve().name, steps)]


def _hint(folder: Path) -> str:
    holding = [
        path.name for path in sorted(folder.iterdir()) if path.is_dir() and any(map(is_checkpoint, filter(Path.is_dir, path.iterdir())))
    ]
    return f"its sub-folders {', '.join(holding)} do: give those in the order of training" if holding else "give the folder that does"


def counted(paths: dict[str, str], where: str) -> tuple[tuple[int, str], ...]:
    """Return names' steps with their paths, sorted. Epochs are counted from 1, because the first is over when it is saved."""
    told: dict[str, Any] = {name: step_of(name) for name in paths}
    epochs = {name for name, (place, _) in told.items() if place == EPOCHS}
    if epochs and len(epochs) < len(told):
        step = next(name for name in told if name not in epochs)
        raise BadInput(
            f"{where} counts {min(epochs)} in epochs and {step} in steps; give those of one kind one by one, in the order of training"
        )
    first = int(bool(epochs) and any(number == 0 for _, number in told.values()))
    steps = sorted((told[name][1] + first, path) for name, path in paths.items())
    for (step, one), (again, other) in itertools.pairwise(steps):
        if step == again:
            raise BadInput(f"{one} and {other} both name step {step}; move one of them away or give them one by one")
    return tuple(steps)


def _of_hub(name: str, wanted: str) -> list[Found]:
    """Return the stages of a hub id's revisions, listed or by pattern; what stands before the step ("stage1-") tells stages apart."""
    revisions: dict[str, None] = {}
    for pattern in wanted.split(","):
        found = fnmatch.filter(_revisions(name), pattern) if re.search(r"[*?\[]", pattern) else [pattern]
        if not found:
            raise BadInput(f"{name} has no revision like {pattern!r}; it has {', '.join(_revisions(name)[:8])}, …")
        revisions |= dict.fromkeys(found)
    if unclear := [revision for revision in revisions if step_of(revision) is None and revision != "main"]:
        raise BadInput(f"the revision {unclear[0]!r} of {name} tells no step; give such ones one by one ({name}@{unclear[0]} …)")
    by_stage: dict[str, dict[str, str]] = {}
    for revision in (revision for revision in revisions if revision != "main"):
        before = re.split("|".join(COUNTED[:-1]), revision)[0].strip("-_/")
        by_stage.setdefault(before, {})[revision] = f"{name}@{revision}"
    beside: dict[str, str] = {}
    for before in by_stage:  # OLMo 2's "stage2-ingredient1", "-ingredient2" start from one model
        if (other := beside.setdefault(re.split("[-_/]", before)[0], before)) != before:
            raise BadInput(f"{name} has {other!r} and {before!r} among these revisions, which lie beside each other; take one of them")
    model = name.split("/")[1]
    stages = [
        Found(f"{model}-{before}" if before and len(by_stage) > 1 else model, counted(paths, name))
        for before, paths in sorted(by_stage.items())
    ]
    if "main" in revisions:  # where the branch ends, after the last step that is listed
        last = stages.pop()
        stages.append(Found(last.name, (*last.steps, (last.steps[-1][0] + 1, f"{name}@main"))))
    return stages


def _revisions(name: str) -> list[str]:
    """Return the branches and tags of a hub id."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(name)
    except Exception as error:  # the hub's client raises its own, HTTP's and the operating system's errors
        raise BadInput(
            f"the revisions of {name} cannot be listed: {str(error).strip().splitlines()[0]}; list them instead of a pattern"
        ) from error
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _in_a_row(targets: Sequence[str]) -> list[Found]:
    """Return single checkpoints as one stage; as one each where their names tell the methods they were made by."""
    names = [_name(target) for target in targets]
    methods = [_method(name, names[:place]) for place, name in enumerate(names)]
    if len(targets) > 1 and all(methods[1:]) and len(set(methods)) == len(methods):
        return [Found(method or name, ((0, target),), False) for method, name, target in zip(methods, names, targets, strict=True)]
    told = [step_of(_revision(target) or name) for target, name in zip(targets, names, strict=True)]
    numbers: list[Any] = [None if one is None else one[1] for one in told]
    rising = None not in numbers and all(before < after for before, after in itertools.pairwise(numbers))
    steps = numbers if rising else range(len(targets))
    folder = Path(targets[0]).resolve()
    name = folder.parent.name if len(targets) > 1 and folder.is_dir() else names[0]
    return [Found(name or "checkpoints", tuple(zip(steps, targets, strict=True)), rising)]


def _name(target: str) -> str:
    if Path(target).is_dir():
        return Path(target).resolve().name
    return re.split("@", target.removeprefix(API))[0].split("/")[-1]


def _revision(target: str) -> str:
    return "" if Path(target).is_dir() or "@" not in target else target.split("@")[1]


def _method(name: str, before: Sequence[str]) -> str:
    """Return what a model's name says it was made by; "final" where one before bears its name and more (Tulu-3-8B after Tulu-3-8B-DPO)."""
    found = re.findall(METHODS, name, re.IGNORECASE)
    if found:
        return found[-1].lower()
    return "final" if any(other.startswith(f"{name}-") and re.search(METHODS, other, re.IGNORECASE) for other in before) else ""


# -- one after the other ---------------------------------------------------------------------------------------------------------


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


def _named_base(path: str) -> str | None:
    """Return the model that an adapter says it belongs to; None where there is no adapter, or none that can be read."""
    try:
        return str(json.loads((Path(path) / ADAPTER).read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_bases(stage: Found, before: str) -> None:
    """Raise BadInput where an adapter's base is gone and not `before`, that of the adapter before: it may have been merged from both."""
    for _, path in stage.steps:
        named = _named_base(path)
        if named and named != before:
            try:
                base_of(Path(path))
            except BadInput as error:
                raise BadInput(
                    f"{path} was trained on {named}, which is not there, and the stage before it is an adapter on {before}; merge that one "
                    f"into its model and write the path of the result as base_model_name_or_path into {Path(path) / ADAPTER}"
                ) from error


def _ending(stage: Found) -> str | None:
    """Return the folder of the whole model that a stage ends in; None where that is an adapter, which others lend to, or not a folder."""
    path = stage.steps[-1][1]
    return path if os.path.isdir(path) and not os.path.exists(os.path.join(path, ADAPTER)) else None


def _completed(stage: Found, base: str | None, made: Path | None) -> Found:
    if made is None:
        return stage
    steps = tuple((step, path if not os.path.isdir(path) else str(whole(Path(path), base, made))) for step, path in stage.steps)
    return Found(stage.name, steps, stage.counted)
