"""Write the archive: the drifts of traced runs, with the features of every rung.

python experiments/forecast/features.py runs/forecast/archive runs/forecast/archive.parquet
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lines
import polars as pl
import probe

from valuedrift import resolve
from valuedrift.forecast import archive
from valuedrift.forecast.starts import Starts, architecture
from valuedrift.judge.cache import CachedJudge
from valuedrift.plan import EvaluationSettings
from valuedrift.stats import gap
from valuedrift.store import Store
from valuedrift.train.task import records_of

SETTINGS = EvaluationSettings(judge="oracle", draws=4, max_new_tokens=96, floor=False, side_metrics=False, batch_rows=1100)


def main(run: Path, out: Path) -> None:
    store, judge = Store(run), CachedJudge(resolve.judge_of("oracle"), None)
    scores, texts, prompts = store.read_table("scores"), store.texts(), store.prompts()
    starts, probes = Starts(SETTINGS, run.parent), dict[str, probe.Probe]()
    by_lines: dict[tuple[str, str], Any] = {}
    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(rung: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds.setdefault(rung, []).append(time.monotonic() - began)

    for training in archive.trainings(store):
        if training.name == "start":
            continue
        path = training.start.path
        answers = starts.answers(path)
        with timed("gradients of the start" if training.start.weights not in probes else "gradients of the start, kept"):
            model = starts.influence(path, None, prompts)
        if training.start.weights not in probes:
            probes[training.start.weights] = probe.Probe(model, answers, {prompt.id: prompt for prompt in prompts})
        probed = probes[training.start.weights]
        data = records_of(training.stage)
        with timed("gap"):
            replies = gap.read(data, prompts, judge)
        first, last = (scores.filter(stage=at.stage, step=at.step, seed=at.seed, repeat=False) for at in (training.start, training.end))
        before, after, resolved = archive.levels(first, texts), archive.levels(last, texts), archive.resolved(first, last)
        with timed("gradients"):
            moved = model.forecast(training.stage, training.seed, data)
        if (at := (training.stage.data, training.start.weights)) not in by_lines:  # the algorithm plays no part
            with timed("lines"):
                by_lines[at] = lines.feature(model, data, list(dict.fromkeys(topic for topic, _ in before)))
        with timed("probe"):
            probed_at = probed.feature(training.start.path, training.stage, data, run.with_name("probe"))
        name = {
            "architecture": architecture(training.end.path),
            "data": Path(training.stage.data).name.split(".")[0],
            "seed": training.seed,
        }
        for row in archive.rows_of(training.stage, len(data), replies, before, moved):
            key = row["topic"], row["measure"]
            tried = {"lines": by_lines[at][key]["lines"], "probe": probed_at.get(key, {"probe": None})["probe"]}
            rows.append(name | row | tried | {"after": after[key][0], "resolved": resolved.get(key, False)})
        print(training.name, training.seed, {rung: round(sum(took) / len(took), 2) for rung, took in seconds.items()}, file=sys.stderr)
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
