"""Find the checkpoints of any trainer in folders, under the revisions of a hub id, or behind an API."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..models import gguf
from ..models.loading import API, base_of
from ..nouns import BadInput
from ..plan import BASE
from .complete import ADAPTER, folders_in, has_weights, is_checkpoint, models_in, one_training, others_in, the_model, trained, whole
from .steps import ONE_BY_ONE, Step, in_order, step_of

HUB = r"([\w.-]+/[\w.-]+)@([\w./*?,\[\]-]+)"
METHODS = r"(?:^|[-_./])(sft|dpo|ppo|simpo|orpo|kto|ipo|grpo|rlvr|rlhf|instruct)(?=$|[-_./])"
"""Methods in the names of models that are the result of a whole stage, as in Tulu-3-8B-SFT, Tulu-3-8B-DPO."""


@dataclass(frozen=True)
class Found:
    """The checkpoints of one stage: (step, path), in the order of training."""

    name: str
    steps: tuple[tuple[int, str], ...]
    counted: bool = True
    """Whether the names of the checkpoints state their steps."""
    left_out: tuple[str, ...] = ()
    """Folders and files near the checkpoints that look like checkpoints, each with the reason why it is left out."""


def discover(targets: Sequence[Path | str], base: str | None = None, made: Path | None = None) -> list[Found]:
    """Return the stages of folders, hub ids and models behind an API, in order.

    A folder of checkpoints (`checkpoint-500`, `step_500`, `epoch_0`, …; `steps.py` lists the forms) is a stage, sorted by step. So is a hub
    id with several revisions ("org/name@step1,step10", "org/name@step*"), or several stages if the revisions name them ("stage1-step100").
    Neighbouring targets that are one checkpoint each make one stage. Its steps are the numbers in the names if these rise, else 0, 1, …. If
    the names state methods (…-SFT, …-DPO), each target is a stage. `base` is step 0 of the first stage and supplies the files that
    checkpoints lack. A later stage starts from the last checkpoint of the stage before.

    Checkpoints that cannot be loaded as they are (without settings or tokenizer, or as FSDP shards) are completed in `made`. In a later
    stage the last whole model of the stage before replaces `base`, because a DPO of an adapter starts from a whole SFT model. Raises
    BadInput for targets that are missing, empty or cannot be completed, and for names that do not state which step a model is.
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
            if len(row) > 1 and not start and not stages:  # the others were trained from the first
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


# -- what a target holds -----------------------------------------------------------------------------------------------------


def _gathered(target: str) -> list[Found]:
    """Return the stages of a target with several checkpoints; none if it is one checkpoint."""
    if target.startswith(API):
        return []
    folder = Path(target)
    if not folder.exists() and (match := re.fullmatch(HUB, target)):
        return _of_hub(*match.groups()) if re.search(r"[*?,\[]", match[2]) else []
    if not folder.exists():
        raise BadInput(
            f"there is no folder {target}; give folders that hold model checkpoints, or a hub id with revisions (org/name@step*)"
        )
    if gguf.is_gguf(folder):
        return []
    if not folder.is_dir():
        raise BadInput(f"{target} is a file but not a GGUF file; give the folder of a checkpoint")
    return _of_quantised(folder) or _of_folder(folder)


def _of_quantised(folder: Path) -> list[Found]:
    """Return the stage of a folder of GGUF files, quantisations of one model, the largest first; none if it holds fewer than two."""
    files = sorted(gguf.files_in(folder), key=lambda file: (-file.stat().st_size, file.name))
    if len(files) < 2:
        return []
    if len({gguf.unquantised(file) for file in files}) > 1:
        names = ", ".join(file.name for file in files)
        raise BadInput(f"{folder} holds GGUF files whose names are not those of one model ({names}); {ONE_BY_ONE}")
    return [Found(folder.resolve().name, tuple(enumerate(map(str, files))), False)]


