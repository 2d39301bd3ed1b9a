"""Rewards of TRL's trainers that sample: Python functions and reward models."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import registry
from ..nouns import BadInput, Example
from . import processes
from .reward_model import RewardModel


@dataclass(frozen=True)
class Reward:
    """A reward function as TRL calls it, and its source for the digest."""

    score: Callable[..., Any]
    source: str


def rewards(specs: str | Sequence[str]) -> list[Reward]:
    """Return the rewards: each "MODULE:FUNCTION", or a reward model's folder or hub id. Raises BadInput for anything else."""
    named = [specs] if isinstance(specs, str) else list(specs)
    if not all(named) or not named:
        raise BadInput('no reward is given; set reward to "MODULE:FUNCTION", to a stage that trains a reward model, or to its folder')
    return [_function(spec) if ":" in spec and not Path(spec).exists() else Reward(RewardModelFunction(spec), spec) for spec in named]


def _function(spec: str) -> Reward:
    module_name, name = registry.split(spec)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(f"reward {spec!r} cannot be imported ({error}); put its folder on PYTHONPATH or install it") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise BadInput(f"reward {spec!r}: {module_name} has no function {name!r}{registry.among(name, known)}")
    try:
        return Reward(function, f"{spec}\n{inspect.getsource(function)}")
    except (OSError, TypeError):  # not written in Python: only its name is known
        return Reward(function, spec)


class RewardModelFunction:
    """A reward model, called with TRL's arguments."""

    __name__ = "reward_model"

    def __init__(self, path: str):
        self.path = path
        self.model: RewardModel | None = None

    def load(self) -> None:
        """Load the model, in all processes at once."""
        self.model = RewardModel(self.path, processes.device())

    def __call__(self, prompts: Sequence[list[dict[str, Any]]], completions: Sequence[list[dict[str, Any]]], **_: Any) -> list[float]:
        assert self.model is not None
        answers = [
            Example(tuple((message["role"], message["content"]) for message in prompt), completion[0]["content"])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return self.model.scores(answers, len(answers)).tolist()
