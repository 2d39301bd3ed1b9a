"""Sample through vLLM: one engine for a whole trace; the next checkpoint's weights are loaded in place."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import evaluate, progress
from ..models import checks, loading
from ..models.adapters import is_adapter
from ..models.chat_format import PromptFormat, question
from ..models.vllm_engine import package, started
from ..nouns import Answer, BadInput, Checkpoint, Prompt, digest
from ..plan import EvaluationSettings
from . import answer_key

PROBE = tuple(range(5, 13))
"""Tokens whose log-probs show whether the engine's weights changed."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The adapter ranks that vLLM supports."""


class Backend(evaluate.Backend):
    """Sends one request per (prompt, draw), with a seed from (sampling seed, prompt text, draw). vLLM's prefix cache is used.

    Equal weights give equal answers. vLLM's sampler decides how similar the answers of neighbouring checkpoints are (docs/vllm.md).
    """

    identity = "vllm/2"

    def __init__(self, settings: EvaluationSettings):
        super().__init__(settings)
        self.engine: Any = None
        self._kind: tuple[str, int, str] = "", 0, ""
        """What one engine can hold: architecture, adapter rank, dtype."""
        self._holds = ""
        """The digest of the weights in the engine; for an adapter, of its base."""
        self._adapters: dict[str, Any] = {}

    def sample(self, checkpoint: Checkpoint, pairs: Sequence[tuple[Prompt, int]], sampling_seed: int) -> Iterator[tuple[int, Answer]]:
        """Yield the place and the answer of every (prompt, draw) pairs, in order, `batch_rows` of them at a time."""
        if not pairs:
            return
        adapter = self._ready(checkpoint)
        from vllm import SamplingParams

        prompt_format, ends = self._words(checkpoint.path)
        settings, texts = self.settings, list(dict.fromkeys(prompt.text for prompt, _ in pairs))
        ids = dict(zip(texts, prompt_format.prompts([question(text) for text in texts]), strict=True))
        room, longest = self.engine.llm_engine.model_config.max_model_len, max(texts, key=lambda text: len(ids[text]))
        if len(ids[longest]) >= room:
            raise BadInput(
                f"vLLM reads {room:,} tokens with {checkpoint.path}, and the question {longest!r} takes {len(ids[longest]):,}, "
                "which leaves no room for an answer; leave the question out of the suite, or ask a model with a longer context"
            )
        # vLLM matches stops in text without special tokens; `prompt_format.reply` cuts the others off
        stops = [stop.exact for stop in prompt_format.stops if not any(token in stop.text for token in prompt_format.special)]
        for start in range(0, len(pairs), settings.batch_rows):
            part = pairs[start : start + settings.batch_rows]
            parameters = [
                SamplingParams(
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    top_k=settings.top_k,
                    max_tokens=settings.max_new_tokens,
                    seed=int(digest("seed", sampling_seed, prompt.text, draw)[:8], 16),
                    stop_token_ids=ends,
                    stop=stops or None,
                )
                for prompt, draw in part
            ]
            prompts = [{"prompt_token_ids": ids[prompt.text]} for prompt, _ in part]
            found = self.engine.generate(prompts, parameters, use_tqdm=False, lora_request=adapter)
            for place, (output, (prompt, draw)) in enumerate(zip(found, part, strict=True), start):
                (reply,) = output.outputs
                tokens = list(reply.token_ids)
                text, closed = prompt_format.reply(tokens)
                ended = "length" if reply.finish_reason == "length" and not prompt_format.complete(tokens) else "stop"
                ended = ended if closed else "thinking"
                key = answer_key(checkpoint, prompt, draw, settings, sampling_seed)
                yield place, Answer(key, checkpoint.weights, prompt.id, draw, text, ended, len(reply.token_ids))  # type: ignore[arg-type]

    def check(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> None:
        """Raise BadInput if a checkpoint cannot be sampled, or vLLM is missing."""
        for checkpoint in checkpoints:
            loading.local_folder(checkpoint.path)  # it refuses GGUF files
        package()
        checks.folders(checkpoints, prompts, self.settings.prompt_format)

    def _words(self, path: str) -> tuple[PromptFormat, list[int]]:
        """Return a checkpoint's prompt format and the tokens that end an answer."""
        from transformers import GenerationConfig

        folder = loading.local_folder(path)
        whole = loading.base_of(folder) if is_adapter(folder) else folder
        prompt_format = PromptFormat(loading.load_tokenizer(folder), self.settings.prompt_format, path)
        settings = GenerationConfig.from_pretrained(whole) if (whole / "generation_config.json").exists() else None
        return prompt_format, sorted(prompt_format.ending(types.SimpleNamespace(generation_config=settings)).tokens)

    def _ready(self, checkpoint: Checkpoint) -> Any:
        """Load a checkpoint's weights into the engine; return the request for its adapter, or None for a whole model."""
        folder = loading.local_folder(checkpoint.path)
        adapter = is_adapter(folder)
        whole = loading.base_of(folder) if adapter else folder
        rank = next(rank for rank in RANKS if rank >= rank_of(folder)) if adapter else 0
        weights = loading.weights_digest(whole) if adapter else checkpoint.weights
        kind = (loading.likeness(whole) or weights, max(rank, self._kind[1]), checkpoint.dtype)
        if self.engine is None or self._kind != kind:
            self.close()
            self.engine, self._kind = started(whole, checkpoint.dtype, kind[1]), kind
        elif self._holds != weights:
            self._switch(whole)
        self._holds = weights
        if not adapter:
            return None
        from vllm.lora.request import LoRARequest

        if checkpoint.weights not in self._adapters:
            self._adapters[checkpoint.weights] = LoRARequest(checkpoint.weights, len(self._adapters) + 1, str(folder))
        return self._adapters[checkpoint.weights]

    def _switch(self, folder: Path) -> None:
        """Load other weights in place and reset the prefix cache, which holds results of the old ones."""
        before = self._probed()
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self.engine.reset_prefix_cache():
            raise BadInput("vLLM did not let go of its cache of prefixes, so that stale answers would come back; run the command again")
        if self._probed() == before:
            progress.say(f"the weights of {folder} did not change what the engine says: it is restarted")
            self.close()
            _, rank, dtype = self._kind
            self.engine = started(folder, dtype, rank)

    def _probed(self) -> list[float]:
        """Return the log-probs of a short text under the engine's weights, without any cache."""
        from vllm import SamplingParams

        settings = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, skip_reading_prefix_cache=True)
        (output,) = self.engine.generate([{"prompt_token_ids": list(PROBE)}], settings, use_tqdm=False)
        read = zip(output.prompt_logprobs[1:], PROBE[1:], strict=True)
        return [table[token].logprob for table, token in read]

    def close(self) -> None:
        """Shut the engine down, because two at once may not fit."""
        if self.engine is not None:
            with contextlib.suppress(Exception):
                self.engine.llm_engine.engine_core.shutdown()
        self.engine, self._holds, self._adapters = None, "", {}


def rank_of(adapter: Path) -> int:
    return int(json.loads((adapter / "adapter_config.json").read_text()).get("r", RANKS[0]))
