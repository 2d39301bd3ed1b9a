"""The pipeline: steps that communicate through the run folder.

    train or discover -> evaluate -> judge -> analyse -> report

A step reads the files of earlier steps, computes what is missing (known by its content key), and drafts its own files. All drafts are
published together at the end, so a stopped command leaves the previous state. `run`, `trace`, `watch`, the callback and `judge` start at
different steps.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import ValidationError
from typing_extensions import TypedDict

from . import analyses, progress, provenance, registry, suites
from .analyses import Tables
from .evaluate.evaluator import Evaluator, Job, jobs_of
from .evaluate.visit import Evaluation
from .judge import Judge
from .judge.cache import CachedJudge, unread_notes
from .models.budget import limited
from .nouns import OUTCOMES, STANCES, BadInput, Checkpoint, StageRecord
from .plan import BASE, EvaluationSettings, Plan, fault
from .ready import ready
from .resolve import gold_of, judge_of
from .stats.contrast import seeds_note
from .store import Store
from .training import describe, train_all

if TYPE_CHECKING:
    from .records.gold import Gold


class About(TypedDict):
    """`evaluation.json`: the settings as given, and the notes of the steps so far."""

    plan: dict[str, Any]
    notes: list[str]


@dataclass
class Work:
    """A command at work in a run folder: the settings, the judge and the backend. All results are on disk."""

    store: Store
    settings: EvaluationSettings
    engine: Any = None
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took."""

    @cached_property
    def judge(self) -> CachedJudge:
        """The judge, with the verdicts that the run folder already holds."""
        return CachedJudge(judge_of(self.settings.judge, self.settings.max_cost), self.store)

    @cached_property
    def backend(self) -> Any:
        """The backend that samples."""
        return registry.find("backend", self.settings.backend)(self.settings)

    @cached_property
    def evaluator(self) -> Evaluator:
        """What names the answers of the folder by content."""
        return Evaluator(self.store, self.settings, self.store.prompts(), self.judge, engine=self.engine)

    def evaluation(self) -> Evaluation:
        """Return what the visits to the checkpoints have in common."""
        store = self.store
        rewards = store.read_json("rewards.json", list[Checkpoint], [])
        return Evaluation(self.settings, store.stages(), store.checkpoints(), rewards, store.prompts(), store.numbers(), analyses.collect)

    def jobs(self) -> list[Job]:
        """Return the sampling jobs of all checkpoints."""
        return list(jobs_of(self.settings, self.store.stages(), self.store.checkpoints()))

    @cached_property
    def answers(self) -> pl.DataFrame:
        """One row per answer, once all are sampled. It takes long to make: every answer is named by content."""
        return self.evaluator.answers(self.jobs())


Step = Callable[[Work], None]


# -- entries -------------------------------------------------------------------------------------------------------------------


def run(plan: Plan, out: Path, engine: str = "local", launcher: str = "") -> dict[str, Any]:
    """Train the plan's stages, evaluate every checkpoint, analyse and report; return the JSON object of the command.

    If a stage fails, the others are still trained, evaluated and reported, and `failed` lists it. `launcher` is the command that starts
    several processes to train a stage.
    """
    machines = registry.find("engine", engine)()
    for note in ready(plan, out, fetch=True).notes:
        progress.say(note)
    store = Store(out)
    with store.locked():
        started = time.monotonic()
        store.write_json("plan.json", plan.model_dump())
        trained = train_all(plan, store, machines, launcher)
        work = Work(store, plan, machines, {"train": round(time.monotonic() - started, 2)})
        notes = [f"{stage['name']} (seed {stage['seed']}) is missing: {stage['reason']}" for stage in trained.failed]
        begin(work, trained.stages, trained.checkpoints, plan.model_dump(), notes, trained.rewards)
        return {"stages": store.stages(), "failed": trained.failed, **carry_out(work, evaluate, judge, analyse)}


