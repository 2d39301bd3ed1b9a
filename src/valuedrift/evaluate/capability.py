"""What checkpoints can do, on the same axis as what they value: tasks of lm-evaluation-harness, each kept by content."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from .. import progress, registry
from ..models.loading import load_model, reason_of
from ..nouns import BadInput, Checkpoint, digest
from ..plan import Asking
from ..store import Store

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
"""What stands among a task's metrics and is none."""
Z = 1.96
"""Standard errors to either side of a value: the normal interval, which is what the harness's standard errors are meant for."""


def capability_scores(store: Store, asking: Asking, checkpoints: Sequence[Checkpoint]) -> pl.DataFrame:
    """Return one row per checkpoint, task and metric, columns of SCHEMA; computes what the store does not hold yet.

    A task is a name that lm-evaluation-harness knows, or the YAML file of one. It is put as the harness puts it, without a chat template.
    Raises BadInput if the package is missing, a task is unknown, or it cannot be run.
    """
    release = _release()
    rows: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        found: dict[str, list[dict[str, Any]]] = {}
        for task in asking.capability:
            said = Path(task).read_text() if Path(task).suffix == ".yaml" and Path(task).exists() else task
            name = f"capability/{digest('capability', release, said, asking.capability_limit, checkpoint.weights)}.json"
            if (stored := store.read_json(name, list[dict[str, Any]])) is None:
                found = found or _evaluated(checkpoint, asking)
                stored = store.read_json(str(store.write_json(name, found[task]).relative_to(store.root)))
            at = {"stage": checkpoint.stage, "step": checkpoint.step, "seed": checkpoint.seed}
            rows += [at | row for row in stored]
    return pl.DataFrame(rows, schema=SCHEMA)


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


def _evaluated(checkpoint: Checkpoint, asking: Asking) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every task for a checkpoint."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_model(checkpoint.path)
    tasks = _tasks(asking.capability)
    harness: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=asking.batch_rows // 16 or 1)
    found = {}
    for task in asking.capability:
        progress.say(f"{task} of {checkpoint.stage} step {checkpoint.step}")
        try:
            result: Any = lm_eval.simple_evaluate(
                model=harness, tasks=[_name(task)], limit=asking.capability_limit, task_manager=tasks, log_samples=False
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
            ends = (None, None) if stderr is None else (value - Z * stderr, value + Z * stderr)
            shown = metric if kind in ("", "none") else f"{metric} ({kind})"
            row = {"task": task, "metric": shown, "value": float(value), "stderr": stderr, "low": ends[0], "high": ends[1]}
            rows.append(row | {"n": n})
    return rows
