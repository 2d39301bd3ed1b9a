"""The archive of a forecast: one row per topic and measure of every traced training of a run folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, BadInput, Checkpoint
from ..parts import UNREADABLE
from ..plan import Plan, Stage
from ..records import digest_of
from ..stats import gap, text_style
from ..stats.cells import ALL, cells
from ..stats.forecast import GAP, MEASURES
from ..stats.intervals import difference, ratio
from ..stats.profile import by_topic
from ..store import Store
from ..train.step_counts import course
from ..train.task import records_of
from .gradients import has_gradients
from .starts import Starts, architecture

COLUMNS = {"architecture", "data", "algorithm", "seed", "topic", "measure", "before", "after", "n", "resolved", "dose", *GAP}

Levels = dict[tuple[str, str], tuple[float, int]]
"""By topic and measure, the share or the mean words, and the number of prompts."""


@dataclass(frozen=True)
class Training:
    """One traced training: what it was told to do, and where it started."""

    stage: Stage
    name: str
    seed: int
    start: Checkpoint
    end: Checkpoint


def trainings(store: Store) -> Iterator[Training]:
    """Yield the trainings of a run folder that `run` wrote. Raises BadInput for another folder."""
    told = store.read_json("plan.json")
    if not told:
        raise BadInput(f"{store.root} holds no plan.json, so it does not say how its stages were trained; give a folder that 'run' wrote")
    settings = {(node.name, node.seed): node.stage for node in Plan(**told).nodes()}
    at = {(one.stage, one.seed, one.step): one for one in store.checkpoints()}
    for entry in store.stages():
        key = entry["name"], entry["seed"]
        if key in settings:
            yield Training(settings[key], *key, at[*key, 0], at[*key, entry["steps"][-1]])


def dose(stage: Stage, n_records: int) -> float:
    """Return the learning rate times the optimiser steps of a stage."""
    return stage.learning_rate * course(stage, n_records)[1]


def levels(scores: pl.DataFrame, texts: pl.DataFrame) -> Levels:
    """Return the share of every outcome and the mean words, with the number of prompts, by topic and measure, if there is evidence."""
    found: Levels = {}
    table = cells(scores.with_columns(stage=pl.lit(""), step=0, seed=0), "claim")
    for topic, sample in by_topic(table.num_CSPO, table.den_CSPO, table.topics).items():
        if topic != ALL:
            shares = {(topic, outcome): (float(sample.value[0, o]), int(sample.n[0, o])) for o, outcome in enumerate(OUTCOMES)}
            found |= {key: share for key, share in shares.items() if not math.isnan(share[0])}
    said = scores.join(texts.rename({"key": "answer"}), on="answer")
    said = said.with_columns(words=pl.col("text").map_elements(text_style.length, return_dtype=pl.Int64))
    for topic, words, n in said.group_by("topic").agg(pl.col("words").mean(), pl.col("prompt").n_unique()).iter_rows():
        found[topic, "length"] = (words, n)
    return found


def resolved(first: pl.DataFrame, last: pl.DataFrame) -> dict[tuple[str, str], bool]:
    """Return by topic and outcome whether the interval of the drift, paired by prompt, excludes 0."""
    both = pl.concat([rows.with_columns(stage=pl.lit(""), step=step, seed=0) for step, rows in enumerate((first, last))])
    table = cells(both, "claim")
    num, den = np.moveaxis(table.num_CSPO, -1, 1), np.moveaxis(table.den_CSPO, -1, 1)
    found: dict[tuple[str, str], bool] = {}
    for topic, place in table.topics.items():
        shares = ratio(num[..., place], den[..., place])
        of = difference(shares[1] - shares[0])
        found |= {(topic, outcome): bool(of.low[o] > 0 or of.high[o] < 0) for o, outcome in enumerate(OUTCOMES)}
    return found


def gaps(replies: gap.Replies, n_records: int, before: Levels) -> dict[tuple[str, str], dict[str, float]]:
    """Return the features GAP of a data set by topic and measure.

    Pairs: chosen minus rejected, in an outcome's probability or in the log of words. Texts: what they say minus what the model says now.
    """
    words_NS = np.array([[max(text_style.length(text), 0.5) for text in texts] for texts in replies.texts_NS], float)
    words_NS = words_NS.reshape(-1, replies.probs_NSO.shape[1])
    values_NSM = np.concatenate([replies.probs_NSO, np.log(words_NS)[..., None]], -1)[replies.read]
    topics = [replies.subjects[at].topic for at in replies.read]
    if values_NSM.shape[1] == 2:
        values_NM = values_NSM[:, 0] - values_NSM[:, 1]
    else:
        now = {key: value if key[1] != "length" else np.log(max(value, 0.5)) for key, (value, _) in before.items()}
        values_NM = values_NSM[:, 0] - np.array([[now.get((topic, name), 0.0) for name in MEASURES] for topic in topics]).reshape(
            -1, len(MEASURES)
        )
    found = {}
    for topic, name in before:
        m = MEASURES.index(name)
        own = values_NM[[at for at, of in enumerate(topics) if of == topic], m]
        found[topic, name] = {
            "gap": float(own.mean()) if len(own) else 0.0,
            "own_gap": float(own.sum() / n_records),
            "all_gap": float(values_NM[:, m].sum() / n_records),
        }
    return found


def rows_of(
    stage: Stage, n_records: int, replies: gap.Replies, before: Levels, gradients: dict[tuple[str, str], float] | None = None
) -> list[dict[str, Any]]:
    """Return a row per topic and measure with the features of the data, all known before the training."""
    features = gaps(replies, n_records, before)
    common = {"algorithm": stage.algorithm, "dose": dose(stage, n_records)}
    return [
        common | {"topic": key[0], "measure": key[1], "before": value, "n": n} | features[key] | {"gradients": (gradients or {}).get(key)}
        for key, (value, n) in before.items()
    ]


def read(path: Path, starts: Starts, judge: Any, gradients: bool) -> pl.DataFrame:
    """Return the rows of a stored archive (a Parquet file) or of a run folder. Raises BadInput for anything else."""
    if path.is_dir():
        return of_run(Store(path), starts, judge, gradients)
    try:
        rows = pl.read_parquet(path, glob=False)
    except UNREADABLE as error:
        raise BadInput(
            f"the archive {path} cannot be read: {str(error).splitlines()[0]}; give a run folder, or archive.parquet of an earlier forecast"
        ) from error
    if missing := COLUMNS - set(rows.columns):
        raise BadInput(f"the archive {path} lacks the columns {', '.join(sorted(missing))}; make it again from its run folders")
    return rows


def of_run(store: Store, starts: Starts, judge: Any, gradients: bool) -> pl.DataFrame:
    """Return the rows of every training of a run whose data and start are still there."""
    store.finished()
    scores, texts, prompts = store.read_table("scores").filter(~pl.col("repeat")), store.texts(), store.prompts()
    rows: list[dict[str, Any]] = []
    for training in trainings(store):
        stage, data = training.stage, records_of(training.stage)
        first, last = (scores.filter(stage=at.stage, step=at.step, seed=at.seed) for at in (training.start, training.end))
        before, after, clear = levels(first, texts), levels(last, texts), resolved(first, last)
        moved = None
        if gradients and has_gradients(stage):
            moved = starts.influence(training.start.path, stage.lora, prompts).forecast(stage, training.seed, data)
        common = {"architecture": architecture(training.end.path), "data": f"{stage.data} {digest_of(data)[:12]}", "seed": training.seed}
        for row in rows_of(stage, len(data), gap.read(data, prompts, judge), before, moved):
            key = row["topic"], row["measure"]
            if key in after:
                rows.append(common | row | {"after": after[key][0], "resolved": clear.get(key, False)})
    return pl.DataFrame(rows, infer_schema_length=None)
