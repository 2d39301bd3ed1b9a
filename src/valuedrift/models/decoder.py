"""The decoder: shared prefill per prompt, batches of rows of any length without padding, finished rows replaced at once.

A row may have a draft: the tokens that an earlier checkpoint answered under the same noise. One pass reads several draft tokens, this
model draws a token at each of their positions, and the tokens up to the first difference are kept. A draw is a function of prompt, noise
and position (`sampling_noise`). So the result equals that of decoding token by token, whatever the draft: a draft changes only how many
positions a pass reads. (Leviathan et al. 2023 verify drafts by rejection sampling instead, which uses other random numbers.)

Results depend only on a row's prompt and noise. Batching changes logits by float rounding (about 1e-6), which changes a token only if
two scores are that close.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..plan import Asking
from .loading import context_of
from .sampling_noise import drawn, position_words, vocabulary_words

_ROOM = 64
"""Positions by which the slots grow: few compared with an answer, many compared with a step."""
_REFILL = 1 / 8
"""Share of free slots that starts a prefill, because a prefill of few prompts takes as long as one of many."""
_LONGEST = 32
"""Most draft tokens verified at a time."""
_POSITIONS = 8192
"""Most positions read in one pass (plus one prompt), because their logits are held at once."""
_OVERHEAD = {"cpu": 0.5, "other": 32.0}
"""Time that a row adds to a pass, in positions: on a CPU for reading its keys. On an accelerator a pass waits for memory, however many
positions it reads (a guess, not measured)."""
_LANE = 64
"""Rows that justify another thread."""
_BAND = 128
"""Rows per attention call on a CPU, where padding costs more than calls. An accelerator takes all rows in one call."""
_NAME = "valuedrift"


@dataclass(frozen=True)
class Wanted:
    """One row to decode: its prompt's token ids, the words of its noise, and its draft."""

    ids: tuple[int, ...]
    words: tuple[int, int]
    draft: Sequence[int] = ()


@dataclass(frozen=True)
class Ending:
    """Ends an answer at one of the `tokens`, or after a token of `watched` if `cut` finds the answer complete."""

    tokens: frozenset[int]
    watched: frozenset[int] = field(default_factory=frozenset)
    cut: Callable[[list[int]], bool] = lambda tokens: False


@dataclass(frozen=True)
class Reply:
    """The tokens of one answer, including the end token."""

    tokens: list[int]
    ended: Literal["stop", "length"]


@dataclass
class Tally:
    """Counts of forward passes, positions read, draft tokens among them, accepted draft tokens, and tokens answered."""

    passes: int = 0
    positions: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0


class _Trust:
    """Estimates how often the next token of a draft agrees. Old counts fade, so that the estimate follows the training."""

    def __init__(self) -> None:
        self.right, self.wrong = 1.0, 0.1

    def learn(self, right: int, wrong: int) -> None:
        fade = 0.5 ** ((right + wrong) / 4096)
        self.right, self.wrong = self.right * fade + right, self.wrong * fade + wrong

    def length(self, overhead: float) -> int:
        """Return how many draft tokens to verify at a time for most tokens per cost; a row costs `overhead` extra positions per pass."""
        agrees = self.right / (self.right + self.wrong)
        kept, gain = 1.0, 1.0
        best, most = 0, 1 / (1 + overhead)
        for n in range(1, _LONGEST + 1):
            gain *= agrees
            kept += gain
            if kept / (1 + n + overhead) > most:
                best, most = n, kept / (1 + n + overhead)
        return best


