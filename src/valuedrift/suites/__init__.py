"""Suites: the questions every checkpoint is asked.

A suite is one file that defines `class Suite` with `def prompts(self) -> list[Prompt]`; its argument is what follows the colon.
Any JSONL file of prompts is a suite too and is named by its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import registry
from ..nouns import BadInput, Prompt


def load(spec: str, topics: Sequence[str] = ()) -> list[Prompt]:
    """Return the prompts of a suite named in a plan or by the path of a JSONL file, or those of some topics.

    Raises BadInput for an unknown suite or topic, and for every fault of the file.
    """
    name, argument = registry.split(spec)
    if spec.endswith(".jsonl") or Path(spec).is_file():
        name, argument = "jsonl", spec
    prompts: list[Prompt] = registry.find("suite", name)(argument).prompts()
    known = list(dict.fromkeys(prompt.topic for prompt in prompts))
    for topic in topics:
        if topic not in known:
            raise BadInput(f"the suite {spec!r} has no topic {topic!r}{registry.among(topic, known)}")
    return [prompt for prompt in prompts if not topics or prompt.topic in topics]
