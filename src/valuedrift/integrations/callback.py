"""Watching values from inside a training that is not ours: a callback for `transformers.Trainer` and every trainer built on it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from typing_extensions import TypedDict

from .. import pipeline, progress, resolve, suites
from ..evaluate.asking import Asker, Job
from ..evaluate.transformers import Backend
from ..judge.cache import CachedJudge
from ..models.chat_format import Frame, PromptFormat, frame_digest, question
from ..nouns import OUTCOMES, BadInput, Checkpoint, Prompt, StageRecord
from ..plan import BASE, Asking
from ..stats.profile import profiles
from ..store import Store
from ..train.step_counts import save_steps
from ._pace import Pace

FEWEST = 2
"""Prompts of each topic that a look asks at the least."""
TIMED = 4
"""Steps after which the training's time is told from those behind it, but for the first, which is slow."""
SAMPLED = 1024
"""Numbers of each tensor that tell one set of weights from another; an optimiser's step changes nearly all of them."""
KEPT = "attached.json"
LAST = (1.0, 0.3, 0.01)
"""Seconds kept back for the figures and the report at the end: in any case, for each topic, and for each topic and look.

With 11 topics two slow cores took 2.9 for 6 looks at 550 prompts, and 8.3 for 61.
"""


class Attached(TypedDict):
    """`attached.json`: what was asked so far, and how long it took."""

    n: list[int]
    checkpoints: list[Checkpoint]
    pace: dict[str, int | float]
    spent: float


EMPTY = Attached(n=[], checkpoints=[], pace={}, spent=0.0)


