"""A stage's number of steps, the order of its records, and the steps to save at. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import registry
from ..nouns import BadInput
from ..plan import Stage

MOST_SAVED = 10_000
"""Most checkpoints of a stage: more come from a slip, and fill any disk."""


def n_seen(stage: Stage, n_records: int) -> int:
    """Return the number of records that a stage sees, repeats included."""
    return math.ceil(stage.epochs * n_records) if stage.steps is None else stage.steps * stage.effective_batch_size


def total_steps(stage: Stage, n_records: int) -> int:
    """Return the number of optimiser steps of a stage. The last one may see fewer records."""
    return math.ceil(n_seen(stage, n_records) / stage.effective_batch_size)


def longest_answer(settings: Any) -> int:
    """Return the longest sampled answer in tokens: our own setting, or that of TRL's configs."""
    return getattr(settings, "max_completion_length", None) or settings.max_new_tokens


def course(stage: Stage, n_records: int) -> tuple[int, int]:
    """Return the number of records that a stage sees (with rollouts: of prompts that it answers) and of its optimiser steps."""
    algorithm = registry.algorithm(stage.algorithm)
    if hasattr(algorithm, "course"):
        return algorithm.course(stage, n_records)
    if "rollouts" not in algorithm.needs:
        return n_seen(stage, n_records), total_steps(stage, n_records)
    settings = stage.own()
    per_iteration = stage.effective_batch_size * settings.num_mini_batches
    steps_per_iteration = settings.num_ppo_epochs * settings.num_mini_batches
    iterations = math.ceil(stage.epochs * n_records / per_iteration if stage.steps is None else stage.steps / steps_per_iteration)
    return iterations * per_iteration, stage.steps or iterations * steps_per_iteration


def order(n_records: int, n_seen: int, seed: int, lengths: Sequence[int] = (), batch: int = 1) -> np.ndarray:
    """Return the index of the record at each position of the training: one shuffle per epoch, concatenated.

    The order is fixed before the first step, so that a resume only has to count. With `lengths`, records of similar length share a batch,
    which saves padding: runs of 16 batches are sorted by length, and each run's batches are shuffled.
    """
    n_epochs = math.ceil(n_seen / n_records)
    shuffles = [np.random.default_rng((seed, epoch)).permutation(n_records) for epoch in range(n_epochs)]
    seen = np.concatenate(shuffles)[:n_seen]
    if len(lengths) == 0:
        return seen
    rng, long = np.random.default_rng((seed, n_epochs, 1)), np.asarray(lengths)
    runs = [seen[start : start + 16 * batch] for start in range(0, len(seen), 16 * batch)]
    return np.concatenate([_sorted_batches(run[np.argsort(long[run], kind="stable")], batch, rng) for run in runs])


def _sorted_batches(run: np.ndarray, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Return the run's full batches in random order. Records that fill no batch stay last."""
    whole = len(run) // batch * batch
    return np.concatenate([*rng.permutation(run[:whole].reshape(-1, batch)), run[whole:]])


def save_steps(save_at: str | list[int], total: int) -> list[int]:
    """Return the steps to save at, ascending. The last step is always one of them.

    "log:N" is N steps, evenly spaced on a log scale as far as whole numbers allow. "every:N" is each N-th step.
    """
    if isinstance(save_at, list):
        if late := [step for step in save_at if step > total]:
            raise BadInput(f"save_at lists step {late[0]}, but the stage has only {total} steps; list steps from 1 to {total}")
        return sorted({*save_at, total})
    kind, number = save_at.split(":")
    count = int(number)
    if (n := min(count, total) if kind == "log" else total // count) > MOST_SAVED:
        raise BadInput(f"save_at = {save_at!r} saves {n:,} checkpoints of {total:,} steps, and a stage saves at most {MOST_SAVED:,}")
    if kind == "every":
        return sorted({*range(count, total + 1, count), total})
    count = min(count, total)
    steps: list[int] = []
    for index, ideal in enumerate(np.geomspace(1, total, count) if count > 1 else [total]):
        earliest = steps[-1] + 1 if steps else 1
        steps.append(max(earliest, min(round(float(ideal)), total - (count - 1 - index))))
    return steps