def _of_folder(folder: Path) -> list[Found]:
    """Return the stage of the checkpoints in a folder; none if the folder holds one model.

    Names state the steps. A model whose name states none belongs to the stage if its Trainer state gives a step of that training.
    """
    inside = {path: models_in(path) for path in folders_in(folder)}
    named = {path: the_model(path) for path, models in inside.items() if step_of(path.name) and models}
    links = {path.resolve() for path in named}  # such as latest -> checkpoint-500
    unnamed = [path for path in inside if path not in named and inside[path] and path.resolve() not in links]
    if not named and (step_of(folder.name) or len(unnamed) < 2 or is_checkpoint(folder)):
        return [] if models_in(folder) and the_model(folder) else _nothing_in(folder, inside)
    steps = dict(in_order({path.name: str(model) for path, model in named.items()}, str(folder)))
    in_steps = all(step.unit == "steps" for path in named if (step := step_of(path.name)))
    unclear, left = [], _left_in(inside, named)
    around = [folder] if has_weights(folder) or (is_checkpoint(folder) and trained(folder)) else []  # the model that training ended in
    for path in [*unnamed, *around]:
        name, model = ("the model in the folder itself", folder) if path == folder else (path.name, the_model(path))
        state = trained(model)
        if state and state[0] in steps:
            left.append(f"{name} (at step {state[0]}, like {Path(steps[state[0]]).relative_to(folder)})")
        elif state and in_steps and all(one_training(state, trained(Path(at))) for at in steps.values()):
            steps[state[0]] = str(model)
        else:
            unclear.append(name)
            left.append(f"{name} (nothing states its step)")
    if unclear and not named:
        raise BadInput(f"{folder} holds {len(unnamed)} models whose names state no step of a training ({', '.join(unclear)}); {ONE_BY_ONE}")
    return [Found(folder.resolve().name, tuple(sorted(steps.items())), True, tuple(left))]


def _left_in(inside: dict[Path, list[Path]], named: dict[Path, Path]) -> list[str]:
    """Return the unused checkpoints of a folder: empty steps, further models of a step, folders of checkpoints."""
    left = [f"{path.name} (it contains no model)" for path, models in inside.items() if step_of(path.name) and not models]
    left += [f"{path.name}/{other.name} (another model of that step is used)" for path in named for other in others_in(path, named[path])]
    return left + [f"{path.name} (it contains checkpoints)" for path in _deeper(inside) if not step_of(path.name)]


def _deeper(inside: dict[Path, list[Path]]) -> list[Path]:
    """Return the sub-folders that are not checkpoints but contain some."""
    return [path for path, models in inside.items() if not models and any(map(models_in, folders_in(path)))]


def _nothing_in(folder: Path, inside: dict[Path, list[Path]]) -> list[Found]:
    names = ", ".join(path.name for path in _deeper(inside))
    raise BadInput(
        f"{folder} holds no model (config.json) and no numbered folders of checkpoints (checkpoint-100, step_100, …); "
        + (f"its sub-folders {names} do: give those in the order of training" if names else "give the folder that does")
    )