def trace_folders(
    settings: EvaluationSettings, folders: Sequence[Path | str], base: str | None, out: Path, engine: str = "local"
) -> dict[str, Any]:
    """Trace checkpoints that any trainer left; return what `trace --json` prints."""
    from .checkpoints.discover import discover

    store = Store(out)
    with store.locked():
        stages, checkpoints, notes = [], [], []
        before = BASE
        for found in discover(folders, base, store.root / "made"):
            steps = [step for step, _ in found.steps]
            stages.append(StageRecord.untrained(found.name, before, steps, steps[-1]))
            checkpoints += [describe(path, found.name, step, settings) for step, path in found.steps]
            before = found.name
            if found.left_out:
                notes.append(f"Left out of {found.name}: {', '.join(found.left_out)}.")
                progress.say(notes[-1])
        given = settings.model_dump() | {"folders": [str(folder) for folder in folders], "base": base}
        work = Work(store, settings, registry.find("engine", engine)())
        for note in _family_notes(judge_of(settings.judge), checkpoints):
            progress.say(note)
        begin(work, stages, checkpoints, given, notes)
        return carry_out(work, evaluate, judge, analyse)


def rejudge(folder: Path, changed: dict[str, Any]) -> dict[str, Any]:
    """Judge the stored answers of a run again with changed settings; loads no checkpoint. Raises BadInput if the run is not finished."""
    store = Store(folder)
    record = store.provenance()  # the lock would make a folder of a name that is wrong
    with store.locked():
        if not store.stages():
            raise BadInput(f"{folder} names no stage (stages.json is missing or empty); run the command that began it again")
        plan = record["plan"] | changed
        try:
            settings = EvaluationSettings(**{name: value for name, value in plan.items() if name in EvaluationSettings.model_fields})
        except ValidationError as error:
            raise fault(error, lambda key: f"the plan in {folder / 'provenance.json'}", EvaluationSettings) from error
        return reread(Work(store, settings), plan)


def reread(work: Work, plan: dict[str, Any]) -> dict[str, Any]:
    """Judge the stored answers, then analyse and report."""
    about = work.store.read_json("evaluation.json", About, About(plan={}, notes=[]))
    work.store.draft("evaluation.json", about | {"plan": plan})
    work.store.draft("prompts.json", _prompts(work.settings))
    return carry_out(work, judge, analyse)


def begin(
    work: Work,
    stages: Sequence[StageRecord],
    checkpoints: Sequence[Checkpoint],
    plan: dict[str, Any],
    notes: Sequence[str] = (),
    rewards: Sequence[Checkpoint] = (),
) -> None:
    """Draft the input of the steps: stages, checkpoints, reward models, prompts and the plan."""
    store = work.store
    store.draft("stages.json", [stage.as_json() for stage in stages])
    store.draft("checkpoints.json", [dataclasses.asdict(checkpoint) for checkpoint in checkpoints])
    store.draft("rewards.json", [dataclasses.asdict(checkpoint) for checkpoint in rewards])
    store.draft("prompts.json", _prompts(work.settings))
    store.draft("evaluation.json", {"plan": plan, "notes": list(notes)})


def carry_out(work: Work, *steps: Step) -> dict[str, Any]:
    """Take the steps, publish what they wrote, and write the report; return what the command prints with `--json`."""
    from .report.page import write_report

    with limited(work.settings.max_cost):  # sampling and judging may both cost money
        for step in steps:
            started = time.monotonic()
            step(work)
            work.timings[step.__name__] = round(time.monotonic() - started, 2)
    record = work.store.read_json("provenance.json", dict[str, Any]) | {"timings": work.timings}
    work.store.draft("provenance.json", record)
    work.store.publish()
    write_report(work.store)
    return _summary(work)


def _prompts(settings: EvaluationSettings) -> list[dict[str, Any]]:
    return [dataclasses.asdict(prompt) for prompt in suites.load(settings.suite, settings.topics)]


# -- steps ---------------------------------------------------------------------------------------------------------------------