class ValueDriftCallback(TrainerCallback):
    """Asks the model in training the questions of a suite, now and then, and writes the stances where the Trainer writes its losses.

    Before the first step and after those of `schedule` ("log:8", "every:500" or a list of steps) the weights are asked as they stand in
    memory. The shares go to the Trainer's own tracker (`report_to`) as eval/values/TOPIC/OUTCOME, the answers and at the end the report to
    the run folder `out`.

    `share` of the training's time is what it may take, measured as it goes: the prompts are cut, evenly over the topics, and looks left out
    until that holds; None asks everything. The look before the first step comes before any step was timed: it takes that share of what the
    training lasts at the very least, `first_seconds` at most, and two prompts of each topic in any case. Time for the figures and the
    report at the end is kept back. Random numbers, modes and attention of the model are left as they were, so that training goes on as
    without it. Whatever fails here is said once, and training goes on without it.

    `asking` are further keys of a plan on how to ask: judge, suite, topics, draws, temperature, max_new_tokens, frame, ….
    """

    def __init__(
        self,
        out: Path | str = "runs/training",
        schedule: str | list[int] = "log:8",
        share: float | None = 0.05,
        first_seconds: float = 30.0,
        name: str = "training",
        tokenizer: Any = None,
        **asking: Any,
    ):
        self.asking = Asking(**{"draws": 1, "batch_rows": 64} | asking, floor=False, companions=False)
        self.out, self.schedule, self.share, self.first_seconds = Path(out), schedule, share, first_seconds
        self.name, self.tokenizer = name, tokenizer
        self.spent = 0.0
        """Seconds that it has taken of the training's time so far."""
        self.looks: list[int] = []
        """Steps after which it has asked."""
        self._off = False

    # -- events of the Trainer -------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ask the model before its first step."""
        caller = inspect.currentframe()
        caller = caller.f_back if caller else None
        # The Trainer hands no callback its own tracker; the object that calls us holds all of them
        self._others = getattr(caller.f_locals.get("self"), "callbacks", []) if caller else []
        self._started, self._step_started, self._steps = time.monotonic(), 0.0, list[float]()
        self.spent, self.looks = 0.0, []
        self._off = not state.is_world_process_zero
        self._safely(self._begin, args, state, given)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._step_started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ask the model after a scheduled step, if there is time for it."""
        self._steps.append(time.monotonic() - self._step_started)
        if not self._off and state.global_step in self._scheduled:
            self._safely(self._again, args, state, given)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ask the model where training ends before the last scheduled step; at the end of training other weights may stand in memory."""
        if control.should_training_stop and not self._off and state.global_step != self._checkpoints[-1].step:
            self._safely(self._again, args, state, given, True)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure and write the report."""
        self._safely(self._end, args, state, given)

    def _safely(self, work: Callable[..., None], *given: Any) -> None:
        """Do some work that may fail without changing the training's course."""
        if self._off:
            return
        self._since = time.monotonic()
        try:
            work(*given)
        except Exception as error:  # nothing that happens here may stop somebody's training
            self._off = True
            why = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            progress.say(f"valuedrift stops watching, and training goes on: {why}")
        finally:
            self.spent += time.monotonic() - self._since

    # -- looking -----------------------------------------------------------------------------------------------------------------

    def _begin(self, args: Any, state: Any, given: Any) -> None:
        with _untouched(given.get("model")):
            self._make_ready(args, state, given)
            if not self._checkpoints:
                self._first(args, state)

    def _make_ready(self, args: Any, state: Any, given: Any) -> None:
        model = extract_model_from_parallel(given["model"])
        if any(hasattr(values, "ds_id") or hasattr(values, "device_mesh") for values in model.parameters()):
            raise BadInput("the weights lie in parts on several devices; run 'valuedrift watch' on the folder of the checkpoints instead")
        tokenizer = self.tokenizer or given.get("processing_class")
        if tokenizer is None:
            raise BadInput("the Trainer has no tokenizer; give it processing_class=..., or ValueDriftCallback tokenizer=...")
        self._store = Store(self.out)
        self._live = (model, getattr(tokenizer, "tokenizer", tokenizer))
        self._backend = Live(self.asking, *self._live)
        with self._store.locked():  # told now rather than at the first answer
            self._prompts = evenly(suites.load(self.asking.suite, self.asking.topics))
            judge = CachedJudge(resolve.judge_of(self.asking.judge, self.asking.max_cost), self._store)
            self._asker = Asker(self._store, self.asking, [], judge, self._backend)
        self._scheduled = save_steps(self.schedule, state.max_steps)
        self._n_scheduled = len(self._scheduled) + 1
        self._n_topics, before = len({prompt.topic for prompt in self._prompts}), self._store.read_json(KEPT, Attached, EMPTY)
        self._pace = Pace(self.asking, FEWEST * self._n_topics, **before["pace"])
        kept = [one for one in before["checkpoints"] if one.step <= state.global_step] if state.global_step else []
        self._checkpoints = kept
        self._counts: list[int] = before["n"][: len(kept)]
        self._n = min(self._counts, default=0)
        self._resumed = bool(kept)
        self.spent += before["spent"] if kept else 0.0
        self._lasts = self._at_least(args, state) if self.share is not None else 0.0

    def _first(self, args: Any, state: Any) -> None:
        """Ask as many prompts as there is time for."""
        started, n = time.monotonic(), 0
        seconds = math.inf if self.share is None else min(self.first_seconds, self._left(self._lasts))
        while n < len(self._prompts) and (not n or time.monotonic() - started < seconds / 2):  # the next takes as long again
            n = len(self._prompts) if self.share is None else min(len(self._prompts), 2 * n or self._pace.fewest)
            self._look(args, state, n)

    def _left(self, training: float) -> float:
        """Return the seconds that its share of some seconds of training leaves for further looks."""
        at_the_end = LAST[0] + self._n_topics * (LAST[1] + LAST[2] * len(self._counts))
        return training * (self.share or 0.0) - self.spent - at_the_end

    def _at_least(self, args: Any, state: Any) -> float:
        """Return seconds that the training takes at the very least, before any step of it was timed.

        A step has two passes and more in it over as many rows, which are hardly shorter than the shortest question.
        """
        model, tokenizer = self._live
        prompt_format = PromptFormat(tokenizer, cast(Frame, self.asking.frame))
        ids = min(prompt_format.prompts([question(prompt.text) for prompt in self._prompts]), key=len)
        rows_RT = torch.tensor([ids] * args.per_device_train_batch_size, device=model.device)
        seconds = math.inf
        for _ in range(3):  # the first is slow
            started = time.monotonic()
            half = torch.bfloat16 if args.bf16 else torch.float16
            with torch.autocast(model.device.type, half, enabled=args.bf16 or args.fp16):
                model(input_ids=rows_RT, use_cache=False).logits[0, -1, 0].item()  # waits for the device
            seconds = min(seconds, time.monotonic() - started)
        return 2 * seconds * args.gradient_accumulation_steps * state.max_steps

    def _again(self, args: Any, state: Any, given: Any, last: bool = False) -> None:
        if n := self._due(state, last):
            with _untouched(given.get("model")):
                self._look(args, state, n)

    def _due(self, state: Any, last: bool) -> int:
        """Return how many prompts to ask now; 0 leaves the look out. The looks lie evenly over the schedule that is left.

        Answers may become longer, so looks before the last are taken only where they and the last would fit at their worst.
        """
        if self.share is None:
            return self._n or len(self._prompts)
        timed, step = self._steps[1:], state.global_step
        seconds = self._left(statistics.median(timed) * state.max_steps if len(self._steps) >= TIMED else self._lasts)
        ahead = [one for one in self._scheduled if one > self._checkpoints[-1].step]
        last = last or step == ahead[-1]
        fewest = min(self._counts[0], self._pace.fewest)
        if not self._pace.each:
            return fewest if last else 0
        if len(self._counts) == 1:  # later looks ask the same prompts, which can be compared
            self._n = self._pace.prompts(self._counts[0], seconds, 1 if last else sum(one >= step for one in ahead))
        if last:
            n = min(self._n, int(seconds / self._pace.each))
            return n if n >= fewest else 0
        n_looks = self._pace.looks(self._n, seconds, len(ahead))
        return self._n if n_looks > 1 and step >= ahead[round(len(ahead) / n_looks) - 1] else 0

    def _look(self, args: Any, state: Any, n: int) -> None:
        """Ask the weights as they are the first `n` prompts, and tell the tracker."""
        started, before = time.monotonic(), self._asker.generated
        model, tokenizer = self._live
        template = None if self.asking.frame == "plain" else tokenizer.chat_template
        path = f"{args.output_dir}/checkpoint-{state.global_step}"
        checkpoint = Checkpoint(self.name, state.global_step, path, fingerprint(model), frame_digest(template))
        self._asker.prompts = self._prompts[:n]
        job = Job(checkpoint, self.asking.noise)
        with self._store.locked():
            self._asker.sample([job])
            scores = self._asker.scores(self._asker.asked([job]))
            self._checkpoints = [*(one for one in self._checkpoints if one.step != checkpoint.step), checkpoint]
            self._counts = [*self._counts[: len(self._checkpoints) - 1], n]
            seconds, generated = time.monotonic() - started, self._asker.generated - before
            self._pace.learn(seconds, *self._backend.taken(), generated)
            pace = {name: getattr(self._pace, name) for name in ("each", "sampling", "one_pass", "passes")}
            kept = {"n": self._counts, "checkpoints": [vars(one) for one in self._checkpoints], "pace": pace}
            self._store.write_json(KEPT, kept | {"spent": self.spent + time.monotonic() - self._since})
        self.looks = [one.step for one in self._checkpoints]
        self._tell(args, state, curves(profiles(scores, self.asking.view)))

    def _tell(self, args: Any, state: Any, values: dict[str, float]) -> None:
        trackers = set(INTEGRATION_TO_CALLBACK.values())
        for callback in self._others:
            if type(callback) in trackers:
                callback.on_log(args, state, None, model=self._live[0], logs=dict(values))

    def _end(self, args: Any, state: Any, given: Any) -> None:
        """Measure what was asked of every look, and write the report."""
        with _untouched(given.get("model")):
            self._report(state)

    def _report(self, state: Any) -> None:
        n = min(self._counts)
        rows = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in self._prompts[:n]]
        path = self._store.write_bytes("asked.jsonl", ("\n".join(rows) + "\n").encode())
        asking = Asking(**self.asking.model_dump() | {"suite": str(path), "topics": []})
        steps = [checkpoint.step for checkpoint in self._checkpoints]
        stage = StageRecord.untrained(self.name, BASE, steps, state.global_step, "attached")
        trained = time.monotonic() - self._started - self.spent
        beside = "" if self._resumed else f" beside {trained:.1f} s of training"  # what was before is not known
        note = f"Asked in training: {n} of {len(self._prompts)} prompts after {len(steps)} of {self._n_scheduled} scheduled steps, "
        note += f"in {self.spent:.1f} s{beside}."
        told = {"model": getattr(self._live[0].config, "name_or_path", "") or self.name} | asking.model_dump()
        with self._store.locked():
            work = pipeline.Work(self._store, asking)
            pipeline.begin(work, [stage], self._checkpoints, told, [note])
            result = pipeline.carry_out(work, pipeline.judge, pipeline.analyse)
        spent = self.spent + time.monotonic() - self._since
        share = "" if self._resumed else f" ({spent / max(trained, 1e-9):.1%})"
        progress.say(f"{note} With figures and report {spent:.1f} s{share}: {result['report']}")


