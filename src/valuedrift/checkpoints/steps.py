"""Read the step of training from a checkpoint's name, in the forms that trainers write. Other numbers in a name are not steps."""

from __future__ import annotations

import itertools
import re
from decimal import Decimal
from typing import NamedTuple

from ..nouns import BadInput

_NUMBER = r"(\d+(?:\.\d+)?)([kmbt]?)(?![a-z\d]|\.\d)"
_FORMS = (
    ("steps", rf"(?:global[-_]?)?steps?[-_=]?{_NUMBER}"),  # step_500, global_step500, stage1-step1000-tokens5B, step-1431k-3T, step=500
    ("steps", rf"iter(?:ation)?s?[-_=]?{_NUMBER}"),  # iter_0000500 (Megatron)
    ("steps", rf"ba{_NUMBER}"),  # ep0-ba500 (Composer)
    ("steps", rf"(?:checkpoint|ckpt)[-_=]?{_NUMBER}(?![-_ ]?tokens?)"),  # checkpoint-500 (Trainer), ckpt_356
    ("tokens", rf"tokens?[-_=]?{_NUMBER}"),  # tokens50B
    ("tokens", r"(?<![\d.])(\d+(?:\.\d+)?)([kmbt])[-_ ]?tokens?(?![a-z])"),  # 50B-tokens
    ("epochs", rf"epochs?[-_=]?{_NUMBER}"),  # epoch_0 (torchtune)
)
_PATTERNS = [(unit, re.compile(rf"(?<![a-z]){form}", re.IGNORECASE)) for unit, form in _FORMS]
_VARYING = re.compile(r"[a-z_]+=-?[\d.]+|(?<![a-z])(?:epochs?|ep)[-_=]?\d+", re.IGNORECASE)
"""Parts before the step that may differ within one training: the epoch, and values such as val_loss=1.2 (NeMo)."""
ONE_BY_ONE = (
    "if they are checkpoints of one training, give them one by one, in the order of training; if they are different trainings, "
    "trace each with its own --out and compare the runs with 'valuedrift compare'"
)
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Step(NamedTuple):
    """The step that a name states: its unit, its number, and the text before it, which names the training."""

    unit: str
    number: int
    before: str


def step_of(name: str) -> Step | None:
    """Return the step that a checkpoint's name states; None if it states none. Steps precede tokens, and tokens precede epochs."""
    if name.startswith("tmp-"):  # the Trainer writes into tmp-checkpoint-500 and renames it when it is complete
        return None
    return next((step for unit, pattern in _PATTERNS if (step := _read(unit, pattern, name))), None)


def in_order(paths: dict[str, str], where: str) -> tuple[tuple[int, str], ...]:
    """Return (step, path) for names that state steps, sorted. Epochs count from 1, because an epoch is over when it is saved.

    Raises BadInput if the names count different units, seem to be of different trainings, or state the same step twice.
    """
    steps = {name: step for name in paths if (step := step_of(name))}
    trainings = {step.before: name for name, step in steps.items()}
    if len(trainings) > 1:
        one, other = list(trainings.values())[:2]
        raise BadInput(f"the names of {one} and {other} in {where} do not say whether they are of one training; {ONE_BY_ONE}")
    by_unit = {unit: name for name, (unit, _, _) in steps.items()}
    if len(by_unit) > 1:
        (one, name), (two, other) = list(by_unit.items())[:2]
        raise BadInput(f"{where} counts {name} in {one} and {other} in {two}; give those of one unit one by one, in the order of training")
    first = int("epochs" in by_unit and any(step.number == 0 for step in steps.values()))
    ordered = sorted(steps, key=lambda name: (steps[name].number, _epoch_of(name)))
    for name, other in itertools.pairwise(ordered):
        same, earlier = steps[name].number == steps[other].number, _epoch_of(other) < _epoch_of(name)
        if earlier or (same and _epoch_of(other) != _epoch_of(name)):
            raise BadInput(f"{where} counts the steps of {name} and {other} from 0 in each epoch; give them one by one, in the right order")
        if same:
            number = steps[name].number + first
            raise BadInput(f"{paths[name]} and {paths[other]} both name step {number}; move one of them away or give them one by one")
    return tuple((steps[name].number + first, paths[name]) for name in ordered)


def _read(unit: str, pattern: re.Pattern[str], name: str) -> Step | None:
    match = pattern.search(name)
    if match is None:
        return None
    number = Decimal(match[1]) * _SCALE[match[2].lower()]
    before = _VARYING.sub("", name[: match.start()]).strip("-_/")
    return Step(unit, int(number), before) if number == int(number) else None


def _epoch_of(name: str) -> int:
    unit, pattern = _PATTERNS[-1]
    step = _read(unit, pattern, name)
    return step.number if step else 0
