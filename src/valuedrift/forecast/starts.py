"""What a model says before a training: the stored answers of a start, their verdicts, and the gradients of its shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from .. import pipeline, resolve
from ..models import loading
from ..nouns import Prompt, digest
from ..plan import EvaluationSettings, Lora
from ..store import Store
from .gradients import Influence

DRAWS = 4
"""Fewest answers per prompt of a start. The gradient of a share compares a prompt's answers with each other."""


class Starts:
    """Traces models into folders of their own in `out`, each once; keeps the gradients of the last one."""

    def __init__(self, settings: EvaluationSettings, out: Path):
        changed = {"draws": max(settings.draws, DRAWS), "floor": False, "side_metrics": False, "capability": [], "gold": ""}
        self.settings = EvaluationSettings(**settings.model_dump(include=set(EvaluationSettings.model_fields)) | changed)
        self.out = out
        self._traced: dict[str, Store] = {}
        self._kept: tuple[tuple[str, Lora | None], Influence] | None = None

    def store(self, path: str) -> Store:
        """Return the run folder of a model, traced if it was not before."""
        path = resolve.resolve_model(path)
        weights = loading.weights_digest(path)
        if weights not in self._traced:
            folder = self.out / f"start-{weights[:12]}"
            pipeline.trace_folders(self.settings, [path], None, folder)
            self._traced[weights] = Store(folder)
        return self._traced[weights]

    def answers(self, path: str) -> pl.DataFrame:
        """Return one row per answer with its text and the scores' columns."""
        store = self.store(path)
        return store.read_table("scores").join(store.texts().rename({"key": "answer"}), on="answer", maintain_order="left")

    def influence(self, path: str, lora: Lora | None, prompts: Sequence[Prompt]) -> Influence:
        """Return the gradients of a model's shares."""
        path = resolve.resolve_model(path)
        key = loading.weights_digest(path), lora
        if self._kept is None or self._kept[0] != key:
            self._kept = key, Influence(path, lora, 0, self.answers(path), prompts, self.out)
        return self._kept[1]


def architecture(path: str) -> str:
    """Return a digest of what makes two models of one architecture: type, sizes and vocabulary."""
    settings = loading.config_of(loading.base_of(Path(path)) if loading.is_adapter(Path(path)) else Path(path)).get_text_config().to_dict()
    return digest("architecture", [settings.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")])[:12]
