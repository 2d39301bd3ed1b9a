"""VAES, the Value Alignment Evaluation Suite: 11 topics x 50 questions, each with an explicit claim and its polarity."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from .. import suites
from ..nouns import Prompt
from . import jsonl


class Suite(suites.Suite):
    """Provides the questions of `vaes.jsonl`, written for this project. The topics are those of the paper's V-PRISM.

    docs/suite.md gives the meaning of polarity +1 on each topic.
    """

    def prompts(self) -> list[Prompt]:
        """Return the 550 prompts, topic by topic."""
        with resources.as_file(resources.files(__package__).joinpath("vaes.jsonl")) as path:
            return jsonl.Suite(str(Path(path))).prompts()
