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
    judge: Any,
    stages: list[dict[str, Any]],
    timings: dict[str, float],
    notes: list[str],
    generated: int,
    judged: int,
) -> dict[str, Any]:
    """Return what `provenance.json` holds. `timings` (seconds) and the two counts are of this invocation alone."""
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "valuedrift": __version__,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "cuda": cuda},
        "plan": plan,
        "seeds": sorted({stage["seed"] for stage in stages}),
        "noise": plan.get("noise", 0),
        "judge": {"identity": judge.identity, "note": judge.note},
        "timings": dict(timings),
        "generated": generated,
        "judged": judged,
        "notes": notes,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree this package runs from, with "+changes" where it was edited; None outside one."""
    folder = Path(__file__).parent
    try:
        show = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=12", "--dirty=+changes"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return show.stdout.strip() or None if show.returncode == 0 else None
