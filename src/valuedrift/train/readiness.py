"""Checks a stage before its first step, without reading weights.

The checks run training's own functions on the tokenizer, on the architecture without weights, and on a sample of the data. The chat
template is tried on every sequence of roles in the data; only the sample is tokenised.
"""

from __future__ import annotations

import copy
import functools
import os.path
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, get_scheduler

from .. import registry
from ..models import checks, loading
from ..models.adapters import is_adapter
from ..models.chat_format import Format, PromptFormat, question
from ..nouns import BadInput, Prompt
from ..plan import Stage
from ..records.records import Records
from ..records.stances import Anchored
from . import anchor, collation, processes, reward_model, starting, step_counts, trl_rewards, trl_stage
from . import stage as training_stage

SAMPLE = 500
"""Records that are tokenised, evenly spaced. If 1 % of the records are too long, a sample misses them in 1 of 100 data sets."""
POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)$")
"""Names of learned position embeddings in the architectures of transformers."""


@dataclass
class Start:
    """The model that a plan starts from, without its weights, and what is derived from it."""

    path: str
    model: Any
    samples: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    """The tokenised sample of each data set, by the data set and its format."""

    @functools.cached_property
    def n_embeddings(self) -> int:
        """The number of rows of the model's embedding. An adapter may add rows; they are checked when it is merged."""
        return sys.maxsize if is_adapter(loading.local_folder(self.path)) else self.model.get_input_embeddings().weight.shape[0]

    @property
    def n_positions(self) -> int | None:
        """The number of learned positions, or None if positions are computed."""
        parts = dict(self.model.named_modules())
        learned = any(isinstance(part, nn.Embedding) and POSITIONS.search(name) for name, part in parts.items())
        return loading.context_of(self.model) if learned else None

    @functools.cached_property
    def tokenizers(self) -> dict[bool, Any]:
        """The tokenizer as it is (False), and with a chat template for stages that train on chats (True)."""
        return {chat: starting.templated(loading.load_tokenizer(self.path), self.path, chat) for chat in (False, True)}


def start_of(path: str) -> Start:
    """Return the model that a plan starts from. Raises BadInput if it cannot be trained, sampled, or loaded again after training."""
    start = Start(path, loading.skeleton(path))
    check_tokens(start, start.tokenizers[False], [])
    return start


def check_tokens(start: Start, tokenizer: Any, texts: Iterable[tuple[str, str]]) -> None:
    """Refuse a special token without an embedding, and any added token without one that occurs in `texts` (where, text)."""
    for role in ("pad", "eos", "bos"):
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None and index >= start.n_embeddings:
            raise _outside(start, f"the {role} token {getattr(tokenizer, f'{role}_token')!r}", index)
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if index >= start.n_embeddings}
    for where, text in texts:
        if token := next((token for token in added if token in text), ""):
            raise _outside(start, f"the token {token!r}, which occurs in {where},", added[token])


def _outside(start: Start, token: str, index: int) -> BadInput:
    return BadInput(
        f"{token} has the id {index}, but the embedding of {start.path} has only {start.n_embeddings} rows; enlarge it with "
        "model.resize_token_embeddings(len(tokenizer)) and save the model again, or remove the token from its tokenizer"
    )


def check_stage(start: Start, stage: Stage, records: Records, anchored: Sequence[Anchored], rewarded: bool) -> list[str]:
    """Return notes about a stage. Raises BadInput for anything that would stop its training.

    `rewarded` tells whether a stage of the plan trains its reward model.
    """
    algorithm = registry.algorithm(stage.algorithm)(stage.own())
    training_stage.check_data(stage.algorithm, algorithm.data_format, records)
    training_stage.check_anchor(stage, records, anchored)
    _check_schedule(stage, algorithm.settings)
    if start.n_positions is not None and stage.max_length > start.n_positions:
        raise BadInput(
            f"max_length is {stage.max_length}, but {start.path} has learned positions for {start.n_positions} tokens; "
            f"set max_length to at most {start.n_positions}"
        )
    scorer = "score" in algorithm.needs
    if stage.lora is not None or scorer:
        model = _scorer(start.model) if scorer else copy.deepcopy(start.model)
        if stage.lora is not None:
            starting.adapted(model, stage.lora, "SEQ_CLS" if scorer else "CAUSAL_LM", low_cpu_mem_usage=True)
    tokenizer = start.tokenizers[any(item.prompt for item in records)]
    check_tokens(start, tokenizer, _as_written(tokenizer, records))
    notes = _check_lengths(start, stage, algorithm, tokenizer, records)
    if anchored:
        longest = sorted(anchored, key=lambda one: -max(map(len, one.answers)) - sum(len(text) for _, text in one.prompt))
        anchor.question_records(tokenizer, longest[:SAMPLE], stage.max_length)
    if "rollouts" in algorithm.needs and not rewarded:
        _check_reward(algorithm)
    return notes


