"""The first-order effect of every training record on every measured share.

The training side is the gradient of the algorithm's own loss at the starting weights, through Adam's preconditioner. The measured side is
the gradient of each share, estimated from stored answers and verdicts: the mean over a topic's prompts and answers of
(q - mean of q over the prompt's other answers) * grad log π(answer | prompt), q being the judge's probability (REINFORCE with a
leave-one-out baseline, Kool et al. 2019). Their product says by how much one step on the record moves the share (influence as in TracIn and
LESS, Pruthi et al. 2020, Xia et al. 2024, arXiv 2402.04333). Large models are differentiated in the space of a new adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from .. import progress, registry
from ..models import loading
from ..models.adapters import is_adapter
from ..nouns import OUTCOMES, BadInput, Prompt
from ..plan import Lora, Stage
from ..stats.forecast import MEASURES
from ..stats.text_style import length
from ..train import BaseAlgorithm, collation, starting, step_counts
from ..train.logprobs import answer_logps

WHOLE = 20_000_000
"""Models up to this number of weights are differentiated whole, larger ones in the space of an adapter of rank 8."""
BATCHES = 32
"""Batches from which Adam's second moment is estimated."""
EPSILON = 1e-8
"""Adam's."""
TOGETHER = 16
"""Records per pass without gradient."""


class Influence:
    """What one step on given records does to every measured share of a model, to first order.

    `answers` are those of the starting weights (columns topic, prompt, text, and the outcomes), several per prompt. `out` is a folder for
    the merged start if it is an adapter. Raises BadInput for one answer per prompt.
    """

    def __init__(self, start: str, lora: Lora | None, seed: int, answers: pl.DataFrame, prompts: Sequence[Prompt], out: Path):
        if answers.group_by("prompt").len()["len"].max() == 1:
            raise BadInput("each prompt has one answer, which shows no gradient of a share; sample with draws = 2 or more")
        self.folder = starting.merged(start, out) if is_adapter(Path(start)) else start
        self.tokenizer = starting.load_tokenizer(self.folder, chat=True)
        model = loading.load_to_train(self.folder, torch.float32)
        torch.manual_seed(seed)  # an adapter starts with random weights
        if lora is None and sum(weight.numel() for weight in model.parameters()) > WHOLE:
            lora = Lora(r=8, lora_alpha=16)
        self.model = (model if lora is None else starting.adapted(model, lora, "CAUSAL_LM")).eval()
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.names, self.shares_MW = self._shares(answers, {prompt.id: prompt for prompt in prompts})

    def forecast(self, stage: Stage, seed: int, data: Any) -> dict[tuple[str, str], float]:
        """Return the drift of every topic and measure over a whole training, to first order."""
        records, _ = self._records(stage, data)
        gradient_W, square_W, n = self._batches(stage, seed, records)
        steps = step_counts.course(stage, len(records))[1]
        moved_M = self.shares_MW @ (gradient_W / n / ((square_W / n).sqrt() + EPSILON))
        return dict(zip(self.names, (-stage.learning_rate * steps * moved_M).tolist(), strict=True))

    def scores(self, stage: Stage, seed: int, data: Any) -> tuple[list[int], np.ndarray]:
        """Return the places of the records that fit, and by how much one copy of each, seen once, moves every share (words for "length").

        The matrix has a column for each of `names`.
        """
        records, kept = self._records(stage, data)
        algorithm = _algorithm(stage)
        _, square_W, n = self._batches(stage, seed, records)
        directions_MW = self.shares_MW / ((square_W / n).sqrt() + EPSILON)
        per = 1.0 if algorithm.loss_reduction == "records" else len(records) / sum(row.n_answer for record in records for row in record)
        values = []
        with progress.task(f"gradients of {stage.algorithm}", len(records), "records") as advance:
            for item in self._items(algorithm, records):
                values.append((directions_MW @ self._loss_gradient(algorithm, [item])).cpu().numpy())
                advance(1)
        return kept, np.stack(values) * (-stage.learning_rate / stage.effective_batch_size * per)

    def _records(self, stage: Stage, data: Any) -> tuple[list[Any], list[int]]:
        return collation.fitting(stage, _algorithm(stage), self.tokenizer, data)

    def _gradient(self, value: Tensor) -> Tensor:
        """Return the gradient of a number as one vector."""
        found = torch.autograd.grad(value, self.weights, allow_unused=True)
        return torch.cat([(torch.zeros_like(w) if g is None else g).reshape(-1) for w, g in zip(self.weights, found, strict=True)])

    def _loss_gradient(self, algorithm: BaseAlgorithm, items: Sequence[Any]) -> Tensor:
        """Return the gradient of the summed loss of some records."""
        batch = _moved(collation.collate(items), self.model.device)
        losses, _ = algorithm.loss(batch, answer_logps(self.model, batch))
        return self._gradient(losses.sum())

    def _items(self, algorithm: BaseAlgorithm, records: Sequence[Any]) -> list[Any]:
        """Return each record with what the algorithm keeps of the starting weights' log-probs."""
        if "reference" not in algorithm.needs:
            return [(record, {}) for record in records]
        items = []
        for at in range(0, len(records), TOGETHER):
            some = records[at : at + TOGETHER]
            batch = _moved(collation.collate([(record, {}) for record in some]), self.model.device)
            with torch.no_grad():
                kept = algorithm.prepare(batch, answer_logps(self.model, batch))
            items += [(record, {name: values[index].cpu() for name, values in kept.items()}) for index, record in enumerate(some)]
        return items

    def _batches(self, stage: Stage, seed: int, records: Sequence[Any]) -> tuple[Tensor, Tensor, int]:
        """Return the sums of the gradients and of their squares over the first BATCHES optimiser steps, each clipped, and their number."""
        algorithm, size = _algorithm(stage), stage.effective_batch_size
        order = step_counts.order(len(records), step_counts.course(stage, len(records))[0], seed)[: BATCHES * size]
        gradient_W, square_W = torch.zeros_like(self.shares_MW[0]), torch.zeros_like(self.shares_MW[0])
        begins = range(0, len(order), size)
        for begin in begins:
            some = self._items(algorithm, [records[at] for at in order[begin : begin + size]])
            count = len(some) if algorithm.loss_reduction == "records" else sum(row.n_answer for record, _ in some for row in record)
            step_W = self._loss_gradient(algorithm, some) / count
            step_W *= min(1.0, stage.max_grad_norm / max(float(step_W.norm()), 1e-12))
            gradient_W += step_W
            square_W += step_W**2
        return gradient_W, square_W, len(begins)

    def _shares(self, answers: pl.DataFrame, prompts: Mapping[str, Prompt]) -> tuple[list[tuple[str, str]], Tensor]:
        """Return topic and measure of each row, and the gradients of the shares and of the mean words, one row each."""
        topics = answers["topic"].unique(maintain_order=True).to_list()
        found_MW = torch.zeros(len(topics) * len(MEASURES), sum(weight.numel() for weight in self.weights), device=self.model.device)
        with progress.task("gradients of the shares", answers.height, "answers") as advance:
            for place, topic in enumerate(topics):
                of = answers.filter(topic=topic)
                moving = [(text, prompt, weight_M) for text, prompt, weight_M in advantages(of) if text and np.abs(weight_M).max() > 0]
                records = collation.in_records(self.tokenizer, [((("user", prompts[id].text),), (text,)) for text, id, _ in moving])
                rows_MW = found_MW[place * len(MEASURES) : (place + 1) * len(MEASURES)]
                for record, (_, _, weight_M) in zip(records, moving, strict=True):
                    batch = _moved(collation.collate([(record, {})]), self.model.device)
                    gradient_W = self._gradient(answer_logps(self.model, batch).sum())
                    rows_MW.addr_(torch.from_numpy(weight_M).to(gradient_W), gradient_W)
                advance(of.height)
        return [(topic, measure) for topic in topics for measure in MEASURES], found_MW


