"""The loop: one stage of training into one folder, which a kill at any moment does not spoil."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import SchedulerType

from .. import registry
from ..nouns import BadInput, Example, Pair, Stopped, digest
from ..plan import Stage
from ..store import Store, disk_fault
from . import Algorithm, _batches, _schedule, _start
from ._logprobs import answer_logps

Progress = Callable[[int, int, float], None]

FOR_RESUME = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "training_args.bin")
"""What only a resume needs; deleted once a newer checkpoint is complete, and at the end."""


class StageTrainer(Trainer):
    """Trains by any algorithm: it asks for log-probs, hands them on, and averages what comes back."""

    def __init__(self, algorithm: Algorithm, progress: Progress | None, **options: Any):
        super().__init__(data_collator=_batches.collate, **options)
        self.algorithm, self.progress = algorithm, progress
        # compute_loss divides by the count of the whole optimiser step: the loop must not divide again, whatever the model class takes.
        self.loss_is_scaled_for_ga = True
        self.metrics_of_step: list[dict[str, torch.Tensor]] = []
        self.remove_callback(PrinterCallback)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(batch[f"n_{self.algorithm.averages}"] for batch in batch_samples)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the sum of the batch's losses over the number of tokens or records in the optimiser step."""
        losses, metrics = self.algorithm.loss(inputs, answer_logps(model, inputs))
        self.metrics_of_step.append({name: values.detach() for name, values in metrics.items()})
        return losses.sum() / num_items_in_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the algorithm's metrics to the step's record. Raises Stopped where the loss is no longer a number."""
        if "loss" in logs:
            steps, self.metrics_of_step = self.metrics_of_step, []
            logs |= {name: torch.cat([step[name].flatten() for step in steps]).mean().item() for name in steps[0]}
            if not math.isfinite(logs["loss"]):
                raise Stopped(f"the loss is {logs['loss']} at step {self.state.global_step}; lower learning_rate or clip")
            if self.progress is not None:
                self.progress(self.state.global_step, self.state.max_steps, logs["loss"])
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
        with _whole(folder), _start.quiet():
            super()._save_checkpoint(model, trial)

    def starting_view(self, records: Sequence[_batches.Record], batch_size: int) -> dict[str, torch.Tensor]:
        """Return what the algorithm keeps of the current weights' view, one entry per record, in the records' order."""
        by_length = np.argsort([max(len(row.ids) for row in record) for record in records], kind="stable")
        parts: list[dict[str, torch.Tensor]] = []
        model: Any = self.model
        model.eval()
        for start in range(0, len(records), batch_size):
            items: list[_batches.Item] = [(records[index], {}) for index in by_length[start : start + batch_size]]
            batch = self._prepare_inputs(_batches.collate(items))
            with torch.no_grad(), self.accelerator.autocast():
                kept = self.algorithm.prepare(batch, answer_logps(model, batch))
            parts.append({name: values.float().cpu() for name, values in kept.items()})
        back = torch.from_numpy(np.argsort(by_length, kind="stable"))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


class Scheduled(TrainerCallback):
    """Saves at the scheduled steps, marks what is complete, and clears what only a resume from an older one would need."""

    def __init__(self, steps: Sequence[int], seconds_before: float):
        self.steps, self.started = set(steps), time.monotonic() - seconds_before

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = state.global_step in self.steps
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        out = Path(args.output_dir)
        older = [step for step in _complete(out) if step < state.global_step]
        seconds = round(time.monotonic() - self.started, 3)
        Store(out).write_json(f"checkpoint-{state.global_step}/complete.json", {"step": state.global_step, "seconds": seconds})
        for step in older:
            _clear(out / f"checkpoint-{step}")


def run_stage(
    stage: Stage, seed: int, model_path: str, data: Sequence[Pair] | Sequence[Example], out: Path, progress: Progress | None = None
) -> list[int]:
    """Train one stage into `out` and return the steps it was saved at, each an ordinary model folder `out`/checkpoint-STEP.

    `out`/done.json is written last (steps, total, seconds, losses, dropped). Where it exists nothing is done; where training was cut
    off it goes on from the newest complete checkpoint, and ends with the same bytes. `progress(step, total, loss)` is called per step.
    Raises BadInput: data the algorithm cannot learn from, a model that cannot be read, a full disk, a folder of another stage.
    """
    store = Store(out)
    algorithm = registry.find("algorithm", stage.algorithm)(stage.own())
    _check_data(stage.algorithm, algorithm.eats, data)
    settings = stage.model_dump(exclude={"after", "data"}) | stage.own().model_dump()
    _claim(store, digest("stage", settings, seed, [dataclasses.astuple(item) for item in data]))
    done = store.read_json("done.json")
    if done is None:
        done = _train(stage, seed, model_path, data, store, algorithm, progress)
    return done["steps"]


def _train(
    stage: Stage, seed: int, model_path: str, data: Any, store: Store, algorithm: Algorithm, progress: Progress | None
) -> dict[str, Any]:
    out = store.root
    start = _start.merged(model_path, out)
    tokenizer = _start.load_tokenizer(start, chat=any(item.prompt for item in data))
    records, dropped = _batches.tokenised(tokenizer, data, stage.max_length)
    if not records:
        raise BadInput(f"no answer is left of {dropped} records when they are cut to {stage.max_length} tokens; raise max_length")
    total = _schedule.total_steps(stage, len(records))
    steps = _schedule.save_steps(stage.save_at, total)
    lengths = [max(len(row.ids) for row in record) for record in records] if stage.group_by_length else []
    order = _schedule.order(len(records), _schedule.n_seen(stage, len(records)), seed, lengths, stage.batch_size * stage.accumulate)
    seen, order = np.unique(order, return_inverse=True)
    records = [records[index] for index in seen]
    newest = _newest(out)
    if newest < total:
        seconds = store.read_json(f"checkpoint-{newest}/complete.json", {"seconds": 0.0})["seconds"]
        set_seed(seed)  # before the model: an adapter starts with random weights
        trainer = StageTrainer(
            algorithm,
            progress,
            model=_start.load_model(start, stage, tokenizer),
            args=_arguments(stage, seed, out, total),
            processing_class=tokenizer,
            callbacks=[Scheduled(steps, seconds)],
        )
        kept = _kept(trainer, store, records) if algorithm.needs else {}
        trainer.train_dataset = _batches.Records(records, order, kept)
        trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{newest}") if newest else None)
    return _finish(store, steps, total, dropped)


def _arguments(stage: Stage, seed: int, out: Path, total: int) -> TrainingArguments:
    schedules = [kind.value for kind in SchedulerType]
    if stage.schedule not in schedules:
        raise BadInput(f"unknown schedule {stage.schedule!r}{registry.nearest(stage.schedule, schedules)} Known: {', '.join(schedules)}.")
    schedule = "constant_with_warmup" if stage.schedule == "constant" and stage.warmup else stage.schedule
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out),
        max_steps=total,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulate,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=math.ceil(stage.warmup * total),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        bf16=stage.dtype == "auto" and cuda and torch.cuda.is_bf16_supported(),
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
    )


def _kept(trainer: StageTrainer, store: Store, records: Sequence[_batches.Record]) -> dict[str, torch.Tensor]:
    """Return the starting weights' view of every record, from the file where it was stored before."""
    path = store.root / "reference.safetensors"
    if not path.exists():
        store.write_bytes(path.name, save(trainer.starting_view(records, 2 * trainer.args.per_device_train_batch_size)))
    return load_file(path)


