"""The decoder: rows of any length step together, the answers to a prompt share one reading of it, and a finished row makes room for others.

A row's tokens depend only on its prompt and its noise (`sampling_noise`), up to rounding: batching changes float32 logits by about 1e-6,
which changes a token only if two scores are that close. bfloat16 rounds much more, so there an answer may depend on its batch.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from ..plan import EvaluationSettings
from .loading import context_of
from .packed import PackedModel, driving, why_not
from .sampling_noise import drawn, position_words, vocabulary_words

REFILL = 1 / 8
"""Share of free slots that starts a prefill, because a prefill of few prompts takes as long as one of many."""
POSITIONS = 8192
"""Most positions of a prefill (plus one prompt)."""
LANE = 64
"""Rows that justify another thread."""


@dataclass(frozen=True)
class Wanted:
    """One row to decode: its prompt's token ids and the words of its noise."""

    ids: tuple[int, ...]
    words: tuple[int, int]


@dataclass(frozen=True)
class Ending:
    """Ends an answer at one of the `tokens`, or after a token of `watched` if `cut` finds the answer complete."""

    tokens: frozenset[int]
    watched: frozenset[int] = field(default_factory=frozenset)
    cut: Callable[[list[int]], bool] = lambda tokens: False

    def at(self, tokens: list[int]) -> bool:
        """Return whether an answer ends with the last of its tokens."""
        return tokens[-1] in self.tokens or (tokens[-1] in self.watched and self.cut(tokens))


@dataclass(frozen=True)
class Reply:
    """The tokens of one answer, including the end token."""

    tokens: list[int]
    ended: Literal["stop", "length"]


@dataclass(frozen=True)
class _Row:
    """A row under way: its index among those wanted, the most tokens of its answer, and the tokens so far."""

    place: int
    wanted: Wanted
    most: int
    tokens: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Return the position of its last token."""
        return len(self.wanted.ids) + len(self.tokens) - 1

    @property
    def next(self) -> list[int]:
        """Return what its next step reads: its last token and the position, the number of the token to draw, and its noise."""
        return [(self.tokens or self.wanted.ids)[-1], self.position, len(self.tokens), *self.wanted.words]


class Decoder:
    """Decodes with one model. `why` is the reason if it must use `generate`.

    On a CPU each of torch's threads decodes its own rows, with one thread per operation, because threads that share small operations mostly
    wait for each other.
    """

    def __init__(self, model: Any):
        self.model = model
        self.why = why_not(model)

    def decode(self, wanted: Sequence[Wanted], settings: EvaluationSettings, ending: Ending) -> Iterator[tuple[int, Reply]]:
        """Yield the index and the reply of every wanted row as it finishes. Samples of a prompt should be adjacent."""
        if self.why:
            yield from self.generated(wanted, settings, ending)
            return
        threads = torch.get_num_threads() if self.model.device.type == "cpu" else 1
        n_lanes = max(1, min(threads, settings.batch_rows, len(wanted) // LANE))
        groups = [list(group) for _, group in itertools.groupby(range(len(wanted)), key=lambda place: wanted[place].ids)]
        groups.sort(key=lambda group: len(wanted[group[0]].ids))
        slots = settings.batch_rows // n_lanes
        waiting = deque(group[start : start + slots] for group in groups for start in range(0, len(group), slots))
        lanes = [_Lane(self.model, wanted, waiting, min(slots, len(wanted)), settings, ending) for _ in range(n_lanes)]
        with driving(self.model), _threads(1 if n_lanes > 1 else threads):
            yield from lanes[0].run() if n_lanes == 1 else _together(lanes)

    def generated(self, wanted: Sequence[Wanted], settings: EvaluationSettings, ending: Ending) -> Iterator[tuple[int, Reply]]:
        """Yield the same as `decode`, with the same noise, through the model's own `generate`: slower, for any architecture."""
        vocabulary_V = _vocabulary(self.model)
        most = [_most(self.model, row, settings) for row in wanted]
        order = sorted(range(len(wanted)), key=lambda place: (most[place], len(wanted[place].ids)))
        groups = [list(group) for _, group in itertools.groupby(order, key=lambda place: most[place])]
        for places in (
            group[start : start + settings.batch_rows] for group in groups for start in range(0, len(group), settings.batch_rows)
        ):
            rows = [wanted[place] for place in places]
            longest = max(len(row.ids) for row in rows)
            padding = [longest - len(row.ids) for row in rows]
            words_B2 = torch.tensor([row.words for row in rows], dtype=torch.int32, device=self.model.device)

            def only_drawn(ids_BT: Tensor, logits_BV: Tensor, words_B2: Tensor = words_B2, longest: int = longest) -> Tensor:
                words = position_words(words_B2, torch.full((len(ids_BT),), ids_BT.shape[1] - longest, device=ids_BT.device))
                tokens_B = drawn(logits_BV, words, vocabulary_V, settings.temperature, settings.top_k, settings.top_p)
                return torch.full_like(logits_BV, -torch.inf).scatter_(1, tokens_B[:, None], 0.0)

            def ended(ids_BT: Tensor, scores: Any, longest: int = longest) -> Tensor:
                return torch.tensor([_length(said, ending) > 0 for said in ids_BT[:, longest:].tolist()], device=ids_BT.device)

            said_BT = self.model.generate(
                input_ids=torch.tensor([[0] * n + list(row.ids) for n, row in zip(padding, rows, strict=True)], device=self.model.device),
                attention_mask=torch.tensor([[0] * n + [1] * (longest - n) for n in padding], device=self.model.device),
                logits_processor=LogitsProcessorList([only_drawn]),
                stopping_criteria=StoppingCriteriaList([ended]),
                generation_config=GenerationConfig(max_new_tokens=most[places[0]], pad_token_id=0),
            )[:, longest:]
            for place, said in zip(places, said_BT.tolist(), strict=True):
                n = _length(said, ending)
                yield place, Reply(said[: n or most[place]], "stop" if n else "length")


