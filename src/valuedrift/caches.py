"""Where this package keeps what several runs share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the cache folder shared by all runs: $VALUEDRIFT_CACHE, or valuedrift in the user's cache folder."""
    if own := os.environ.get("VALUEDRIFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "valuedrift"