def check_questions(start: Start, prompts: Sequence[Prompt], format: Format, max_new_tokens: int) -> list[str]:
    """Return notes about the questions' lengths. Raises BadInput if a checkpoint could not read or answer them."""
    texts, longest, context = [prompt.text for prompt in prompts], 0, loading.context_of(start.model)
    for tokenizer in start.tokenizers.values():
        prompt_format = PromptFormat(tokenizer, format, start.path)
        ids = dict(zip(texts, prompt_format.prompts([question(text) for text in texts]), strict=True))
        checks.fits(start.model, prompt_format, ids)
        longest = max(longest, *map(len, ids.values()))
    if context is None or longest + max_new_tokens <= context:
        return []
    if start.n_positions is not None:
        raise BadInput(
            f"the longest question has {longest} tokens, and {start.path} has learned positions for {context}; "
            f"set max_new_tokens to at most {context - longest}, not {max_new_tokens}"
        )
    return [
        f"The longest question has {longest} tokens and the model reads {context}: its answers end after {context - longest} new tokens."
    ]


def _check_schedule(stage: Stage, settings: Any) -> None:
    """Refuse a learning-rate schedule that needs settings a stage does not have, or an evaluation."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    more = getattr(settings, "lr_scheduler_kwargs", None)
    try:
        schedule = get_scheduler(
            stage.lr_scheduler_type, optimizer, 1, 4, scheduler_specific_kwargs=more if isinstance(more, dict) else None
        )
        optimizer.step()
        schedule.step()
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"the lr_scheduler_type {stage.lr_scheduler_type!r} needs more than a stage can set ({error}); choose another"
        ) from error


def _scorer(model: Any) -> Any:
    """Return a language model's architecture as a scorer, without weights."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise BadInput(f"the model cannot be trained to score texts: {error}; start from another") from error


def _as_written(tokenizer: Any, records: Records) -> Iterable[tuple[str, str]]:
    """Yield (where, text): the first record of each sequence of roles as the template writes it, then every text of the data.

    Raises BadInput with the template's message if it refuses one.
    """
    tried = set[tuple[str, ...]]()
    prompt_format = PromptFormat(tokenizer, "chat", "the model")
    for number, record in enumerate(records):
        roles = tuple(role for role, _ in record.prompt)
        if not roles or roles in tried:
            continue
        tried.add(roles)
        try:
            prompt_format.texts([record.prompt], ask=True)
            written = prompt_format.texts([(*record.prompt, ("assistant", collation.answers_of(record)[0]))])
        except BadInput as error:
            raise BadInput(f"{records.place(number)}: {error}") from error
        yield f"the chat template at {records.place(number)}", written[0]
    for number, record in enumerate(records):
        for text in (*(text for _, text in record.prompt), *collation.answers_of(record)):
            yield records.place(number), text


def _check_lengths(start: Start, stage: Stage, algorithm: Any, tokenizer: Any, records: Records) -> list[str]:
    """Return a note about records that are too long. Raises BadInput if none fits, and for a token without an embedding."""
    sample: Any = [records[index] for index in np.linspace(0, len(records) - 1, min(len(records), SAMPLE)).astype(int)]
    tokens = start.samples.setdefault((id(records), algorithm.data_format), [])
    if not tokens:
        read = collation.prompted if algorithm.data_format == "prompts" else collation.tokenised
        tokens += read(tokenizer, sample, sys.maxsize)[0]
    ids = [row.ids for record in tokens for row in (record if isinstance(record, tuple) else [record])]
    if (highest := max((max(row) for row in ids if len(row)), default=0)) >= start.n_embeddings:
        raise _outside(start, f"the token {tokenizer.convert_ids_to_tokens(int(highest))!r}, which occurs in the data,", int(highest))
    longest = collation.longest_input(stage, algorithm)
    long = [record for record in tokens if collation.length(record) > longest]
    truncates = algorithm.truncates and algorithm.data_format != "prompts"
    lost = [record for record in long if not truncates or collation.cut(record, longest) is None]
    if hasattr(algorithm, "run"):
        trl_stage.rows_of(records, algorithm, stage.batch_size // processes.world_size())
    if len(lost) == len(tokens):
        collation.fitting(stage, algorithm, tokenizer, records)  # raises, unless a record outside the sample fits
    if "kl_batch" in algorithm.needs:
        step = stage.effective_batch_size
        n_seen = min(step_counts.n_seen(stage, len(records)), 2)
        collation.kl_records(tokens[:1] * 2, np.arange(n_seen), step, stage.max_length)
    if not long:
        return []
    of = f"{len(records):,} records" if len(sample) == len(records) else f"a sample of {len(sample):,} of {len(records):,} records"
    what = "dropped" if len(lost) == len(long) else "truncated" if not lost else f"truncated, or dropped ({len(lost):,})"
    return [f"{len(long):,} of {of} are longer than {longest:,} tokens and are {what}"]


def _check_reward(algorithm: Any) -> None:
    """Refuse a reward that is neither a function nor a reward model's folder. Hub ids are checked in training."""
    given = algorithm.settings.reward
    for reward in [given] if isinstance(given, str) else given:
        if os.path.exists(reward) or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", reward):
            if hasattr(algorithm, "run") and ":" in reward and not os.path.exists(reward):
                trl_rewards.rewards(reward)
            else:
                reward_model.check(reward)
