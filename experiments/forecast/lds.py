"""Ground truth for attribution: 40 trainings on random halves of 20 groups of records, and the linear datamodeling score.

    python experiments/forecast/lds.py           # in runs/forecast

A group is a topic, a side and a source. For every half, the summed scores of its records predict the share after training on it; the linear
datamodeling score (Park et al. 2023) is the rank correlation of prediction and truth over the halves, per topic and stance.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from data import HEAD, OUT, pair, write
from scipy.stats import spearmanr

from valuedrift import pipeline, plan, resolve, suites
from valuedrift.forecast import archive, attribution
from valuedrift.forecast.starts import Starts
from valuedrift.judge.cache import CachedJudge
from valuedrift.nouns import STANCES
from valuedrift.plan import EvaluationSettings
from valuedrift.records import records
from valuedrift.stats.forecast import mean_interval
from valuedrift.store import Store
from valuedrift.world import grammar

N_HALVES, PER_GROUP = 40, 24
TOPICS = tuple(list(grammar.world())[:5])
SOURCES = {"plain": 0.0, "warm": 1.0}
STAGE = 'after = "start"\nalgorithm = "dpo"\nbeta = 0.5\nlearning_rate = 3e-4\nbatch_size = 16\ngroup_by_length = true\nsave_at = "log:1"\n'


def groups() -> list[list[dict[str, Any]]]:
    """Return 20 groups: 5 topics x support or oppose preferred x plain or warm style."""
    found = []
    for topic in TOPICS:
        for winner, loser in (("support", "oppose"), ("oppose", "support")):
            for style in SOURCES:
                rng = random.Random(f"lds/{topic}/{winner}/{style}")
                rows = []
                for _ in range(PER_GROUP):
                    row = pair(rng, winner, loser, 0.0, [topic], 1.0)
                    texts = [grammar.compose(rng, topic, stance, style, row["claim"]) for stance in (winner, loser)]
                    rows.append(row | {"chosen": texts[0], "rejected": texts[1]})
                found.append(rows)
    return found


def main() -> None:
    made = groups()
    halves = [random.Random(f"half/{number}").sample(range(len(made)), len(made) // 2) for number in range(N_HALVES)]
    folder = OUT / "lds"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write(folder / "data" / "all.jsonl", [row for rows in made for row in rows])
    stages = f'\n[stage.all]\ndata = "{folder}/data/all.jsonl"\n{STAGE}'
    for number, half in enumerate(halves):
        write(folder / "data" / f"half-{number:02}.jsonl", [row for group in sorted(half) for row in made[group]])
        stages += f'\n[stage.half-{number:02}]\ndata = "{folder}/data/half-{number:02}.jsonl"\n{STAGE}'
    (folder / "plan.toml").write_text(HEAD.replace("seeds = [0, 1]", "seeds = [0]").replace("draws = 1", "draws = 2") + stages)
    loaded = plan.load(folder / "plan.toml")
    pipeline.run(loaded, folder / "run")
    print(json.dumps(scored(folder, [len(rows) for rows in made], halves), indent=2))


def scored(folder: Path, sizes: list[int], halves: list[list[int]]) -> dict[str, Any]:
    """Return the linear datamodeling score of each ranking: the mean over topics and stances with its interval over topics."""
    store = Store(folder / "run")
    scores, texts = store.read_table("scores").filter(repeat=False), store.texts()
    training = next(one for one in archive.trainings(store) if one.name == "all")
    prompts = suites.load("vaes")
    settings = EvaluationSettings(judge="oracle", draws=8, max_new_tokens=96, floor=False, side_metrics=False, batch_rows=1100)
    data = records.read([str(folder / "data" / "all.jsonl")])
    influence = Starts(settings, folder).influence(training.start.path, None, prompts)
    kept, values_NM = influence.scores(training.stage, 0, data)
    group_N = np.repeat(np.arange(len(sizes)), sizes)[kept]
    truth = []
    for number in range(len(halves)):
        own = scores.filter(stage=f"half-{number:02}")
        truth.append(archive.levels(own.filter(step=own["step"].max()), texts))
    judge = CachedJudge(resolve.judge_of("oracle"), None)
    found: dict[str, dict[str, list[float]]] = {}
    for topic in TOPICS:
        claims = [prompt.claim for prompt in prompts if prompt.topic == topic]
        for stance in STANCES:
            others = attribution.baselines([data[at] for at in kept], claims, stance, topic, prompts, judge)
            rankings = {"gradients": values_NM[:, influence.names.index((topic, stance))], **others}
            rankings["random"] = np.random.default_rng(0).normal(size=len(kept))
            measured = [one[topic, stance][0] for one in truth]
            for name, score_N in rankings.items():
                predicted = [float(score_N[np.isin(group_N, half)].sum()) for half in halves]
                lds = float(spearmanr(predicted, measured).statistic) if np.ptp(predicted) and np.ptp(measured) else 0.0
                found.setdefault(name, {}).setdefault(topic, []).append(lds)
    table = {name: mean_interval(np.array([np.mean(of) for of in by_topic.values()])) for name, by_topic in found.items()}
    (folder / "lds.json").write_text(json.dumps({"lds": table, "by_topic": found}, indent=2) + "\n")
    print(pl.DataFrame([{"ranking": name, **row} for name, row in table.items()]), file=sys.stderr)
    return table


if __name__ == "__main__":
    main()
