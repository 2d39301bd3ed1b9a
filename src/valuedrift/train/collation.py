"""Turns records into batches: token ids, the mask of answer tokens, and padded rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..models.chat_format import PromptFormat, n_common
from ..nouns import BadInput, Example, Messages, Pair, whole_characters
from ..plan import Stage
from . import BaseAlgorithm, step_counts


@dataclass(frozen=True)
class Row:
    """One text as token ids: the first `n_prompt` are the prompt, the rest is the answer to learn."""

    ids: np.ndarray
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Return the number of tokens to learn. The first token of a text without a prompt is not one: nothing predicts it."""
        return len(self.ids) - max(self.n_prompt, 1)


@dataclass(frozen=True)
class Asked:
    """A prompt to answer: its messages, and its token ids up to the start of the answer."""

    messages: Messages
    ids: tuple[int, ...]


Record = tuple[Row, ...]
"""An example is one row, a pair two: chosen, rejected."""
Item = tuple[Record, dict[str, Tensor]]
"""A record, and by name what the algorithm keeps of its reference log-probs."""


def length(record: Record | Asked) -> int:
    """Return the number of tokens of a record's longest text, or of a prompt."""
    return len(record.ids) if isinstance(record, Asked) else max(len(row.ids) for row in record)


class Records(Dataset):
    """The records in training order, each with what the algorithm keeps of its reference log-probs."""

    def __init__(self, records: Sequence[Record], order: np.ndarray, kept: Mapping[str, Tensor]):
        self.records, self.order, self.kept = records, order, dict(kept)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Item:
        index = int(self.order[position])
        return self.records[index], {name: values[index] for name, values in self.kept.items()}


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Return a batch of B records as R rows of T positions, padded on the right.

    Position t holds token t and predicts token t+1, so that a text of n tokens takes n-1 positions. `target_N` are the N answer tokens, and
    `at_N` their positions in the flattened RxT.
    """
    rows = [row for kind in zip(*(record for record, _ in items), strict=True) for row in kind]
    lengths_R = [len(row.ids) - 1 for row in rows]
    input_ids_RT = np.zeros((len(rows), max(lengths_R)), dtype=np.int64)
    target_RT = np.zeros_like(input_ids_RT)
    answer_mask_RT = np.zeros(input_ids_RT.shape, dtype=bool)
    for index, (row, n) in enumerate(zip(rows, lengths_R, strict=True)):
        input_ids_RT[index, :n] = row.ids[:-1]
        target_RT[index, :n] = row.ids[1:]
        answer_mask_RT[index, max(row.n_prompt - 1, 0) : n] = True
    arrays = {
        "input_ids": input_ids_RT,
        "answer_mask_RT": answer_mask_RT,
        "at_N": np.flatnonzero(answer_mask_RT),
        "target_N": target_RT[answer_mask_RT],
    }
    kept = {name: torch.stack([values[name] for _, values in items]) for name in items[0][1]}
    counts = {"n_records": len(items), "n_tokens": len(arrays["at_N"])}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | kept | counts


def collate_both(items: Sequence[tuple[Item, Item]]) -> dict[str, Any]:
    """Return the batch of each pair's first item. Its entry "kl_batch" is the batch of the second items."""
    matched, others = zip(*items, strict=True)
    return collate(matched) | {"kl_batch": collate(others)}


def kl_records(records: Sequence[Record], order: np.ndarray, step: int, max_length: int) -> list[Record]:
    """Return for each position in `order` its record's prompt with another record's answers: KTO's KL batch.

    The answers come from the position before in the same step; a step's first record gets those of its last. So the mismatched answers of a
    step are its own, each with another prompt (Ethayarajh et al. 2024). A last step of one record takes the answers of the record before.
    Raises BadInput if every step has one record.
    """
    if min(step, len(order)) < 2:
        raise BadInput(
            "a step of one record has no other record's answers for the KL batch; raise batch_size or gradient_accumulation_steps"
        )
    positions = np.arange(len(order))
    starts = positions // step * step
    sizes = np.minimum(step, len(order) - starts)
    before = np.where(sizes > 1, starts + (positions - starts - 1) % sizes, positions - 1)
    return [_crossed(records[prompts], records[answers], max_length) for prompts, answers in zip(order, order[before], strict=True)]


def _crossed(prompts: Record, answers: Record, max_length: int) -> Record:
    rows = zip(prompts, answers, strict=True)
    return tuple(
        Row(np.concatenate([own.ids[: own.n_prompt], other.ids[other.n_prompt :]])[:max_length], own.n_prompt) for own, other in rows
    )


def fitting(stage: Stage, algorithm: BaseAlgorithm, tokenizer: Any, data: Any) -> tuple[list[Any], list[int]]:
    """Return the token ids of the records, or of the prompts if the algorithm samples, and the indices of those that fit.

    Raises BadInput if none fits.
    """
    longest = longest_input(stage, algorithm)
    samples = algorithm.data_format == "prompts"
    found: tuple[list[Any], list[int]] = (
        prompted(tokenizer, data, longest) if samples else tokenised(tokenizer, data, longest, algorithm.truncates)
    )
    if not found[1]:
        what = "max_length minus the longest answer" if samples else "max_length"
        raise BadInput(f"none of {len(data)} records fits {stage.algorithm} within {longest} tokens ({what}); raise max_length")
    return found


