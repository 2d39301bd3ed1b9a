"""Estimates of training and sampling: floating-point operations, GPU hours, sizes of models and data not downloaded. Free of torch.

A forward pass takes 2 operations per token and parameter, a backward pass 4 more (Kaplan et al. 2020, section 2.1). An adapter saves half
of the 4, because frozen weights have no gradients. Attention, a few per cent at these lengths, is left out.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any

from .. import registry
from ..nouns import BadInput
from ..plan import Stage
from . import step_counts

FORWARD, BACKWARD, BACKWARD_ADAPTER = 2, 4, 2


@functools.cache
def _assumed() -> dict[str, Any]:
    return tomllib.loads(resources.files("valuedrift.train").joinpath("gpus.toml").read_text())


def parameters_of(model: str) -> float | None:
    """Return the parameters of a hub model by its card; None if unknown."""
    return _assumed()["parameters"].get(model.partition("@")[0])


def records_of(source: str) -> int | None:
    """Return the records of a hub data set by its card; None if unknown."""
    return _assumed()["records"].get(source.removeprefix("hf:").partition("?")[0]) if source.startswith("hf:") else None


def flops_per_parameter(stage: Stage, n_seen: int) -> float:
    """Return an upper bound of the operations per parameter of a stage: `n_seen` records of `max_length` tokens each."""
    algorithm = registry.algorithm(stage.algorithm)
    rows = 2 if algorithm.data_format == "pairs" else 1
    tokens = float(n_seen) * rows * stage.max_length
    step = FORWARD + (BACKWARD_ADAPTER if stage.lora else BACKWARD)
    if "rollouts" in algorithm.needs:  # an answer is sampled, read by policy, reference and reward model, then trained on
        settings = stage.own()
        passes = float(getattr(settings, "num_ppo_epochs", 0) or getattr(settings, "num_iterations", 1))  # ours, and TRL's
        written = FORWARD * n_seen * float(step_counts.longest_answer(settings))
        return (tokens * (3 * FORWARD + step * passes) + written) * float(getattr(settings, "num_generations", 1))
    views = len(algorithm.needs & {"reference", "kl_batch"})
    return tokens * (step + FORWARD * views)


def gpu_hours(flops: float, gpu: str, work: str) -> float:
    """Return the hours on one GPU; `work` is "training" or "sampling". Raises BadInput for an unknown GPU."""
    gpus = _assumed()["gpus"]
    if gpu not in gpus:
        raise BadInput(f"unknown GPU {gpu!r}{registry.among(gpu, list(gpus))}")
    return flops / (gpus[gpu] * _assumed()["utilisation"][work]) / 3600
