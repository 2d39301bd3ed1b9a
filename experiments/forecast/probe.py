"""A rung that was tried: a short training with two seeds, read on stored answers and extrapolated.

The change of a share is, to first order, the mean over prompts of the covariance between the judge's probability and the change of the
answers' log-probs. A probe trains the first steps of the plan at its learning rate, and its slope is extrapolated to the plan's dose.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from valuedrift.forecast.gradients import Influence, advantages
from valuedrift.models import loading
from valuedrift.plan import Stage
from valuedrift.stats.forecast import MEASURES
from valuedrift.train import collation, step_counts
from valuedrift.train.logprobs import answer_logps
from valuedrift.train.stage import run_stage

SHARE, LEAST = 0.05, 3
"""Share of the plan's steps that the probe takes, and the fewest steps."""


class Probe:
    """The stored answers of a start, with their log-probs."""

    def __init__(self, model: Influence, answers: pl.DataFrame, prompts: dict[str, Any], n_prompts: int = 12):
        self.rows = []
        for (topic,), of in answers.partition_by("topic", as_dict=True, maintain_order=True).items():
            kept = of.filter(pl.col("prompt").is_in(of["prompt"].unique(maintain_order=True)[:n_prompts].to_list()))
            self.rows += [(topic, text, id, weight_M) for text, id, weight_M in advantages(kept) if text and np.abs(weight_M).max() > 0]
        records = collation.in_records(model.tokenizer, [((("user", prompts[id].text),), (text,)) for _, text, id, _ in self.rows])
        self.batches = [collation.collate([(record, {}) for record in records[at : at + 64]]) for at in range(0, len(records), 64)]
        self.before_N = self.logps(model.model)

    @torch.no_grad()
    def logps(self, model: Any) -> np.ndarray:
        return np.concatenate([answer_logps(model, batch).sum(1).numpy() for batch in self.batches])

    def feature(self, start: str, stage: Stage, data: Any, out: Path) -> dict[tuple[str, str], dict[str, float]]:
        """Return the feature `probe`, the extrapolated drift, of every topic and measure with evidence."""
        total = step_counts.course(stage, len(data))[1]
        steps = min(total, max(LEAST, round(SHARE * total)))
        short = stage.model_copy(update={"steps": steps, "lr_scheduler_type": "constant", "save_at": "log:1"})
        moved = []
        for seed in (101, 102):
            folder = out / f"probe-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            run_stage(short, seed, start, data, folder)
            moved.append(self.logps(loading.load_model(folder / f"checkpoint-{steps}", "cpu")[0]) - self.before_N)
            shutil.rmtree(folder)
        moved_N = np.mean(moved, 0) * total / steps
        found: dict[tuple[str, str], dict[str, float]] = {}
        for (topic, _, _, weight_M), change in zip(self.rows, moved_N, strict=True):
            for measure, weight in zip(MEASURES, weight_M, strict=True):
                found.setdefault((topic, measure), {"probe": 0.0})["probe"] += float(weight * change)
        return found