class _Slots(DynamicLayer):
    """Keys and values of one layer: a slot per row, a column per position. Columns after a row's last token are masked."""

    keys: Any
    values: Any

    def __init__(self, at: _At, window: int | None):
        super().__init__()
        self.at, self.window = at, window

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of a pass, shape (1, H, N, D), into their slots; return all slots, shape (slots, L, H, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (states.new_empty(0, 0, states.shape[1], states.shape[3]) for states in (key_states, value_states))
        at, seen = self.at, list[Any]()
        for name, states_1HND in (("keys", key_states), ("values", value_states)):
            slots = getattr(self, name)
            if slots.shape[0] < at.slots or slots.shape[1] < at.length:
                wanted = (max(at.slots, slots.shape[0]), max(at.length + _ROOM, slots.shape[1]))
                grown = slots.new_zeros(*wanted, *slots.shape[2:])  # zeros, because masked values must be finite
                grown[: slots.shape[0], : slots.shape[1]] = slots
                setattr(self, name, slots := grown)
            slots[at.row_N, at.position_N] = states_1HND[0].transpose(0, 1)
            seen.append(slots[:, : at.length])
        seen[0].layer = self  # models pass the keys unchanged to the attention
        return seen[0], seen[1]

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first columns of some slots into others."""
        if self.is_initialized:  # a layer that reads another layer's keys holds none
            for slots in (self.keys, self.values):
                slots[target, :length] = slots[source, :length]


@dataclass(frozen=True)
class _Band:
    """Adjacent rows with one attention call, padded to the longest row and the most new tokens among them."""

    first: int
    rows: int
    tokens: slice
    """Their tokens among the tokens of the pass."""
    width: int
    length: int


class _At:
    """Positions of a pass's tokens: token n is number `place_N[n]` of row `row_N[n]`, at `position_N[n]`; rows are sorted."""

    slots = length = 0

    def to(self, row_N: Tensor, place_N: Tensor, position_N: Tensor) -> None:
        """Set the tokens of the next pass."""
        self.row_N, self.place_N, self.position_N = row_N, place_N, position_N
        self.length = int(position_N.max()) + 1
        self.masks: dict[tuple[int, int | None, int], Tensor] = {}
        first, last, size = int(row_N[0]), int(row_N[-1]), _BAND if row_N.device.type == "cpu" else len(row_N)
        starts = list(range(first, last + 1, size))
        bounds = [*torch.searchsorted(row_N, torch.tensor(starts, device=row_N.device)).tolist(), len(row_N)]
        self.bands = []
        for start, tokens in zip(starts, itertools.starmap(slice, itertools.pairwise(bounds)), strict=True):
            width, length = int(place_N[tokens].max()) + 1, int(position_N[tokens].max()) + 1
            self.bands.append(_Band(start, min(size, last + 1 - start), tokens, width, length))

    def mask(self, band: _Band, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """Return the attention mask to add to scores (0 or -inf), shape (R, 1, groups * W, L)."""
        key = (band.first, window, groups)
        if key not in self.masks:
            position_N = self.position_N[band.tokens]
            position_RW = self.padded(position_N, band)
            behind_RWL = position_RW[..., None] - torch.arange(band.length, device=position_RW.device)
            hidden_RWL = (behind_RWL < 0) if window is None else (behind_RWL < 0) | (behind_RWL >= window)
            mask_RWL = torch.zeros(hidden_RWL.shape, dtype=dtype, device=position_RW.device).masked_fill_(hidden_RWL, -torch.inf)
            self.masks[key] = mask_RWL[:, None].repeat(1, 1, groups, 1)
        return self.masks[key]

    def padded(self, values_n: Tensor, band: _Band) -> Tensor:
        """Return the values of a band's tokens, padded with 0 to shape (R, W, …)."""
        if len(values_n) == band.rows * band.width:
            return values_n.unflatten(0, (band.rows, band.width))
        values_RW = values_n.new_zeros(band.rows, band.width, *values_n.shape[1:])
        values_RW[self.row_N[band.tokens] - band.first, self.place_N[band.tokens]] = values_n
        return values_RW

    def packed(self, values_RW: Tensor, band: _Band) -> Tensor:
        """Return the values without the padding of `padded`."""
        if band.tokens.stop - band.tokens.start == band.rows * band.width:
            return values_RW.flatten(0, 1)
        return values_RW[self.row_N[band.tokens] - band.first, self.place_N[band.tokens]]


def _attend(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend from each token to those of its row up to itself (within the layer's window): packed queries, keys in slots."""
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError("its attention has soft caps or sinks")
    at, window = key.layer.at, key.layer.window
    query_NHD, groups, seen = query[0].transpose(0, 1), query.shape[1] // key.shape[2], []
    for band in at.bands:
        # Heads that share keys become positions of one query, so that no key is repeated
        query_RWKGD = at.padded(query_NHD[band.tokens], band).unflatten(2, (-1, groups))
        keys_RHLD, values_RHLD = (x[band.first : band.first + band.rows, : band.length].transpose(1, 2) for x in (key, value))
        mask = at.mask(band, window, groups, query.dtype)
        grouped = query_RWKGD.permute(0, 2, 3, 1, 4).flatten(2, 3)
        out_RKGWD = F.scaled_dot_product_attention(grouped, keys_RHLD, values_RHLD, attn_mask=mask, scale=scaling).unflatten(
            2, (groups, -1)
        )
        seen.append(at.packed(out_RKGWD.permute(0, 3, 1, 2, 4).flatten(2, 3), band))
    return torch.cat(seen)[None], None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)


def cache_name(accepted: Collection[str]) -> str:
    """Return the name of the cache argument among those a model accepts; transformers 5.24 changed it."""
    return "cache" if "cache" in accepted else "past_key_values"


class _Driven:
    """Runs a model on several rows packed into one sequence; only the attention treats them as rows."""

    def __init__(self, model: Any):
        self.model, self.at = model, _At()
        self.accepted = set(inspect.signature(model.forward).parameters)
        self.cache_name = cache_name(self.accepted)
        layers = DynamicCache(config=model.config).layers
        self.layers = [_Slots(self.at, getattr(layer, "sliding_window", None)) for layer in layers]
        self.cache = Cache(layers=list(self.layers))

    def read(self, tokens: Sequence[Sequence[int]], first: int, start: int, last: bool = False) -> Tensor:
        """Return the logits after the tokens of some rows (or after the last of each), shape (N, V).

        Slot `first + i` reads `tokens[i]` from position `start` on.
        """
        lengths = torch.tensor([len(ids) for ids in tokens])
        row_N = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
        place_N = torch.arange(len(row_N)) - (lengths.cumsum(0) - lengths)[row_N]
        ids_N = torch.tensor(list(itertools.chain.from_iterable(tokens)))
        ids_N, row_N, place_N = (part.to(self.model.device) for part in (ids_N, first + row_N, place_N))
        return self.forward(ids_N, row_N, place_N, start + place_N, (lengths.cumsum(0) - 1).to(self.model.device) if last else 0)

    def forward(self, ids_N: Tensor, row_N: Tensor, place_N: Tensor, position_N: Tensor, keep: Tensor | int = 0) -> Tensor:
        """Return the logits after the tokens `keep` (0: all), shape (N, V); the other arguments are those of `_At.to`."""
        self.at.to(row_N, place_N, position_N)
        arguments = {"position_ids": position_N[None], "logits_to_keep": keep}
        arguments = {name: value for name, value in arguments.items() if name in self.accepted}
        logits_NV = self.model(input_ids=ids_N[None], use_cache=True, **arguments, **{self.cache_name: self.cache}).logits[0]
        return logits_NV if isinstance(keep, int) or "logits_to_keep" in self.accepted else logits_NV[keep]

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        for layer in self.layers:
            layer.copy(source, target, length)


class _Lane:
    """The state of one decoding thread: its own slots, on shared weights."""

    def __init__(self, model: Any):
        self.driven, self.tally, self.trust = _Driven(model), Tally(), [_Trust(), _Trust()]


class Decoder:
    """Decodes with one model object, whose weights may change between calls. `why` is the reason if it must use `generate`.

    On a CPU each of torch's threads decodes its own rows, with one thread per operation, because threads that share small operations mostly
    wait for each other.
    """

    def __init__(self, model: Any):
        self.model, self.lanes, self.tokens = model, [_Lane(model)], 0
        self.why = _why_not(self.lanes[0].driven)

    @property
    def tally(self) -> Tally:
        """Return the counts so far."""
        parts = [dataclasses.asdict(lane.tally) for lane in self.lanes]
        return Tally(**{name: sum(part[name] for part in parts) for name in parts[0]} | {"tokens": self.tokens})

    def decode(self, wanted: Sequence[Wanted], asking: Asking, ending: Ending) -> Iterator[tuple[int, Reply]]:
        """Yield the index and the reply of every wanted row as it finishes. Draws of a prompt should be adjacent."""
        plainly = generated(self.model, wanted, asking, ending, self.lanes[0].tally) if self.why else None
        for place, reply in plainly or self._decoded(wanted, asking, ending):
            self.tokens += len(reply.tokens)
            yield place, reply

    def _decoded(self, wanted: Sequence[Wanted], asking: Asking, ending: Ending) -> Iterator[tuple[int, Reply]]:
        threads = torch.get_num_threads() if self.model.device.type == "cpu" else 1
        n_lanes = max(1, min(threads, asking.batch_rows, len(wanted) // _LANE))
        self.lanes += [_Lane(self.model) for _ in range(n_lanes - len(self.lanes))]
        groups = [list(group) for _, group in itertools.groupby(range(len(wanted)), key=lambda place: wanted[place].ids)]
        most = asking.batch_rows // n_lanes
        waiting = [group[start : start + most] for group in groups for start in range(0, len(group), most)][::-1]
        parts = [_Decoding(lane, wanted, waiting, most, asking, ending) for lane in self.lanes[:n_lanes]]
        found: queue.SimpleQueue[list[tuple[int, Reply]] | BaseException | None] = queue.SimpleQueue()
        with _driving(self.model), _threads(1 if n_lanes > 1 else threads):
            if n_lanes == 1:
                yield from itertools.chain.from_iterable(parts[0].run())
                return
            workers = [threading.Thread(target=part.run_into, args=(found,), daemon=True) for part in parts]
            try:
                for worker in workers:
                    worker.start()
                for _ in workers:
                    while (some := found.get()) is not None:
                        if isinstance(some, BaseException):
                            raise some
                        yield from some
            finally:
                waiting.clear()
                for part, worker in zip(parts, workers, strict=True):
                    part.stopped = True
                    if worker.ident:
                        worker.join()


@contextlib.contextmanager
def _driving(model: Any) -> Iterator[None]:
    """Replace a model's attention by one for packed rows.

    cuDNN's attention is off, because it plans again for every shape, and nearly every pass has a new one. On an H200 this took 1.7 ms a
    call, more than half of a pass.
    """
    before, planned = model.config._attn_implementation, torch.backends.cuda.cudnn_sdp_enabled()
    model.set_attn_implementation(_NAME)
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(planned)
        model.set_attn_implementation(before)


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


def decode(model: Any, wanted: Sequence[Wanted], asking: Asking, ending: Ending) -> list[Reply]:
    """Return one reply per wanted row, in order, from a new decoder."""
    replies = dict(Decoder(model).decode(wanted, asking, ending))
    return [replies[place] for place in range(len(wanted))]


def _why_not(driven: _Driven) -> str:
    """Return why an architecture cannot be driven, or "". The test reads two short texts in parts and at once."""
    model = driven.model
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if kinds:
        return f"its layers keep a state from which a draft cannot be taken back ({', '.join(sorted(kind.__name__ for kind in kinds))})"
    size = model.get_input_embeddings().weight.shape[0]
    texts = [[(7 * row + 3 * place + row * place) % size for place in range(5 + 4 * row)] for row in range(2)]
    try:
        with torch.inference_mode():
            theirs = torch.cat([model(input_ids=torch.tensor([text], device=model.device)).logits[0, 3:] for text in texts])
            with _driving(model):
                driven.at.slots = 2
                driven.read([text[:4] for text in texts], 0, 0)
                driven.read([[text[3], 0] for text in texts], 0, 3)  # a wrong draft, which must have no effect
                ours = driven.read([text[3:] for text in texts], 0, 3)
    except Exception as error:  # a model's own code may raise anything
        return f"it cannot read several answers in one row ({type(error).__name__}: {error})".replace("\n", " ")
    differ, near = (ours.float() - theirs.float()).abs().max().item(), 1e-3 if model.dtype == torch.float32 else 0.05
    if not differ <= near * (1 + theirs.abs().max().item()):
        return f"several answers in one row disturb each other (logits differ by {differ:.2g})"
    return ""


_SYNCED, _FOUND, _LOST = 0, 1, 2
"""State of a row's draft: it agreed so far; the row's last tokens were found in it again; no match."""


@dataclass
class _State:
    """One row per used slot: its prompt, its answer so far, and its position in the draft."""

    place_R: Tensor
    most_R: Tensor
    """Maximum number of the answer's tokens."""
    words_R2: Tensor
    n_prompt_R: Tensor
    said_RT: Tensor
    n_said_R: Tensor
    draft_RM: Tensor
    """Padded with -1."""
    n_draft_R: Tensor
    next_R: Tensor
    """Index of the draft token that may follow."""
    trust_R: Tensor

    def joined(self, other: _State) -> _State:
        return _State(*(torch.cat([getattr(self, part.name), getattr(other, part.name)]) for part in dataclasses.fields(self)))

    def taken(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, part.name)[rows] for part in dataclasses.fields(self)))


def generated(model: Any, wanted: Sequence[Wanted], asking: Asking, ending: Ending, tally: Tally) -> Iterator[tuple[int, Reply]]:
    """Yield the results of `Decoder.decode`, with the same noise, through the model's own `generate`: slower, for any architecture."""
    size = model.get_output_embeddings().weight.shape[0]
    vocabulary_V = vocabulary_words(size, model.device)
    most = [_most(model, row, asking) for row in wanted]
    order = sorted(range(len(wanted)), key=lambda place: len(wanted[place].ids))
    groups = [list(group) for _, group in itertools.groupby(order, key=lambda place: most[place])]
    for places in (group[start : start + asking.batch_rows] for group in groups for start in range(0, len(group), asking.batch_rows)):
        rows = [wanted[place] for place in places]
        longest = max(len(row.ids) for row in rows)
        words_B2 = torch.tensor([row.words for row in rows], dtype=torch.int32, device=model.device)

        def only_drawn(ids_BT: Tensor, logits_BV: Tensor, words_B2: Tensor = words_B2, longest: int = longest) -> Tensor:
            words = position_words(words_B2, torch.full((len(ids_BT),), ids_BT.shape[1] - longest, device=ids_BT.device))
            tokens_B = drawn(logits_BV, words, vocabulary_V, asking.temperature, asking.top_k, asking.top_p)
            return torch.full_like(logits_BV, -torch.inf).scatter_(1, tokens_B[:, None], 0.0)

        def ended(ids_BT: Tensor, scores: Any, longest: int = longest) -> Tensor:
            return torch.tensor([_length(said, ending) > 0 for said in ids_BT[:, longest:].tolist()], device=ids_BT.device)

        said_BT = model.generate(
            input_ids=torch.tensor([[0] * (longest - len(row.ids)) + list(row.ids) for row in rows], device=model.device),
            attention_mask=torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows], device=model.device),
            logits_processor=LogitsProcessorList([only_drawn]),
            stopping_criteria=StoppingCriteriaList([ended]),
            generation_config=GenerationConfig(max_new_tokens=most[places[0]], pad_token_id=0),
        )[:, longest:]
        tally.passes += said_BT.shape[1]
        for place, said in zip(places, said_BT.tolist(), strict=True):
            n = _length(said, ending)
            yield place, Reply(said[: n or most[place]], "stop" if n else "length")


def _most(model: Any, row: Wanted, asking: Asking) -> int:
    """Return the maximum number of an answer's tokens, within the model's context."""
    context = context_of(model)
    return asking.max_new_tokens if context is None else max(1, min(asking.max_new_tokens, context - len(row.ids)))


def _length(said: list[int], ending: Ending) -> int:
    """Return the length of an answer with its end token; 0 if it has not ended."""
    ends = (n for n, token in enumerate(said, 1) if token in ending.tokens or (token in ending.watched and ending.cut(said[:n])))
    return next(ends, 0)


class _Decoding:
    """Decodes a batch of rows in the first slots, each at its own position. Finished rows make room for new prompts."""

    def __init__(self, lane: _Lane, wanted: Sequence[Wanted], waiting: list[list[int]], slots: int, asking: Asking, ending: Ending):
        """Take groups of rows from `waiting`, which other threads share."""
        self.lane, self.driven, self.wanted, self.waiting, self.asking, self.ending = lane, lane.driven, wanted, waiting, asking, ending
        model = lane.driven.model
        self.device, self.slots, self.stopped = model.device, min(slots, len(wanted)), False
        self.most = [_most(model, row, asking) for row in wanted]
        self.driven.at.slots = self.slots
        self.width = max((len(row.draft) for row in wanted), default=0) + 1
        self.state = self._fresh([])
        size = model.get_output_embeddings().weight.shape[0]
        self.vocabulary_V = vocabulary_words(size, self.device)
        self.ends_V, self.watched_V = (self._marked(tokens, size) for tokens in (ending.tokens, ending.watched))

    def run(self) -> Iterator[list[tuple[int, Reply]]]:
        """Yield the replies that each pass finished."""
        while not self.stopped:
            with torch.inference_mode():
                free = self.slots - len(self.state.place_R)
                groups = self._next(free) if free >= self.slots * _REFILL else []
                if not groups and not len(self.state.place_R):
                    return
                finished = self._admit(groups) if groups else self._step()
            yield finished

    def run_into(self, found: queue.SimpleQueue[list[tuple[int, Reply]] | BaseException | None]) -> None:
        """Put the replies of each pass into a queue, and at the end None or the error raised."""
        try:
            for finished in self.run():
                found.put(finished)
            found.put(None)
        except BaseException as error:
            found.put(error)

    def _next(self, free: int) -> list[list[int]]:
        """Take the next groups of rows that fit into the free slots; none until the largest group would fit."""
        groups: list[list[int]] = []
        positions = 0
        with contextlib.suppress(IndexError):  # another thread took the last group
            while positions < _POSITIONS and len(self.waiting[-1]) <= free:
                group = self.waiting.pop()
                if len(group) > free:  # another thread took the group seen before
                    self.waiting.append(group)
                    break
                groups.append(group)
                free -= len(group)
                positions += len(self.wanted[group[0]].ids)
        return groups

    def _fresh(self, places: Sequence[int]) -> _State:
        rows, none = [self.wanted[place] for place in places], [0] * len(places)
        drafts = [[*row.draft, *[-1] * (self.width - len(row.draft))] for row in rows]
        whole = {"dtype": torch.long, "device": self.device}
        return _State(
            torch.tensor(places, **whole),
            torch.tensor([self.most[place] for place in places], **whole),
            torch.tensor([row.words for row in rows], dtype=torch.int32, device=self.device).reshape(-1, 2),
            torch.tensor([len(row.ids) for row in rows], **whole),
            torch.zeros(len(rows), self.asking.max_new_tokens, **whole),
            torch.tensor(none, **whole),
            torch.tensor(drafts, **whole).reshape(-1, self.width),
            torch.tensor([len(row.draft) for row in rows], **whole),
            torch.tensor(none, **whole),
            torch.tensor([_SYNCED] * len(rows), **whole),
        )

    def _marked(self, tokens: frozenset[int], size: int) -> Tensor:
        marked_V = torch.zeros(size, dtype=torch.bool, device=self.device)
        marked_V[torch.tensor([token for token in tokens if token < size], dtype=torch.long, device=self.device)] = True
        return marked_V

    def _admit(self, groups: list[list[int]]) -> list[tuple[int, Reply]]:
        """Read prompts, each once, and give each of their draws a slot; return the replies that the first tokens end."""
        first = len(self.state.place_R)
        prompts = [self.wanted[group[0]].ids for group in groups]
        logits_PV = self._counted(sum(map(len, prompts)), self.driven.read(prompts, first, 0, last=True))
        source_R = torch.tensor([prompt for prompt, group in enumerate(groups) for _ in group], device=self.device)
        row_R = torch.arange(len(source_R), device=self.device)
        self.driven.copy(first + source_R, first + row_R, max(map(len, prompts)))
        self.state = self.state.joined(self._fresh([place for group in groups for place in group]))
        return self._say(logits_PV[source_R], first + row_R, torch.zeros_like(row_R))

    def _step(self) -> list[tuple[int, Reply]]:
        """Have every row read its last token and some draft tokens; return the replies that end."""
        state, rows = self.state, len(self.state.place_R)
        overhead = _OVERHEAD["cpu" if self.device.type == "cpu" else "other"]
        lengths = [min(trust.length(overhead), _POSITIONS // rows - 1) for trust in self.lane.trust]
        length_R = torch.tensor([*lengths, 0], device=self.device)[state.trust_R]
        # The last draft token, mostly the end token, is compared without being read
        length_R = length_R.minimum(state.n_draft_R - state.next_R - 1).minimum(state.most_R - 1 - state.n_said_R).clamp_(min=0)
        ahead_W = torch.arange(int(length_R.max()) + 1, device=self.device)
        drafted_RW = state.draft_RM.gather(1, (state.next_R[:, None] + ahead_W - 1).clamp_(0, self.width - 1))
        last_R1 = state.said_RT.gather(1, state.n_said_R[:, None] - 1)
        read_RW = ahead_W <= length_R[:, None]
        row_N, place_N = read_RW.nonzero(as_tuple=True)
        ids_N = torch.where(ahead_W == 0, last_R1, drafted_RW)[row_N, place_N]
        position_N = (state.n_prompt_R + state.n_said_R - 1)[row_N] + place_N
        logits_NV = self._counted(len(row_N), self.driven.forward(ids_N, row_N, place_N, position_N))
        self.lane.tally.drafted += len(row_N) - rows
        return self._say(logits_NV, row_N, place_N)

    def _counted(self, positions: int, logits: Tensor) -> Tensor:
        self.lane.tally.passes += 1
        self.lane.tally.positions += positions
        return logits

    def _say(self, logits_NV: Tensor, row_N: Tensor, place_N: Tensor) -> list[tuple[int, Reply]]:
        """Draw a token at each position and keep each row's up to its draft's first difference; return the replies that end."""
        asking, state = self.asking, self.state
        words_N2 = position_words(state.words_R2[row_N], state.n_said_R[row_N] + place_N)
        tokens_N = drawn(logits_NV, words_N2, self.vocabulary_V, asking.temperature, asking.top_k, asking.top_p)
        foreseen_N = state.draft_RM[row_N, (state.next_R[row_N] + place_N).clamp_(max=self.width - 1)]
        agrees_N = tokens_N == foreseen_N
        token_RW, agrees_RW, read_RW = (self._placed(values, row_N, place_N) for values in (tokens_N, agrees_N, torch.ones_like(agrees_N)))
        n_agree_R = agrees_RW.long().cumprod(1).sum(1)
        n_new_R = (n_agree_R + 1).minimum(read_RW.sum(1))
        kept_RW = read_RW & (torch.arange(read_RW.shape[1], device=self.device) < n_new_R[:, None])

        ends_RW = self.ends_V[token_RW] & kept_RW
        for row, place in (self.watched_V[token_RW] & kept_RW).nonzero().tolist():
            before = state.said_RT[row, : state.n_said_R[row]].tolist()
            ends_RW[row, place] |= self.ending.cut(before + token_RW[row, : place + 1].tolist())
        stops_R = ends_RW.any(1)
        n_new_R = torch.where(stops_R, ends_RW.long().argmax(1) + 1, n_new_R)
        kept_RW &= torch.arange(read_RW.shape[1], device=self.device) < n_new_R[:, None]

        row_K, place_K = kept_RW.nonzero(as_tuple=True)
        state.said_RT[row_K, state.n_said_R[row_K] + place_K] = token_RW[row_K, place_K]
        state.n_said_R += n_new_R
        self._follow(n_agree_R.minimum(n_new_R), n_new_R)
        return self._finish(stops_R)

    def _placed(self, values_N: Tensor, row_N: Tensor, place_N: Tensor) -> Tensor:
        placed_RW = values_N.new_zeros(len(self.state.place_R), int(place_N.max()) + 1)
        placed_RW[row_N, place_N] = values_N
        return placed_RW

    def _follow(self, n_agree_R: Tensor, n_new_R: Tensor) -> None:
        """Update the trust in drafts, and search the draft again for rows that left it."""
        state = self.state
        wrong_R = (n_agree_R < n_new_R) & (state.next_R + n_agree_R < state.n_draft_R)
        for kind, trust in enumerate(self.lane.trust):
            of_kind_R = state.trust_R == kind
            trust.learn(int(n_agree_R[of_kind_R].sum()), int(wrong_R[of_kind_R].sum()))
            self.lane.tally.accepted += int((n_agree_R[of_kind_R].minimum(n_new_R[of_kind_R] - 1)).clamp_(min=0).sum())
        state.next_R += n_new_R
        state.trust_R[n_agree_R < n_new_R] = _LOST
        lost_L = ((state.trust_R == _LOST) & (state.n_said_R >= 2) & (state.n_draft_R > 2)).nonzero()[:, 0]
        if not len(lost_L):
            return
        last_L2 = state.said_RT[lost_L[:, None], state.n_said_R[lost_L, None] - torch.tensor([2, 1], device=self.device)]
        draft_LM, next_L = state.draft_RM[lost_L], state.next_R[lost_L]
        there_LM = (draft_LM[:, :-1] == last_L2[:, :1]) & (draft_LM[:, 1:] == last_L2[:, 1:])
        away_LM = (torch.arange(2, self.width + 1, device=self.device) - next_L[:, None]).abs()
        nearest_L = away_LM.masked_fill_(~there_LM, 2 * self.width).argmin(1)
        found_L = there_LM.gather(1, nearest_L[:, None])[:, 0]
        state.next_R[lost_L] = torch.where(found_L, nearest_L + 2, next_L)
        state.trust_R[lost_L[found_L]] = _FOUND

    def _finish(self, stops_R: Tensor) -> list[tuple[int, Reply]]:
        """Return the finished replies and drop their rows."""
        state = self.state
        over_R = stops_R | (state.n_said_R == state.most_R)
        done = over_R.nonzero()[:, 0]
        about = zip(
            state.place_R[done].tolist(), state.said_RT[done].tolist(), state.n_said_R[done].tolist(), stops_R[done].tolist(), strict=True
        )
        replies = [(place, Reply(said[:n], "stop" if stops else "length")) for place, said, n, stops in about]
        self._keep(~over_R)
        return replies

    def _keep(self, wanted_R: Tensor) -> None:
        """Keep some rows in the first slots, rows that follow their draft last, because bands of similar width cost least.

        Few rows move: the last ones into freed slots, and pairs on the wrong side of each other.
        """
        state, rows = self.state, int(wanted_R.sum())
        order_R = torch.arange(rows, device=self.device)
        order_R[~wanted_R[:rows]] = rows + wanted_R[rows:].nonzero()[:, 0]
        follows_R = state.trust_R[order_R] == _SYNCED
        border = rows - int(follows_R.sum())
        early, late = follows_R[:border].nonzero()[:, 0], border + (~follows_R[border:]).nonzero()[:, 0]
        order_R[early], order_R[late] = order_R[late], order_R[early]
        moved = (order_R != torch.arange(rows, device=self.device)).nonzero()[:, 0]
        self.state = state.taken(order_R)
        if len(moved):
            self.driven.copy(order_R[moved], moved, int((self.state.n_prompt_R + self.state.n_said_R)[moved].max()))
