"""The stages of a plan as a graph: their dependencies and the order of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import registry
from ..nouns import BadInput

if TYPE_CHECKING:
    from .settings import Stage

BASE = "base"


@dataclass(frozen=True)
class Node:
    """One stage to train: a stage of the plan under one seed and one setting of the sweep."""

    name: str
    parent: str
    stage: Stage
    seed: int
    reward: str = ""
    """The node that trains its reward model, if any."""
    sweep: Mapping[str, Any] = field(default_factory=dict)
    """The swept values that affect it, by their names in its settings."""


def _needed(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Return what must be trained before a stage: the one it comes after, and the one that trains its reward model."""
    return [stages[name].after, *([reward] if (reward := stages[name].reward_stage(stages)) else [])]


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """Return the stages, each behind those that it needs. Raises BadInput for an unknown one and for a circle."""
    order: dict[str, None] = {}
    for name in stages:
        chain = [name]
        while chain:
            missing = next((one for one in _needed(stages, chain[-1]) if one != BASE and one not in order), None)
            if missing is None:
                order[chain.pop()] = None
            elif missing in chain:
                circle = " -> ".join([*chain, missing])
                raise BadInput(f"the stages {circle} wait for each other in a circle; start one of them at 'base'")
            elif missing not in stages:
                hint = registry.nearest(missing, [BASE, *stages])
                raise BadInput(f"stage {chain[-1]!r} comes after {missing!r}, which is no stage{hint}")
            else:
                chain.append(missing)
    return list(order)


def path(stages: Mapping[str, Stage], name: str) -> set[str]:
    """Return a stage and all that come before it."""
    path, waiting = set[str](), [name]
    while waiting:
        at = waiting.pop()
        if at != BASE and at not in path:
            path.add(at)
            waiting += _needed(stages, at)
    return path


def short(key: str, name: str) -> str:
    """Return the name of a swept setting in a node of stage `name`."""
    own = key.split(".", 2)
    return own[2].removeprefix("data.") if own[1] == name else f"{own[1]}.{own[2]}"