def curves(table: pl.DataFrame) -> dict[str, float]:
    """Return the shares of a table of profiles by the names that trackers show them under; what has no evidence is left out."""
    rows = table.filter(pl.col("value").is_not_null() & pl.col("outcome").is_in(OUTCOMES))
    return {f"eval_values/{topic}/{outcome}": value for topic, outcome, value in rows.select("topic", "outcome", "value").iter_rows()}


def evenly(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts so that the first of them, however many, are spread evenly over the topics; in an order that ids decide."""
    by_topic: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest()):
        by_topic.setdefault(prompt.topic, []).append(prompt)
    placed = [(place, topic, prompt) for topic, some in by_topic.items() for place, prompt in enumerate(some)]
    return [prompt for _, _, prompt in sorted(placed, key=lambda one: one[:2])]


def fingerprint(model: Any) -> str:
    """Return a digest of the weights in memory: of their names, shapes and evenly placed numbers (SAMPLED of each tensor)."""
    state = hashlib.sha256(str(sorted(model.config.to_diff_dict().items(), key=lambda entry: entry[0])).encode())
    for name, values in model.state_dict().items():
        flat = values.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED)].cpu().contiguous()
        state.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        state.update(some.view(torch.uint8).numpy().data)
    return state.hexdigest()[:24]


class Live(Backend):
    """The backend of a model that stands in memory already, whatever its weights are at the moment."""

    def __init__(self, asking: Asking, model: Any, tokenizer: Any):
        super().__init__(asking)
        self._seconds, self._passes = 0.0, 0
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # under an adapter, which stays active
        self.live = (base, tokenizer)

    def sample(self, *given: Any) -> Iterator[Any]:
        """As any backend; the memory for keys and values is given back, because the training wants it."""
        started = time.monotonic()
        yield from super().sample(*given)
        self._seconds += time.monotonic() - started
        self._passes += self._decoder.passes if self._decoder else 0
        self._decoder = None

    def taken(self) -> tuple[float, int]:
        """Return the seconds of sampling since it was last asked for them, and the passes through the model, one after the other."""
        taken, self._seconds, self._passes = (self._seconds, self._passes), 0.0, 0
        return taken

    def _model(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        return self.live


@contextlib.contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Leave random numbers, modes and buffers of a model in training as they were; no gradient is kept of what is done within."""
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
                if values is not None and values.is_inference():  # a buffer renewed while asking could not take part in a backward pass
                    module._buffers[name] = values.clone()
        if devices:
            torch.cuda.empty_cache()
