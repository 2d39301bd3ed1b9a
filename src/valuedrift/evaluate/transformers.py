"""Sample from any local causal language model, through transformers and our own decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .. import evaluate, progress
from ..models import checks
from ..models.chat_format import PromptFormat, question
from ..nouns import Answer, Checkpoint, Prompt
from ..plan import EvaluationSettings
from . import answer_key


class Backend(evaluate.Backend):
    """Samples with noise keyed by (sampling seed, prompt text, draw, position)."""

    identity = "transformers/2"

    def __init__(self, settings: EvaluationSettings):
        super().__init__(settings)
        self._decoder: Any = None
        self._format: PromptFormat | None = None
        self._checked = ""
        """The digest of the weights that were checked last."""

    def check(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> None:
        """Raise BadInput if a checkpoint cannot be sampled."""
        checks.folders(checkpoints, prompts, self.settings.prompt_format)

    def sample(self, checkpoint: Checkpoint, pairs: Sequence[tuple[Prompt, int]], sampling_seed: int) -> Iterator[tuple[int, Answer]]:
        """Yield the place and the answer of every (prompt, sample number), in the order in which they finish. Loads the model if needed."""
        from ..models.decoder import Wanted
        from ..models.sampling_noise import row_words

        if not pairs:
            return
        if is_new := self._checked != checkpoint.model_key:
            self._decoder = self._format = None  # they hold the model before, and two at once may not fit
        model, tokenizer = self._model(checkpoint)
        prompt_format = self._format_of(tokenizer, checkpoint)
        texts = list(dict.fromkeys(prompt.text for prompt, _ in pairs))
        ids = dict(zip(texts, map(tuple, prompt_format.prompts([question(text) for text in texts])), strict=True))
        if is_new:
            checks.logits(model, prompt_format)
            self._checked = checkpoint.model_key
        checks.fits(model, prompt_format, ids)
        wanted = [Wanted(ids[prompt.text], row_words(sampling_seed, prompt.text, draw)) for prompt, draw in pairs]
        for place, reply in self._decoder_of(model).decode(wanted, self.settings, prompt_format.ending(model)):
            prompt, draw = pairs[place]
            text, closed = prompt_format.reply(reply.tokens)
            key = answer_key(checkpoint, prompt, draw, self.settings, sampling_seed)
            yield place, Answer(key, checkpoint.weights, prompt.id, draw, text, reply.ended if closed else "thinking", len(reply.tokens))

    def _format_of(self, tokenizer: Any, checkpoint: Checkpoint) -> PromptFormat:
        if self._format is None or self._format.tokenizer is not tokenizer:
            self._format = PromptFormat(tokenizer, self.settings.prompt_format, checkpoint.path)
        return self._format

    def _decoder_of(self, model: Any) -> Any:
        from ..models.decoder import Decoder

        if self._decoder is None or self._decoder.model is not model:
            self._decoder = Decoder(model)
            if self._decoder.why:
                progress.say(
                    f"{model.config.model_type} models are sampled by transformers' generate, which is slower: {self._decoder.why}"
                )
        return self._decoder

    def _model(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        if self._checked != checkpoint.model_key:
            self._decoder = None  # it holds the last model, and two at once may not fit
        return self.models.get(checkpoint)
