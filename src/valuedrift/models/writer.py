"""Writers generate the texts of data sets and suites: a local causal language model, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import polars as pl

from ..nouns import BadInput, Messages, Stopped, digest
from ..plan import EvaluationSettings
from ..registry import split
from ..store import Store
from .chat_api import NO_TEXT, Failed, Reply, Request
from .chat_format import PromptFormat, format_digest
from .endpoint import Ended, Endpoint
from .loading import chat_template, context_of, load_model, weights_digest
from .precision import dtype_of
from .turns import spoken


class Unfinished(Stopped):
    """A writer stopped early: `texts` holds the texts that it wrote, and None for the others."""

    def __init__(self, sentence: str, texts: Sequence[str | None]):
        super().__init__(sentence)
        self.texts = tuple(texts)


class Writer(Protocol):
    """Writes one text per prompt, in order; None if it failed. `failures` counts the reasons.

    `seed` and, among equal prompts of a call, the index of each decide its text; the other prompts do not matter.
    Raises Unfinished if the budget ends, the server is gone, or the user interrupts.
    """

    identity: str
    """The digest of everything besides prompt and seed that decides a text."""
    batch_size: int
    """Prompts per `write`. A killed command loses at most so many texts of a local model."""
    failures: Counter[str]

    @property
    def spent(self) -> float:
        """Return the dollars that this process spent."""

    def write(self, prompts: Sequence[Messages], seed: int) -> list[str | None]: ...

    def keeping(self, path: Path) -> AbstractContextManager[None]:
        """Return the context in which texts are written and stored; see Endpoint.keeping. It does nothing for a local model."""


def writer_of(spec: str, temperature: float = 0.7, max_new_tokens: int = 256, max_cost: float | None = None) -> Writer:
    """Return the writer that "openai:MODEL", a model folder or a hub id (org/name@revision) names. Raises BadInput if there is none."""
    name, argument = split(spec)
    if name == "openai":
        return Remote(argument, temperature, max_new_tokens, max_cost)
    return Local(spec, temperature, max_new_tokens)


class CachedWriter:
    """A writer with a folder of a store: stored texts are not written again, and new ones are stored even if the work is interrupted."""

    def __init__(self, writer: Writer, store: Store, folder: str):
        self.writer, self.store, self.folder = writer, store, folder
        self.known = dict(store.parts(folder, {"key": pl.String, "text": pl.String}, ("text",)).iter_rows())

    def waiting(self, prompts: Sequence[Messages], seed: int) -> dict[str, Messages]:
        """Return the prompts without a text, each once, by key. Failed prompts are among them."""
        return {key: prompt for prompt in prompts if (key := self._key(prompt, seed)) not in self.known}

    def write(self, prompts: Sequence[Messages], seed: int, advance: Callable[[int], object]) -> list[str | None]:
        """Return a text per prompt, equal ones for equal prompts; None if the writer failed. Raises Unfinished if the writer does."""
        waiting = list(self.waiting(prompts, seed).items())
        for start in range(0, len(waiting), self.writer.batch_size):
            part = waiting[start : start + self.writer.batch_size]
            with self.writer.keeping(self.store.root / f".paid-{self.folder}.jsonl"):
                try:
                    self._store(part, self.writer.write([prompt for _, prompt in part], seed))
                except Unfinished as stopped:
                    self._store(part, stopped.texts)
                    raise
            advance(len(part))
        return [self.known.get(self._key(prompt, seed)) for prompt in prompts]

    def _key(self, prompt: Messages, seed: int) -> str:
        return digest("text", self.writer.identity, prompt, seed)

    def _store(self, part: Sequence[tuple[str, Messages]], texts: Sequence[str | None]) -> None:
        new = {key: text for (key, _), text in zip(part, texts, strict=True) if text is not None}
        if new:
            table = pl.DataFrame({"key": list(new), "text": list(new.values())})
            self.store.add_part(self.folder, table, sorted(new))
        self.known |= new


class Local:
    """A causal language model on this machine, sampled with noise keyed by (seed, prompt, draw)."""

    batch_size = 256
    spent = 0.0

    def __init__(self, path: str, temperature: float, max_new_tokens: int):
        self.path, self.failures = path, Counter[str]()
        self.settings = EvaluationSettings(temperature=temperature, max_new_tokens=max_new_tokens)
        dtype = dtype_of(path)
        weights = (weights_digest(path), format_digest(chat_template(path)), *([dtype] if dtype != "float32" else []))
        self.identity = f"transformers/{digest('writer', 2, *weights, temperature, max_new_tokens)}"
        self._loaded = functools.cache(lambda: load_model(path, dtype=dtype))

    def keeping(self, path: Path) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def write(self, prompts: Sequence[Messages], seed: int) -> list[str | None]:
        """Return one text per prompt. A text that reaches `max_new_tokens` counts as failed."""
        from .decoder import Wanted, decode
        from .sampling_noise import row_words

        model, tokenizer = self._loaded()
        prompt_format = PromptFormat(tokenizer, name=self.path)
        room = (context_of(model) or sys.maxsize) - self.settings.max_new_tokens
        wanted = {
            row: Wanted(tuple(ids), row_words(seed, digest(prompt), number))
            for row, (prompt, number) in enumerate(zip(prompts, _numbered(prompts), strict=True))
            if len(ids := prompt_ids(prompt_format, prompt)) <= room
        }
        texts: list[str | None] = [None] * len(prompts)
        self.failures += Counter({"the prompt is too long for the model": len(prompts) - len(wanted)})  # Counter adds no entry of 0
        replies = decode(model, list(wanted.values()), self.settings, prompt_format.ending(model))
        for row, reply in zip(wanted, replies, strict=True):
            text, closed = prompt_format.reply(reply.tokens)
            texts[row] = _checked(text, reply.ended == "stop" and closed, self.settings.max_new_tokens, self.failures)
        return texts


class Remote:
    """A chat model behind an OpenAI-compatible address. It gets the seed, which some servers ignore."""

    batch_size = 64

    def __init__(self, model: str, temperature: float, max_new_tokens: int, max_cost: float | None):
        self.endpoint = Endpoint(model, max_cost=max_cost)
        self.temperature, self.max_new_tokens, self.failures = temperature, max_new_tokens, Counter[str]()
        self.identity = f"openai/{digest('writer', 1, model, self.endpoint.address, temperature, max_new_tokens)}"

    @property
    def spent(self) -> float:
        return self.endpoint.spent

    def keeping(self, path: Path) -> AbstractContextManager[None]:
        """Return the context of Endpoint.keeping."""
        return self.endpoint.keeping(path)

    def write(self, prompts: Sequence[Messages], seed: int) -> list[str | None]:
        """Return one text per prompt. A truncated text counts as failed."""
        requests = [
            Request(prompt, self.max_new_tokens, self.temperature, seed=int(digest(seed, prompt, number)[:8], 16) >> 1)  # 31 bits
            for prompt, number in zip(prompts, _numbered(prompts), strict=True)
        ]
        try:
            return [self._text(reply) for reply in self.endpoint.chat(requests)]
        except Ended as ended:
            raise Unfinished(str(ended), [None if reply is None else self._text(reply) for reply in ended.replies]) from ended

    def _text(self, reply: Reply | Failed) -> str | None:
        if isinstance(reply, Failed):
            self.failures[reply.reason] += 1
            return None
        text = spoken(reply.texts[0])
        ended = reply.ended[0] if text is not None else "thinking"
        if text is None or ended in NO_TEXT:
            self.failures[NO_TEXT[ended]] += 1
            return None
        return _checked(text.strip(), ended == "stop", self.max_new_tokens, self.failures)


def _numbered(prompts: Sequence[Messages]) -> list[int]:
    """Return for each prompt the number of equal prompts before it."""
    numbers = defaultdict[Messages, Iterator[int]](itertools.count)
    return [next(numbers[prompt]) for prompt in prompts]


def _checked(text: str, complete: bool, max_new_tokens: int, failures: Counter[str]) -> str | None:
    """Return a complete text, or None after counting the reason."""
    if text and complete:
        return text
    failures["an empty text" if complete else f"no end within {max_new_tokens} tokens"] += 1
    return None


def prompt_ids(prompt_format: PromptFormat, prompt: Messages) -> list[int]:
    """Return the token ids of a prompt. If the template refuses a system message, its text is put before the user's."""
    try:
        return prompt_format.prompts([prompt])[0]
    except BadInput:
        if len(prompt) < 2 or prompt[0][0] != "system":
            raise
        return prompt_format.prompts([(("user", "\n\n".join(text for _, text in prompt[:2])), *prompt[2:])])[0]
