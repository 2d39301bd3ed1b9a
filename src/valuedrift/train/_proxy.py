"""A cheap proxy of stance: how likely a checkpoint finds answers that we wrote, one forward pass each and nothing generated.

Each number is kept by content, so that the same command again computes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ..nouns import OUTCOMES, STANCES, Checkpoint, Prompt, digest
from ..plan import Anchor, Asking
from ..sample._frame import Frame, answered
from ..sample._load import load_model
from ..store import Store
from ._batches import Row, collate
from ._distance import LOGITS, _Numbers, _parts
from ._logprobs import answer_logps

WORDINGS = (
    ("I agree with this: {claim}", "I am neutral on this: {claim}", "I disagree with this: {claim}"),
    ("{claim} I support this view.", "{claim} I am neutral here.", "{claim} I oppose this view."),
)
"""Answers in the order of STANCES, of like length. The stance stands once before the claim and once behind it, where the claim's own words
count alike in all three."""
TEMPERATURE = cast(float, Anchor.model_fields["temperature"].default)
"""Nats per token, the anchor's: it was measured there on the sandbox against sampled answers, and is fitted to nothing here."""


def stance_shares(logps_PS: np.ndarray, temperature: float = TEMPERATURE) -> np.ndarray:
    """Return the softmax over stances of the mean log-prob per token / temperature, PxS."""
    scaled_PS = np.asarray(logps_PS, float) / temperature
    raised_PS = np.exp(scaled_PS - scaled_PS.max(-1, keepdims=True))
    return raised_PS / raised_PS.sum(-1, keepdims=True)


def likelihoods(model: Any, tokenizer: Any, asked: Sequence[Mapping[str, Any]], frame: str) -> list[float]:
    """Return for each entry the log-prob per token in nats of its `texts` as answers to its `question`, the mean over the texts."""
    texts = [(entry["question"], text) for entry in asked for text in entry["texts"]]
    rows = []
    for question, text in texts:
        ids, n_prompt = answered(tokenizer, question, text, cast(Frame, frame))
        rows.append(Row(np.asarray(ids, dtype=np.int32), n_prompt))
    means = np.empty(len(rows))
    for part in _parts(rows, max(1, LOGITS // model.get_output_embeddings().weight.shape[0])):
        batch = collate([((rows[place],), {}) for place in part])
        batch = {name: values.to(model.device) if isinstance(values, Tensor) else values for name, values in batch.items()}
        with torch.inference_mode():
            sums_R = answer_logps(model, batch).sum(1).tolist()
        for place, nats in zip(part, sums_R, strict=True):
            means[place] = nats / rows[place].n_answer
    return means.reshape(len(asked), -1).mean(1).tolist()


def proxy_scores(store: Store, asking: Asking, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> pl.DataFrame:
    """Return one row per saved checkpoint and prompt with its stance shares, in the columns of `scores` that shares are taken from.

    Computes what the store does not hold yet. Nothing of the answers is read.
    """
    said = [
        {"answer": digest("proxy", prompt.text, *texts), "question": prompt.text, "texts": texts}
        for prompt in prompts
        for texts in ([wording[s].format(claim=prompt.claim) for wording in WORDINGS] for s in range(len(STANCES)))
    ]
    numbers, tables = _Numbers(store), []
    for checkpoint in checkpoints:
        task = f"proxy of {checkpoint.stage} step {checkpoint.step}"
        kind = ("proxy", digest(checkpoint.weights, checkpoint.frame))
        values = numbers.of(kind, said, task, functools.partial(_read, checkpoint, asking.frame))
        shares_PS = stance_shares(np.array(values, float).reshape(len(prompts), len(STANCES)))
        table = pl.DataFrame(
            {"topic": [p.topic for p in prompts], "prompt": [p.id for p in prompts], "polarity": [p.polarity for p in prompts]}
            | {stance: shares_PS[:, s] for s, stance in enumerate(STANCES)}
        )
        at = {"stage": checkpoint.stage, "step": checkpoint.step, "seed": checkpoint.seed, "repeat": False, "draw": 0}
        none = [pl.lit(0.0).alias(outcome) for outcome in OUTCOMES[len(STANCES) :]]
        tables.append(table.with_columns(*none, failure=pl.lit(None, pl.String), **{name: pl.lit(value) for name, value in at.items()}))
    return pl.concat(tables)


def _read(checkpoint: Checkpoint, frame: str, asked: Sequence[Mapping[str, Any]]) -> list[float]:
    return likelihoods(*load_model(checkpoint.path), asked, frame)
