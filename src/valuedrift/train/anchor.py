"""The anchor: a loss term for any algorithm that pulls the model's stances, read from likelihoods of authored answers, to target shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import plan
from ..nouns import STANCES, BadInput
from ..records.stances import Anchored
from . import Batch, collation, step_counts


def anchor_loss(logps_BS: Tensor, n_BS: Tensor, target_BS: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return KL(target || q) in nats per record, and q as BxS: the softmax over stances of mean log-prob per token / temperature.

    The formula is our own. This direction of KL lets no stance of the target vanish. It uses the mean per token because answers differ in
    length. `logps_BS` are the log-probs of whole answers, `n_BS` their numbers of tokens.
    """
    log_q_BS = torch.log_softmax(logps_BS / n_BS / temperature, -1)
    return F.kl_div(log_q_BS, target_BS, reduction="none").sum(-1), log_q_BS.exp()


class Anchor:
    """The questions of a stage's anchor in training order, each with its target shares.

    The order is fixed before the first step, so that a resume only has to count. The stage sees `n_samples` questions. `trainer` must not
    have taken a step yet. Raises BadInput for a question longer than the stage's `max_length`: a truncated answer may have lost its stance.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(self, stage: plan.Stage, seed: int, n_samples: int, questions: Sequence[Anchored], tokenizer: Any, trainer: Any):
        assert stage.anchor is not None
        self.settings = stage.anchor
        records = question_records(tokenizer, questions, stage.max_length)
        given = [question.shares for question in questions]
        order = step_counts.order(len(records), n_samples, seed)
        if None in given:
            self.seen = trainer.in_order(self, records, order)
        else:
            self.seen = collation.Records(records, order, {"target_BS": torch.tensor(given)})

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return the starting weights' shares, the target if it is "start"."""
        logps_BS, n_BS = by_stance(batch, logps_RT)
        return {"target_BS": anchor_loss(logps_BS, n_BS, torch.zeros_like(logps_BS), self.settings.temperature)[1]}

    def with_questions(self, batches: Sequence[Any], starts: Sequence[int], n: int) -> list[Any]:
        """Return the batches of an optimiser step of `n` records, each with as many questions as it has records."""
        found = []
        for batch, start in zip(batches, starts, strict=True):
            items = [self.seen[at] for at in range(start, start + max(1, batch["n_records"]))]
            found.append(batch | {"anchor": collation.collate(items) | {"n_of_step": n}})
        return found

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the term to add to the algorithm's loss, and the metrics to log."""
        losses_B, q_BS = anchor_loss(*by_stance(batch, logps_RT), batch["target_BS"], self.settings.temperature)
        shares = {f"anchor_{stance}": q_B for stance, q_B in zip(STANCES, q_BS.unbind(-1), strict=True)}
        return self.settings.weight * losses_B.sum() / batch["n_of_step"], {"anchor_loss": losses_B, **shares}


def by_stance(batch: Batch, logps_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-prob and the number of tokens of each answer, BxS. The rows of a batch are ordered by stance."""
    return tuple(values_RT.sum(1).view(len(STANCES), -1).T for values_RT in (logps_RT, batch["answer_mask_RT"]))  # type: ignore[return-value]


def question_records(tokenizer: Any, questions: Sequence[Anchored], longest: int) -> list[collation.Record]:
    """Return each question as one row per stance."""
    records = collation.in_records(tokenizer, [(question.prompt, question.answers) for question in questions])
    for number, record in enumerate(records, 1):
        if (n := collation.length(record)) > longest:
            raise BadInput(f"question {number} of the anchor has {n} tokens with its answer, but max_length is {longest}; raise max_length")
    return records
