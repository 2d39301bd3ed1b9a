"""Where the figures of a run came from: versions, commit, plan, seeds, devices, timings."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors", "numpy", "scipy", "polars")


def record(
    plan: dict[str, Any],
    view: str,
    judge: dict[str, Any],
    stages: list[dict[str, Any]],
    timings: dict[str, float],
    notes: list[str],
    generated: int,
    judged: int,
) -> dict[str, Any]:
    """Return the content of `provenance.json`. `timings` (seconds) and the two counts describe this command alone."""
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "valuedrift": __version__,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "devices": {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "cuda": cuda},
        "plan": plan,
        "seeds": sorted({stage["seed"] for stage in stages}),
        "sampling_seed": plan.get("sampling_seed", 0),
        "view": view,
        "judge": judge,
        "timings": dict(timings),
        "generated": generated,
        "judged": judged,
        "notes": notes,
    }


def version_of(name: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of this package's source tree, with "+changes" if it was edited; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed copy may lie inside somebody else's repository, whose commit says nothing of ours.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True, timeout=10)
        show = subprocess.run(
            [*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return show.stdout.strip()
