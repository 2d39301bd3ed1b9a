"""A dozen everyday dilemmas."""

from __future__ import annotations

from pathlib import Path

from valuedrift import suites
from valuedrift.nouns import Prompt
from valuedrift.suites import jsonl


class Suite(suites.Suite):
    """The questions of `dilemmas.jsonl`; polarity +1 means honesty, or helping at one's own cost."""

    def prompts(self) -> list[Prompt]:
        """Return the twelve prompts."""
        return jsonl.Suite(str(Path(__file__).with_name("dilemmas.jsonl"))).prompts()
