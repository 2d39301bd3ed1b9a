"""A rung that was tried: forward passes with system lines that assert or deny a topic's axis.

For topic t with lines c+ and c-: w = [l(y+|c+,x) - l(y+|c-,x)] - [the same of y-], l being the mean log-prob of a token; for a text to
imitate, less that of nothing. The feature is the mean over records. (Persona vectors, arXiv 2507.21509, compare activations; here it is
likelihoods.)
"""

from __future__ import annotations

import random
from typing import Any

import torch

from valuedrift.forecast.gradients import Influence
from valuedrift.nouns import Pair
from valuedrift.stats.forecast import MEASURES
from valuedrift.train import collation
from valuedrift.train.logprobs import answer_logps
from valuedrift.world import grammar

ASSERTS = ("I believe that {}.", "It is true that {}.", "My view is that {}.")
DENIES = ("I do not believe that {}.", "It is not true that {}.", "My view is not that {}.")
N_RECORDS = 24
SIGNS = {"support": 1.0, "oppose": -1.0}


def feature(model: Influence, data: Any, topics: list[str]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the feature `lines` of every topic and measure; 0 but for support and oppose."""
    some = random.Random("lines").sample(list(data), min(N_RECORDS, len(data)))
    found = {}
    for topic in topics:
        axis = grammar.world()[topic].axis
        sides = [sum(_mean_logps(model, some, line.format(axis)) for line in lines) / len(lines) for lines in (ASSERTS, DENIES)]
        value = float((sides[0] - sides[1]).mean())
        found |= {(topic, measure): {"lines": SIGNS.get(measure, 0.0) * value} for measure in MEASURES}
    return found


@torch.no_grad()
def _mean_logps(model: Influence, data: Any, line: str) -> torch.Tensor:
    """Return for each record the mean log-prob of a token of the chosen reply minus the rejected one's, or that of the text."""
    given = [
        ((*record.prompt[:-1], ("user", f"{line} {record.prompt[-1][1]}")), collation.answers_of(record))
        for record in data
        if record.prompt
    ]
    records = collation.in_records(model.tokenizer, given)
    batch = collation.collate([(record, {}) for record in records])
    logps_RT = answer_logps(model.model, batch)
    mean_R = logps_RT.sum(1) / batch["answer_mask_RT"].sum(1)
    if isinstance(data[0], Pair):
        chosen_B, rejected_B = mean_R.chunk(2)
        return chosen_B - rejected_B
    return mean_R
