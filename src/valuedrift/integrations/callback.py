"""Measures values from inside another training: a callback for `transformers.Trainer` and every trainer built on it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import polars as pl
import torch
from accelerate.utils import extract_model_from_parallel
from pydantic import with_config
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from typing_extensions import TypedDict

from .. import pipeline, progress, resolve, suites
from ..evaluate.evaluator import Evaluator, Job
from ..evaluate.transformers import Backend
from ..judge.cache import CachedJudge
from ..models.chat_format import format_digest
from ..nouns import OUTCOMES, BadInput, Checkpoint, Prompt, StageRecord
from ..plan import BASE, EvaluationSettings
from ..stats.profile import profiles
from ..store import Store
from ..train.step_counts import save_steps

SAMPLED = 1024
"""Numbers of each tensor in a fingerprint. A step of an optimiser changes nearly all numbers."""
KEPT = "attached.json"


@with_config({"extra": "allow"})
class Attached(TypedDict):
    """`attached.json`: the evaluations so far, their number of prompts, and their seconds."""

    prompts: NotRequired[int]  # absent up to version 0.1.0
    checkpoints: list[Checkpoint]
    spent: float


class ValueDriftCallback(TrainerCallback):
    """Evaluates the model in training on a suite at scheduled steps, and logs the stances to the Trainer's tracker.

    It evaluates the weights in memory before the first step, after the steps of `schedule` ("log:8", "every:500" or a list of steps) and at
    the end. It logs shares as eval/values/TOPIC/OUTCOME to the tracker of the Trainer (`report_to`), and writes the answers, and at the end
    the report, to the run folder `out`.

    `prompts` are evaluated each time, evenly spread over the topics; None evaluates the whole suite. Random numbers, modes and attention of
    the model are restored, so that training goes on as without the callback. If anything fails here, it is reported once, and training goes
    on without it.

    `settings` are further settings of an evaluation: judge, suite, topics, draws, temperature, max_new_tokens, prompt_format, ….
    """

    def __init__(
        self,
        out: Path | str = "runs/training",
        schedule: str | list[int] = "log:8",
        prompts: int | None = 110,
        name: str = "training",
        tokenizer: Any = None,
        **settings: Any,
    ):
        self.settings = EvaluationSettings(**{"draws": 1, "batch_rows": 64} | settings, floor=False, side_metrics=False)
        self.out, self.schedule, self.prompts, self.name, self.tokenizer = Path(out), schedule, prompts, name, tokenizer
        self.spent = 0.0
        """Seconds that the callback took so far."""
        self.looks: list[int] = []
        """The steps that were evaluated."""
        self._off = False

    # -- events of the Trainer -------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Evaluate the model before its first step."""
        caller = inspect.currentframe()
        caller = caller.f_back if caller else None
        # The Trainer passes no tracker to a callback; the object that calls us holds all callbacks
        self._others = getattr(caller.f_locals.get("self"), "callbacks", []) if caller else []
        self._started, self.spent, self.looks = time.monotonic(), 0.0, []
        self._off = not state.is_world_process_zero
        self._safely(self._begin, args, state, given)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Evaluate the model after a scheduled step."""
        if not self._off and state.global_step in self._scheduled:
            self._safely(self._look, args, state, given)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Evaluate the model if training ends before the last scheduled step; after training, other weights may be in memory."""
        if control.should_training_stop and not self._off and state.global_step != self._checkpoints[-1].step:
            self._safely(self._look, args, state, given)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure and write the report."""
        self._safely(self._report, args, state, given)

    def _safely(self, work: Callable[..., None], args: Any, state: Any, given: Any) -> None:
        """Do some work without changing the training, even if it fails."""
        if self._off:
            return
        self._since = time.monotonic()
        try:
            with _untouched(given.get("model")):
                work(args, state, given)
        except Exception as error:  # nothing that happens here may stop somebody's training
            self._off = True
            why = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            progress.say(f"valuedrift stops evaluating, and training goes on: {why}")
        finally:
            self.spent += time.monotonic() - self._since

    # -- evaluation --------------------------------------------------------------------------------------------------------------

    def _begin(self, args: Any, state: Any, given: Any) -> None:
        model = extract_model_from_parallel(given["model"])
        if any(hasattr(values, "ds_id") or hasattr(values, "device_mesh") for values in model.parameters()):
            raise BadInput("the weights are sharded over several devices; run 'valuedrift watch' on the folder of the checkpoints instead")
        tokenizer = self.tokenizer or given.get("processing_class")
        if tokenizer is None:
            raise BadInput("the Trainer has no tokenizer; give it processing_class=..., or ValueDriftCallback tokenizer=...")
        self._store = Store(self.out)
        self._live = (model, getattr(tokenizer, "tokenizer", tokenizer))
        with self._store.locked():  # reported now rather than at the first answer
            suite = suites.load(self.settings.suite, self.settings.topics)
            self._n_suite, self._prompts = len(suite), evenly(suite)[: self.prompts]
            judge = CachedJudge(resolve.judge_of(self.settings.judge, self.settings.max_cost), self._store)
            self._evaluator = Evaluator(self._store, self.settings, self._prompts, judge, Live(self.settings, *self._live))
        self._scheduled = save_steps(self.schedule, state.max_steps)
        if state.global_step and not (self.out / KEPT).exists() and (self.out / "answers").exists():
            raise BadInput(f"{self.out / KEPT} is gone, which names the evaluated steps; restore it from a copy, or use another folder")
        before = self._store.read_json(KEPT, Attached, Attached(checkpoints=[], spent=0.0))
        same = state.global_step and before.get("prompts") == len(self._prompts)
        self._checkpoints = [one for one in before["checkpoints"] if one.step <= state.global_step] if same else []
        self._resumed = bool(self._checkpoints)
        if self._resumed:
            self.spent += before["spent"]
            return
        self._look(args, state, given)
        seconds = time.monotonic() - self._since
        progress.say(f"The first evaluation took {seconds:.1f} s; {len(self._scheduled)} more are scheduled. `prompts` makes them shorter.")

    def _look(self, args: Any, state: Any, given: Any) -> None:
        """Evaluate the weights in memory, and log the shares to the tracker."""
        model, tokenizer = self._live
        template = None if self.settings.prompt_format == "plain" else tokenizer.chat_template
        path = f"{args.output_dir}/checkpoint-{state.global_step}"
        dtype = str(model.dtype).removeprefix("torch.")
        checkpoint = Checkpoint(self.name, state.global_step, path, fingerprint(model), format_digest(template), dtype=dtype)
        job = Job(checkpoint, self.settings.sampling_seed)
        with self._store.locked():
            self._evaluator.sample([job])
            scores = self._evaluator.scores(self._evaluator.answers([job]))
            self._checkpoints = [*(one for one in self._checkpoints if one.step != checkpoint.step), checkpoint]
            spent = self.spent + time.monotonic() - self._since
            kept = {"prompts": len(self._prompts), "checkpoints": [vars(one) for one in self._checkpoints], "spent": spent}
            self._store.write_json(KEPT, kept)
        self.looks = [one.step for one in self._checkpoints]
        self._log(args, state, curves(profiles(scores, self.settings.view)))

    def _log(self, args: Any, state: Any, values: dict[str, float]) -> None:
        trackers = set(INTEGRATION_TO_CALLBACK.values())
        for callback in self._others:
            if type(callback) in trackers:
                callback.on_log(args, state, None, model=self._live[0], logs=dict(values))

    def _report(self, args: Any, state: Any, given: Any) -> None:
        """Measure and write the report."""
        rows = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in self._prompts]
        path = self._store.write_bytes("asked.jsonl", ("\n".join(rows) + "\n").encode())
        settings = EvaluationSettings(**self.settings.model_dump() | {"suite": str(path), "topics": []})
        steps = [checkpoint.step for checkpoint in self._checkpoints]
        stage = StageRecord.untrained(self.name, BASE, steps, state.global_step, "attached")
        trained = time.monotonic() - self._started - self.spent
        beside = "" if self._resumed else f" beside {trained:.1f} s of training"  # the time before a resume is unknown
        note = f"Evaluated in training: {len(rows)} of {self._n_suite} prompts at {len(steps)} steps, in {self.spent:.1f} s{beside}."
        plan = {"model": getattr(self._live[0].config, "name_or_path", "") or self.name} | settings.model_dump()
        with self._store.locked():
            work = pipeline.Work(self._store, settings)
            pipeline.begin(work, [stage], self._checkpoints, plan, [note])
            result = pipeline.carry_out(work, pipeline.judge, pipeline.analyse)
        spent = self.spent + time.monotonic() - self._since
        share = "" if self._resumed else f" ({spent / max(trained, 1e-9):.1%})"
        progress.say(f"{note} With tables and report {spent:.1f} s{share}: {result['report']}")


def curves(table: pl.DataFrame) -> dict[str, float]:
    """Return the shares of a table of profiles by their names in trackers; shares without evidence are left out."""
    rows = table.filter(pl.col("value").is_not_null() & pl.col("outcome").is_in(OUTCOMES))
    return {f"eval_values/{topic}/{outcome}": value for topic, outcome, value in rows.select("topic", "outcome", "value").iter_rows()}


def evenly(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts in an order of which any beginning is evenly spread over the topics. The ids decide the order."""
    by_topic: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest()):
        by_topic.setdefault(prompt.topic, []).append(prompt)
    placed = [(place, topic, prompt) for topic, some in by_topic.items() for place, prompt in enumerate(some)]
    return [prompt for _, _, prompt in sorted(placed, key=lambda one: one[:2])]