def evaluate(work: Work) -> None:
    """Sample the answers that are missing. While a checkpoint is loaded, the analyses collect what they need of it."""
    store, settings, evaluator = work.store, work.settings, work.evaluator
    checkpoints = store.checkpoints()
    named = _named_only(settings, checkpoints)
    evaluator.serve(work.backend)
    evaluator.check(jobs := work.jobs())
    failed = Counter(evaluator.sample(jobs, work.evaluation()))
    missing = [f"{said[:-1]} ({n} of {len(checkpoints)} checkpoints)." for said, n in failed.items()]
    for sentence in missing:
        progress.say(sentence)
    about = store.read_json("evaluation.json", About)
    store.draft("evaluation.json", about | {"notes": [*about["notes"], *named, *work.backend.notes, *missing]})


def judge(work: Work) -> None:
    """Judge the answers, and draft scores.parquet: it follows from the stored answers, readings, prompts and checkpoints alone."""
    store, settings = work.store, work.settings
    gold, scores = gold_of(settings.gold), work.evaluator.scores(work.answers)
    members = [work.evaluator.scores(work.answers, member).with_columns(judge=pl.lit(member.identity)) for member in work.judge.members]
    unread = work.judge.unread(scores["item"])
    store.draft("scores.parquet", scores)
    store.draft("scores_by_judge.parquet", pl.concat(members) if members else None)
    store.draft("labels.parquet", _labels(gold, scores) if gold else None)
    store.draft("judge.json", validity_of(work.judge, gold, settings.min_agreement) | {"unread": unread})


def analyse(work: Work) -> None:
    """Draft the tables of all analyses, and provenance.json."""
    store, settings = work.store, work.settings
    stages, checkpoints = store.stages(), store.checkpoints()
    given = ("scores", "scores_by_judge", "labels")
    tables = Tables(work.evaluation(), store.texts(), {name: store.find_table(name) for name in given})
    about, validity = store.read_json("evaluation.json", About), store.read_json("judge.json", dict[str, Any])
    notes = [*about["notes"], *analyses.measure(tables)]
    for name, table in tables.known.items():
        if name not in given:  # the steps before wrote those
            store.draft(f"{name}.parquet", table)
    stances = tables["drifts"].filter(pl.col("stance").is_in(STANCES))
    notes += [
        *_family_notes(work.judge, checkpoints),
        *format_notes(checkpoints),
        *_dropped_notes(stages),
        *unread_notes(validity["unread"], "answers"),
    ]
    notes += _cut_notes(store, settings, tables["scores"])
    notes += [f"Drifts: {said}"] if (said := seeds_note(stances.to_dicts())) else []
    record = provenance.record(about["plan"], settings.view, validity, stages, {}, notes, work.evaluator.generated, work.judge.n_new)
    store.draft("provenance.json", record)


def _summary(work: Work) -> dict[str, Any]:
    """Return what the command prints with `--json`, read from the run folder."""
    store = work.store
    record = store.provenance()
    tables = {name: store.read_table(name) for name in store.tables()}
    scores = tables["scores"].filter(~pl.col("repeat"))
    scores = scores.unique("answer", maintain_order=True)  # a checkpoint that ends one stage and starts others counts once
    validity = record["judge"]
    return {
        "run": str(store.root),
        "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in store.checkpoints()],
        "n_answers": scores.height,
        "n_generated": work.evaluator.generated,
        "n_judged": work.judge.n_new,
        "cost": work.judge.spent + (work.backend.spent if "backend" in vars(work) else 0.0),
        "outcome_shares": {outcome: _mean(scores[outcome]) for outcome in OUTCOMES},
        "drifts": tables["drifts"].to_dicts(),
        "findings": analyses.findings(tables, work.settings.view) if validity["headlined"] else [validity["why"]],
        "judge": validity,
        "notes": record["notes"],
        "capability": tables["capability"].to_dicts() if "capability" in tables else None,
        "report": str(store.root / "report.html"),
    }


