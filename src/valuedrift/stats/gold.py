"""Samples of a run's answers for people to label, and the labels that come back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ..nouns import BadInput
from ..records.gold import Gold
from ..store import Store
from .intervals import rng_for

MIN_PER_STRATUM = 2
"""Fewest labels per checkpoint and topic: a single one has no spread."""
LABEL_SCHEMA = {"answer": pl.String, "item": pl.String, "outcome": pl.String, "inclusion": pl.Float64}


# -- samples of a run ----------------------------------------------------------------------------------------------------------


def sample_for_labels(store: Store, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `n` answers of a run for people to label, as rows for JSONL in random order, without verdicts and checkpoints.

    The answers come from the first and last checkpoint of every stage, the same number from each checkpoint and topic. Only answers with a
    verdict are drawn, one per prompt before a second of any, so an answer's probability (`inclusion`) is smaller if its prompt has more
    answers. As far as possible, every checkpoint gets the same prompts and draws (permanent random numbers: Ohlsson 1995), which pairs the
    labels of a drift. Drawn answers with the same text become one row with all their keys in `answer`. Answers with this text that were
    not drawn stay unlabelled; otherwise frequent texts would count too often.
    Raises BadInput if there are fewer than 2 labels per checkpoint and topic.
    """
    drawn = drawn_from(_ends(store), n, seed)
    prompts = {prompt.id: prompt for prompt in store.prompts()}
    texts = dict(store.answers().select("key", "text").iter_rows())
    found = []
    for _, same in drawn.group_by("item", maintain_order=True):
        first = same.row(0, named=True)
        prompt = prompts[first["prompt"]]
        row = {"topic": prompt.topic, "claim": prompt.claim, "prompt": prompt.text, "text": texts[first["answer"]], "stance": None}
        found.append(row | {"answer": same["answer"].to_list(), "inclusion": same["inclusion"].to_list()})
    order = rng_for(seed, "labels", "order").permutation(len(found))
    return [found[i] for i in order]


def write_sample(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a sample as JSONL. Raises BadInput if the file exists and is not this sample, because it may contain labels."""
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()
    try:
        if path.exists() and path.read_bytes() != written:
            raise BadInput(f"{path} exists and may hold labels; name another file")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}; name another file") from error
    Store(path.parent).write_bytes(path.name, written)


def labels_of(gold: Sequence[Gold], scores: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the labels of a run's own answers (answer, item, outcome, inclusion), and how many labelled answers are not of this run.

    If an answer's claim or question has changed since, its label is not used. Raises BadInput if two rows label
    one answer differently.
    """
    given = [
        (answer, row.item.key, row.outcome, chance)
        for row in gold
        if row.outcome is not None
        for answer, chance in zip(row.answers, row.inclusion, strict=True)
    ]
    labels = pl.DataFrame(given, schema=LABEL_SCHEMA, orient="row")
    # Of two samples of one seed the larger holds the smaller, and its chance is that of both together.
    labels = labels.group_by("answer", "item", "outcome", maintain_order=True).agg(pl.col("inclusion").max())
    twice = labels.filter(pl.struct("answer", "item").is_duplicated())
    if twice.height:
        raise BadInput(f"the answer {twice['answer'][0]} has the labels {', '.join(twice['outcome'][:2])}; leave one of them")
    here = labels.join(scores, on=["answer", "item"], how="semi")
    return here, labels.height - here.height


def _ends(store: Store) -> pl.DataFrame:
    """Return the answers with a verdict at the ends of all stages. An end that starts other stages counts once."""
    scores = store.read_table("scores").filter(~pl.col("repeat") & pl.col("support").is_not_null())
    at_end = (pl.col("step") == pl.col("step").min().over("stage")) | (pl.col("step") == pl.col("step").max().over("stage"))
    return scores.filter(at_end).unique(["answer", "item"], keep="first", maintain_order=True)


def drawn_from(ends: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """Return the drawn rows with their `inclusion` probability, P(its turn within the prompt) x P(the prompt in that turn), over all turns.

    Turn k offers the k-th answer of every prompt that has k or more, in random order. An answer's place among its prompt's answers is
    random too, so its probability is the mean over their turns.
    """
    strata = ends.group_by("stage", "step", "topic").len("size").sort("topic", "stage", "step")
    if not strata.height:
        raise BadInput("no answer of the run has a verdict, and only such answers are drawn; judge them first with 'valuedrift judge'")
    if n < MIN_PER_STRATUM * strata.height:
        raise BadInput(
            f"{n} labels are too few for {strata.height} groups (checkpoints x topics at the ends of stages); "
            f"ask for {MIN_PER_STRATUM * strata.height} or more"
        )
    topics = strata["topic"].unique(maintain_order=True).to_list()
    lucky = [topics[i] for i in rng_for(seed, "labels", "topics").permutation(len(topics))]
    strata = strata.with_columns(luck=pl.col("topic").replace_strict(lucky, range(len(lucky)))).sort("luck", "stage", "step")
    base, extra = divmod(n, strata.height)
    take = [base + (i < extra) for i in range(strata.height)]
    strata = strata.with_columns(take=pl.min_horizontal(pl.Series(take), "size"))
    numbers = ends.select("seed", "prompt", "draw").unique().sort("seed", "prompt", "draw")
    prompts = numbers.select("prompt").unique().sort("prompt")
    numbers = numbers.with_columns(u=pl.Series(rng_for(seed, "labels", "draws").random(numbers.height)))
    prompts = prompts.with_columns(v=pl.Series(rng_for(seed, "labels", "prompts").random(prompts.height)))
    at = ["stage", "step", "topic"]
    ranked = ends.join(numbers, on=["seed", "prompt", "draw"]).join(prompts, on="prompt").join(strata, on=at)
    ranked = ranked.with_columns(turn=pl.col("u").rank("ordinal").over(*at, "prompt")).sort(*at, "turn", "v")
    ranked = ranked.with_columns(place=pl.int_range(pl.len()).over(at))
    chance = ((pl.col("take") - pl.col("place").min()) / pl.len()).clip(0, 1)
    ranked = ranked.with_columns(chance=chance.over(*at, "turn")).with_columns(inclusion=pl.col("chance").mean().over(*at, "prompt"))
    return ranked.filter(pl.col("place") < pl.col("take"))
