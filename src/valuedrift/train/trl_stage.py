"""Runs a trainer of TRL as a stage: our data in its layout, our checkpoints, and a resume."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PrinterCallback, set_seed

from ..nouns import BadInput, Pair, Stopped
from ..plan import Stage
from ..progress import quiet
from ..store import Store
from . import processes, saved_stage, stage_trainer, starting, step_counts
from .stage import Begun, begin, training_arguments
from .trl_rewards import Reward, RewardModelFunction

Rows = list[dict[str, Any]]

FROM_STAGE = (
    *("output_dir", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "bf16", "seed", "data_seed", "train_sampling_strategy", "dataloader_pin_memory"),
    *("save_strategy", "logging_steps", "logging_nan_inf_filter", "report_to", "disable_tqdm", "use_cpu", "ddp_find_unused_parameters"),
)
"""Arguments that our own loop and TRL's trainers share."""


class InStage(stage_trainer.InStage):
    """Runs any trainer of TRL in a stage. Put it before TRL's class."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step. Raises Stopped if the loss is not finite, or if no answer of the step got a reward."""
        super().log(logs, start_time)
        noted = self.state.log_history[-1]
        noted.pop("step_time", None)  # the log must not depend on the machine's speed
        if "loss" not in noted:
            return
        step, reward = self.state.global_step, noted.get("reward", 0.0)
        if math.isfinite(noted["loss"]) and (reward is None or not math.isfinite(reward)):
            raise Stopped(f"the mean reward is {reward} at step {step}; the reward function must give numbers, None only for some answers")
        self.report(noted["loss"])

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the run folder documents the checkpoint."""

    def _send_telemetry(self) -> None:
        """Send nothing: TRL would report which trainer was started."""

    def save_for_resume(self, checkpoint: Path) -> None:
        """Save the sampled answers if the next step learns from them, too."""
        trainer: Any = self
        if not getattr(trainer, "_buffered_inputs", None):
            return
        if trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) != 0:
            torch.save(self._buffered_inputs, checkpoint / _own_answers())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load these, and two counters that TRL does not save: the steps within a generation, and the tokens seen.

        The Trainer calls this on every resume, whatever loads the weights.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        state = Store(folder).read_json("trainer_state.json", dict[str, Any])
        self._step = state["global_step"] * self.args.gradient_accumulation_steps
        self._total_train_tokens = state["log_history"][-1].get("num_tokens", 0)
        if (n := len(list(folder.glob(saved_stage.ANSWERS)))) not in (0, processes.world_size()):
            raise BadInput(f"{folder} contains the answers of {n} processes; resume with as many, or delete {folder.parent} to begin again")
        if (folder / _own_answers()).exists():
            self._buffered_inputs = torch.load(folder / _own_answers(), map_location=self.args.device, weights_only=True)


class Shared(InStage, stage_trainer.Sharing):
    """Gives several processes the losses of one, for trainers on given records; those that sample split their prompts themselves."""

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], Any]:
        """Return the batches of an optimiser step, and their token count if TRL averages over tokens and not over rows."""
        batches, count = super().get_batch_samples(*arguments)
        numbers = self.numbers(batches)
        self.counts_tokens, self.coming = count is not None, iter(numbers)
        lacking = [
            number for number in numbers if self.batch_sampler.n_global(number) <= (processes.world_size() - 1) * self.batch_sampler.size
        ]
        if self.counts_tokens and lacking:  # a process without a row in these masks the one it gets
            for number in lacking:
                if not self.batch_sampler.n_local(number):
                    batches[number - numbers.start]["labels"].fill_(-100)
            count = self._get_num_items_in_batch(batches, self.args.device)
        return batches, count

    def compute_loss(self, *given: Any, **named: Any) -> Any:
        """Return the mean loss of this process's rows, weighted so that the average over the processes is right."""
        number, n = next(self.coming), processes.world_size()
        share, together = self.batch_sampler.n_local(number), self.batch_sampler.n_global(number)
        uneven = n > 1 and together < n * self.batch_sampler.size
        if uneven:
            self.accelerator.gather = functools.partial(_gathered, share)
        try:
            loss: Any = super().compute_loss(*given, **named)
        finally:
            if uneven:
                del self.accelerator.gather
        return loss if self.counts_tokens else loss * (n * share / together)