def fingerprint(model: Any) -> str:
    """Return a digest of the weights in memory: of their names, shapes and evenly spaced numbers (SAMPLED of each tensor)."""
    state = hashlib.sha256(str(sorted(model.config.to_diff_dict().items(), key=lambda entry: entry[0])).encode())
    for name, values in model.state_dict().items():
        flat = values.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED)].cpu().contiguous()
        state.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        state.update(some.view(torch.uint8).numpy().data)
    return state.hexdigest()[:24]


class Live(Backend):
    """The backend of a model in memory, with the weights that it has at the moment."""

    def __init__(self, settings: EvaluationSettings, model: Any, tokenizer: Any):
        super().__init__(settings)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # the adapter stays active
        self.live = (base, tokenizer)

    def sample(self, *given: Any) -> Iterator[Any]:
        """Sample as any backend does, then free the memory of keys and values for the training."""
        yield from super().sample(*given)
        self._decoder = None

    def _model(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        return self.live


@contextlib.contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Restore random numbers, modes and buffers of a model in training; the block keeps no gradient."""
    modules = list(model.modules()) if model is not None else []
    modes = [module.training for module in modules]
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            if model is not None:
                model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
            for name, values in module._buffers.items():
                if values is not None and values.is_inference():  # a buffer made in the block cannot take part in a backward pass
                    module._buffers[name] = values.clone()
        if devices:
            torch.cuda.empty_cache()
