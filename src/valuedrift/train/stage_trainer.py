"""The training loop: trains one stage into one folder, and resumes after a kill at any moment."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, StackDataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from .. import registry
from ..nouns import BadInput, Example, Pair, Stopped, digest
from ..plan import Stage
from ..records.stances import Anchored
from ..store import Store
from . import BaseAlgorithm, _anchor, _reference, _rollout, _start, collation, processes, reward_model, saved_stage, step_counts
from .logprobs import answer_logps

Progress = Callable[[int, int, float], None]


class Sharing(Trainer):
    """A trainer on given records in a fixed order. Each process gets its share of each batch."""

    @functools.cached_property
    def batch_sampler(self) -> processes.DistributedBatchSampler:
        """The indices of this process's records, batch by batch."""
        return processes.DistributedBatchSampler(len(cast(Any, self.train_dataset)), self.args.per_device_train_batch_size)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's batches. Accelerate would repeat records to fill the last one."""
        rows: Any = self.train_dataset
        if isinstance(rows, datasets.Dataset):
            rows = self._remove_unused_columns(rows, description="training")
        how: dict[str, Any] = {"pin_memory": self.args.dataloader_pin_memory, "num_workers": self.args.dataloader_num_workers}
        return DataLoader(rows, batch_sampler=self.batch_sampler, collate_fn=self.data_collator, **how)

    def numbers(self, batches: Sequence[Any]) -> range:
        """Return the numbers, since the start of training, of the current optimiser step's batches."""
        first = self.state.global_step * self.args.gradient_accumulation_steps
        return range(first, first + len(batches))


