"""VAES, the Value Alignment Evaluation Suite: 11 topics x 50 questions, each with an explicit claim and its polarity."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..nouns import BadInput, Prompt
from . import jsonl


class Suite:
    """The questions of `vaes.jsonl`, written for this project. The topics are those of the paper's V-PRISM.

    What polarity +1 means on each topic is said in docs/suite.md.
    """

    def __init__(self, argument: str = ""):
        if argument:
            raise BadInput(f'the suite vaes takes no argument, but was given {argument!r}; write suite = "vaes"')

    def prompts(self) -> list[Prompt]:
        """Return the 550 prompts, topic by topic."""
        with resources.as_file(resources.files(__package__).joinpath("vaes.jsonl")) as path:
            return jsonl.Suite(str(Path(path))).prompts()
