"""A large run: many checkpoints with all 550 questions and 5 answers each, judged, analysed and reported again.

    .venv/bin/python benchmarks/load.py [--checkpoints 20 200] [--folder runs/load] [--json]

A fake backend writes answers of about 60 words, nearly all different, whose stance drifts over the steps. Then `valuedrift judge`
reads the stored verdicts of a fake judge, analyses and reports, in a process of its own: it prints seconds, peak memory and page size.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from valuedrift import pipeline, registry, testing
from valuedrift.nouns import Checkpoint, StageRecord
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

WORDS = [
    "the",
    "of",
    "a",
    "people",
    "work",
    "time",
    "law",
    "state",
    "right",
    "cost",
    "care",
    "money",
    "school",
    "city",
    "rule",
    "life",
    "point",
]
STANCES = ("I fully support this.", "There are good points on both sides.", "I am against this.", "I cannot answer that.")


class Answers(testing.Backend):
    """Answers whose support rises with the step."""

    def says(self, checkpoint, prompt, draw):
        chance = random.Random(f"{checkpoint.step} {prompt.id} {draw}")
        weights = (1 + checkpoint.step / 400, 1, 1, 0.1)
        return " ".join([chance.choices(STANCES, weights)[0], *chance.choices(WORDS, k=55)]) + "."


class Reader(testing.Judge):
    """Knows the sentence that an answer begins with."""

    def finds(self, item):
        return ("support", "neutral", "oppose", "refusal")[next(k for k, words in enumerate(STANCES) if item.text.startswith(words))]


def make(folder, n):
    """Write the answers of `n` checkpoints, and judge, analyse and report them."""
    steps = [10 * number for number in range(n)]
    settings = EvaluationSettings(judge="load", backend="load", floor=False)
    work = pipeline.Work(Store(folder), settings, registry.find("engine", "local")())
    checkpoints = [Checkpoint("sft", step, f"made/checkpoint-{step}", f"weights-{step}") for step in steps]
    with work.store.locked():
        pipeline.begin(work, [StageRecord.untrained("sft", "base", steps, steps[-1])], checkpoints, settings.model_dump())
        pipeline.carry_out(work, pipeline.evaluate, pipeline.judge, pipeline.analyse)


def again(folder):
    """Judge, analyse and report the stored answers; print what it took as JSON."""
    import resource

    import polars as pl

    started = time.monotonic()
    result = pipeline.rejudge(folder, {"judge": "load"})
    seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    timings = json.loads((folder / "provenance.json").read_text())["timings"] | {"all": round(seconds, 1)}
    drift = next(row for row in result["drifts"] if (row["topic"], row["stance"], row["view"]) == ("all", "support", "claim"))
    found = {"answers": pl.read_parquet(folder / "scores.parquet").height, "seconds": timings, "peak_gib": round(peak, 2)}
    print(json.dumps(found | {"page_mb": (folder / "report.html").stat().st_size / 1e6, "drift": drift["value"]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--folder", type=Path, help="keep the runs here; runs that are there are used again")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        with testing.offering("backend", load=Answers), testing.offering("judge", load=Reader):
            make(given.folder, int(given.only)) if given.only != "again" else again(given.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        found = {}
        for n in given.checkpoints:
            folder = (given.folder or Path(made)) / str(n)
            call = [sys.executable, __file__, "--folder", str(folder), "--only"]
            if not (folder / "report.html").exists():
                subprocess.run([*call, str(n)], check=True, stdout=2)
            done = subprocess.run([*call, "again"], check=True, stdout=subprocess.PIPE, text=True)
            found[n] = json.loads(done.stdout.splitlines()[-1])
            if not given.json:
                print(f"{n} checkpoints: {found[n]}", flush=True)
        if given.json:
            print(json.dumps(found))


if __name__ == "__main__":
    main()