def longest_input(stage: Stage, algorithm: BaseAlgorithm) -> int:
    """Return the longest text in tokens that a stage learns from; if it samples answers, the longest prompt."""
    return stage.max_length - (step_counts.longest_answer(algorithm.settings) if algorithm.data_format == "prompts" else 0)


def tokenised(
    tokenizer: Any, data: Sequence[Pair] | Sequence[Example], max_length: int, truncates: bool = True
) -> tuple[list[Record], list[int]]:
    """Return the records as token ids, truncated to `max_length`, and the indices of those with an answer token left.

    Without `truncates`, longer records are left out, too.
    """
    records = in_records(tokenizer, [(item.prompt, answers_of(item)) for item in data])
    short = [cut(record, max_length) if truncates or length(record) <= max_length else None for record in records]
    return [record for record in short if record], [index for index, record in enumerate(short) if record]


def in_records(tokenizer: Any, texts: Sequence[tuple[Messages, Sequence[str]]]) -> list[Record]:
    """Return each prompt with its answers as one record, not truncated."""
    rows = iter(in_tokens(tokenizer, [(prompt, answer) for prompt, answers in texts for answer in answers]))
    records = []
    for _, answers in texts:
        group = [next(rows) for _ in answers]
        # A template may end the prompt differently before different answers: the prompt is what all rows of a record share.
        n_prompt = min(row.n_prompt for row in group)
        records.append(tuple(Row(row.ids, n_prompt) for row in group))
    return records


def cut(record: Record, max_length: int) -> Record | None:
    """Return a record truncated to `max_length` tokens, or None if no answer token is left."""
    rows = tuple(Row(row.ids[:max_length], row.n_prompt) for row in record)
    return rows if all(row.n_answer > 0 for row in rows) else None


def padded(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Return whole texts as one batch, padded on the right with the token `pad`, for a model that scores texts."""
    length = max(len(row.ids) for row in rows)
    input_ids_RT = np.stack([np.pad(row.ids.astype(np.int64), (0, length - len(row.ids)), constant_values=pad) for row in rows])
    attention_mask_RT = np.arange(length) < np.array([[len(row.ids)] for row in rows])
    return {"input_ids": torch.from_numpy(input_ids_RT), "attention_mask": torch.from_numpy(attention_mask_RT.astype(np.int64))}


def collate_whole(items: Sequence[Item], pad: int) -> dict[str, Any]:
    """Return a batch of B records as R whole texts, for a model that scores texts."""
    rows = [row for kind in zip(*(record for record, _ in items), strict=True) for row in kind]
    return padded(rows, pad) | {"n_records": len(items)}


def collate_indices(indices: Sequence[int]) -> dict[str, Any]:
    """Return a batch of sample indices, for rollouts, whose rows are sampled later."""
    return {"indices": torch.tensor(indices), "n_records": len(indices), "n_tokens": 0}


def prompted(tokenizer: Any, data: Sequence[Pair | Example], longest: int) -> tuple[list[Asked], list[int]]:
    """Return the prompts of at most `longest` tokens as token ids, and their indices."""
    given = PromptFormat(tokenizer, "chat").prompts([item.prompt for item in data])
    kept = [index for index, ids in enumerate(given) if len(ids) <= longest]
    return [Asked(data[index].prompt, tuple(given[index])) for index in kept], kept


def answers_of(item: Pair | Example) -> tuple[str, ...]:
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item.text,)


def in_tokens(tokenizer: Any, texts: Sequence[tuple[Messages, str]]) -> list[Row]:
    """Return the token ids of each text, (prompt, answer). A text without a prompt is learnt as a whole."""
    rows: dict[int, tuple[list[int], int]] = {}
    plain = [index for index, (prompt, _) in enumerate(texts) if not prompt]
    chat = [index for index, (prompt, _) in enumerate(texts) if prompt]
    if plain:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        for index, ids in zip(plain, tokenizer([whole_characters(texts[index][1]) for index in plain])["input_ids"], strict=True):
            rows[index] = (ids if ids[-1:] == end else ids + end, 0)
    if chat:
        prompt_format = PromptFormat(tokenizer, "chat")
        given = prompt_format.prompts([texts[index][0] for index in chat])
        whole = prompt_format.tokens(prompt_format.texts([(*texts[index][0], ("assistant", texts[index][1])) for index in chat]))
        for index, before, ids in zip(chat, given, whole, strict=True):
            rows[index] = (ids, n_common(before, ids))  # the answer begins where prompt and whole text differ, as in TRL
    return [Row(np.asarray(ids, dtype=np.int32), n_prompt) for _, (ids, n_prompt) in sorted(rows.items())]
