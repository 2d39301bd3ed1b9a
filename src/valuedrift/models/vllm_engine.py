"""Start vLLM's engine on a model's folder, for the backend and for judges."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

from ..nouns import BadInput
from .files import reason_of

CONTEXT = 4096
"""Context length in tokens, unless the model's own is shorter."""


def package() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise BadInput("the backend vllm needs the package vllm; install it with: pip install 'valuedrift[vllm]'") from error
    return vllm


def started(folder: Path, dtype: str, rank: int = 0, context: int = CONTEXT) -> Any:
    """Return an engine on a model's folder, with room for adapters of a rank.

    Raises BadInput if vLLM is missing or cannot hold the model.
    """
    vllm = package()
    from vllm.platforms import current_platform

    config = json.loads((folder / "config.json").read_text())
    longest = min(context, config.get("max_position_embeddings") or context)
    lora = {"enable_lora": True, "max_lora_rank": rank} if rank else {}
    slow: dict[str, Any] = {}
    if current_platform.is_cpu():
        # A seeded request that is cut between two passes fails on a CPU (0.32: "CPU Generator does not use offset")
        slow = {"enforce_eager": True, "gpu_memory_utilization": 0.25, "enable_chunked_prefill": False}
        slow["max_num_batched_tokens"] = max(CONTEXT, longest)
    try:
        options: dict[str, Any] = {"dtype": dtype, "max_model_len": longest, "enable_prefix_caching": True, "disable_log_stats": True}
        return vllm.LLM(model=str(folder), **options, **slow, **lora)
    except (RuntimeError, ValueError, OSError) as error:
        reason = next(itertools.chain(re.findall(r"(?:\w+Error|memory)[^\n]*", str(error)), [reason_of(error)]))
        raise BadInput(f"vLLM cannot start on {folder}: {reason}; what it wrote above says more") from error
