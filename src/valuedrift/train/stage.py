"""Trains one stage into one folder, and resumes after a kill at any moment."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import StackDataset
from transformers import TrainingArguments, set_seed

from .. import registry
from ..models import precision
from ..nouns import BadInput, Example, Pair, digest
from ..plan import Stage
from ..records.stances import Anchored
from ..store import Store
from . import BaseAlgorithm, anchor, collation, processes, rollout, saved_stage, starting, step_counts
from .stage_trainer import Progress, Scheduled, StageTrainer, checkpointing


def run_stage(
    stage: Stage,
    seed: int,
    model_path: str,
    data: Sequence[Pair] | Sequence[Example],
    out: Path,
    progress: Progress | None = None,
    reward_path: str = "",
    anchored: Sequence[Anchored] = (),
) -> list[int]:
    """Train one stage into `out` and return the steps it was saved at, each an ordinary model folder `out`/checkpoint-STEP.

    Writes `out`/done.json last (steps, total, seconds, losses, dropped). If it exists, nothing is done. An interrupted training resumes
    from the newest complete checkpoint and ends with the same bytes. The starting weights' log-probs are stored in the folder `reference`
    beside `out`, where other stages find them. `progress(step, total, loss)` is called at every step. `reward_path` is the reward model's
    folder, if the setting `reward` is not a path itself. `anchored` are the questions of the stage's anchor, if it has one.

    Raises BadInput for data that the algorithm cannot use, a model that cannot be read, a full disk, and a folder of another stage.
    """
    check_processes(stage)
    algorithm = registry.algorithm(stage.algorithm)(stage.own())
    check_data(stage.algorithm, algorithm.data_format, data)
    if hasattr(algorithm, "run"):
        return algorithm.run(stage, seed, model_path, data, out, progress, reward_path)
    if "rollouts" in algorithm.needs and not (reward_path := reward_path or algorithm.settings.reward):
        raise BadInput(f"{stage.algorithm} has no reward model; set reward to a stage that trains one, or to a folder")
    check_anchor(stage, data, anchored)
    held = [[dataclasses.astuple(item) for item in anchored]] if anchored else []
    key = digest("stage", stage.trained_by(), seed, [dataclasses.astuple(item) for item in data], *held)
    return saved_stage.train_once(
        Store(out), key, lambda: _train(algorithm, stage, seed, model_path, data, out, reward_path, anchored, progress)
    )


def _train(
    algorithm: BaseAlgorithm,
    stage: Stage,
    seed: int,
    model_path: str,
    data: Any,
    out: Path,
    reward_path: str,
    anchored: Sequence[Anchored],
    progress: Progress | None,
) -> tuple[list[int], int, int]:
    """Train the checked stage; return the steps saved, the total steps, and the number of records dropped."""
    begun = begin(algorithm, stage, seed, model_path, data, out)
    if begun.newest < begun.total:
        seen, order = np.unique(begun.order, return_inverse=True)
        records = [begun.records[index] for index in seen]
        set_seed(seed)  # before the model: an adapter starts with random weights
        model, collate = _model(begun, stage, algorithm, records)
        rollouts = None
        if "rollouts" in algorithm.needs:  # before the Trainer: after it, DeepSpeed shards every model that is loaded
            asked = [records[index] for index in order]
            rollouts = rollout.Rollouts(algorithm, stage, seed, asked, model, begun.tokenizer, reward_path, processes.device())
        trainer = StageTrainer(
            algorithm,
            progress,
            model=model,
            data_collator=collate,
            args=training_arguments(stage, seed, out, begun.total, begun.start),
            processing_class=begun.tokenizer,
            callbacks=[Scheduled(begun.steps, begun.seconds)],
        )
        checkpointing(trainer)
        if anchored:
            n_samples = begun.total * stage.effective_batch_size
            trainer.anchor = anchor.Anchor(stage, seed, n_samples, anchored, begun.tokenizer, trainer)
        if rollouts is not None:
            trainer.rollouts = rollouts
            if begun.checkpoint:
                rollouts.load(Path(begun.checkpoint))
        trainer.train_dataset = _dataset(trainer, stage, records, order)
        torch.manual_seed(seed + processes.rank())  # each process has its own dropout
        trainer.train(resume_from_checkpoint=begun.checkpoint)
    return begun.steps, begun.total, begun.dropped


@dataclasses.dataclass(frozen=True)
class Begun:
    """A stage before its first step, or its first after a resume."""

    start: str
    """The starting weights, without an adapter."""
    tokenizer: Any
    records: list[Any]
    """The token ids of the records that fit."""
    kept: list[int]
    """Their indices in the data."""
    dropped: int
    order: np.ndarray
    """The index of the record at each position of the training."""
    steps: list[int]
    """The steps to save at."""
    total: int
    newest: int
    """The step of the newest complete checkpoint, or 0."""
    checkpoint: str | None
    """Its folder."""
    seconds: float
    """The training time so far."""


def begin(algorithm: BaseAlgorithm, stage: Stage, seed: int, model_path: str, data: Any, out: Path) -> Begun:
    """Return what a stage begins or resumes with. Raises BadInput if no record fits."""
    start = processes.broadcast(lambda: starting.merged(model_path, out))
    tokenizer = starting.load_tokenizer(start, chat=any(item.prompt for item in data))
    records, kept = collation.fitting(stage, algorithm, tokenizer, data)
    n_seen, total = step_counts.course(stage, len(records))
    steps = step_counts.save_steps(stage.save_at, total)
    lengths = [collation.length(record) for record in records] if stage.group_by_length else []
    order = step_counts.order(len(records), n_seen, seed, lengths, stage.effective_batch_size)
    newest = processes.broadcast(lambda: saved_stage.newest(out))
    seconds = saved_stage.record(out, newest)["seconds"]
    checkpoint = str(out / f"checkpoint-{newest}") if newest else None
    return Begun(start, tokenizer, records, kept, len(data) - len(kept), order, steps, total, newest, checkpoint, seconds)


def _model(begun: Begun, stage: Stage, algorithm: BaseAlgorithm, records: Sequence[Any]) -> tuple[Any, Callable[..., Any]]:
    """Return the model to train, and the function that collates its batches."""
    if "score" in algorithm.needs:
        pad = starting.padding(begun.tokenizer, {int(row.ids[-1]) for record in records for row in record})
        return starting.load_scorer(begun.start, stage, pad), functools.partial(collation.collate_whole, pad=pad)
    collate: Callable[..., Any] = collation.collate_both if "kl_batch" in algorithm.needs else collation.collate
    if "rollouts" in algorithm.needs:
        collate = collation.collate_indices
    return starting.load_model(begun.start, stage, begun.tokenizer), collate


def training_arguments(stage: Stage, seed: int, out: Path, total: int, start: str = "") -> TrainingArguments:
    """Return the arguments for transformers' Trainer. Without the path of the starting weights, nothing is said of precision."""
    schedule = "constant_with_warmup" if stage.lr_scheduler_type == "constant" and stage.warmup_ratio else stage.lr_scheduler_type
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=total,
        per_device_train_batch_size=stage.batch_size // processes.world_size(),
        gradient_accumulation_steps=stage.gradient_accumulation_steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=math.ceil(stage.warmup_ratio * total),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.dtype == "auto" and bool(start) and precision.autocasts(start),
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),  # else accelerate starts no process group on a CPU
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one GPU per process: else the Trainer would split each batch over several
    return arguments


