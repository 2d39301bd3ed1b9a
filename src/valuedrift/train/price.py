"""What training and sampling take, reckoned beforehand: floating-point operations, GPU hours, sizes of what is not at hand. Free of torch.

A pass over a token takes 2 operations per parameter forward, and 4 more backward (Kaplan et al. 2020, section 2.1), of which an adapter
saves half: there are no gradients of the frozen weights. Attention, a few per cent at these lengths, is left out.
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
    """Return the parameters of a hub id by its card; None where it is not known."""
    return _assumed()["parameters"].get(model.partition("@")[0])


def records_of(source: str) -> int | None:
    """Return the records of a data set of the hub by its card; None where they are not known."""
    return _assumed()["records"].get(source.removeprefix("hf:").partition("?")[0]) if source.startswith("hf:") else None


def flops_per_parameter(stage: Stage, n_seen: int) -> float:
    """Return the operations per parameter of a stage that sees so many records, each of `max_length` tokens: a bound from above."""
    algorithm = registry.algorithm(stage.algorithm)
    rows = 2 if algorithm.data_format == "pairs" else 1
    tokens = float(n_seen) * rows * stage.max_length
    step = FORWARD + (BACKWARD_ADAPTER if stage.lora else BACKWARD)
    if "rollouts" in algorithm.needs:  # an answer is written, read by the policy, its reference and the reward model, then trained on
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