def _labels(gold: Sequence[Gold], scores: pl.DataFrame) -> pl.DataFrame | None:
    """Return the labels of this run's answers; None if the file labels only other texts."""
    from .stats.gold import labels_of

    labels, elsewhere = labels_of(gold, scores)
    if elsewhere:
        progress.say(f"{elsewhere:,} labelled answers are not of this run; they compare the judge with people and correct nothing")
    return labels if labels.height else None


def validity_of(judge: CachedJudge, gold: Sequence[Gold], least: float) -> dict[str, Any]:
    """Return the judge's validity: identity, note, agreement with people, whether its findings are headlined, and why."""
    from .stats.agreement import calibrate, validity

    found = validity(judge, least, calibrate(judge, gold) if gold else None)
    return {"identity": judge.identity, "note": judge.note, **found}


# -- notes ---------------------------------------------------------------------------------------------------------------------


def _named_only(settings: EvaluationSettings, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return notes on models behind an API. Raises BadInput if the backend cannot sample a checkpoint."""
    from .models.loading import API

    behind = [checkpoint.path for checkpoint in checkpoints if checkpoint.path.startswith(API)]
    if (settings.backend == "openai") != bool(behind) or len(behind) not in (0, len(checkpoints)):
        other = next((one.path for one in checkpoints if one.path not in behind), "") if settings.backend == "openai" else behind[0]
        advice = f"the backend 'openai' evaluates only models behind an API (openai:MODEL), and {other} is not one"
        raise BadInput(advice if settings.backend == "openai" else f"{other} exists only behind an API; add --backend openai")
    names = ", ".join(dict.fromkeys(path.removeprefix(API) for path in behind))
    wanted = (("distances", settings.side_metrics), ("capability", settings.capability))
    unmeasured = [what for what, is_wanted in wanted if is_wanted]
    missing = f" Not measured, because this needs weights: {', '.join(unmeasured)}." if unmeasured else ""
    return (
        [f"{names}: identified only by the name on the server; the model behind a name may change without notice.{missing}"]
        if behind
        else []
    )


def _family_notes(judge: Judge, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a sentence if the judge reads with a model of a traced model's family."""
    from .models.family import family_notes

    return family_notes(judge.models, [checkpoint.path for checkpoint in checkpoints])


def format_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a sentence for every change of the chat template between neighbouring checkpoints of a stage."""
    notes = []
    for before, after in itertools.pairwise(checkpoints):
        if (before.stage, before.seed) == (after.stage, after.seed) and before.prompt_format != after.prompt_format:
            notes.append(
                f"The prompt format changes in {after.stage} between step {before.step} ({before.prompt_format}) and step {after.step} "
                f"({after.prompt_format}): part of the difference between them may come from the format and not from the weights."
            )
    return list(dict.fromkeys(notes))


def _dropped_notes(stages: Sequence[dict[str, Any]]) -> list[str]:
    read = [f"Data of {stage['name']}: {said}" for stage in stages for data in stage.get("read", ()) for said in data["sentences"]]
    return [*dict.fromkeys(read)] + [
        f"{stage['dropped']:,} records of {stage['name']} (seed {stage['seed']}) were left out of training: "
        "their prompts alone fill max_length."
        for stage in stages
        if stage.get("dropped")
    ]


def _cut_notes(store: Store, settings: EvaluationSettings, scores: pl.DataFrame) -> list[str]:
    """Return a sentence for answers without a reply, and for answers that the model's context cut."""
    ends = store.answers().select("ended", "n_tokens", answer="key")
    ended = scores.select("answer").unique().join(ends, on="answer")
    thinking = ended.filter(pl.col("ended") == "thinking").height
    cut = ended.filter((pl.col("ended") == "length") & (pl.col("n_tokens") < settings.max_new_tokens)).height
    of = f"of {ended.height:,} answers"
    notes = [f"{thinking:,} {of} end inside a thinking block and count as invalid; raise max_new_tokens."] if thinking else []
    return [*notes, f"{cut:,} {of} are cut at the model's context, before {settings.max_new_tokens} new tokens."] if cut else notes


def _mean(column: pl.Series) -> float | None:
    value = column.mean()
    return None if value is None else float(value)  # type: ignore[arg-type]
