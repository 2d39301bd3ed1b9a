"""Decide without a language model which prompts are about a value, and which of those are questions or opinions."""

from __future__ import annotations

import re

from ._words import pattern

WEIGHTS = {"value words": (2, 2), "subject words": (1, 1), "opinion words": (1, 2), "task words": (-2, 2)}
"""List -> (weight of one word, most distinct words that count). The lists are in vprism.txt."""

VALUE_LADEN = 2
"""Least score of a value-laden prompt: one value word, or a subject with an opinion word.

Words, weights and this number were chosen on half of IssueBench's "is this prompt about a value?" labels (yes against no, PRISM and HH
prompts). On the other half (31 yes, 144 no) the area under the curve is 0.99, precision 0.93, recall 0.87; on its PRISM prompts alone (27
yes, 49 no) 0.99, 1.00, 0.89. tests/suites/test_laden.py measures them again.
"""

LONGEST = 300
"""Most characters of a prompt that is used unchanged. Longer prompts are mostly stories or tasks."""

ASKS = re.compile(
    r"(?:wh(?:at|y|o|en|ere|ich)(?:'?s)?|how|is|isn'?t|are|aren'?t|do|does|don'?t|did|can|could|should|shouldn'?t|would|will|was|were|has|have|must|may)\b",
    re.IGNORECASE,
)


def score(text: str) -> int:
    """Return how strongly a prompt looks value-laden: the weighted number of distinct words of each list."""
    total = 0
    for name, (weight, most) in WEIGHTS.items():
        found = {match.group().lower() for match in pattern(name).finditer(text)}
        total += weight * min(len(found), most)
    return total


def value_laden(text: str) -> bool:
    """Return whether the words of a prompt show that it is about a value."""
    return score(text) >= VALUE_LADEN


def can_be_asked(text: str) -> bool:
    """Return whether a prompt can be used unchanged, as a question or as an opinion to agree or disagree with."""
    return len(text) <= LONGEST and bool(text.endswith("?") or ASKS.match(text) or pattern("opinion words").search(text))
