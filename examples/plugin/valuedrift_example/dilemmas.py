"""A dozen everyday dilemmas."""

from __future__ import annotations

from pathlib import Path

from valuedrift.nouns import BadInput, Prompt
from valuedrift.suites import jsonl


class Suite:
    """The questions of `dilemmas.jsonl`; polarity +1 means honesty, or helping at one's own cost."""

    def __init__(self, argument: str = ""):
        if argument:
            raise BadInput(f'the suite dilemmas takes no argument, but was given {argument!r}; write suite = "dilemmas"')

    def prompts(self) -> list[Prompt]:
        """Return the twelve prompts."""
        return jsonl.Suite(str(Path(__file__).with_name("dilemmas.jsonl"))).prompts()