def _gathered(share: int, values: torch.Tensor) -> torch.Tensor:
    """Return the figures of all processes with rows in a batch. Accelerate only gathers equal shapes, and the shares differ."""
    parts = [part for part in processes.all_gather(values.detach().cpu() if share else None) if part is not None]
    return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts]).to(values.device)


def _own_answers() -> str:
    return saved_stage.ANSWERS.replace("*", str(processes.rank()))


def train(
    stage: Stage,
    seed: int,
    model_path: str,
    data: Sequence[Any],
    out: Path,
    algorithm: Any,
    classes: tuple[Any, Any],
    rewards: Sequence[Reward],
    progress: stage_trainer.Progress | None,
) -> tuple[list[int], int, int]:
    """Train a stage, from its newest checkpoint if there is one; return the steps saved, the total steps, and the records dropped."""
    for reward in rewards:  # before the config: after it, DeepSpeed shards every model that is loaded
        if isinstance(reward.score, RewardModelFunction):
            reward.score.load()
    begun = begin(algorithm, stage, seed, model_path, data, out)
    if begun.newest < begun.total:
        rows = rows_of([data[begun.kept[index]] for index in begun.order], algorithm, stage.batch_size // processes.world_size())
        trainer = _trainer(begun, stage, seed, rows, algorithm, classes[0], rewards)(
            args=config(stage, seed, out, begun.total, algorithm, classes[1], begun.start),
            callbacks=[stage_trainer.Scheduled(begun.steps, begun.seconds)],
        )
        if len(trainer.train_dataset) != len(rows):
            lost = len(rows) - len(trainer.train_dataset)
            raise BadInput(f"{stage.algorithm} dropped {lost} of {len(rows)} rows, which are too long for it; raise max_length")
        trainer.progress = progress
        trainer.remove_callback(PrinterCallback)
        stage_trainer.checkpointing(trainer)
        if processes.rank():
            torch.manual_seed(seed + processes.rank())  # each process has its own dropout
        with _unwarned():
            trainer.train(resume_from_checkpoint=begun.checkpoint)
    return begun.steps, begun.total, begun.dropped


def config(stage: Stage, seed: int, out: Path, total: int, algorithm: Any, kind: Any, start: str = "") -> Any:
    """Return the trainer's config: the stage's settings and the trainer's own keys."""
    ours = training_arguments(stage, seed, out, total, start)
    options = {name: getattr(ours, name) for name in FROM_STAGE}
    if "max_length" in kind.__dataclass_fields__:
        options["max_length"] = stage.max_length
    if "shuffle_dataset" in kind.__dataclass_fields__:
        options["shuffle_dataset"] = False
    if algorithm.trainer == "KTOTrainer":
        options["per_device_train_batch_size"] *= 2
    own = algorithm.settings.model_dump(exclude_unset=True, exclude={"reward"})
    if processes.activation_checkpointing():  # both at once are refused; see `stage_trainer.checkpointing`
        own["gradient_checkpointing"] = False
    try:
        with _unwarned():
            made = kind(**options, **own)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise BadInput(f"{stage.algorithm} refuses its settings: {str(error).rstrip('.')}; change them in the stage's table") from error
    made._n_gpu = ours._n_gpu
    return made


def course(stage: Stage, settings: Any, n_records: int) -> tuple[int, int]:
    """Return the number of records that the stage sees, repeats included, and of its optimiser steps.

    If the trainer samples, an iteration is one sampling of `generation_batch_size` answers and the steps that train on them.
    """
    if not hasattr(settings, "num_generations"):
        return step_counts.n_seen(stage, n_records), step_counts.total_steps(stage, n_records)
    if not 0 < settings.num_generations <= settings.generation_batch_size:
        raise BadInput(
            f"generation_batch_size {settings.generation_batch_size} holds no group of num_generations {settings.num_generations} answers; "
            "raise the first, or lower the second to at least 1"
        )
    n_prompts = settings.generation_batch_size // settings.num_generations
    n_passes = settings.steps_per_generation * settings.num_iterations
    if stage.steps is None:
        iterations = math.ceil(stage.epochs * n_records / n_prompts)
        return iterations * n_prompts, math.ceil(iterations * n_passes / stage.gradient_accumulation_steps)
    return math.ceil(stage.steps * stage.gradient_accumulation_steps / n_passes) * n_prompts, stage.steps


# -- layouts -------------------------------------------------------------------------------------------------------------


def rows_of(items: Sequence[Any], algorithm: Any, batch_size: int) -> Rows:
    """Return the data in the trainer's layout, in training order."""
    if algorithm.data_format == "prompts":
        return [{"prompt": _messages(item.prompt), "topic": item.topic, "claim": item.claim} for item in items]
    prompted = sum(bool(item.prompt) for item in items)
    if 0 < prompted < len(items) or (not prompted and algorithm.data_format == "pairs"):
        raise BadInput(f"{algorithm.trainer} needs a prompt in every record (SFTTrainer: in all or in none); split or correct the data")
    if algorithm.trainer == "KTOTrainer":
        return _unpaired(items, batch_size)
    if algorithm.data_format == "pairs":
        return [{"prompt": _messages(pair.prompt), "chosen": _reply(pair.chosen), "rejected": _reply(pair.rejected)} for pair in items]
    if not prompted:
        return [{"text": example.text} for example in items]
    return [{"prompt": _messages(example.prompt), "completion": _reply(example.text)} for example in items]


def _unpaired(pairs: Sequence[Pair], batch_size: int) -> Rows:
    """Return two rows per pair, batch by batch: its chosen answers, then its rejected ones.

    TRL's KL batch takes the answer of the row before in the batch. In this layout that answer belongs to another pair.
    """
    if batch_size < 2:
        raise BadInput(
            "a batch of one pair has no other pair's answer for the KL batch; raise batch_size (each process has its share of it)"
        )
    rows: Rows = []
    for start in range(0, len(pairs), batch_size):
        for liked in (True, False):
            batch = pairs[start : start + batch_size]
            answers = [pair.chosen if liked else pair.rejected for pair in batch]
            rows += [
                {"prompt": _messages(pair.prompt), "completion": _reply(answer), "label": liked}
                for pair, answer in zip(batch, answers, strict=True)
            ]
    return rows


def _messages(prompt: Sequence[tuple[str, str]]) -> Rows:
    return [{"role": role, "content": text} for role, text in prompt]


def _reply(text: str) -> Rows:
    return [{"role": "assistant", "content": text}]


# -- the trainer ---------------------------------------------------------------------------------------------------------


def _trainer(
    begun: Begun, stage: Stage, seed: int, rows: Rows, algorithm: Any, trainer: Any, rewards: Sequence[Reward]
) -> Callable[..., Any]:
    """Return a function that builds the trainer from its config and callbacks."""
    scores, tokenizer = "score" in algorithm.needs, begun.tokenizer
    whole = stage.model_copy(update={"lora": None})  # TRL adds the adapter, and uses the model below it as the reference
    set_seed(seed)  # before the model: a new layer starts with random weights
    if scores:
        pad = starting.padding(tokenizer, {int(row.ids[-1]) for record in begun.records for row in record})
        model = starting.load_scorer(begun.start, whole, pad)
    else:
        model = starting.load_model(begun.start, whole, tokenizer)
    options: dict[str, Any] = {"reward_funcs": [reward.score for reward in rewards]} if rewards else {}
    if stage.lora is not None:
        options["peft_config"] = starting.adapter(stage.lora, "SEQ_CLS" if scores else "CAUSAL_LM")

    def make(**more: Any) -> Any:
        shown = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            with quiet(), _unwarned():
                made = type(trainer.__name__, (InStage if algorithm.data_format == "prompts" else Shared, trainer), {})
                return made(model, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, **options, **more)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise BadInput(f"{stage.algorithm} cannot be started: {error}; change the stage's table or its data") from error
        finally:
            if not shown:
                datasets.enable_progress_bars()

    return make


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Silence the FutureWarnings of transformers about names that TRL uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
