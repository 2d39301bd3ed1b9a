"""Load suites, the questions that every checkpoint answers.

A suite is one file with a `class Suite` that derives from the class here. Any JSONL file of prompts is a suite too, named by its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import registry
from ..nouns import BadInput, Prompt


class Suite:
    """Provides prompts. `argument` is the text after the colon in "vprism:FOLDER"."""

    def __init__(self, argument: str = ""):
        registry.refuse_argument("suite", type(self), argument)

    def prompts(self) -> list[Prompt]:
        """Return the prompts. Raises BadInput if they cannot be read."""
        raise NotImplementedError


def named(spec: str) -> tuple[str, str]:
    """Return the kind of a suite and its argument; the path of a file is the argument of "jsonl"."""
    return ("jsonl", spec) if spec.endswith(".jsonl") or Path(spec).is_file() else registry.split(spec)


def load(spec: str, topics: Sequence[str] = ()) -> list[Prompt]:
    """Return the prompts of a suite named in a plan or by the path of a JSONL file, limited to `topics` if any are given.

    Raises BadInput for an unknown suite or topic, and for every fault of the file.
    """
    name, argument = named(spec)
    suite: Suite = registry.find("suite", name)(argument)
    prompts = suite.prompts()
    known = list(dict.fromkeys(prompt.topic for prompt in prompts))
    for topic in topics:
        if topic not in known:
            raise BadInput(f"the suite {spec!r} has no topic {topic!r}{registry.among(topic, known)}")
    return [prompt for prompt in prompts if not topics or prompt.topic in topics]
