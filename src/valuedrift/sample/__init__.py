"""Backends ask a checkpoint the questions of a suite and return its sampled answers.

A backend is one file that defines `class Backend`:

    identity: str                             class attribute, part of every answer's key; a change of what is sampled changes it
    def __init__(self, asking: Asking): ...   how to ask: temperature, top_k, top_p, max_new_tokens, frame, batch_rows
    def sample(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], draws: Sequence[Sequence[int]], noise: int) -> list[Answer]

One call of `sample` is one block: `draws[i]` lists the draw numbers wanted of `prompts[i]`, and the answers come back in that order,
each under its `answer_key`. A backend keeps its model between calls for the same checkpoint. Where it can, equal (noise, prompt text,
draw) means equal random numbers, whatever else is asked beside them and whichever checkpoint is asked. Importing a backend's file must
not import torch, because keys are made without it.
"""

from __future__ import annotations

from ..nouns import Checkpoint, Prompt, digest
from ..plan import Asking
from ..registry import find


def answer_key(checkpoint: Checkpoint, prompt: Prompt, draw: int, asking: Asking, noise: int) -> str:
    """Return the content key of one answer: everything that decides its words, and nothing else (not the folder, not the batch size)."""
    identity = find("backend", asking.backend).identity
    return digest("answer", identity, checkpoint.weights, checkpoint.frame, prompt.text, asking.decoding(), noise, draw)
