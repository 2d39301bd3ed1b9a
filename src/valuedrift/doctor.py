"""What this machine has for valuedrift: versions, devices, precision, caches, and what is missing for which verb.

Nothing of it may fail if a package is broken, so torch is imported in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from . import __version__
from .caches import cache_root
from .nouns import BadInput
from .provenance import PACKAGES, commit, version_of

NEEDED_FOR = {
    "openai": "models, judges and writers behind an API (openai:MODEL in trace, judge, calibrate, gap, synth, suite build)",
    "vprism": "suite build",
    "trl": "algorithm = 'trl:…' (run)",
    "ray": "--engine ray (run, trace)",
    "vllm": "--backend vllm (run, trace, watch)",
    "lm-eval": "capability (run, trace, watch)",
    "inspect": "export",
    "gguf": "GGUF files (trace, labels:, writers)",
}
"""Extra -> what does not work without it."""
TORCH_SECONDS, SIZE_SECONDS = 60.0, 1.0
"""Most seconds to import torch, and to add up the files of a cache."""
ASK_TORCH = """
import json, sys, torch
from valuedrift.models import precision
device = torch.accelerator.current_accelerator()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
json.dump({"accelerator": device and device.type, "names": names, "bfloat16": precision.multiplies_bfloat16(),
                  "large": precision.LARGE, "threads": torch.get_num_threads()}, sys.stdout)
"""


def examined() -> dict[str, Any]:
    """Return versions, devices, precision, caches, the endpoint that the environment names, and what is missing."""
    torch = _torch()
    lacking = _lacking()
    return {
        "versions": {"valuedrift": __version__, "commit": commit(), "python": platform.python_version()}
        | {name: version_of(name) for name in PACKAGES},
        "platform": platform.platform(),
        "devices": {"cpus": os.cpu_count()} | {name: torch.get(name) for name in ("threads", "accelerator", "names")},
        "precision": _precision(torch),
        "caches": {name: _sized(path) for name, path in _caches().items()},
        "endpoint": _endpoint(),
        "missing": ([{"package": "torch", "reason": torch["fault"], "for": "every verb with a model"}] if "fault" in torch else [])
        + lacking,
    }


def _torch() -> dict[str, Any]:
    """Return what torch knows of the machine, or the `fault` that keeps it from being imported."""
    try:
        done = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_SECONDS, env=_same_path())
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"fault": _last_line(done)}
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        return {"fault": f"it cannot be asked ({error})"}


def _same_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    said = done.stderr.strip().splitlines()
    return f"it cannot be imported ({said[-1] if said else f'exit code {done.returncode}'})"


def _precision(torch: dict[str, Any]) -> str | None:
    """Return what dtype = "auto" means on this machine; None if torch cannot say it."""
    if "fault" in torch:
        return None
    if torch["accelerator"]:
        return "the checkpoint's own"
    return f"bfloat16 above {torch['large'] / 1e6:.0f} million parameters, else float32" if torch["bfloat16"] else "float32"


def _lacking() -> list[dict[str, str]]:
    """Return the packages that are absent or too old, each with what needs it."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("valuedrift") or ()]
    except PackageNotFoundError:
        return [{"package": "valuedrift", "reason": "it is not installed, so its needs are not known", "for": "this list"}]
    found = []
    for need in wanted:
        uses = {"": "every verb"} | NEEDED_FOR
        extra = next((extra for extra in uses if need.marker is None or need.marker.evaluate({"extra": extra})), None)
        version = version_of(need.name)
        if extra is None or (version and need.specifier.contains(version, prereleases=True)):
            continue
        reason = f"it is {version}, and {need.specifier} is needed" if version else "it is not installed"
        found.append({"package": need.name, "reason": f"{reason}: pip install '{_installs(need, extra)}'", "for": uses[extra]})
    return found


def _installs(need: Any, extra: str) -> str:
    return f"valuedrift[{extra}]" if extra else f"{need.name}{need.specifier}"


def _caches() -> dict[str, Path]:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    hub, data = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub", os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets"
    return {name: Path(path).expanduser() for name, path in (("valuedrift", cache_root()), ("hub", hub), ("datasets", data))}


def _sized(folder: Path) -> dict[str, Any]:
    """Return where a cache is, its bytes (None if it is absent; at least so many if not `whole`), and the bytes free there."""
    until, size, whole = time.monotonic() + SIZE_SECONDS, 0, True
    for root, _, names in os.walk(folder):
        size += sum(os.lstat(os.path.join(root, name)).st_size for name in names if os.path.lexists(os.path.join(root, name)))
        if time.monotonic() > until:
            whole = False
            break
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return {"path": str(folder), "bytes": size if folder.is_dir() else None, "whole": whole, "free": shutil.disk_usage(existing).free}


def _endpoint() -> dict[str, Any]:
    """Return the server that the environment names, and whether there is a key for it; never the key."""
    from .models import local_server

    try:
        return {"address": local_server.address(), "key": bool(os.environ.get("OPENAI_API_KEY"))}
    except BadInput as error:
        return {"address": None, "key": bool(os.environ.get("OPENAI_API_KEY")), "fault": str(error)}
