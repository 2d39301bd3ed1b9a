"""Side metrics of answers: which prompts are measured, the content keys of their numbers, and the table of a run. Loads no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ..models.loading import API
from ..nouns import Checkpoint, Prompt, digest
from .visit import Evaluation

SCHEMA = (
    {"stage": pl.String(), "step": pl.Int64(), "seed": pl.Int64()}
    | dict.fromkeys(("topic", "prompt", "metric", "reference"), pl.String())
    | {"value": pl.Float64()}
)
MOST_PROMPTS = 256
"""Prompts whose first answer is measured. A mean over 256 prompts is known to a sixteenth of the standard deviation between prompts, and
reading 256 answers takes a small part of the sampling time.
"""
FORMULA = 2
"""Part of every key. Raise it with every change of a formula, so that old numbers are not reused."""


def kl_key(reference: Checkpoint, answer: str) -> str:
    """Return the content key of an answer's KL from a reference."""
    return digest("kl", reference.model_key, FORMULA, answer)


def reward_key(reward: Checkpoint, answer: str) -> str:
    """Return the content key of an answer's score by a reward model."""
    return digest("reward", reward.model_key, FORMULA, answer)


def chosen(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return at most `MOST_PROMPTS` prompts, spread evenly over the topics and within each by content."""
    rank: Counter[str] = Counter()
    ranked = []
    for named, prompt in sorted((digest("companion", prompt.text, prompt.id), prompt) for prompt in prompts):
        rank[prompt.topic] += 1
        ranked.append((rank[prompt.topic], named, prompt))
    return [prompt for *_, prompt in sorted(ranked, key=lambda entry: entry[:2])[:MOST_PROMPTS]]


def side_metric_scores(evaluation: Evaluation, scores: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """Return one row per checkpoint, prompt and side metric (columns of SCHEMA) from the stored numbers.

    kl and reward:NAME are those of the first answer; length is words per answer, the mean over draws, of every prompt.
    """
    main = scores.filter(~pl.col("repeat"))
    first = main.filter((pl.col("draw") == 0) & pl.col("prompt").is_in([prompt.id for prompt in chosen(evaluation.prompts)]))
    said = {key: rows.to_dicts() for key, rows in first.group_by("stage", "step", "seed", maintain_order=True)}
    tables = [_lengths(main, texts)]
    for checkpoint in evaluation.checkpoints:
        if checkpoint.path.startswith(API):
            continue
        (name, reference), rows = evaluation.reference(checkpoint), said.get((checkpoint.stage, checkpoint.step, checkpoint.seed), [])
        same = checkpoint.model_key == reference.model_key
        tables.append(_table(rows, "kl", name, [0.0 if same else evaluation.numbers.get(kl_key(reference, row["answer"])) for row in rows]))
    for reward in evaluation.rewards:
        for checkpoint in [checkpoint for checkpoint in evaluation.checkpoints if checkpoint.seed == reward.seed]:
            rows = said.get((checkpoint.stage, checkpoint.step, checkpoint.seed), [])
            values = [evaluation.numbers.get(reward_key(reward, row["answer"])) for row in rows]
            tables.append(_table(rows, f"reward:{reward.stage}", "", values))
    return pl.concat(tables)


def _lengths(main: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    at = ["stage", "step", "seed", "topic", "prompt"]
    words = texts.select(answer="key", n=pl.col("text").str.count_matches(r"\S+").cast(pl.Float64))
    said = main.join(words, on="answer", how="left", maintain_order="left")
    table = said.group_by(at, maintain_order=True).agg(value=pl.col("n").mean())
    return table.with_columns(metric=pl.lit("length"), reference=pl.lit("")).select(list(SCHEMA))


def _table(rows: Sequence[Mapping[str, Any]], metric: str, reference: str, values: Sequence[float | None]) -> pl.DataFrame:
    told = [
        {name: row[name] for name in list(SCHEMA)[:5]} | {"metric": metric, "reference": reference, "value": value}
        for row, value in zip(rows, values, strict=True)
        if value is not None
    ]
    return pl.DataFrame(told, schema=SCHEMA)
