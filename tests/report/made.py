"""A synthetic run folder: what the report reads, with hostile texts, refusals, failed verdicts and topics without evidence."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from pathlib import Path

import polars as pl

from valuedrift.nouns import OUTCOMES, STANCES, Answer, Checkpoint, Prompt
from valuedrift.store import Store

HOSTILE = '</script><img src=x onerror="document.title=1">'
BRANCHED = (("sft", "base"), ("dpo-support", "sft"), ("dpo-oppose", "sft"))
TOPICS = ("climate", "silent", "work")
"""The topic "silent" never gets a readable answer."""
VIEWS = ("claim", "axis")
STEPS = (0, 1, 4, 20, 100)


def make_run(root: Path, branches=BRANCHED, topics=TOPICS, n_prompts=3, n_draws=2, steps=STEPS, note="It is weak.", hostile=True) -> Store:
    store = Store(root)
    chance = random.Random(7)
    prompts = [
        Prompt(f"{topic}-{k}", topic, f"What about {topic}, side {k}?", f"Claim {k} about {topic} is right.", (1, -1, 0)[k % 3])
        for topic in topics
        for k in range(n_prompts)
    ]
    if hostile:
        prompts[0] = dataclasses.replace(prompts[0], text=f"Is {HOSTILE} fair?", claim=f"{HOSTILE} is fair.")
    points = [(stage, step) for stage, _ in branches for step in steps]
    shares = _shares(branches, topics, steps, chance)
    checkpoints = [Checkpoint(stage, step, f"made/{stage}/checkpoint-{step}", f"weights-{stage}-{step}") for stage, step in points]
    store.write_json("checkpoints.json", [dataclasses.asdict(checkpoint) for checkpoint in checkpoints])
    store.write_json("stages.json", [_stage(name, after, steps) for name, after in branches])
    store.write_json("prompts.json", [dataclasses.asdict(prompt) for prompt in prompts])
    store.write_json("provenance.json", _provenance(note, hostile))
    profiles, drifts = _profiles(shares, n_prompts, n_draws), _drifts(shares, branches, topics, steps, n_prompts, chance)
    tables = {"profiles": profiles, "drifts": drifts, "scores": _scores(store, prompts, points, n_draws, shares, chance, hostile)}
    store.publish({f"{name}.parquet": pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()})
    return store


def _stage(name, after, steps):
    return {"name": name, "after": after, "seed": 0, "algorithm": name[:3], "data": "sandbox:pairs?gap=1", "total_steps": steps[-1]} | {
        "steps": list(steps),
        "seconds": 41.5,
    }


def _provenance(note, hostile):
    plan = {
        "model": HOSTILE if hostile else "sandbox:base",
        "suite": "vaes",
        "judge": "cues",
        "draws": 2,
        "stage": {"sft": {"algorithm": "sft"}},
    }
    return {
        "versions": {"valuedrift": "0.1.0", "torch": "2.13.0"},
        "commit": "0123abc",
        "plan": plan,
        "seeds": [0],
        "devices": ["cpu"],
        "timings": {"train": 12.3456, "sample": 30.0},
        "view": "claim",
        "judge": {"identity": "cues/abc", "note": note, "headlined": True, "why": ""},
        "notes": ["The chat template changed between sft step 0 and step 1."],
    }


def _shares(branches, topics, steps, chance):
    """Return shares of the five outcomes per (stage, step, topic); a stage starts where the one before it ended."""
    shares = {}
    for topic in topics:
        ends = {"base": [0.34, 0.33, 0.33]}
        for stage, after in branches:
            start, goal = ends[after], [chance.uniform(0.05, 1) for _ in STANCES]
            for step in steps:
                way = 1 / (1 + math.exp(-2 * (math.log1p(step) - math.log1p(steps[-1]) / 2))) if step else 0
                mixed = [(1 - way) * a + way * b + (chance.uniform(0, 0.02) if step else 0) for a, b in zip(start, goal, strict=True)]
                now = [value / sum(mixed) for value in mixed]
                shares[stage, step, topic] = [*now, 0.02 + 0.1 * way, 0.2 * (1 - way) if after == "base" else 0.01]
            ends[stage] = now
    return shares


def _profiles(shares, n_prompts, n_draws):
    rows = []
    points = dict.fromkeys((stage, step) for stage, step, _ in shares)
    topics = dict.fromkeys(topic for *_, topic in shares)
    for view, (stage, step) in itertools.product(VIEWS, points):
        heard = [topic for topic in topics if topic != "silent"]
        mean = [sum(shares[stage, step, topic][o] for topic in heard) / len(heard) for o in range(5)]
        for topic in ("all", *topics):
            values = mean if topic == "all" else shares[stage, step, topic]
            wide = 0.04 if topic == "all" else 0.13
            for value, outcome in zip(values, OUTCOMES, strict=True):
                row = {"stage": stage, "step": step, "view": view, "topic": topic, "outcome": outcome}
                known = {"value": value, "low": max(0.0, value - wide * 0.9), "high": min(1.0, value + wide), "n": n_prompts}
                rows.append(
                    row | (EMPTY if topic == "silent" else known) | {"n_answers": n_prompts * n_draws, "n_failed": int(topic == "silent")}
                )
    return rows


EMPTY = {"value": None, "low": None, "high": None, "n": 0}


def _drifts(shares, branches, topics, steps, n_prompts, chance):
    rows = []
    for (stage, _), view in itertools.product(branches, VIEWS):
        for topic in ("all", *topics):
            for o, stance in enumerate(OUTCOMES):
                row = {"stage": stage, "view": view, "topic": topic, "stance": stance, "from_step": steps[0], "to_step": steps[-1]}
                if topic == "silent":
                    absent = dict.fromkeys(("p", "p_adjusted", "floor", "detectable", "time", "time_low", "time_high", "paper_time"))
                    rows.append(row | EMPTY | absent | {"resolved": False, "status": "no evidence"})
                    continue
                heard = [topic] if topic != "all" else [name for name in topics if name != "silent"]
                value = sum(shares[stage, steps[-1], name][o] - shares[stage, steps[0], name][o] for name in heard) / len(heard)
                value /= 1 + (view == "axis")
                resolved = abs(value) > 0.15
                time = chance.uniform(0.05, 0.9) if resolved else None
                rows.append(
                    row
                    | {"value": value, "low": value - 0.11, "high": value + 0.12, "n": n_prompts}
                    | {"p": 0.0004 if resolved else 0.2, "p_adjusted": 0.00091 if resolved else 0.61234, "resolved": resolved}
                    | {"floor": 0.0213, "detectable": 0.14321 + 0.01 * o, "time": time}
                    | {"time_low": time and time - 0.03, "time_high": time and time + 0.05, "paper_time": time}
                    | {"status": ("non-monotone" if o == 1 else "reached") if resolved else "no drift"}
                )
    return rows


def _scores(store, prompts, points, n_draws, shares, chance, hostile):
    answers, rows = [], []
    for stage, step in points:
        for prompt in prompts:
            for draw in range(n_draws):
                probs = shares[stage, step, prompt.topic]
                o = chance.choices(range(5), probs)[0]
                text = f"{OUTCOMES[o].capitalize()}: on {prompt.topic} I would say so, and this is why it matters to me."
                if hostile and draw == 0:
                    text += f" {HOSTILE} <!-- & \u2028"
                key = f"{stage}-{step}-{prompt.id}-{draw}"
                answers.append(Answer(key, f"weights-{stage}-{step}", prompt.id, draw, text, "stop", 20))
                failed = prompt.topic == "silent"
                read = dict.fromkeys(OUTCOMES) if failed else {name: 0.9 if k == o else 0.025 for k, name in enumerate(OUTCOMES)}
                row = {"stage": stage, "step": step, "seed": 0, "repeat": False, "topic": prompt.topic, "prompt": prompt.id}
                rows.append(
                    row | {"polarity": prompt.polarity, "draw": draw, "answer": key} | read | {"failure": "unparsed" if failed else None}
                )
    store.add_answers(answers)
    return rows