def has_gradients(stage: Stage) -> bool:
    """Tell whether the algorithm has a loss on one given record."""
    algorithm = registry.algorithm(stage.algorithm)
    return not (hasattr(algorithm, "run") or algorithm.needs & {"rollouts", "score", "kl_batch"})


def _algorithm(stage: Stage) -> BaseAlgorithm:
    algorithm: BaseAlgorithm = registry.algorithm(stage.algorithm)(stage.own())
    if not has_gradients(stage):
        raise BadInput(f"{stage.algorithm} has no loss on one given record; gradients exist for sft, dpo, ipo, simpo and orpo")
    return algorithm


def advantages(answers: pl.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield each answer of a topic with its prompt and its weight for every measure: its advantage over the prompt's other answers."""
    words = pl.col("text").map_elements(length, return_dtype=pl.Int64).cast(pl.Float64)
    by_prompt = answers.with_columns(length=words).filter(pl.col(OUTCOMES[0]).is_not_null()).partition_by("prompt", maintain_order=True)
    for some in by_prompt:
        q_KM = some.select(MEASURES).to_numpy().astype(float)
        if (n := len(q_KM)) < 2:
            continue
        weight_KM = (q_KM - (q_KM.sum(0) - q_KM) / (n - 1)) / n / len(by_prompt)
        yield from zip(some["text"], some["prompt"], weight_KM, strict=True)


def _moved(batch: Mapping[str, Any], device: Any) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
