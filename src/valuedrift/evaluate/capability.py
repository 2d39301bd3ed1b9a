"""What checkpoints can do, on the same axis as what they value: tasks of lm-evaluation-harness, each kept by content."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from .. import progress, registry
from ..models.files import reason_of
from ..nouns import BadInput, Checkpoint, digest
from ..plan import EvaluationSettings
from .visit import Evaluation, Visit

SCHEMA: dict[str, Any] = {
    "stage": pl.String,
    "step": pl.Int64,
    "seed": pl.Int64,
    "task": pl.String,
    "metric": pl.String,
    **dict.fromkeys(("value", "stderr", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
ABOUT = ("sample_len", "sample_count")
"""Entries among a task's metrics that are not metrics."""
Z = 1.96
"""Standard errors to either side of a value: the normal interval, which is what the harness's standard errors are meant for."""
FIELDS = ("value", "stderr", "n")
"""The stored numbers of each metric."""


def collect(visit: Visit) -> None:
    """Have the harness evaluate a checkpoint on the tasks that are not stored yet.

    A task is a name that lm-evaluation-harness knows, or the YAML file of one. It is put as the harness puts it, without a chat template.
    Raises BadInput if the package is missing, a task is unknown, or it cannot be run.
    """
    settings = visit.evaluation.settings
    release = _release() if settings.capability else ""
    keys = {task: f"{_key(settings, task, visit.checkpoint)} {release}" for task in settings.capability}
    missing = {task: key for task, key in keys.items() if key not in visit.evaluation.numbers}
    if not missing:
        return
    found = _evaluated(visit, list(missing))
    for task, key in missing.items():
        visit.numbers[key] = float(len(found[task]))
        for row in found[task]:
            visit.numbers.update({f"{key} {json.dumps([row['task'], row['metric'], name])}": row[name] for name in FIELDS})


def capability_scores(evaluation: Evaluation) -> pl.DataFrame:
    """Return one row per checkpoint, task and metric, columns of SCHEMA, from the stored numbers."""
    found: dict[str, dict[str, dict[tuple[str, str], dict[str, Any]]]] = {}
    """Key of a task on a checkpoint -> release of the harness -> (task, metric) -> its numbers."""
    for key, value in evaluation.numbers.items():
        if "[" in key:
            task_key, release, named = key.split(" ", 2)
            task, metric, name = json.loads(named)
            found.setdefault(task_key, {}).setdefault(release, {}).setdefault((task, metric), {})[name] = value
    rows = []
    for checkpoint in evaluation.checkpoints:
        at = {"stage": checkpoint.stage, "step": checkpoint.step, "seed": checkpoint.seed}
        for named in evaluation.settings.capability:
            by_release = found.get(_key(evaluation.settings, named, checkpoint), {"": {}})
            for (task, metric), row in by_release[max(by_release)].items():
                low, high = (None if row["stderr"] is None else row["value"] + way * Z * row["stderr"] for way in (-1, 1))
                n = None if row["n"] is None else int(row["n"])
                rows.append(at | {"task": task, "metric": metric} | row | {"low": low, "high": high, "n": n})
    return pl.DataFrame(rows, schema=SCHEMA)


def _key(settings: EvaluationSettings, task: str, checkpoint: Checkpoint) -> str:
    said = Path(task).read_text() if Path(task).suffix == ".yaml" and Path(task).exists() else task
    return digest("capability", said, settings.capability_limit, checkpoint.model_key)


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise BadInput if lm-evaluation-harness is missing, or a task is neither one that it knows nor a file."""
    _release()
    known = _tasks(tasks)
    for task in tasks:
        if Path(task).suffix != ".yaml" and task not in known.all_tasks:
            raise BadInput(f"unknown task {task!r}{registry.nearest(task, known.all_tasks) or '.'} List all with: lm-eval ls tasks")
        _name(task)


def _release() -> str:
    try:
        return version("lm-eval")
    except ModuleNotFoundError as error:
        raise BadInput("capability needs the package lm-eval; install it with: pip install 'valuedrift[lm-eval]'") from error


def _tasks(tasks: Sequence[str]) -> Any:
    """Return the harness's tasks, those in the folders of task files among them."""
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folders = sorted({str(Path(task).resolve().parent) for task in tasks if Path(task).suffix == ".yaml"})
    return TaskManager(include_path=folders or None)


def _evaluated(visit: Visit, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of every task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    settings, checkpoint = visit.evaluation.settings, visit.checkpoint
    model, tokenizer = visit.models.get(checkpoint)
    tasks = _tasks(names)
    harness: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_rows // 16 or 1)
    found = {}
    for task in names:
        progress.say(f"{task} of {checkpoint.stage} step {checkpoint.step}")
        try:
            result: Any = lm_eval.simple_evaluate(
                model=harness, tasks=[_name(task)], limit=settings.capability_limit, task_manager=tasks, log_samples=False
            )
        except (KeyError, ValueError, OSError, ConnectionError) as error:
            raise BadInput(f"the task {task!r} cannot be run: {reason_of(error)}; name one that lm-evaluation-harness knows") from error
        found[task] = _rows(result)
    return found


def _name(task: str) -> str:
    import yaml

    if Path(task).suffix != ".yaml":
        return task
    if not Path(task).is_file():
        raise BadInput(f"there is no task file {task}; give the YAML file of a task, or a name that lm-evaluation-harness knows")
    settings = yaml.load(Path(task).read_text(), Loader=yaml.BaseLoader)
    return str(settings["task"])


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of one evaluation, those of a group's tasks among them."""
    rows = []
    for task, metrics in result["results"].items():
        n = (result["n-samples"].get(task) or {}).get("effective")
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if metric.endswith("_stderr") or metric in ABOUT or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{kind}")
            stderr = float(stderr) if isinstance(stderr, int | float) else None
            shown = metric if kind in ("", "none") else f"{metric} ({kind})"
            rows.append({"task": task, "metric": shown, "value": float(value), "stderr": stderr, "n": n})
    return rows
