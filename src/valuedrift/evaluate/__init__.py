"""Backends ask checkpoints the questions of a suite and return sampled answers.

A backend is one file with a `class Backend` that derives from the class here. It sets `identity` and overrides `sample`. Importing the file
must not import torch, because answer keys are made without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from .. import registry
from ..nouns import Answer, Checkpoint, Prompt, Stopped, digest
from ..plan import EvaluationSettings
from .visit import Models


class Backend:
    """Samples answers under the settings; a model stays loaded in `models` while it is needed."""

    identity: ClassVar[str]
    """A part of every answer's key; it changes whenever the sampled answers change."""
    is_remote: ClassVar[bool] = False
    """Whether a server answers: its answers cost money and cannot be sampled again."""
    notes: Sequence[str] = ()
    """What a reader must know of how the answers were sampled."""
    spent: float = 0.0
    """Dollars that the answers cost in this process."""

    def __init__(self, settings: EvaluationSettings):
        self.settings = settings
        self.models = Models()

    def check(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> None:
        """Raise BadInput if a checkpoint cannot be sampled. Nothing is sampled before."""

    def sample(self, checkpoint: Checkpoint, pairs: Sequence[tuple[Prompt, int]], sampling_seed: int) -> Iterator[tuple[int, Answer]]:
        """Yield the index in `pairs` and the answer of every (prompt, sample number), in any order, under its `answer_key`.

        If the backend can, equal (sampling_seed, prompt text, sample number) give equal random numbers, whatever else is sampled.
        """
        raise NotImplementedError

    def keeping(self, checkpoint: Checkpoint, path: Path) -> AbstractContextManager[None]:
        """Return the context in which answers are sampled and stored. A paid backend keeps its replies in the file meanwhile."""
        return contextlib.nullcontext()

    def stop(self) -> None:
        """Make a `sample` under way send nothing more; it then yields only answers that came already."""


class Unanswered(Stopped):
    """Some answers of a checkpoint did not come. The other checkpoints can still be sampled."""


def answer_key(checkpoint: Checkpoint, prompt: Prompt, draw: int, settings: EvaluationSettings, sampling_seed: int) -> str:
    """Return the content key of an answer: everything that decides its text, and nothing else (neither the folder nor the batch size)."""
    identity = registry.find("backend", settings.backend).identity
    return digest("answer", identity, checkpoint.model_key, checkpoint.prompt_format, prompt.text, settings.decoding(), sampling_seed, draw)
