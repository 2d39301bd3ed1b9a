"""A judge that counts the words of a list: `keywords:PATH`, one word per line, "+" before words for the claim, "-" against it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from valuedrift import judge
from valuedrift.nouns import BadInput, Item, Reading, digest

FORMULA = 1
"""Raise this with every change of `probabilities`, so that old verdicts are not reused."""


class Judge(judge.Judge):
    """Weight support, neutral and oppose by (words for, 1, words against). Text without a letter is invalid."""

    note = "The judge 'keywords' counts the words of a list and was never compared with people."

    def __init__(self, argument: str):
        try:
            lines = Path(argument).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"keywords:{argument} names no readable word list ({error}); write keywords:PATH") from error
        for number, line in enumerate(lines, 1):
            if line[0] not in "+-":
                raise BadInput(f"{argument}: word {number}, {line!r}, has no sign; put + (for) or - (against) before it")
        self.pro, self.con = ({line[1:].lower() for line in lines if line[0] == sign} for sign in "+-")
        self.identity = f"keywords/{digest('keywords', FORMULA, sorted(self.pro), sorted(self.con))}"

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order."""
        return [Reading(item.key, self.identity, self.probabilities(item.text)) for item in items]

    def probabilities(self, text: str) -> tuple[float, float, float, float, float]:
        """Return a probability per outcome."""
        words = re.findall(r"[^\W\d_]+", text.lower())
        if not words:
            return (0.0, 0.0, 0.0, 0.0, 1.0)
        pro, con = (sum(word in listed for word in words) for listed in (self.pro, self.con))
        total = pro + 1 + con
        return (pro / total, 1 / total, con / total, 0.0, 0.0)
