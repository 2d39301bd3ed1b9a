"""The evaluator samples the answers of checkpoints and has them judged. It never samples or judges what the store already holds.

A remote judge reads the answers of one checkpoint while the next one is sampled. A local judge reads at the end, because it would compete
with the sampling for the same cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from .. import progress, registry
from ..distributed import Failed
from ..judge.cache import CachedJudge
from ..models.endpoint import LOOK_SECONDS
from ..nouns import OUTCOMES, Answer, BadInput, Checkpoint, Item, Prompt, Stopped
from ..parts import readings_table
from ..plan import EvaluationSettings
from ..store import Store
from . import Backend, Unanswered, answer_key
from .visit import Answered, Evaluation, Visit

SCORES = ("stage", "step", "seed", "repeat", "topic", "prompt", "polarity", "draw", "answer", "item", *OUTCOMES, "failure")


Wanted = tuple[Sequence[tuple[Prompt, int]], int]
"""Pairs of prompt and sample number, and the sampling seed."""


@dataclass(frozen=True)
class Job:
    """One checkpoint to sample with one sampling seed."""

    checkpoint: Checkpoint
    sampling_seed: int
    repeat: bool = False

    @property
    def name(self) -> str:
        return f"sample {self.checkpoint.stage} step {self.checkpoint.step}" + (" again" if self.repeat else "")


def visited(
    settings: EvaluationSettings, checkpoint: Checkpoint, wanted: Sequence[Wanted], visit: Visit | None
) -> tuple[list[list[Answer]], dict[str, float | None], Sequence[str]]:
    """Sample a checkpoint and collect its numbers; an engine runs this as one task.

    Returns the answers to each entry of `wanted`, the numbers, and a sentence for each analysis that could not collect.
    """
    backend, said = _backend(settings), []
    backend.models.keep(visit.evaluation.needed(checkpoint) if visit else [checkpoint])
    for pairs, sampling_seed in wanted:
        answers = dict(backend.sample(checkpoint, pairs, sampling_seed))
        said.append([answers[place] for place in range(len(pairs))])
    if visit is None:
        return said, {}, ()
    new = {}
    for (prompt, draw), answer in zip(wanted[0][0], said[0], strict=True):
        if draw == 0:
            new[prompt.id] = Answered(answer.key, answer.text, answer.ended, prompt.text)
    visit = dataclasses.replace(visit, answers={**visit.answers, **new}, models=backend.models)
    return said, visit.numbers, visit.evaluation.collect(visit)


@functools.lru_cache(maxsize=1)
def _backend_by(written: str) -> Backend:
    settings = EvaluationSettings.model_validate_json(written)
    backend: Backend = registry.find("backend", settings.backend)(settings)
    return backend


def _backend(settings: EvaluationSettings) -> Backend:
    """Return the backend of this process. It is kept, because a worker samples many checkpoints in turn."""
    return _backend_by(settings.model_dump_json(include=set(EvaluationSettings.model_fields)))


def jobs_of(settings: EvaluationSettings, stages: Sequence[Mapping[str, Any]], checkpoints: Sequence[Checkpoint]) -> Iterator[Job]:
    """Yield a job per checkpoint, and a second one for the last of each stage if the noise floor is measured."""
    last = {(stage["name"], stage["seed"]): stage["steps"][-1] for stage in stages}
    for checkpoint in checkpoints:
        # Training seeds are replications and get sampling seeds of their own. Stages of one seed share theirs, which pairs their answers.
        sampling_seed = settings.sampling_seed + 1000 * checkpoint.seed
        yield Job(checkpoint, sampling_seed)
        if settings.floor and checkpoint.step == last[checkpoint.stage, checkpoint.seed]:
            yield Job(checkpoint, sampling_seed + 1, repeat=True)


class Evaluator:
    """Samples and judges the answers of one run."""

    def __init__(
        self,
        store: Store,
        settings: EvaluationSettings,
        prompts: Sequence[Prompt],
        judge: CachedJudge,
        backend: Any = None,
        engine: Any = None,
    ):
        self.store, self.settings, self.prompts, self.judge = store, settings, prompts, judge
        self.generated = 0
        self._texts: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        for key, text, ended in store.answers().select("key", "text", "ended").iter_rows():
            self._texts[key], self._ended[key] = text, ended
        self._engine = engine if engine is not None and engine.slots > 1 else None
        """Samples several checkpoints at a time. Without one, this process samples one after the other."""
        self.serve(backend)
        # Content keys are slow to compute, and each is needed several times
        self._keys: dict[tuple[str, str, int, str, int], str] = {}
        self._shown: dict[tuple[str, str], Item] = {}

    def serve(self, backend: Any) -> None:
        """Sample with this backend. Without one, all answers must be stored."""
        self._backend = backend
        self._paid = backend is not None and backend.is_remote

    def key(self, job: Job, prompt: Prompt, draw: int) -> str:
        at = (job.checkpoint.model_key, job.checkpoint.prompt_format, job.sampling_seed, prompt.text, draw)
        if at not in self._keys:
            self._keys[at] = answer_key(job.checkpoint, prompt, draw, self.settings, job.sampling_seed)
        return self._keys[at]

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise BadInput if a checkpoint without stored answers cannot be sampled. Nothing is sampled before."""
        new = [job.checkpoint for job in jobs if not any(self.key(job, prompt, 0) in self._texts for prompt in self.prompts)]
        if new and self._backend:
            self._backend.check(new, self.prompts)

    def sample(self, jobs: Sequence[Job], evaluation: Evaluation | None = None) -> list[str]:
        """Sample the answers that are not stored. A remote judge reads them meanwhile.

        With `evaluation`, its `collect` is called for each checkpoint while it is loaded. Returns what failed.
        Raises Unanswered after all jobs if a server did not answer everything.
        """
        by_checkpoint: dict[Checkpoint, list[Job]] = {}
        for job in jobs:
            by_checkpoint.setdefault(job.checkpoint, []).append(job)
        unanswered: list[Unanswered] = []
        failed: list[str] = []
        with BackgroundJudge(self.judge) as background:
            if self._engine and not self._paid:  # a budget is this process's
                return self._sample_with_engine(by_checkpoint, evaluation, background, self._engine)
            for checkpoint, some in by_checkpoint.items():
                self._backend.models.keep(evaluation.needed(checkpoint) if evaluation else [checkpoint])
                try:
                    for job in some:
                        self._sample(job, background)
                        if background.is_remote:
                            background.read(self._items(self.answers([job])))
                except Unanswered as error:
                    unanswered.append(error)
                    continue
                if evaluation:
                    visit = self._visit(evaluation, checkpoint, some)
                    failed += evaluation.collect(visit)
                    self.store.add_numbers(visit.numbers)
        if unanswered:
            others = f" (and {len(unanswered) - 1:,} more checkpoints)" if len(unanswered) > 1 else ""
            raise Unanswered(f"{unanswered[0]}{others}") from unanswered[0]
        return failed

    def _visit(self, evaluation: Evaluation, checkpoint: Checkpoint, jobs: Sequence[Job]) -> Visit:
        """Return the visit to a checkpoint, with its first answers that are stored."""
        answers = {}
        for prompt in self.prompts:
            if (key := self.key(jobs[0], prompt, 0)) in self._texts:
                answers[prompt.id] = Answered(key, self._texts[key], self._ended[key], prompt.text)
        return Visit(evaluation, checkpoint, answers, self._backend.models)

    def _blocks(self, job: Job) -> list[list[tuple[Prompt, int]]]:
        """Return the pairs of prompt and sample number of a job in blocks of similar length; each block becomes one part on disk.

        Blocks depend on the plan alone, so a resumed run writes the same parts.
        """
        ordered = sorted(self.prompts, key=lambda prompt: (len(prompt.text), prompt.id))
        size = max(1, self.settings.batch_rows // self.settings.draws)
        return [
            [(prompt, draw) for prompt in ordered[i : i + size] for draw in range(self.settings.draws)]
            for i in range(0, len(ordered), size)
        ]

    def _sample(self, job: Job, background: BackgroundJudge) -> None:
        blocks = self._blocks(job)
        waiting = [[pair for pair in block if self.key(job, *pair) not in self._texts] for block in blocks]
        pairs = [pair for block in waiting for pair in block]
        if pairs:
            block_of = [number for number, block in enumerate(waiting) for _ in block]
            left, answers = [len(block) for block in waiting], dict[tuple[Prompt, int], Answer]()
            paid = self.store.root / ".paid-answers.jsonl"
            with progress.task(job.name, len(pairs), "answers") as advance, self._backend.keeping(job.checkpoint, paid):
                sampling = self._backend.sample(job.checkpoint, pairs, job.sampling_seed)
                try:
                    for place, answer in sampling:
                        answers[pairs[place]] = answer
                        left[block_of[place]] -= 1
                        advance(1)
                        if not left[block_of[place]]:
                            self._keep([answers.pop(pair) for pair in waiting[block_of[place]]])
                            background.check()
                except BaseException as error:
                    if self._paid:
                        if not isinstance(error, Unanswered):
                            self._backend.stop()
                        self._keep([*answers.values(), *(answer for _, answer in sampling)])
                    raise

    def _keep(self, answers: Sequence[Answer]) -> None:
        """Write one part of answers."""
        self.store.add_answers(answers)
        self._texts |= {answer.key: answer.text for answer in answers}
        self._ended |= {answer.key: answer.ended for answer in answers}
        self.generated += len(answers)

    def _sample_with_engine(
        self,
        by_checkpoint: Mapping[Checkpoint, Sequence[Job]],
        evaluation: Evaluation | None,
        background: BackgroundJudge,
        engine: Any,
    ) -> list[str]:
        """Have an engine visit several checkpoints at a time. This process writes the results, in the same parts as without an engine."""
        under_way, failed = set[str](), list[str]()
        waiting: dict[Checkpoint, list[list[list[tuple[Prompt, int]]]]] = {}
        for checkpoint, jobs in by_checkpoint.items():  # the end of a stage and the start of the next share their answers
            waiting[checkpoint] = []
            for job in jobs:
                missing = [
                    [pair for pair in block if self.key(job, *pair) not in self._texts and self.key(job, *pair) not in under_way]
                    for block in self._blocks(job)
                ]
                waiting[checkpoint].append([block for block in missing if block])
                under_way |= {self.key(job, *pair) for block in missing for pair in block}
        try:
            with progress.task(f"sample {len(waiting)} checkpoints", len(under_way), "answers") as advance:
                n_tasks = 0
                for checkpoint, blocks in waiting.items():
                    jobs, wanted = by_checkpoint[checkpoint], []
                    for job, some in zip(jobs, blocks, strict=True):
                        pairs = [pair for block in some for pair in block]
                        wanted.append((pairs, job.sampling_seed))
                    visit = self._visit(evaluation, checkpoint, jobs) if evaluation else None
                    if visit or any(pairs for pairs, _ in wanted):
                        engine.submit(checkpoint, self.settings.resources, visited, self.settings, checkpoint, wanted, visit)
                        n_tasks += 1
                for _ in range(n_tasks):
                    checkpoint, (said, numbers, unmeasured) = engine.next()
                    items = dict[str, Item]()
                    for blocks_of_job, answers in zip(waiting[checkpoint], said, strict=True):
                        found = iter(answers)
                        for block in blocks_of_job:
                            own = [next(found) for _ in block]
                            self._keep(own)
                            shown = [self._item(prompt, answer.text) for (prompt, _), answer in zip(block, own, strict=True)]
                            items |= {item.key: item for item in shown}
                        advance(len(answers))
                    self.store.add_numbers(numbers)
                    failed += unmeasured
                    background.check()
                    if background.is_remote:
                        background.read([items[key] for key in sorted(items)])
        except Failed as failure:
            engine.stop()
            raise failure.error from failure
        except BaseException:
            engine.stop()
            raise
        return failed

    def answers(self, jobs: Sequence[Job]) -> pl.DataFrame:
        """Return one row per answer of some jobs, with its text and the key of the item that a judge reads.

        An item consists of the answer's text and the current prompt, so a changed claim makes a new item. Raises BadInput if answers are
        missing.
        """
        rows = []
        for job in jobs:
            at = (job.checkpoint.stage, job.checkpoint.step, job.checkpoint.seed, job.repeat)
            for prompt in self.prompts:
                of = (prompt.topic, prompt.id, prompt.polarity)
                for draw in range(self.settings.draws):
                    key = self.key(job, prompt, draw)
                    if key not in self._texts:
                        raise BadInput(
                            f"{self.store.root} lacks answers of {job.checkpoint.stage} step {job.checkpoint.step}; "
                            "finish it with the command that began it, then judge it"
                        )
                    text = self._texts[key]
                    rows.append((*at, *of, draw, key, text, self._item(prompt, text).key))
        names = ["stage", "step", "seed", "repeat", "topic", "prompt", "polarity", "draw", "answer", "text", "item"]
        return pl.DataFrame(rows, schema=names, orient="row")

    def _items(self, answers: pl.DataFrame) -> list[Item]:
        """Return the items that a judge reads, each once."""
        by_id = {prompt.id: prompt for prompt in self.prompts}
        once = answers.unique("item", keep="first").sort("item")
        return [self._item(by_id[prompt], text) for prompt, text in once.select("prompt", "text").iter_rows()]

    def _item(self, prompt: Prompt, text: str) -> Item:
        if (prompt.id, text) not in self._shown:
            self._shown[prompt.id, text] = Item(prompt.text, prompt.claim, text, prompt.topic)
        return self._shown[prompt.id, text]

    def scores(self, answers: pl.DataFrame, judge: CachedJudge | None = None) -> pl.DataFrame:
        """Return the columns of SCORES, one row per answer, as the judge (or one of its members) reads it."""
        verdicts = readings_table((judge or self.judge).read(self._items(answers))).select("item", *OUTCOMES, "failure")
        return answers.join(verdicts, on="item", how="left", maintain_order="left").select(SCORES)


class BackgroundJudge:
    """Lets a remote judge read in a thread. `check` raises in the sampling thread what the judge raised."""

    def __init__(self, judge: CachedJudge):
        self.judge, self.is_remote = judge, judge.is_remote
        self._queue: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="judging", daemon=True)
        self._ended = threading.Event()
        """Needed because Thread.join is unreliable after Ctrl-C: up to Python 3.12, an interrupted join marks a running thread as ended."""

    def _work(self) -> None:
        try:
            while (items := self._queue.get()) is not None:
                self.judge.read(items)
        except BaseException as error:
            self._raised = error
        finally:
            self._ended.set()

    def read(self, items: list[Item]) -> None:
        """Queue some items for the judge."""
        self.check()
        self._queue.put(items)

    def check(self) -> None:
        """Raise what the judge raised."""
        if self._raised:
            raise self._raised

    def _wait(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            pass

    def __enter__(self) -> BackgroundJudge:
        if self.is_remote:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.is_remote:
            return
        self._queue.put(None)
        if kind is not None:
            self.judge.stop()
        try:
            self._wait()  # keep what is being paid for
        except KeyboardInterrupt:
            if kind is not None:
                raise
            self.judge.stop()
            with contextlib.suppress(KeyboardInterrupt):
                self._wait()
            raise Stopped("interrupted; the same command again does the rest") from None
        self._thread.join()
        if kind is None:
            self.check()
