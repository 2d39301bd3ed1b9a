"""Trains the stages of a plan in the order of its graph; a stage that fails leaves the others."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import progress
from .distributed import Engine, Failed
from .models.precision import dtype_of
from .nouns import BadInput, Checkpoint, StageRecord, Stopped, digest
from .plan import BASE, EvaluationSettings, Node, Plan, original_names
from .records import digest_of
from .resolve import resolve_model, stage_folder
from .store import Store
from .train.task import Task, records_of, train

Key = tuple[str, int]
"""The name of a stage and its seed."""
End = tuple[str, str]
"""The path of a stage's last checkpoint and the digest of its weights."""


@dataclass
class Trained:
    """What became of a plan's stages."""

    stages: list[StageRecord] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    rewards: list[Checkpoint] = field(default_factory=list)
    """The reward models, which answer nothing."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """The name, seed and reason of each stage that failed."""


@dataclass
class _Graph:
    """The stages of a plan while they are trained."""

    ends: dict[Key, End]
    """Of every finished stage; under the name "base", the plan's model."""
    done: dict[Key, tuple[Path, dict[str, Any]]] = field(default_factory=dict)
    """The folder and the record of every finished stage."""
    failed: dict[Key, str] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)


def train_all(plan: Plan, store: Store, engine: Engine, launcher: str = "") -> Trained:
    """Train the stages of a plan. Raises the first failure if all stages failed.

    A stage goes to the engine as soon as the stages that it needs are trained. With `launcher`, that command trains it in its processes.
    """
    from .models import loading

    base = resolve_model(plan.model)
    graph = _Graph({(BASE, seed): (base, loading.weights_digest(base)) for seed in plan.seeds})
    nodes = {(node.name, node.seed): node for node in plan.nodes()}
    waiting, running = dict(nodes), set[Key]()
    try:
        while waiting or running:
            for key in _ready(graph, waiting):
                if len(running) < engine.slots:
                    _submit(graph, engine, waiting.pop(key), store.root, launcher)
                    running.add(key)
            if running:
                running.remove(_next(graph, engine))
    except BaseException:
        engine.stop()
        raise
    found = Trained(failed=[{"name": name, "seed": seed, "reason": reason} for (name, seed), reason in graph.failed.items()])
    for key, node in nodes.items():
        if key in graph.done:
            _record(found, graph, node, plan)
    if graph.errors and not found.stages:
        raise graph.errors[0]
    return found


def _ready(graph: _Graph, waiting: dict[Key, Node]) -> list[Key]:
    """Return the waiting stages that can start. Stages that need a failed stage fail too."""
    ready = []
    for key, node in list(waiting.items()):
        needs = [(name, node.seed) for name in (node.parent, node.reward) if name]
        if missing := next((name for name, seed in needs if (name, seed) in graph.failed), ""):
            graph.failed[key] = f"{missing}, which it needs, failed"
            del waiting[key]
        elif all(need in graph.ends for need in needs):
            ready.append(key)
    return ready


def _submit(graph: _Graph, engine: Engine, node: Node, root: Path, launcher: str) -> None:
    reward = graph.ends[node.reward, node.seed] if node.reward else ("", "")
    engine.submit(
        (node.name, node.seed), node.stage.resources, train_node, node, graph.ends[node.parent, node.seed], reward, root, launcher
    )


def _next(graph: _Graph, engine: Engine) -> Key:
    """Wait for a stage to end; return its key. A failure is reported, because it must not stop the other stages of a long run."""
    from .models import loading

    try:
        key, (folder, record) = engine.next()
    except Failed as failure:
        if not isinstance(failure.error, BadInput | Stopped):
            progress.say("".join(traceback.format_exception(failure.error)).rstrip())
        graph.errors.append(failure.error)
        graph.failed[failure.key] = str(failure.error) or type(failure.error).__name__
        progress.say(f"{failure.key[0]}, seed {failure.key[1]}, failed: {graph.failed[failure.key]}")
        return failure.key
    graph.done[key] = folder, record
    end = f"{folder}/checkpoint-{record['steps'][-1]}"
    graph.ends[key] = end, loading.weights_digest(end)
    return key


def train_node(node: Node, parent: End, reward: End, root: Path, launcher: str) -> tuple[Path, dict[str, Any]]:
    """Train a stage from the weights at `parent` with the reward model at `reward`; return its folder and its record."""
    records = records_of(node.stage)
    content = digest_of(records)
    folder = stage_folder(node, parent[1], content, root, reward[1])
    task = Task(node.name, node.seed, node.stage, *parent, content, reward[0])
    return folder, train(task, folder, records, launcher) | {"read": [account.as_json() for account in records.accounts]}


def _record(found: Trained, graph: _Graph, node: Node, settings: EvaluationSettings) -> None:
    """Add a trained stage and its checkpoints, or a reward model."""
    from .train import saved_stage

    key = node.name, node.seed
    folder, record = graph.done[key]
    paths = [(0, graph.ends[node.parent, node.seed][0]), *((step, f"{folder}/checkpoint-{step}") for step in record["steps"])]
    if node.stage.scores:
        dtype = dtype_of(paths[-1][1], settings.dtype)
        found.rewards.append(Checkpoint(node.name, paths[-1][0], *graph.ends[key], seed=node.seed, dtype=dtype))
        return
    trained_with = node.stage.model_dump(exclude={"after", "max_bad_rows", "resources"}), node.stage.own().model_dump()
    found.stages.append(
        StageRecord(
            name=node.name,
            after=node.parent,
            seed=node.seed,
            algorithm=node.stage.algorithm,
            data=node.stage.data,
            sweep=dict(node.sweep),
            settings=digest("settings", *map(original_names, trained_with)),
            total_steps=record["steps"][-1],
            steps=[step for step, _ in paths],
            seconds=record["seconds"],
            dropped=record["dropped"],
            precision=saved_stage.record(folder, record["steps"][-1]).get("precision"),
            read=record["read"],
        )
    )
    found.checkpoints += [describe(path, node.name, step, settings, node.seed) for step, path in paths]


def describe(path: str, stage: str, step: int, settings: EvaluationSettings, seed: int = 0) -> Checkpoint:
    """Return the checkpoint in a folder, named by the content of its weights, its prompt format and its precision."""
    from .models import chat_format, loading

    if path.startswith(loading.API):
        if settings.dtype != "auto":
            raise BadInput(f"{path} runs in its server's precision; remove dtype = {settings.dtype!r}")
        return Checkpoint(stage, step, path, loading.weights_digest(path), "server", seed, dtype="")
    loading.check_causal(path)
    template = None if settings.prompt_format == "plain" else loading.chat_template(path)
    dtype = dtype_of(path, settings.dtype, merges=settings.backend != "vllm")
    return Checkpoint(stage, step, path, loading.weights_digest(path), chat_format.format_digest(template), seed, dtype)
