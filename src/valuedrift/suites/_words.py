"""Read the words of `vprism` from vprism.txt: requests to a language model, and lists of words."""

from __future__ import annotations

import functools
import re
from pathlib import Path

WORDS = Path(__file__).with_name("vprism.txt")


@functools.cache
def sections() -> dict[str, str]:
    """Return the text of each section without its comment lines."""
    lines = [line for line in WORDS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    parts = re.split(r"^\[(.+)\]$", "\n".join(lines), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@functools.cache
def pattern(name: str) -> re.Pattern[str]:
    """Return one expression that finds any word of a list."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(sections()[name].splitlines())})(?!\w)", re.IGNORECASE)
