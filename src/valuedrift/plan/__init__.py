"""A plan: one TOML file is one experiment. Unknown keys stop it with the nearest known key; a plan may derive from another."""

from ._file import changed, fault, load, set_by
from .graph import BASE, Node
from .settings import LEAST_AGREEMENT, Anchor, EvaluationSettings, Lora, Plan, Resources, Settings, Stage, original_names

__all__ = [
    "BASE",
    "LEAST_AGREEMENT",
    "Anchor",
    "EvaluationSettings",
    "Lora",
    "Node",
    "Plan",
    "Resources",
    "Settings",
    "Stage",
    "changed",
    "fault",
    "load",
    "original_names",
    "set_by",
]
