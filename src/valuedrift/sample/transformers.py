"""Answers of any local causal language model, through transformers and our own decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..nouns import Answer, Checkpoint, Prompt
from ..plan import Asking
from . import answer_key
from ._frame import Frame, ending, framed, reply_text
from ._load import load_model


class Backend:
    """Samples with shared prefill, finished rows dropped, and noise keyed by (noise seed, prompt text, draw, position)."""

    identity = "transformers/1"

    def __init__(self, asking: Asking):
        self.asking = asking
        self._loaded: tuple[tuple[str, str], Any, Any] | None = None

    def sample(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], draws: Sequence[Sequence[int]], noise: int) -> list[Answer]:
        """Return the answers to one block: of each prompt, in order, the draws listed for it. Loads the model on first need."""
        from ._engine import Wanted, decode
        from ._noise import row_words

        asked = [(prompt, draw) for prompt, numbers in zip(prompts, draws, strict=True) for draw in numbers]
        if not asked:
            return []
        model, tokenizer = self._model(checkpoint)
        frame = cast(Frame, self.asking.frame)
        ids = {prompt.text: tuple(framed(tokenizer, prompt.text, frame)) for prompt, _ in asked}
        wanted = [Wanted(ids[prompt.text], row_words(noise, prompt.text, draw)) for prompt, draw in asked]
        replies = decode(model, wanted, self.asking, ending(model, tokenizer, frame))
        return [
            Answer(
                key=answer_key(checkpoint, prompt, draw, self.asking, noise),
                checkpoint=checkpoint.weights,
                prompt=prompt.id,
                draw=draw,
                text=reply_text(tokenizer, reply.tokens, frame),
                ended=reply.ended,
                n_tokens=len(reply.tokens),
            )
            for (prompt, draw), reply in zip(asked, replies, strict=True)
        ]

    def _model(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        wanted = (checkpoint.weights, checkpoint.frame)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two models at once may not fit
            self._loaded = (wanted, *load_model(checkpoint.path))
        return self._loaded[1:]
