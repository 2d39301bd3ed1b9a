"""Tasks on a Ray cluster: RAY_ADDRESS names it; without, one is started on this machine.

Tasks do not talk to each other. One whose machine or process is lost is begun again elsewhere. Stages write into the run folder, which must
stand under the same path on every machine; answers come back to the machine that asked for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import distributed
from ..nouns import BadInput
from ..plan import Resources
from . import Failed

RETRIES = 5
"""How often a task whose worker was lost is begun again."""


class Engine(distributed.Engine):
    """Hands tasks to a cluster, which has one queue for all of them."""

    slots = 1 << 30

    def __init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise BadInput("the engine ray needs the package ray; install it with: pip install 'valuedrift[ray]'") from error
        self._ray = ray
        if not ray.is_initialized():
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without GPUs sees those there are
            ray.init(log_to_driver=False, include_dashboard=False)
        self._gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        self._task = ray.remote(_there)
        self._running: dict[Any, Any] = {}

    def submit(self, key: Any, resources: Resources | None, function: Callable[..., Any], *given: Any) -> None:
        """Put a task into the cluster's queue; without `resources` it takes one core, and one GPU where the cluster has any."""
        wanted = resources or Resources(gpus=self._gpus)
        options: dict[str, Any] = {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus, "max_retries": RETRIES, "retry_exceptions": False}
        if wanted.memory_gb:
            options["memory"] = int(wanted.memory_gb * 1e9)
        self._running[self._task.options(**options).remote(os.getcwd(), function, given)] = key

    def next(self) -> tuple[Any, Any]:
        """Wait for a task that is done. Raises Failed."""
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        key = self._running.pop(done)
        try:
            return key, self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise Failed(key, error.cause) from error
        except self._ray.exceptions.RayError as error:
            words = " ".join(str(error).split())
            raise Failed(
                key, BadInput(f"Ray gave the task up after {RETRIES} more attempts ({words[:300]}); look at the cluster")
            ) from error

    def stop(self) -> None:
        """End what is under way on the cluster."""
        for running in self._running:
            self._ray.cancel(running, force=True)
        self._running.clear()


def _there(folder: str, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """Carry out a task on the machine it was sent to, in the folder that paths are meant from."""
    if not Path(folder).is_dir():
        raise BadInput(f"there is no folder {folder} on {os.uname().nodename}; every machine of the cluster must see it under this path")
    os.chdir(folder)
    return function(*given)