def _finish(store: Store, steps: list[int], total: int, dropped: int) -> dict[str, Any]:
    last = f"checkpoint-{total}"
    history = store.read_json(f"{last}/trainer_state.json")["log_history"]
    store.write_json("losses.json", history)
    seconds = store.read_json(f"{last}/complete.json")["seconds"]
    done = {"steps": steps, "total": total, "seconds": seconds, "losses": "losses.json", "dropped": dropped}
    store.write_json("done.json", done)
    _clear(store.root / last)
    return done


def _check_data(name: str, eats: str, data: Sequence[Any]) -> None:
    kind = {"pairs": Pair, "examples": Example}[eats]
    if not data:
        raise BadInput(f"the stage's data is empty; {name} learns from {eats}")
    if wrong := next((item for item in data if not isinstance(item, kind)), None):
        raise BadInput(f"{name} learns from {eats}, but its data holds {type(wrong).__name__.lower()}s; change algorithm or data")


def _claim(store: Store, key: str) -> None:
    """Name the folder by what is trained in it, so that a resume never mixes two stages."""
    held = store.read_json("stage.json")
    if held is None:
        store.write_json("stage.json", {"key": key})
    elif held["key"] != key:
        raise BadInput(f"{store.root} holds a stage with other settings, seed or data; delete it or train into another folder")


def _complete(out: Path) -> list[int]:
    return sorted(int(path.parent.name.split("-")[1]) for path in out.glob("checkpoint-*/complete.json"))


def _newest(out: Path) -> int:
    """Return the step of the newest complete checkpoint, or 0; what a kill left half written is removed."""
    complete = _complete(out)
    for folder in out.glob("checkpoint-*"):
        if not (folder / "complete.json").exists():
            shutil.rmtree(folder)
    return complete[-1] if complete else 0


def _clear(checkpoint: Path) -> None:
    for name in FOR_RESUME:
        (checkpoint / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Turn a full disk while `folder` is written into the sentence that says so, and make its space free again."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # safetensors and torch.save wrap the system's error: only their words tell.
        fault = error if isinstance(error, OSError) else OSError(errno.ENOSPC, "No space left on device")
        if not (isinstance(error, OSError) or any(words in str(error) for words in ("No space left", "PytorchStreamWriter"))):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise disk_fault(folder, fault) from error
