"""Training the stages of a plan in the order of its graph; a stage that fails leaves the others."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from . import progress
from .distributed import Failed, processes
from .nouns import BadInput, Checkpoint, Stopped, digest
from .plan import BASE, Node, Plan, original_names
from .resolve import anchored_of, records_of, resolve_model, stage_folder
from .store import Store


def train_all(
    plan: Plan, store: Store, engine: Any
) -> tuple[list[dict[str, Any]], list[Checkpoint], list[Checkpoint], list[dict[str, Any]]]:
    """Return the trained stages, their checkpoints, the reward models, and what failed. Raises the first failure where all failed.

    A stage is handed to the engine as soon as what it needs is trained.
    """
    from .models import loading

    base = resolve_model(plan.model)
    last = {(BASE, seed): (base, loading.weights_digest(base)) for seed in plan.seeds}
    trained: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    failed: dict[tuple[str, int], str] = {}
    errors: list[BaseException] = []
    nodes = {(node.name, node.seed): node for node in plan.nodes()}
    waiting, running = dict(nodes), set[tuple[str, int]]()
    try:
        while waiting or running:
            for key, node in list(waiting.items()):
                needs = [(name, node.seed) for name in (node.parent, node.reward) if name]
                if missing := next((name for name, seed in needs if (name, seed) in failed), ""):
                    failed[key] = f"{missing}, which it needs, failed"
                elif len(running) < engine.slots and all(need in last for need in needs):
                    reward = last[node.reward, node.seed] if node.reward else None
                    engine.submit(key, node.stage.resources, _train, node, *last[node.parent, node.seed], reward, store.root)
                    running.add(key)
                else:
                    continue
                del waiting[key]
            if not running:
                continue
            try:
                key, trained[key] = engine.next()
            except Failed as failure:  # whatever stops one stage of a night's work must not stop the others
                if processes.world_size() > 1:  # the others wait in the middle of it
                    raise failure.error from failure
                key = failure.key
                if not isinstance(failure.error, BadInput | Stopped):
                    progress.say("".join(traceback.format_exception(failure.error)).rstrip())
                errors.append(failure.error)
                failed[key] = str(failure.error) or type(failure.error).__name__
                progress.say(f"{key[0]}, seed {key[1]}, failed: {failed[key]}")
            else:
                folder, record = trained[key]
                end = f"{folder}/checkpoint-{record['steps'][-1]}"
                last[key] = (end, loading.weights_digest(end))
            running.discard(key)
    except BaseException:
        engine.stop()
        raise
    stages: list[dict[str, Any]] = []
    checkpoints: list[Checkpoint] = []
    rewards: list[Checkpoint] = []
    for key, node in nodes.items():
        if key in failed:
            continue
        folder, record = trained[key]
        paths = [(0, last[node.parent, node.seed][0]), *((step, f"{folder}/checkpoint-{step}") for step in record["steps"])]
        if node.stage.scores:  # a reward model answers nothing
            rewards.append(Checkpoint(node.name, paths[-1][0], *last[key], seed=node.seed))
            continue
        settings = node.stage.model_dump(exclude={"after", "max_bad_rows", "resources"}), node.stage.own().model_dump()
        stages.append(
            {
                "name": node.name,
                "after": node.parent,
                "seed": node.seed,
                "algorithm": node.stage.algorithm,
                "data": node.stage.data,
                "sweep": dict(node.sweep),
                "settings": digest("settings", *map(original_names, settings)),
                "total_steps": record["steps"][-1],
                "steps": [step for step, _ in paths],
                "seconds": record.get("seconds"),
                "dropped": record.get("dropped", 0),
                "read": record["read"],
            }
        )
        checkpoints += [describe(path, node.name, step, node.seed, plan.frame) for step, path in paths]
    if errors and not stages:
        raise errors[0]
    return stages, checkpoints, rewards, [{"name": name, "seed": seed, "reason": reason} for (name, seed), reason in failed.items()]


def _train(node: Node, parent: str, parent_weights: str, reward: tuple[str, str] | None, root: Path) -> tuple[Path, dict[str, Any]]:
    """Train a node from the weights at `parent`; `reward` is where its reward model stands, and the digest of its weights."""
    from .records import digest_of
    from .train.saved_stage import Done
    from .train.stage_trainer import run_stage

    records = records_of(node)
    folder = stage_folder(node, parent_weights, digest_of(records), root, reward[1] if reward else "")
    with progress.training(f"train {node.name}, seed {node.seed}") as tell:
        steps = run_stage(node.stage, node.seed, parent, records, folder, tell, reward[0] if reward else "", anchored_of(node))
    read = [account.as_json() for account in records.accounts]
    return folder, Store(folder).read_json("done.json", Done, {}) | {"steps": steps, "read": read}


def describe(path: str, stage: str, step: int, seed: int = 0, frame: str = "auto") -> Checkpoint:
    """Return the checkpoint behind a folder, named by the content of its weights and the frame it will be asked in."""
    from .models import chat_format, loading

    if path.startswith(loading.API):
        return Checkpoint(stage, step, path, loading.weights_digest(path), "server", seed)
    loading.check_causal(path)
    template = None if frame == "plain" else loading.chat_template(path)
    return Checkpoint(stage, step, path, loading.weights_digest(path), chat_format.frame_digest(template), seed)
