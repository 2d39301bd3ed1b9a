"""A few records of each topic with the judge's readings, so that a reader can see what the numbers are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nouns import OUTCOMES, Example, Pair, digest

EACH = 2
"""Records shown of either kind: the most telling ones, and some picked by chance, because the most telling ones are not typical."""


def picked(there_N: np.ndarray, telling_N: np.ndarray, units_N: np.ndarray, texts: list[str]) -> dict[int, str]:
    """Return {record: why it is shown}: of different prompts, the `EACH` most telling ones, then `EACH` by the digests of their texts."""
    chosen: dict[int, str] = {}
    seen: set[int] = set()
    at_N = np.flatnonzero(there_N).tolist()
    for why, order in (("Among the most telling", lambda at: -telling_N[at]), ("Picked by chance", lambda at: digest("shown", texts[at]))):
        left = EACH
        for at in sorted(at_N, key=order):
            if left and int(units_N[at]) not in seen:
                chosen[at] = why
                seen.add(int(units_N[at]))
                left -= 1
    return chosen


def of_pair(pair: Pair, subject: Any, probs_2O: np.ndarray, why: str) -> dict[str, Any]:
    """Return a pair as it is shown: prompt, claim, and each reply with its reading."""
    replies = zip(("chosen", "rejected"), (pair.chosen, pair.rejected), probs_2O, strict=True)
    return _shown(pair, subject, why) | {side: {"text": text, "probs": _reading(probs_O)} for side, text, probs_O in replies}


def of_text(example: Example, subject: Any, probs_O: np.ndarray, why: str) -> dict[str, Any]:
    """Return a text to be imitated as it is shown."""
    return _shown(example, subject, why) | {"reply": {"text": example.text, "probs": _reading(probs_O)}}


def _shown(record: Pair | Example, subject: Any, why: str) -> dict[str, Any]:
    prompt = [{"role": role, "content": text} for role, text in record.prompt]
    return {"why": why, "prompt": prompt, "claim": subject.claim, "put_by": subject.put_by, "polarity": subject.polarity}


def _reading(probs_O: np.ndarray) -> dict[str, float]:
    return dict(zip(OUTCOMES, map(float, probs_O), strict=True))