def decode(model: Any, wanted: Sequence[Wanted], settings: EvaluationSettings, ending: Ending) -> list[Reply]:
    """Return one reply per wanted row, in order, from a new decoder."""
    replies = dict(Decoder(model).decode(wanted, settings, ending))
    return [replies[place] for place in range(len(wanted))]


def _most(model: Any, row: Wanted, settings: EvaluationSettings) -> int:
    """Return the maximum number of an answer's tokens, within the model's context."""
    context = context_of(model)
    return settings.max_new_tokens if context is None else max(1, min(settings.max_new_tokens, context - len(row.ids)))


def _length(said: list[int], ending: Ending) -> int:
    """Return the length of an answer with its end token; 0 if it has not ended."""
    return next((n for n in range(1, len(said) + 1) if ending.at(said[:n])), 0)


def _vocabulary(model: Any) -> Tensor:
    return vocabulary_words(model.get_output_embeddings().weight.shape[0], model.device)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if n != before:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if n != before:
            torch.set_num_threads(before)


# -- one thread ----------------------------------------------------------------------------------------------------------


class _Lane:
    """The rows of one thread, in the first of its slots; it takes groups of rows from `waiting`, which the lanes share."""

    def __init__(
        self, model: Any, wanted: Sequence[Wanted], waiting: deque[list[int]], slots: int, settings: EvaluationSettings, ending: Ending
    ):
        self.model, self.wanted, self.waiting, self.slots, self.settings, self.ending = model, wanted, waiting, slots, settings, ending
        self.packed = PackedModel(model, slots)
        self.vocabulary_V = _vocabulary(model)
        self.rows: list[_Row] = []
        self.stopped = False

    def run(self) -> Iterator[tuple[int, Reply]]:
        """Yield the replies as they finish."""
        while not self.stopped:
            with torch.inference_mode():
                if self.slots - len(self.rows) >= self.slots * REFILL:
                    self._admit()
                if not self.rows:
                    return
                finished = self._step()
            yield from finished

    def _admit(self) -> None:
        """Read the next prompts that fit into the free slots, all but the last token of each."""
        groups: list[list[int]] = []
        free, positions = self.slots - len(self.rows), 0
        with contextlib.suppress(IndexError):  # another lane took the last group
            while positions < POSITIONS:
                group = self.waiting.popleft()
                if len(group) > free:
                    self.waiting.appendleft(group)
                    break
                groups.append(group)
                free -= len(group)
                positions += len(self.wanted[group[0]].ids)
        if not groups:
            return
        source = [number for number, group in enumerate(groups) for _ in group]
        self.packed.prefill([self.wanted[group[0]].ids[:-1] for group in groups], len(self.rows), source)
        for place in itertools.chain.from_iterable(groups):
            self.rows.append(_Row(place, self.wanted[place], _most(self.model, self.wanted[place], self.settings)))

    def _step(self) -> list[tuple[int, Reply]]:
        """Draw a token for every row; return the replies that end."""
        settings, longest = self.settings, max(row.position for row in self.rows) + 1
        next_R5 = torch.tensor([row.next for row in self.rows], device=self.model.device)
        logits_RV = self.packed.step(next_R5[:, 0], next_R5[:, 1], longest)
        words_R2 = position_words(next_R5[:, 3:].to(torch.int32), next_R5[:, 2])
        tokens = drawn(logits_RV, words_R2, self.vocabulary_V, settings.temperature, settings.top_k, settings.top_p).tolist()
        finished, left = [], []
        for slot, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            row.tokens.append(token)
            if (ends := self.ending.at(row.tokens)) or len(row.tokens) == row.most:
                finished.append((row.place, Reply(row.tokens, "stop" if ends else "length")))
            else:
                left.append(slot)
        if finished:
            self._keep(left, longest)
        return finished

    def _keep(self, left: list[int], longest: int) -> None:
        """Keep the rows of some slots; the last of them move into the freed slots."""
        stay = {slot for slot in left if slot < len(left)}
        target = [slot for slot in range(len(left)) if slot not in stay]
        source = [slot for slot in left if slot not in stay]
        self.packed.move(source, target, longest)
        for slot, other in zip(target, source, strict=True):
            self.rows[slot] = self.rows[other]
        del self.rows[len(left) :]


def _together(lanes: Sequence[_Lane]) -> Iterator[tuple[int, Reply]]:
    """Yield the replies of lanes that run in a thread each; raise what one of them raises."""
    found: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()

    def stop() -> None:
        for lane in lanes:
            lane.stopped = True

    def work(lane: _Lane) -> None:
        try:
            for reply in lane.run():
                found.put(reply)
        except BaseException:
            stop()
            raise
        finally:
            found.put(None)

    with ThreadPoolExecutor(len(lanes)) as pool:
        working = [pool.submit(work, lane) for lane in lanes]
        try:
            for _ in lanes:
                yield from iter(found.get, None)
        finally:
            stop()
        for lane in working:
            lane.result()