def _of_hub(name: str, wanted: str) -> list[Found]:
    """Return the stages of a hub id's revisions, listed or by pattern. The text before the step ("stage1-") names the stage."""
    revisions: dict[str, None] = {}
    for pattern in wanted.split(","):
        found = fnmatch.filter(_revisions(name), pattern) if re.search(r"[*?\[]", pattern) else [pattern]
        if not found:
            raise BadInput(f"{name} has no revision like {pattern!r}; it has {', '.join(_revisions(name)[:8])}, …")
        revisions |= dict.fromkeys(found)
    if unclear := [revision for revision in revisions if step_of(revision) is None and revision != "main"]:
        raise BadInput(f"the revision {unclear[0]!r} of {name} states no step; give such revisions one by one ({name}@{unclear[0]} …)")
    by_stage: dict[str, dict[str, str]] = {}
    for revision in (revision for revision in revisions if revision != "main"):
        step = step_of(revision)
        by_stage.setdefault(step.before if step else "", {})[revision] = f"{name}@{revision}"
    beside: dict[str, str] = {}
    for before in by_stage:  # OLMo 2's "stage2-ingredient1", "-ingredient2" start from one model
        if (other := beside.setdefault(re.split("[-_/]", before)[0], before)) != before:
            raise BadInput(f"{name} has {other!r} and {before!r} among these revisions, two branches of one training; use one of them")
    model = name.split("/")[1]
    stages = [
        Found(f"{model}-{before}" if before and len(by_stage) > 1 else model, in_order(paths, name))
        for before, paths in sorted(by_stage.items())
    ]
    if "main" in revisions:  # the end of the branch, after the last listed step
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
    """Return single checkpoints as one stage, or one stage each if their names state their methods."""
    names = [_name(target) for target in targets]
    paths = [str(the_model(Path(target))) if Path(target).is_dir() else target for target in targets]
    left = tuple(
        f"{other} ({path} is used)"
        for target, path in zip(targets, paths, strict=True)
        if Path(target).is_dir()
        for other in others_in(Path(target), Path(path))
    )
    methods = [_method(name, names[:place]) for place, name in enumerate(names)]
    alike = len({gguf.is_gguf(target) for target in targets}) == 1  # a GGUF file after a folder is its quantisation, whatever its name
    if len(targets) > 1 and alike and all(methods[1:]) and len(set(methods)) == len(methods):
        stages = [Found(method or name, ((0, path),), False) for method, name, path in zip(methods, names, paths, strict=True)]
        return [replace(stages[0], left_out=left), *stages[1:]]
    stated = [_stated(target) for target in targets]
    numbers = [step.number for step in stated if step]
    rising = len(numbers) == len(targets) and all(before < after for before, after in itertools.pairwise(numbers))
    rising = rising and len({step.unit for step in stated if step}) == 1
    folder = Path(targets[0]).resolve()
    name = names[0]
    if len(targets) > 1 and folder.is_dir():
        name = next(above.name for above in folder.parents if step_of(above.name) is None)
    steps = zip(numbers if rising else range(len(targets)), paths, strict=True)
    return [Found(name or "checkpoints", tuple(steps), rising, left)]


def _name(target: str) -> str:
    if Path(target).is_dir():
        return Path(target).resolve().name
    name = re.split("@", target.removeprefix(API))[0].split("/")[-1]
    return gguf.unquantised(Path(name)) if gguf.is_gguf(target) else name


def _stated(target: str) -> Step | None:
    """Return the step in a target's revision or name, else in the name of the folder around it (checkpoint-500/policy)."""
    if not Path(target).is_dir():
        return step_of(target.split("@")[1] if "@" in target else _name(target))
    return step_of(_name(target)) or step_of(Path(target).resolve().parent.name)


def _method(name: str, before: Sequence[str]) -> str:
    """Return the method in a model's name; "final" if an earlier name adds a method to it (Tulu-3-8B after Tulu-3-8B-DPO)."""
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
        elif before and not stage.counted:  # these numbers are our own, and may move to make room for step 0
            steps = ((0, before), *((step + 1, path) for step, path in steps))
        elif before and before == base:
            raise BadInput(f"{steps[0][1]} is already step 0 of its stage; leave out --base")
        chained.append(replace(stage, name=name, steps=steps))
    return chained


def _named_base(path: str) -> str | None:
    """Return the base model that an adapter names; None if there is no adapter or it cannot be read."""
    try:
        return str(json.loads((Path(path) / ADAPTER).read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_bases(stage: Found, before: str) -> None:
    """Raise BadInput if an adapter's base is missing and is not `before`, the base of the previous adapter.

    The missing base may be that base with the previous adapter merged in.
    """
    for _, path in stage.steps:
        named = _named_base(path)
        if named and named != before:
            try:
                base_of(Path(path))
            except BadInput as error:
                raise BadInput(
                    f"{path} was trained on {named}, which does not exist, and the stage before it is an adapter on {before}; merge it "
                    f"into its model and write the path of the result as base_model_name_or_path into {Path(path) / ADAPTER}"
                ) from error


def _ending(stage: Found) -> str | None:
    """Return the folder of the whole model that ends a stage; None if that is an adapter or not a folder."""
    path = stage.steps[-1][1]
    return path if os.path.isdir(path) and not os.path.exists(os.path.join(path, ADAPTER)) else None


def _completed(stage: Found, base: str | None, made: Path | None) -> Found:
    if made is None:
        return stage
    steps = tuple((step, path if not os.path.isdir(path) else str(whole(Path(path), base, made))) for step, path in stage.steps)
    return replace(stage, steps=steps)
