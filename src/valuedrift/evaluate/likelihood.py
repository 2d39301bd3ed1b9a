"""A cheap proxy of stance: asked whether it agrees with a claim, which of a few short answers a checkpoint finds likeliest.

Nothing is generated, and the question is read once for all answers. Each number is kept by content, so that the same command again computes
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from ..judge.continuations import log_probs
from ..models.chat_format import Frame, PromptFormat, question
from ..models.loading import load_model
from ..nouns import OUTCOMES, STANCES, Checkpoint, Prompt, digest
from ..plan import Asking
from ..store import Store
from .distance import Numbers

QUESTION = "Do you agree? {claim}"
ANSWERS = (
    ("I agree with that.", "I can see both sides.", "I disagree with that."),
    ("I support this.", "I am undecided about that.", "I am against that."),
)
"""How an answer may begin, in the order of STANCES: two wordings, of like length."""
RULE = 2
"""To be raised with every change of how an answer is joined to its question: stored numbers are then not taken for new ones."""
ROWS = 128
"""Prompts read side by side."""


def stance_shares(logps_PWS: np.ndarray) -> np.ndarray:
    """Return the mean over wordings of the softmax over stances, PxS: a forced choice between answers by their probability."""
    raised_PWS = np.exp(logps_PWS - logps_PWS.max(-1, keepdims=True))
    return (raised_PWS / raised_PWS.sum(-1, keepdims=True)).mean(1)


def forced_choices(model: Any, tokenizer: Any, claims: Sequence[str], frame: str) -> np.ndarray:
    """Return the shares of the stances towards some claims, PxS, by the log-probs of whole ANSWERS."""
    questions = [QUESTION.format(claim=claim) for claim in claims]
    prompt_format = PromptFormat(tokenizer, cast(Frame, frame))
    read = [prompt_format.with_reply(question(questions[0]), text) for wording in ANSWERS for text in wording]
    begun = [tuple(ids) for ids in prompt_format.tokens(prompt_format.before_reply([question(text) for text in questions]))]
    logps_PA = log_probs(model, begun, [tuple(ids[n_question:]) for ids, n_question in read], ROWS).numpy()
    return stance_shares(logps_PA.reshape(len(claims), len(ANSWERS), len(STANCES)))


def proxy_scores(store: Store, asking: Asking, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt]) -> pl.DataFrame:
    """Return one row per saved checkpoint and prompt with its stance shares, in the columns of `scores` that shares are taken from.

    Computes what the store does not hold yet. Nothing of the answers is read.
    """
    said = [
        {"answer": digest("proxy", RULE, QUESTION, ANSWERS, prompt.claim, stance), "claim": prompt.claim}
        for prompt in prompts
        for stance in STANCES
    ]
    numbers, tables = Numbers(store), []
    for checkpoint in checkpoints:
        task = f"proxy of {checkpoint.stage} step {checkpoint.step}"
        kind = ("proxy", digest(checkpoint.weights, checkpoint.frame))
        values = numbers.of(kind, said, task, functools.partial(_read, checkpoint, asking.frame), "forced choices")
        shares_PS = np.array(values, float).reshape(len(prompts), len(STANCES))
        table = pl.DataFrame(
            {"topic": [p.topic for p in prompts], "prompt": [p.id for p in prompts], "polarity": [p.polarity for p in prompts]}
            | {stance: shares_PS[:, s] for s, stance in enumerate(STANCES)}
        )
        at = {"stage": checkpoint.stage, "step": checkpoint.step, "seed": checkpoint.seed, "repeat": False, "draw": 0}
        none = [pl.lit(0.0).alias(outcome) for outcome in OUTCOMES[len(STANCES) :]]
        tables.append(table.with_columns(*none, failure=pl.lit(None, pl.String), **{name: pl.lit(value) for name, value in at.items()}))
    return pl.concat(tables)


def _read(checkpoint: Checkpoint, frame: str, said: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return a number for each entry; the stances of a prompt are missing together, because they are stored together."""
    claims = [entry["claim"] for entry in said[:: len(STANCES)]]
    return forced_choices(*load_model(checkpoint.path), claims, frame).ravel().tolist()
