"""A visit to a checkpoint: its answers are in, and the analyses collect what they need of its model before it is unloaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .. import progress
from ..nouns import Checkpoint, Prompt
from ..plan import EvaluationSettings

T = TypeVar("T")
SFT = ("sft", "trl:SFTTrainer")
"""The algorithms of supervised fine-tuning."""


@dataclass(frozen=True)
class Answered:
    """The first answer to a prompt: its content key, its text, how it ended, and the words of the question."""

    key: str
    text: str
    ended: str
    question: str


class Models:
    """The models that this process has loaded. None is loaded twice while it is needed."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[Any, Any]] = {}

    def keep(self, needed: Collection[Checkpoint]) -> None:
        """Unload all models but those needed, and move these to the CPU: an accelerator's memory is for the model that samples."""
        keys = {_key(checkpoint) for checkpoint in needed}
        self._held = {key: held for key, held in self._held.items() if key in keys}
        for model, _ in self._held.values():
            model.to("cpu")

    def get(self, checkpoint: Checkpoint, load: Callable[..., tuple[Any, Any]] | None = None) -> tuple[Any, Any]:
        """Return (model, tokenizer) of a checkpoint, or the pair (model, anything) that `load` returns for its path and `dtype`."""
        import torch

        from ..models.loading import load_model

        key = _key(checkpoint)
        if key not in self._held:
            self._held[key] = (load or load_model)(checkpoint.path, dtype=checkpoint.dtype)
        model, other = self._held[key]
        return model.to(torch.accelerator.current_accelerator() or "cpu"), other


def _key(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.model_key, checkpoint.prompt_format


@dataclass(frozen=True)
class Evaluation:
    """The part of a run that all its visits share."""

    settings: EvaluationSettings
    stages: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[Checkpoint]
    rewards: Sequence[Checkpoint]
    """The trained reward models."""
    prompts: Sequence[Prompt]
    numbers: Mapping[str, float | None]
    """The stored numbers, by content key."""
    collect: Callable[[Visit], Sequence[str]]
    """Collects the numbers of a visit, and returns a sentence for each thing that could not be measured."""

    def needed(self, checkpoint: Checkpoint) -> list[Checkpoint]:
        """Return the checkpoints whose models a visit to this one may load."""
        rewards = [reward for reward in self.rewards if reward.seed == checkpoint.seed]
        return [checkpoint, self.reference(checkpoint)[1], *rewards]

    def reference(self, checkpoint: Checkpoint) -> tuple[str, Checkpoint]:
        """Return the reference of a checkpoint's KL, after its name.

        It is the end of the nearest earlier stage of supervised fine-tuning ("sft"), or else step 0 of the checkpoint's own stage
        ("start").
        """
        by_name = {(stage["name"], stage["seed"]): stage for stage in self.stages}
        stage = by_name[checkpoint.stage, checkpoint.seed]
        before = None if stage["algorithm"] in SFT else by_name.get((stage["after"], checkpoint.seed))
        while before is not None and before["algorithm"] not in SFT:
            before = by_name.get((before["after"], checkpoint.seed))
        own = [one for one in self.checkpoints if (one.stage, one.seed) == ((before or stage)["name"], checkpoint.seed)]
        return ("start", own[0]) if before is None else ("sft", own[-1])


@dataclass(frozen=True)
class Visit:
    """A checkpoint during its evaluation, after its answers are sampled."""

    evaluation: Evaluation
    checkpoint: Checkpoint
    answers: Mapping[str, Answered]
    """The first answer to each prompt, by the id of the prompt."""
    models: Models
    numbers: dict[str, float | None] = field(default_factory=dict)
    """The collected numbers, by content key."""

    def add(self, of: Mapping[str, T], compute: Callable[[list[T]], Sequence[float | None]], what: str) -> None:
        """Compute and collect one number per entry of `of` (content key -> what it is computed from) that is not stored yet."""
        missing = {key: one for key, one in of.items() if key not in self.evaluation.numbers and key not in self.numbers}
        if missing:
            with progress.task(f"{what} of {self.checkpoint.stage} step {self.checkpoint.step}", len(missing), "numbers") as advance:
                self.numbers.update(zip(missing, compute(list(missing.values())), strict=True))
                advance(len(missing))
