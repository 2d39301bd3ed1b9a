"""Resolve the names in a plan: its model, data, judge and labels, and the folder of each stage."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import judge as judges
from .nouns import digest
from .plan import Node
from .train.task import anchored_of

if TYPE_CHECKING:
    from .records.gold import Gold


def stage_folder(node: Node, parent_weights: str, content: str, root: Path, reward_weights: str = "") -> Path:
    """Return the folder of a stage, named by its settings, its starting weights and its data.

    `content` is the digest of the data. The stage's name is not part of it, so equal stages of a plan, or of other plans in the same run
    folder, are trained once.
    """
    elsewhere = getattr(node.stage.own(), "reward", "")
    if not node.reward and isinstance(elsewhere, str) and elsewhere and Path(elsewhere).is_dir():
        from .models import loading

        reward_weights = loading.weights_digest(elsewhere)  # a folder's name does not say which model stands there today
    reward = [reward_weights] if reward_weights else []
    held = [[dataclasses.astuple(item) for item in anchored]] if (anchored := anchored_of(node.stage)) else []
    key = digest("stage", parent_weights, node.stage.trained_by(), node.seed, content, *reward, *held)
    return root / "stages" / f"{re.sub(r'[^A-Za-z0-9.=_-]', '_', node.stage.algorithm)}-seed{node.seed}-{key[:12]}"


def resolve_model(spec: str) -> str:
    """Return the folder (or hub id) of a plan's model. A base model of the sandbox or a random model is made if it is not cached."""
    if spec.startswith("sandbox:"):
        from .sandbox.build import base_model

        return str(base_model(spec))
    if spec.startswith("random:"):
        from .models.untrained import untrained

        return untrained(resolve_model(spec.removeprefix("random:")))
    return str(Path(spec).resolve()) if Path(spec).exists() else spec


def is_cached(model: str) -> bool:
    """Return whether the model needs no making: it is cached, or neither the sandbox's nor random."""
    from .sandbox.build import cached

    if model.startswith("random:"):
        from .models.untrained import folder_of

        return is_cached(model.removeprefix("random:")) and folder_of(resolve_model(model.removeprefix("random:"))).exists()
    return not model.startswith("sandbox:") or cached(model) is not None


def judge_of(spec: str, max_cost: float | None = None) -> judges.Judge:
    """Return the judge that a plan or an option names; "labels:sandbox" is built if it is not cached."""
    if builds(spec):
        from .sandbox.judges import resolved

        spec = resolved(spec)
    return judges.make(spec, max_cost)


def builds(spec: str) -> bool:
    """Tell whether a judge is one that the sandbox trains."""
    return re.search(r"\blabels:sandbox\b", spec) is not None


def gold_of(path: str) -> list[Gold]:
    """Return the human labels of a file, or [] if there is no file."""
    from .records.gold import read_gold

    return read_gold(Path(path)) if path else []
