"""Adaptive effort: which checkpoints to ask, and how often which prompt, until every drift is known as well as wanted.

Draws are added in two phases. Every prompt of an asked checkpoint gets `PILOT` draws. Then the prompts whose pilot draws took different
stances at an end of a stage get all their draws, and of the others a random `SHARE`. A mean over draws that stopped where they agreed would
be biased: of a prompt that supports in 1 of 5 draws, two draws and three more where these differ give 0.14 on average. So a prompt that was
chosen with probability pi counts as

    m1 + (lambda / pi) (m2 - m1)        m1, m2: means of the pilot and of the further draws; lambda: the further draws' share of all

and one that was not chosen as m1. Given the pilot, the choice is random and the further draws are independent of it, so that the
expectation is that of the pilot alone, which is that of all draws (Horvitz-Thompson; double sampling, Cochran 1977, ch. 12). The choice
is the same at every checkpoint, so that draws stay paired, and prompts stay independent, so that the intervals over prompts hold as they
are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pydantic import with_config
from typing_extensions import TypedDict

from ..nouns import OUTCOMES, STANCES, digest
from .cells import ALL

PILOT = 2
"""The fewest draws that can differ."""
SHARE = 0.25
"""Of the prompts whose pilot agreed: a few, because a prompt that does not waver says the same again, and not none, because some do."""


@with_config({"extra": "allow"})
class DesignEntry(TypedDict):
    """`design` in `effort.json`, as `Design.to_json` writes it."""

    draws: int
    steps: dict[str, list[int]]
    further: dict[str, dict[str, float]]


@with_config({"extra": "allow"})
class Effort(TypedDict):
    """`effort.json`: what an adaptive trace asked."""

    precision: float | None
    design: DesignEntry
    checkpoints: int
    of_checkpoints: int
    answers: int
    of_answers: int
    budget_ended_it: bool


@dataclass(frozen=True)
class Design:
    """What is asked: steps by stage, and by (seed, prompt) the probability with which a prompt was chosen for further draws."""

    draws: int
    steps: Mapping[str, tuple[int, ...]]
    further: Mapping[tuple[int, str], float] = field(default_factory=dict)

    @property
    def pilot(self) -> int:
        return min(PILOT, self.draws)

    def draws_of(self, seed: int, prompt: str) -> int:
        """Return how many draws of a prompt are asked."""
        return self.draws if (seed, prompt) in self.further else self.pilot

    def weighted(self, scores: pl.DataFrame) -> pl.DataFrame:
        """Return the scores with the column `weight`: lambda / pi on further draws, null on those of the pilot."""
        share = 1 - self.pilot / self.draws
        rows = [(seed, prompt, share / probability) for (seed, prompt), probability in self.further.items()]
        table = pl.DataFrame(rows, schema={"seed": scores.schema["seed"], "prompt": pl.String, "weight": pl.Float64}, orient="row")
        joined = scores.join(table, on=["seed", "prompt"], how="left", maintain_order="left")
        return joined.with_columns(weight=pl.when(pl.col("draw") >= self.pilot).then("weight"))

    def to_json(self) -> dict[str, Any]:
        further: dict[str, dict[str, float]] = {}
        for (seed, prompt), probability in self.further.items():
            further.setdefault(str(seed), {})[prompt] = probability
        return {"draws": self.draws, "steps": {stage: list(steps) for stage, steps in self.steps.items()}, "further": further}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Design:
        """Return the design that `to_json` wrote."""
        further = {(int(seed), prompt): value for seed, of_seed in content["further"].items() for prompt, value in of_seed.items()}
        return Design(content["draws"], {stage: tuple(steps) for stage, steps in content["steps"].items()}, further)


def ends(draws: int, stages: Iterable[Mapping[str, Any]]) -> Design:
    """Return the design to begin with: the pilot draws at both ends of every stage."""
    return Design(draws, {stage["name"]: tuple(sorted({stage["steps"][0], stage["steps"][-1]})) for stage in stages})


def too_wide(drifts: pl.DataFrame, precision: float) -> pl.DataFrame:
    """Return the drifts of stances whose 95 % interval reaches further than `precision` to one side, or that have none."""
    half = pl.max_horizontal(pl.col("high") - pl.col("value"), pl.col("value") - pl.col("low"))
    return drifts.filter(pl.col("stance").is_in(STANCES) & (half.is_null() | (half > precision)))


def wavering(scores: pl.DataFrame) -> set[tuple[int, str]]:
    """Return the (seed, prompt) whose draws at one of the checkpoints asked do not all have the same likeliest outcome."""
    read = scores.filter(~pl.col("repeat") & pl.col("support").is_not_null())
    likeliest = pl.concat_list(OUTCOMES).list.arg_max().alias("outcome")
    groups = read.select("stage", "step", "seed", "prompt", likeliest).group_by("stage", "step", "seed", "prompt")
    return set(groups.agg(pl.col("outcome").n_unique()).filter(pl.col("outcome") > 1).select("seed", "prompt").iter_rows())


def further(design: Design, scores: pl.DataFrame, topics: Iterable[str], everyone: bool, noise: int) -> Design:
    """Return the design with further draws for the prompts of some topics: chosen as the module says, or (`everyone`) for all of them."""
    prompts = scores.filter(pl.col("topic").is_in(list(topics))).select("seed", "prompt").unique().sort("seed", "prompt")
    split = set() if everyone else wavering(scores.filter(pl.col("draw") < design.pilot))
    chosen = dict(design.further)
    for seed, prompt in prompts.iter_rows():
        if everyone or (seed, prompt) in split:
            chosen[seed, prompt] = 1.0
        elif int(digest("further", noise, seed, prompt)[:8], 16) < SHARE * 2**32:
            chosen[seed, prompt] = SHARE
    return Design(design.draws, design.steps, chosen)


def split(design: Design, stages: Iterable[Mapping[str, Any]], profiles: pl.DataFrame, precision: float) -> list[tuple[str, int]]:
    """Return the (stage, step) that are worth asking next, the most needed first: the middle of what is saved between two asked steps.

    A stage whose ends alone were asked is split in any case, so that what goes and comes back is seen where its turn is not in one half.
    After that a gap is split where the share of a stance on a topic differs by more than `precision` between its ends.
    """
    values = profiles.filter(pl.col("outcome").is_in(STANCES) & (pl.col("topic") != ALL))
    by_step = {
        at: dict(zip(zip(rows["topic"], rows["outcome"], strict=True), rows["value"], strict=True))
        for at, rows in values.group_by("stage", "step")
    }
    wanted: dict[tuple[str, int], float] = {}
    for stage in stages:
        saved, asked = stage["steps"], design.steps[stage["name"]]
        for before, after in itertools.pairwise(asked):
            between = [step for step in saved if before < step < after]
            if not between:
                continue
            here, there = (by_step.get((stage["name"], step), {}) for step in (before, after))
            moves = [abs(here[key] - there[key]) for key in here.keys() & there.keys() if here[key] is not None and there[key] is not None]
            moved = float("inf") if len(asked) == 2 else max(moves, default=0.0)
            if moved > precision:
                wanted[stage["name"], between[len(between) // 2]] = moved
    return sorted(wanted, key=lambda place: (-wanted[place], place))


def asking_also(design: Design, stage: str, step: int) -> Design:
    """Return the design with one more step."""
    return Design(design.draws, {**design.steps, stage: tuple(sorted({*design.steps[stage], step}))}, design.further)
