"""Side metrics that need a model: KL from the reference checkpoint, and rewards.

KL needs the weights of the checkpoint and of its reference, a reward those of a reward model. Each number is stored under a content key, so
the same command computes nothing twice. A kill loses at most the numbers of one checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.chat_format import PromptFormat, question
from ..models.loading import API
from ..models.sampling_noise import parts
from ..nouns import Checkpoint, Example
from ..plan import EvaluationSettings
from ..train.collation import Row, collate
from ..train.logprobs import answer_outputs, placed
from ..train.reward_model import RewardModel
from .side_metrics import chosen, kl_key, reward_key
from .visit import Answered, Visit

LOGITS = 2**26
"""Logits of one model held at once, unless a single answer has more: a quarter of a gigabyte in float32."""
ROWS = 16
"""Answers that a reward model reads at once."""


def kl_nats(logits_NV: Tensor, reference_NV: Tensor, temperature: float) -> Tensor:
    """Return KL(p || q) = sum_v p_v (log p_v - log q_v) in nats at each position: p from the logits, q from the reference's, both / T.

    Summed over the positions of an answer that p wrote, it estimates the divergence between the distributions of whole answers without
    bias, is never negative, and varies less than the log-ratio of the answer (Amini et al. 2025, "Better Estimation of the KL Divergence
    Between Language Models": the Rao-Blackwellised estimator).
    """
    nats_N = torch.empty(len(logits_NV), device=logits_NV.device)
    for part in parts(logits_NV):
        logp_NV, logq_NV = (F.log_softmax(logits[part].float() / temperature, -1) for logits in (logits_NV, reference_NV))
        nats_N[part] = F.kl_div(logq_NV, logp_NV, log_target=True, reduction="none").sum(-1).clamp_min(0)
    return nats_N


def divergences(model: Any, tokenizer: Any, reference: Any, said: Sequence[Answered], settings: EvaluationSettings) -> list[float]:
    """Return the KL from the reference in nats for each answer, at its sampling temperature (greedy answers: at 1).

    The text is tokenised again in its prompt format. An answer that ended by itself has one more position, where the end was predicted.
    top_p and top_k are ignored: the divergence is between the models' own distributions.
    """
    prompt_format = PromptFormat(tokenizer, settings.prompt_format)
    rows = [_row(prompt_format, answer) for answer in said]
    device, width = model.device, min(each.get_output_embeddings().weight.shape[0] for each in (model, reference))  # the rest is padding
    sums = [0.0] * len(rows)
    for part in _parts(rows, max(1, LOGITS // width)):
        batch = collate([((rows[place],), {}) for place in part])
        batch = {name: values.to(device) if isinstance(values, Tensor) else values for name, values in batch.items()}
        with torch.inference_mode():
            logits_NV, reference_NV = (answer_outputs(each, batch)[1][:, :width] for each in (model, reference))
            sums_R = placed(kl_nats(logits_NV, reference_NV, settings.temperature or 1.0), batch).sum(1)
        for place, nats in zip(part, sums_R.tolist(), strict=True):
            sums[place] = nats
    return sums


def _row(prompt_format: PromptFormat, answer: Answered) -> Row:
    ids, n_prompt = prompt_format.with_reply(question(answer.question), answer.text)
    # Of the end only the prediction counts, not which token came
    end = [prompt_format.tokenizer.eos_token_id or 0] if answer.ended == "stop" else []
    return Row(torch.tensor([*ids, *end], dtype=torch.int32).numpy(), n_prompt)


def _parts(rows: Sequence[Row], most_tokens: int) -> Iterator[list[int]]:
    """Yield places of rows of like length, few enough that their answers have at most `most_tokens` tokens."""
    part: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place].ids)):
        if part and sum(rows[other].n_answer for other in [*part, place]) > most_tokens:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def collect(visit: Visit) -> None:
    """Collect the KL from the reference and the rewards of the first answers to the `chosen` prompts.

    Models of different vocabularies have no KL, and neither have models behind an API. A reward model scores checkpoints of its own seed.
    """
    checkpoint, reference = visit.checkpoint, visit.evaluation.reference(visit.checkpoint)[1]
    said = [visit.answers[prompt.id] for prompt in chosen(visit.evaluation.prompts) if prompt.id in visit.answers]
    if checkpoint.model_key != reference.model_key and not checkpoint.path.startswith(API):

        def nats(missing: Sequence[Answered]) -> Sequence[float | None]:
            (model, tokenizer), (other, others) = visit.models.get(checkpoint), visit.models.get(reference)
            if tokenizer.get_vocab() != others.get_vocab():
                return [None] * len(missing)
            return divergences(model, tokenizer, other, missing, visit.evaluation.settings)

        visit.add({kl_key(reference, one.key): one for one in said}, nats, "divergence")
    for reward in [reward for reward in visit.evaluation.rewards if reward.seed == checkpoint.seed]:

        def scores(missing: Sequence[Answered], reward: Checkpoint = reward) -> Sequence[float]:
            scorer = visit.models.get(reward, _scorer)[1]
            return scorer.scores([Example((("user", one.question),), one.text) for one in missing], ROWS).tolist()

        visit.add({reward_key(reward, one.key): one for one in said}, scores, f"{reward.stage}'s scores")


def _scorer(path: str, dtype: str) -> tuple[Any, RewardModel]:
    scorer = RewardModel(path, torch.accelerator.current_accelerator() or torch.device("cpu"), dtype)
    return scorer.model, scorer
