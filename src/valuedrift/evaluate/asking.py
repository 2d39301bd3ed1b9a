"""Asking checkpoints, and judging what they say: nothing that stands in the store is sampled or judged again.

A judge that waits for a server reads the answers of one checkpoint while the next is sampled. A judge that computes here is asked at the
end: beside the sampling it would take the cores that the sampling has.
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
from ..plan import Asking
from ..store import Store
from . import Backend, Unanswered, answer_key
from .visit import Answered, Collect, Evaluation, Visit

SCORES = ("stage", "step", "seed", "repeat", "topic", "prompt", "polarity", "draw", "answer", "item", *OUTCOMES, "failure")


Wanted = tuple[Sequence[tuple[Prompt, int]], int]
"""Pairs of prompt and sample number, and the seed of the sampling noise."""


@dataclass(frozen=True)
class Job:
    """One checkpoint to be asked under one seed of the sampling noise."""

    checkpoint: Checkpoint
    noise: int
    repeat: bool = False

    @property
    def name(self) -> str:
        return f"ask {self.checkpoint.stage} step {self.checkpoint.step}" + (" again" if self.repeat else "")


def visited(
    asking: Asking, checkpoint: Checkpoint, wanted: Sequence[Wanted], visit: Visit | None, collect: Collect | None
) -> tuple[list[list[Answer]], dict[str, float | None], Sequence[str]]:
    """Return a checkpoint's answers to each part of what is wanted, its numbers, and what could not be measured.

    It is the work of one task of an engine.
    """
    backend, said = _backend(asking), []
    backend.models.keep(visit.evaluation.needed(checkpoint) if visit else [checkpoint])
    for pairs, noise in wanted:
        answers = dict(backend.sample(checkpoint, pairs, noise))
        said.append([answers[place] for place in range(len(pairs))])
    if visit is None or collect is None:
        return said, {}, ()
    new = {}
    for (prompt, draw), answer in zip(wanted[0][0], said[0], strict=True):
        if draw == 0:
            new[prompt.id] = Answered(answer.key, answer.text, answer.ended, prompt.text)
    visit = dataclasses.replace(visit, answers={**visit.answers, **new}, models=backend.models)
    return said, visit.numbers, collect(visit)


@functools.lru_cache(maxsize=1)
def _backend_by(settings: str) -> Backend:
    asking = Asking.model_validate_json(settings)
    backend: Backend = registry.find("backend", asking.backend)(asking)
    return backend


def _backend(asking: Asking) -> Backend:
    """Return a backend that this process keeps: a worker is given many checkpoints in turn."""
    return _backend_by(asking.model_dump_json(include=set(Asking.model_fields)))


def jobs_of(asking: Asking, stages: Sequence[Mapping[str, Any]], checkpoints: Sequence[Checkpoint]) -> Iterator[Job]:
    """Yield every checkpoint once, and the last of each stage a second time where the noise floor is wanted."""
    last = {(stage["name"], stage["seed"]): stage["steps"][-1] for stage in stages}
    for checkpoint in checkpoints:
        # Seeds of a plan are repetitions: they draw noise of their own. Stages of one seed share it, which pairs their answers.
        noise = asking.noise + 1000 * checkpoint.seed
        yield Job(checkpoint, noise)
        if asking.floor and checkpoint.step == last[checkpoint.stage, checkpoint.seed]:
            yield Job(checkpoint, noise + 1, repeat=True)


class Asker:
    """Samples and judges the answers of one trace."""

    def __init__(
        self, store: Store, asking: Asking, prompts: Sequence[Prompt], judge: CachedJudge, backend: Any = None, engine: Any = None
    ):
        self.store, self.asking, self.prompts, self.judge = store, asking, prompts, judge
        self.generated = 0
        self._texts: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        for key, text, ended in store.answers().select("key", "text", "ended").iter_rows():
            self._texts[key], self._ended[key] = text, ended
        self._engine = engine if engine is not None and engine.slots > 1 else None
        """What asks several checkpoints at a time; without it they are asked here, one after the other."""
        self.serve(backend)
        # Every round of asking comes back to all answers, and names by content take long to make
        self._keys: dict[tuple[str, str, int, str, int], str] = {}
        self._shown: dict[tuple[str, str], Item] = {}

    def serve(self, backend: Any) -> None:
        """Sample by this backend. Without one, all answers have to be there."""
        self._backend = backend
        self._paid = backend is not None and backend.is_remote

    def key(self, job: Job, prompt: Prompt, draw: int) -> str:
        at = (job.checkpoint.weights, job.checkpoint.frame, job.noise, prompt.text, draw)
        if at not in self._keys:
            self._keys[at] = answer_key(job.checkpoint, prompt, draw, self.asking, job.noise)
        return self._keys[at]

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise BadInput if a checkpoint that has no answers yet cannot be asked, before anything is sampled."""
        new = [job.checkpoint for job in jobs if not any(self.key(job, prompt, 0) in self._texts for prompt in self.prompts)]
        if new and self._backend:
            self._backend.check(new, self.prompts)

    def sample(self, jobs: Sequence[Job], evaluation: Evaluation | None = None, collect: Collect | None = None) -> list[str]:
        """Sample the answers that are not on disk yet; judge them meanwhile if the judge is remote.

        With `collect`, the numbers of every checkpoint are collected while it is loaded, and stored; return what could not be measured.
        Raises Unanswered, after all jobs, if a server left answers out.
        """
        by_checkpoint: dict[Checkpoint, list[Job]] = {}
        for job in jobs:
            by_checkpoint.setdefault(job.checkpoint, []).append(job)
        unanswered: list[Unanswered] = []
        failed: list[str] = []
        with _Beside(self.judge) as beside:
            if self._engine and not self._paid:  # a budget is this process's
                return self._spread(by_checkpoint, evaluation, collect, beside, self._engine)
            for checkpoint, some in by_checkpoint.items():
                self._backend.models.keep(evaluation.needed(checkpoint) if evaluation else [checkpoint])
                try:
                    for job in some:
                        self._sample(job, beside)
                        if beside.works:
                            beside.read(self._items(self.asked([job])))
                except Unanswered as error:
                    unanswered.append(error)
                    continue
                if evaluation and collect:
                    visit = self._visit(evaluation, checkpoint, some)
                    failed += collect(visit)
                    self.store.add_numbers(visit.numbers)
        if unanswered:
            others = f" (and {len(unanswered) - 1:,} more checkpoints)" if len(unanswered) > 1 else ""
            raise Unanswered(f"{unanswered[0]}{others}") from unanswered[0]
        return failed

    def _visit(self, evaluation: Evaluation, checkpoint: Checkpoint, jobs: Sequence[Job]) -> Visit:
        """Return the visit to a checkpoint, with those of its first answers that are stored."""
        answers = {}
        for prompt in self.prompts:
            if (key := self.key(jobs[0], prompt, 0)) in self._texts:
                answers[prompt.id] = Answered(key, self._texts[key], self._ended[key], prompt.text)
        return Visit(evaluation, checkpoint, answers, self._backend.models)

    def _blocks(self, job: Job) -> list[list[tuple[Prompt, int]]]:
        """Return what a job asks in blocks of like length, a part on disk each.

        They are cut by the plan alone, so that a resumed run writes the same parts.
        """
        ordered = sorted(self.prompts, key=lambda prompt: (len(prompt.text), prompt.id))
        size = max(1, self.asking.batch_rows // self.asking.draws)
        return [
            [(prompt, draw) for prompt in ordered[i : i + size] for draw in range(self.asking.draws)] for i in range(0, len(ordered), size)
        ]

    def _sample(self, job: Job, beside: _Beside) -> None:
        blocks = self._blocks(job)
        waiting = [[pair for pair in block if self.key(job, *pair) not in self._texts] for block in blocks]
        pairs = [pair for block in waiting for pair in block]
        if pairs:
            block_of = [number for number, block in enumerate(waiting) for _ in block]
            left, answers = [len(block) for block in waiting], dict[tuple[Prompt, int], Answer]()
            with progress.task(job.name, len(pairs), "answers") as advance:
                sampling = self._backend.sample(job.checkpoint, pairs, job.noise)
                try:
                    for place, answer in sampling:
                        answers[pairs[place]] = answer
                        left[block_of[place]] -= 1
                        advance(1)
                        if not left[block_of[place]]:
                            self._keep([answers.pop(pair) for pair in waiting[block_of[place]]])
                            beside.check()
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

    def _spread(
        self,
        by_checkpoint: Mapping[Checkpoint, Sequence[Job]],
        evaluation: Evaluation | None,
        collect: Collect | None,
        beside: _Beside,
        engine: Any,
    ) -> list[str]:
        """Have an engine visit several checkpoints at a time; what comes back is written here, in the same parts as otherwise."""
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
            with progress.task(f"ask {len(waiting)} checkpoints", len(under_way), "answers") as advance:
                n_tasks = 0
                for checkpoint, blocks in waiting.items():
                    jobs, wanted = by_checkpoint[checkpoint], []
                    for job, some in zip(jobs, blocks, strict=True):
                        pairs = [pair for block in some for pair in block]
                        wanted.append((pairs, job.noise))
                    visit = self._visit(evaluation, checkpoint, jobs) if evaluation and collect else None
                    if visit or any(pairs for pairs, _ in wanted):
                        engine.submit(checkpoint, self.asking.resources, visited, self.asking, checkpoint, wanted, visit, collect)
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
                    beside.check()
                    if beside.works:
                        beside.read([items[key] for key in sorted(items)])
        except Failed as failure:
            engine.stop()
            raise failure.error from failure
        except BaseException:
            engine.stop()
            raise
        return failed

    def asked(self, jobs: Sequence[Job]) -> pl.DataFrame:
        """Return one row per answer of some jobs, with its words and the item a judge is shown.

        The item is made of the answer's words and the prompt as it stands now, so that a changed claim is a new item. Raises BadInput where
        answers are missing.
        """
        rows = []
        for job in jobs:
            at = {"stage": job.checkpoint.stage, "step": job.checkpoint.step, "seed": job.checkpoint.seed, "repeat": job.repeat}
            for prompt in self.prompts:
                of = {"topic": prompt.topic, "prompt": prompt.id, "polarity": prompt.polarity}
                for draw in range(self.asking.draws):
                    key = self.key(job, prompt, draw)
                    if key not in self._texts:
                        raise BadInput(
                            f"{self.store.root} lacks answers of {job.checkpoint.stage} step {job.checkpoint.step}; "
                            "finish it with the command that began it, then judge it"
                        )
                    text = self._texts[key]
                    rows.append(at | of | {"draw": draw, "answer": key, "text": text, "item": self._item(prompt, text).key})
        return pl.DataFrame(rows)

    def _items(self, asked: pl.DataFrame) -> list[Item]:
        """Return what the judge is shown, once per different words."""
        by_id = {prompt.id: prompt for prompt in self.prompts}
        once = asked.unique("item", keep="first").sort("item")
        return [self._item(by_id[prompt], text) for prompt, text in once.select("prompt", "text").iter_rows()]

    def _item(self, prompt: Prompt, text: str) -> Item:
        if (prompt.id, text) not in self._shown:
            self._shown[prompt.id, text] = Item(prompt.text, prompt.claim, text, prompt.topic)
        return self._shown[prompt.id, text]

    def scores(self, asked: pl.DataFrame, judge: CachedJudge | None = None) -> pl.DataFrame:
        """Return the columns of SCORES, one row per answer, as the judge (or a member of it) reads them."""
        verdicts = readings_table((judge or self.judge).read(self._items(asked))).select("item", *OUTCOMES, "failure")
        return asked.join(verdicts, on="item", how="left", maintain_order="left").select(SCORES)


class _Beside:
    """Lets a remote judge read in a thread of its own. What it raises is raised where the sampling asks (`check`)."""

    def __init__(self, judge: CachedJudge):
        self.judge, self.works = judge, judge.is_remote
        self._queue: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="judging", daemon=True)
        self._ended = threading.Event()
        """Thread.join does not tell it after Ctrl-C: up to Python 3.12, a join that is interrupted marks a running thread as ended."""

    def _work(self) -> None:
        try:
            while (items := self._queue.get()) is not None:
                self.judge.read(items)
        except BaseException as error:
            self._raised = error
        finally:
            self._ended.set()

    def read(self, items: list[Item]) -> None:
        """Have some items read, after those given before."""
        self.check()
        self._queue.put(items)

    def check(self) -> None:
        """Raise what the judge raised."""
        if self._raised:
            raise self._raised

    def _wait(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            pass

    def __enter__(self) -> _Beside:
        if self.works:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.works:
            return
        self._queue.put(None)
        if kind is not None:
            self.judge.stop()
        try:
            self._wait()  # what is being paid for is kept
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