class StageTrainer(Sharing):
    """Trains with any algorithm: computes log-probs, passes them to the algorithm, and averages the losses it returns."""

    def __init__(self, algorithm: BaseAlgorithm, progress: Progress | None, **options: Any):
        super().__init__(**options)
        self.algorithm, self.progress = algorithm, progress
        self.rollouts: _rollout.Rollouts | None = None
        self.anchor: _anchor.Anchor | None = None
        # compute_loss divides by the count of the whole optimiser step: the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.metrics_of_step: list[dict[str, torch.Tensor]] = []
        self.without_reference: list[tuple[Any, collation.Records]] = []
        """Records still missing reference log-probs, and the algorithm that keeps them."""
        self.remove_callback(PrinterCallback)

    def in_order(self, algorithm: Any, records: Sequence[collation.Record], order: np.ndarray) -> collation.Records:
        """Return records in training order, with what the algorithm keeps of their reference log-probs, if it needs a reference.

        The log-probs are computed now. FSDP and DeepSpeed move the weights to the devices when training begins; with them it happens then.
        """
        found = collation.Records(records, order, {})
        if "reference" in algorithm.needs:
            _ = self.reference  # takes the digest of the starting weights
            self.without_reference.append((algorithm, found))
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                self._fill_reference()
        return found

    def _fill_reference(self) -> None:
        for algorithm, records in self.without_reference:
            records.kept |= self.reference.kept(algorithm, records.records)
        self.without_reference = []

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], Any]:
        """Return the batches of an optimiser step, and the count over all processes to divide the loss by.

        Rollouts are sampled here, after the previous step. Each batch also gets the step's KL estimate and the anchor's questions, if the
        stage needs them.
        """
        self._fill_reference()
        batches, _ = super().get_batch_samples(*arguments)
        numbers = self.numbers(batches)
        for number, batch in zip(numbers, batches, strict=True):
            if not self.batch_sampler.n_local(number):
                batch |= {"n_records": 0, "n_tokens": 0}
        if self.rollouts is not None:
            with self.accelerator.autocast():
                batches = [self.rollouts.batch(batch["indices"].tolist()) for batch in batches]
        if batches and "kl_batch" in self.algorithm.needs:
            means = self._kl_estimate(batches)
            batches = [batch | means for batch in batches]
        own = [sum(batch[name] for batch in batches) for name in ("n_records", f"n_{self.algorithm.loss_reduction}")]
        n_records, count = (sum(each) for each in zip(*processes.all_gather(own), strict=True))
        if self.anchor is not None:
            starts = [self.batch_sampler.indices(number)[0] for number in numbers]
            batches = self.anchor.with_questions(batches, starts, n_records)
        return batches, count

    def _kl_estimate(self, batches: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Return the means of the algorithm's KL estimates over the whole step's KL batches."""
        views = self._views([batch.pop("kl_batch") for batch in batches])
        parts = [self.algorithm.kl_estimate(batch, logps_RT) for batch, logps_RT in views]
        counted = [part for batch, part in zip(batches, parts, strict=True) if batch["n_records"]]
        return {name: torch.tensor(mean) for name, mean in processes.means(counted).items()}

    def _views(self, batches: Iterable[Any]) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield each batch with the current weights' log-probs, without gradient and without dropout."""
        model: Any = self.model
        model.eval()
        for batch in map(self._prepare_inputs, batches):
            with torch.no_grad(), self.accelerator.autocast():
                logps_RT = answer_logps(model, batch)
            yield batch, logps_RT

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the sum of the batch's losses divided by the tokens or records of the optimiser step, plus the anchor's loss.

        The result is multiplied by the number of processes, because the Trainer averages gradients and logged losses over them.
        """
        losses, metrics = self.algorithm.loss(*self._seen(model, inputs))
        loss = losses.sum() / num_items_in_batch
        if self.anchor is not None:
            pull, more = self.anchor.loss(inputs["anchor"], answer_logps(model, inputs["anchor"]))
            loss, metrics = loss + pull, metrics | more
        if not inputs["n_records"]:  # this process has no record of the batch, but every process must make equally many passes
            return loss * 0
        loss = loss * processes.world_size()
        self.metrics_of_step.append({name: values.detach() for name, values in metrics.items()})
        return loss

    def _seen(self, model: Any, batch: Any) -> tuple[Any, torch.Tensor]:
        """Return a batch and the current weights' log-probs or, of a scorer, its scores."""
        if "score" in self.algorithm.needs:
            return batch, reward_model.scores(model, batch)
        if self.rollouts is not None:
            model.eval()  # no dropout
            return self.rollouts.seen(model, batch)
        return batch, answer_logps(model, batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the algorithm's metrics to the step's record. Raises Stopped if the loss is not a finite number."""
        if "loss" in logs:
            steps, self.metrics_of_step = self.metrics_of_step, []
            logs |= processes.means(steps)
            if not math.isfinite(logs["loss"]):
                raise Stopped(f"the loss is {logs['loss']} at step {self.state.global_step}; lower learning_rate or max_grad_norm")
            if self.progress is not None:
                self.progress(self.state.global_step, self.state.max_steps, logs["loss"])
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
        with saved_stage.whole(folder), _start.quiet():
            super()._save_checkpoint(model, trial)
            if self.rollouts is not None:
                self.rollouts.save(folder)
        saved_stage.saved(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.rollouts is not None:  # the value head is not saved with the model
            weights = cast(Any, self.model).state_dict() if state_dict is None else state_dict
            state_dict = {name: values for name, values in weights.items() if not name.startswith(f"{_rollout.HEAD}.")}
        super()._save(output_dir, state_dict)

    @functools.cached_property
    def reference(self) -> _reference.Reference:
        """The starting weights' log-probs of any records. Use it before the first step: it reads the current weights."""
        folder = Path(self.args.output_dir or "").parent / "reference"
        weights = processes.broadcast(lambda: _reference.weights_digest(self.model))
        return _reference.Reference(folder, weights, self.args.bf16, self.args.per_device_train_batch_size, self.record_logps)

    def record_logps(self, records: Sequence[collation.Record]) -> list[torch.Tensor]:
        """Return the current weights' log-probs of each record's answer tokens, row after row, in the records' order.

        Raises BadInput after the first step, when the starting weights are gone.
        """
        if self.state.global_step:
            raise BadInput(
                f"the starting weights' log-probs are missing from the folder 'reference'; delete {self.args.output_dir} to restart"
            )
        size = 2 * self.args.per_device_train_batch_size
        by_length = np.argsort([max(len(row.ids) for row in record) for record in records], kind="stable")
        parts = [by_length[start : start + size] for start in range(0, len(records), size)]
        found = processes.map_across(functools.partial(self._logps_of, records), parts)
        logps = {int(index): own for part, of_part in zip(parts, found, strict=True) for index, own in zip(part, of_part, strict=True)}
        return [logps[index] for index in range(len(records))]

    def _logps_of(self, records: Sequence[collation.Record], parts: Sequence[np.ndarray]) -> list[list[torch.Tensor]]:
        """Return the log-probs of the records with the indices in each part."""
        batches = (collation.collate([(records[index], {}) for index in part]) for part in parts)
        found = []
        for part, (batch, logps_RT) in zip(parts, self._views(batches), strict=True):
            rows = [row_T[mask_T].cpu() for row_T, mask_T in zip(logps_RT, batch["answer_mask_RT"], strict=True)]
            found.append([torch.cat(rows[place :: len(part)]) for place in range(len(part))])
        return found


class Scheduled(TrainerCallback):
    """Saves at the scheduled steps, marks complete checkpoints, and deletes the resume files of older ones."""

    def __init__(self, steps: Sequence[int], seconds_before: float):
        self.steps, self.started = set(steps), time.monotonic() - seconds_before

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = state.global_step in self.steps
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if processes.rank():
            return
        saved_stage.mark(Path(args.output_dir), state.global_step, state.max_steps, round(time.monotonic() - self.started, 3))


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
    chosen = registry.algorithm(stage.algorithm)
    if hasattr(chosen, "run"):
        return chosen.run(stage, seed, model_path, data, out, progress, reward_path)
    store = Store(out)
    algorithm = chosen(stage.own())
    _check_data(stage.algorithm, algorithm.data_format, data)
    if "rollouts" in algorithm.needs and not (reward_path := reward_path or algorithm.settings.reward):
        raise BadInput(f"{stage.algorithm} has no reward model; set reward to a stage that trains one, or to a folder")
    _check_anchor(stage, data, anchored)
    held = [[dataclasses.astuple(item) for item in anchored]] if anchored else []
    key = digest("stage", stage.trained_by(), seed, [dataclasses.astuple(item) for item in data], *held)
    done = processes.broadcast(lambda: saved_stage.begun(store, key))
    if done is None:
        found = _train(stage, seed, model_path, data, out, reward_path, anchored, progress)
        done = processes.broadcast(lambda: saved_stage.finish(store, *found))
    return done["steps"]


def _train(
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
    algorithm = registry.algorithm(stage.algorithm)(stage.own())
    start = processes.broadcast(lambda: _start.merged(model_path, out))
    tokenizer = _start.load_tokenizer(start, chat=any(item.prompt for item in data))
    records, dropped = _records(stage, algorithm, tokenizer, data)
    n_seen, total = step_counts.course(stage, len(records))
    steps = step_counts.save_steps(stage.save_at, total)
    lengths = [collation.length(record) for record in records] if stage.group_by_length else []
    order = step_counts.order(len(records), n_seen, seed, lengths, stage.effective_batch_size)
    seen, order = np.unique(order, return_inverse=True)
    records = [records[index] for index in seen]
    newest = processes.broadcast(lambda: saved_stage.newest(out))
    if newest < total:
        seconds = saved_stage.record(out, newest)["seconds"]
        set_seed(seed)  # before the model: an adapter starts with random weights
        model, collate = _model(start, stage, algorithm, tokenizer, records)
        rollouts = None
        if "rollouts" in algorithm.needs:  # before the Trainer: after it, DeepSpeed shards every model that is loaded
            asked = [records[index] for index in order]
            rollouts = _rollout.Rollouts(algorithm, stage, seed, asked, model, tokenizer, reward_path, processes.device())
        trainer = StageTrainer(
            algorithm,
            progress,
            model=model,
            data_collator=collate,
            args=_arguments(stage, seed, out, total),
            processing_class=tokenizer,
            callbacks=[Scheduled(steps, seconds)],
        )
        checkpointing(trainer)
        if anchored:
            n_samples = total * stage.effective_batch_size
            trainer.anchor = _anchor.Anchor(stage, seed, n_samples, anchored, tokenizer, trainer)
        if rollouts is not None:
            trainer.rollouts = rollouts
            if newest:
                rollouts.load(out / f"checkpoint-{newest}")
        trainer.train_dataset = _dataset(trainer, stage, records, order)
        torch.manual_seed(seed + processes.rank())  # each process has its own dropout
        trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{newest}") if newest else None)
    return steps, total, dropped


def checkpointing(trainer: Any) -> None:
    """Use the model's activation checkpointing if the launcher asks FSDP for its own.

    FSDP's own renames the layers, so that adapters are saved empty. The model's saves as much memory.
    """
    if processes.activation_checkpointing():
        trainer.accelerator.state.fsdp_plugin.activation_checkpointing = False
        new = getattr(trainer.model, "activation_checkpointing_enable", None)  # of transformers 5.24
        (new or trainer.model.gradient_checkpointing_enable)({"use_reentrant": False})


def _records(stage: Stage, algorithm: Any, tokenizer: Any, data: Any) -> tuple[list[Any], int]:
    """Return the records (with rollouts: the prompts) as token ids, and the number dropped. Raises BadInput if all are dropped."""
    if "rollouts" in algorithm.needs:
        room = stage.max_length - algorithm.settings.max_new_tokens
        asked, dropped = collation.prompted(tokenizer, data, room)
        if not asked:
            raise BadInput(f"no prompt fits into max_length minus max_new_tokens, {room} tokens; raise max_length")
        return asked, dropped
    records, dropped = collation.tokenised(tokenizer, data, stage.max_length)
    if not records:
        raise BadInput(f"no answer token is left of any of {dropped} records, truncated to {stage.max_length} tokens; raise max_length")
    return records, dropped


def _model(start: str, stage: Stage, algorithm: BaseAlgorithm, tokenizer: Any, records: Sequence[Any]) -> tuple[Any, Callable[..., Any]]:
    """Return the model to train, and the function that collates its batches."""
    if "score" in algorithm.needs:
        pad = _start.padding(tokenizer, {int(row.ids[-1]) for record in records for row in record})
        return _start.load_scorer(start, stage, pad), functools.partial(collation.collate_whole, pad=pad)
    collate: Callable[..., Any] = collation.collate_both if "kl_batch" in algorithm.needs else collation.collate
    if "rollouts" in algorithm.needs:
        collate = collation.collate_indices
    return _start.load_model(start, stage, tokenizer), collate


def _arguments(stage: Stage, seed: int, out: Path, total: int) -> TrainingArguments:
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


def _check_data(name: str, data_format: str, data: Sequence[Any]) -> None:
    kind = {"pairs": Pair, "examples": Example, "prompts": Pair | Example}[data_format]
    if not data:
        raise BadInput(f"the stage's data is empty; {name} learns from {data_format}")
    if wrong := next((item for item in data if not isinstance(item, kind)), None):
        raise BadInput(f"{name} learns from {data_format}, but its data holds {type(wrong).__name__.lower()}s; change algorithm or data")
    if data_format == "prompts" and not all(item.prompt for item in data):
        raise BadInput(f"{name} answers prompts, but its data holds running text; give conversations or pairs with prompts")


def _check_anchor(stage: Stage, data: Sequence[Any], anchored: Sequence[Anchored]) -> None:
    if (stage.anchor is None) == bool(anchored):
        raise BadInput("questions of an anchor belong to a stage with an anchor; give both or neither")
    if anchored and not all(item.prompt for item in data):
        raise BadInput(
            "an anchor asks its questions as a chat, but the stage's data is running text; give conversations or remove the anchor"
        )
