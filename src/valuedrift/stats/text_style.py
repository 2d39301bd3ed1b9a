"""Style of texts: length, readability, hedging, lists. A model may learn these instead of a value."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

UNITS = {"length": "words", "readability": "grades", "hedging": "per 100 words", "lists": "share"}
"""feature -> unit, in the order of the columns of `features`"""

SENTENCE = re.compile(r"[.!?…]+(?=\s|$)|\n+")
LIST = re.compile(r"^[ \t]*(?:[-*•‣]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
LEAST = 2
"""Fewest lines with a bullet or number for a list. A single one is mostly a dash or a year."""


def features(texts: Sequence[str]) -> np.ndarray:
    """Return one row per text and one column per feature of UNITS; readability and hedging of a text without words are nan."""
    return np.array([(length(text), readability(text), hedging(text), has_list(text)) for text in texts], float).reshape(-1, len(UNITS))


def length(text: str) -> int:
    """Return the number of words in a text, split at white space."""
    return len(text.split())


def readability(text: str) -> float:
    """Return the Automated Readability Index, a US school grade (Smith and Senter 1967): higher is harder to read.

    4.71 characters / words + 0.5 words / sentences - 21.43, with letters and digits as characters. A line's end ends a sentence too.
    """
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    if not words:
        return float("nan")
    characters = sum(map(str.isalnum, text))
    sentences = sum(any(map(str.isalnum, part)) for part in SENTENCE.split(text))
    return 4.71 * characters / len(words) + 0.5 * len(words) / sentences - 21.43


def hedging(text: str) -> float:
    """Return how many hedges (hedges.txt) there are per 100 words."""
    n_words = length(text)
    return 100 * len(_hedges().findall(text.lower().replace("’", "'"))) / n_words if n_words else float("nan")


def has_list(text: str) -> bool:
    """Return whether a text contains a list with bullets or numbers."""
    return len(LIST.findall(text)) >= LEAST


@functools.cache
def _hedges() -> re.Pattern[str]:
    lines = (files(__package__) / "hedges.txt").read_text(encoding="utf-8").splitlines()
    words = sorted((line for line in lines if line and not line.startswith("#")), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
