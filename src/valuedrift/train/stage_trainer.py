"""The training loop: trains one stage into one folder, and resumes after a kill at any moment."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from ..nouns import BadInput, Stopped
from ..progress import quiet
from . import BaseAlgorithm, anchor, collation, processes, reference, reward_model, rollout, saved_stage
from .logprobs import answer_logps

Progress = Callable[[int, int, float], None]


class InStage(Trainer):
    """Any trainer in a stage: complete checkpoints, progress, and a stop if the loss is not finite."""

    progress: Progress | None = None

    def report(self, loss: float) -> None:
        """Show a step's loss. Raises Stopped if it is not a finite number."""
        if not math.isfinite(loss):
            raise Stopped(f"the loss is {loss} at step {self.state.global_step}; lower learning_rate or max_grad_norm")
        if self.progress is not None:
            self.progress(self.state.global_step, self.state.max_steps, loss)

    def save_for_resume(self, checkpoint: Path) -> None:
        """Add to a checkpoint what the Trainer does not save and a resume needs."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
        with saved_stage.whole(folder), quiet():
            super()._save_checkpoint(model, trial)
            self.save_for_resume(folder)
        saved_stage.saved(folder)


class Sharing(InStage):
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
        self.rollouts: rollout.Rollouts | None = None
        self.anchor: anchor.Anchor | None = None
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
        """Add the algorithm's metrics to the step's record."""
        if "loss" in logs:
            steps, self.metrics_of_step = self.metrics_of_step, []
            logs |= processes.means(steps)
            self.report(logs["loss"])
        super().log(logs, start_time)

    def save_for_resume(self, checkpoint: Path) -> None:
        """Save the rollouts and the value head."""
        if self.rollouts is not None:
            self.rollouts.save(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.rollouts is not None:  # the value head is not saved with the model
            weights = cast(Any, self.model).state_dict() if state_dict is None else state_dict
            state_dict = {name: values for name, values in weights.items() if not name.startswith(f"{rollout.HEAD}.")}
        super()._save(output_dir, state_dict)

    @functools.cached_property
    def reference(self) -> reference.Reference:
        """The starting weights' log-probs of any records. Use it before the first step: it reads the current weights."""
        folder = Path(self.args.output_dir or "").parent / "reference"
        weights = processes.broadcast(lambda: reference.weights_digest(self.model))
        return reference.Reference(folder, weights, self.args.bf16, self.args.per_device_train_batch_size, self.record_logps)

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

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if processes.rank():
            return
        weights = str(next(model.parameters()).dtype).removeprefix("torch.")
        precision = f"{weights}, computed in bfloat16" if args.bf16 else weights
        seconds = round(time.monotonic() - self.started, 3)
        saved_stage.mark(Path(args.output_dir), state.global_step, state.max_steps, seconds, precision)


def checkpointing(trainer: Any) -> None:
    """Use the model's activation checkpointing if the launcher asks FSDP for its own.

    FSDP's own renames the layers, so that adapters are saved empty. The model's saves as much memory.
    """
    if processes.activation_checkpointing():
        trainer.accelerator.state.fsdp_plugin.activation_checkpointing = False
        new = getattr(trainer.model, "activation_checkpointing_enable", None)  # of transformers 5.24
        (new or trainer.model.gradient_checkpointing_enable)({"use_reentrant": False})