def _dataset(trainer: StageTrainer, stage: Stage, records: Sequence[collation.Record], order: np.ndarray) -> Any:
    """Return the data set: the records in training order, and with each its KL batch's record if the algorithm needs one."""
    needs = trainer.algorithm.needs
    if "rollouts" in needs:
        return range(trainer.args.max_steps * stage.effective_batch_size)
    matched = trainer.in_order(trainer.algorithm, records, order)
    if "kl_batch" not in needs:
        return matched
    others = collation.kl_records(records, order, stage.effective_batch_size, stage.max_length)
    return StackDataset(matched, trainer.in_order(trainer.algorithm, others, np.arange(len(others))))


def check_processes(stage: Stage) -> None:
    """Raise BadInput if several processes cannot train the stage together."""
    if processes.world_size() == 1:
        return
    algorithm = registry.algorithm(stage.algorithm)
    if "rollouts" in algorithm.needs and processes.sharding() == "FSDP1":
        raise BadInput(
            f"{stage.algorithm} cannot sample from the shards of FSDP 1; use FSDP2 (fsdp_version: 2), or leave it out (--without)"
        )
    if stage.batch_size % processes.world_size():
        raise BadInput(f"batch_size {stage.batch_size} cannot be split over {processes.world_size()} processes; make it a multiple of that")


def check_data(name: str, data_format: str, data: Sequence[Any]) -> None:
    kind = {"pairs": Pair, "examples": Example, "prompts": Pair | Example}[data_format]
    if not data:
        raise BadInput(f"the stage's data is empty; {name} learns from {data_format}")
    if wrong := next((item for item in data if not isinstance(item, kind)), None):
        raise BadInput(f"{name} learns from {data_format}, but its data holds {type(wrong).__name__.lower()}s; change algorithm or data")
    if data_format == "prompts" and not all(item.prompt for item in data):
        raise BadInput(f"{name} answers prompts, but its data holds running text; give conversations or pairs with prompts")


def check_anchor(stage: Stage, data: Sequence[Any], anchored: Sequence[Anchored]) -> None:
    if (stage.anchor is None) == bool(anchored):
        raise BadInput("questions of an anchor belong to a stage with an anchor; give both or neither")
    if anchored and not all(item.prompt for item in data):
        raise BadInput(
            "an anchor asks its questions as a chat, but the stage's data is running text; give conversations or remove the anchor"
        )
