"""Sample from models behind an OpenAI-compatible address. Needs OPENAI_API_KEY; OPENAI_BASE_URL names another server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from .. import evaluate
from ..models.budget import Budget, common
from ..models.chat_api import NO_TEXT, Failed, Reply, Request
from ..models.endpoint import Ended, Endpoint
from ..models.loading import API
from ..models.turns import spoken
from ..nouns import Answer, BadInput, Checkpoint, Prompt, digest
from ..plan import EvaluationSettings
from . import Unanswered, answer_key

BATCH_SIZE = 64
"""Requests per batch."""


class Backend(evaluate.Backend):
    """Sends one request per question, with a seed from (sampling_seed, prompt text, draw) for servers that honour seeds.

    A server's answers can seldom be repeated. If the server withholds one (a content filter, all tokens spent on reasoning), there is no
    answer, which is not a refusal by the model. The work stops after all others are stored. `max_cost` limits sampling plus judging.
    """

    identity = "openai/2"
    is_remote = True

    def __init__(self, settings: EvaluationSettings):
        if settings.prompt_format == "plain":
            raise BadInput("a model behind an API gets its prompts in the server's own chat template; remove prompt_format = 'plain'")
        if settings.top_k:
            raise BadInput("OpenAI-compatible servers know no top_k; set it to 0")
        super().__init__(settings)
        self.budget = common() or Budget(settings.max_cost)
        self._endpoints: dict[str, Endpoint] = {}
        self._stopped = False

    @property
    def spent(self) -> float:  # type: ignore[override]
        """Return the dollars that answers cost."""
        return sum(endpoint.spent for endpoint in self._endpoints.values())

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        """Return a note for each model whose server refused a sampling setting."""
        left_out = {model: one.dialect.refused & {"temperature", "top_p", "seed"} for model, one in self._endpoints.items()}
        said = {model: " and ".join(sorted(names)) for model, names in left_out.items() if names}
        return [f"{model} was asked without {names}, which its server refuses." for model, names in said.items()]

    def sample(self, checkpoint: Checkpoint, pairs: Sequence[tuple[Prompt, int]], sampling_seed: int) -> Iterator[tuple[int, Answer]]:
        """Yield the place and the answer of every (prompt, draw) pairs, in order. Raises Unanswered if the server leaves some out."""
        endpoint = self._endpoint(checkpoint.path.removeprefix(API))
        failed: list[tuple[str, str]] = []
        for start in range(0, len(pairs), BATCH_SIZE):
            if self._stopped:
                return
            part = pairs[start : start + BATCH_SIZE]
            ended: Ended | None = None
            try:
                replies: Sequence[Reply | Failed | None] = endpoint.chat(
                    [self._request(prompt, draw, sampling_seed) for prompt, draw in part]
                )
            except Ended as error:
                replies, ended = error.replies, error
            for place, reply in enumerate(replies, start):
                prompt, draw = pairs[place]
                if isinstance(reply, Failed):
                    failed.append((prompt.id, reply.reason))
                elif reply is not None:
                    how = reply.ended[0]
                    if how == "withheld" or how == "thinking":
                        failed.append((prompt.id, NO_TEXT[how]))
                        continue
                    key = answer_key(checkpoint, prompt, draw, self.settings, sampling_seed)
                    said = spoken(reply.texts[0])  # some servers leave the reasoning in the reply
                    ends = how if said is not None else "thinking"
                    yield place, Answer(key, checkpoint.weights, prompt.id, draw, (said or "").strip(), ends, reply.n_output)
            if ended:
                raise ended
        if failed:
            (prompt_id, reason), more = failed[0], f" (and {len(failed) - 1:,} more)" if len(failed) > 1 else ""
            raise Unanswered(
                f"{checkpoint.path} gave no answer to {prompt_id!r}{more}: {reason}; run the same command again, or leave such prompts out"
            )

    def keeping(self, checkpoint: Checkpoint, path: Path) -> AbstractContextManager[None]:
        """Return the context of Endpoint.keeping, for the endpoint of a checkpoint."""
        return self._endpoint(checkpoint.path.removeprefix(API)).keeping(path)

    def _request(self, prompt: Prompt, draw: int, sampling_seed: int) -> Request:
        settings, seed = self.settings, int(digest("seed", sampling_seed, prompt.text, draw)[:7], 16)
        return Request((("user", prompt.text),), settings.max_new_tokens, settings.temperature, seed=seed, top_p=settings.top_p)

    def _endpoint(self, model: str) -> Endpoint:
        if model not in self._endpoints:
            self._endpoints[model] = Endpoint(model, budget=self.budget)
        return self._endpoints[model]

    def stop(self) -> None:
        """Send nothing more; a `sample` under way yields only answers that came already."""
        self._stopped = True
        for endpoint in self._endpoints.values():
            endpoint.stop()
