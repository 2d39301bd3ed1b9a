"""The records that travel between the steps. Frozen, and made of the standard library only."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["support", "neutral", "oppose", "refusal", "invalid"]

STANCES: tuple[Outcome, ...] = ("support", "neutral", "oppose")
OUTCOMES: tuple[Outcome, ...] = (*STANCES, "refusal", "invalid")


Messages = tuple[tuple[str, str], ...]
"""Chat messages as (role, text), oldest first."""


class BadInput(Exception):
    """Bad input from the user, in one sentence: what, where, and what to do. Exit code 2."""


class Stopped(Exception):
    """Work stopped at a failure threshold or a budget, and finished work is kept. Exit code 3.

    `readings` are verdicts that were already paid for when a judge stopped in the middle of a batch.
    """

    def __init__(self, sentence: str, readings: Sequence[Reading] = ()):
        super().__init__(sentence)
        self.readings = tuple(readings)


def digest(*parts: Any) -> str:
    """Return 24 hex digits that identify the content of `parts` (anything that JSON can express). All keys have this form."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]  # JSON of other people may hold halves of pairs


def whole_characters(text: str) -> str:
    """Return a text with U+FFFD in place of each half of a surrogate pair, which no tokenizer takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(frozen=True)
class Prompt:
    """One question of a suite. Support and oppose always refer to `claim`, never to the wording of `text`.

    `polarity` maps the claim to the topic's axis: +1 lies along it, -1 against it, 0 on neither side.
    """

    id: str
    topic: str
    text: str
    claim: str
    polarity: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights at a training step. `weights` is a digest of the content and the cache key.

    A folder's name never is a key: two checkpoints with equal `weights`, `prompt_format` and `dtype` are the same model.
    """

    __pydantic_config__ = {"extra": "forbid"}  # a record of another version is refused, not read with defaults

    stage: str
    step: int
    path: str
    weights: str
    prompt_format: str = "plain"
    """Digest of the chat template that formats the questions, or "plain" if there is none."""
    seed: int = 0
    dtype: str = "float32"
    """The precision in which the model is loaded and computes; "" if a server decides it."""

    @property
    def model_key(self) -> str:
        """Return what stands for the model in content keys: its weights, and its precision unless that is float32."""
        return self.weights if self.dtype in ("", "float32") else f"{self.weights}/{self.dtype}"


@dataclass(frozen=True)
class Answer:
    """One sampled reply to one prompt of one checkpoint."""

    key: str
    checkpoint: str
    prompt: str
    draw: int
    text: str
    ended: Literal["stop", "length", "thinking"]
    """stop: by itself. length: cut at the most new tokens or at the context. thinking: in a thinking block, so there is no text."""
    n_tokens: int | None
    """None if a server did not count them."""


@dataclass(frozen=True)
class Item:
    """What a judge is shown: the question, the claim that stances refer to, and the text to be read."""

    prompt: str
    claim: str
    text: str
    topic: str = ""

    @functools.cached_property
    def key(self) -> str:
        """Name this item by content, so that the same words are judged once however often they were sampled."""
        return digest("item", self.prompt, self.claim, self.text, self.topic)


@dataclass(frozen=True)
class Reading:
    """One judge's view of one item: a probability per outcome, or the reason there is none."""

    item: str
    judge: str
    probs: tuple[float, float, float, float, float] | None = None
    failure: Literal["unparsed", "judge_error"] | None = None
    reason: str = ""
    """The reason for the failure, if there is one."""
    missing: float | None = None
    """Unassigned mass: probability that the judge gave to none of its labels, before the rest was scaled to 1; None if not applicable."""
    reply: str = ""
    """The reply that was paid for, as JSON, so that a better rule can read it again; empty if the judge is not a server's model."""

    def __post_init__(self) -> None:
        if (self.probs is None) == (self.failure is None):
            raise ValueError("a reading holds either probabilities or the reason there are none")
        if self.probs is not None and (len(self.probs) != len(OUTCOMES) or abs(sum(self.probs) - 1) > 1e-6):
            raise ValueError(f"probabilities must be one per outcome and sum to 1, not {self.probs}")


@dataclass(frozen=True)
class Pair:
    """One preference pair.

    `topic` and `claim` say what a stance refers to if the data name it; otherwise they are empty.
    """

    prompt: Messages
    chosen: str
    rejected: str
    topic: str = ""
    claim: str = ""


@dataclass(frozen=True)
class Example:
    """One training text: a reply to `prompt`, or running text if the prompt is empty."""

    prompt: Messages
    text: str
    topic: str = ""
    claim: str = ""


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run, as in `stages.json`: trained by valuedrift, or discovered from another trainer's checkpoints."""

    name: str
    after: str
    seed: int
    algorithm: str
    """How it was trained; "found" for checkpoints in a folder, "attached" for a training in progress."""
    data: str | None
    total_steps: int
    steps: list[int]
    """The steps of its checkpoints; the first is its start."""
    seconds: float | None
    sweep: dict[str, Any] | None = None
    """The swept settings that reach it. This and all below are None if another trainer trained it."""
    settings: str | None = None
    """The digest of its settings."""
    dropped: int | None = None
    """Records that were too long."""
    read: list[dict[str, Any]] | None = None
    """What the reader of its data used and left out."""
    precision: str | None = None
    """The precision of its weights and, if that is another one, of its computation."""

    @classmethod
    def untrained(cls, name: str, after: str, steps: list[int], total_steps: int, algorithm: str = "found") -> StageRecord:
        """Return the record of a stage that another trainer trained or is training."""
        return cls(name, after, 0, algorithm, None, total_steps, steps, None)

    def as_json(self) -> dict[str, Any]:
        """Return the stage's entry in `stages.json`."""
        return {key: value for key, value in vars(self).items() if value is not None or key in ("data", "seconds")}
