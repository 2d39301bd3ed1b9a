"""Backends ask a checkpoint the questions of a suite and return its sampled answers.

A backend is one file that defines `class Backend`:

    identity: str                             class attribute, part of every answer's key; a change of what is sampled changes it
    def __init__(self, asking: Asking): ...   how to ask: temperature, top_k, top_p, max_new_tokens, frame, batch_rows
    def sample(
        self, checkpoint: Checkpoint, asked: Sequence[tuple[Prompt, int]], noise: int, drafts: Sequence[str | None]
    ) -> Iterator[tuple[int, Answer]]: ...
    def check(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> None: ...  where it applies: raises BadInput if one of
                                              them cannot be asked, before anything is sampled
    def expect(self, checkpoint: Checkpoint) -> None: ...  where it applies: gets the next checkpoint ready; never fails
    def stop(self) -> None: ...               where answers come from a server and are paid for: sends nothing more, so that what a `sample`
                                              under way still yields is what came back already

`sample` answers pairs of a prompt and the number of a draw. It yields the place of a pair among those asked, and its answer under its
`answer_key`, in whatever order the answers are finished. `drafts[i]` are the words that an earlier checkpoint answered to `asked[i]` under
the same noise, where there are any: they may make it faster and never change what is said. A backend keeps its model between calls for the
same checkpoint. Where it can, equal (noise, prompt text, draw) means equal random numbers, whatever else is asked beside them and whichever
checkpoint is asked. Importing a backend's file must not import torch, because keys are made without it.
"""

from __future__ import annotations

from .. import registry
from ..nouns import Checkpoint, Prompt, Stopped, digest
from ..plan import Asking


class Unanswered(Stopped):
    """A checkpoint was asked all that was wanted, and some answers were not given; others may be asked all the same."""


def answer_key(checkpoint: Checkpoint, prompt: Prompt, draw: int, asking: Asking, noise: int) -> str:
    """Return the content key of one answer: everything that decides its words, and nothing else (not the folder, not the batch size)."""
    identity = registry.find("backend", asking.backend).identity
    return digest("answer", identity, checkpoint.weights, checkpoint.frame, prompt.text, asking.decoding(), noise, draw)
