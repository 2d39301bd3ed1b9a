"""The flow in one direction: plan -> checkpoints -> answers -> readings -> profiles and drifts -> report.

Each step reads what the one before it wrote and skips what is done by content key, so that the same command again finishes the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from . import analyses, progress, provenance, registry, suites
from .analyses import Tables
from .distributed import Failed, processes
from .evaluate.asking import Asker, adapt, effort_note, jobs_of, within
from .judge.cache import CachedJudge, unread_notes
from .models.budget import limited
from .nouns import OUTCOMES, STANCES, BadInput, Checkpoint, Stopped, digest
from .plan import BASE, Asking, Node, Plan, original_names
from .ready import ready
from .resolve import anchored_of, gold_of, judge_of, records_of, resolve_model, stage_folder
from .stats import effort
from .stats.contrast import seeds_note
from .stats.effort import Design, Effort
from .store import Store

COLLECTED = ("companion_scores", "proxy_scores", "capability")
"""Tables that need the weights: another judge and another view leave them as they are."""

if TYPE_CHECKING:
    from .stats.gold import Gold

# -- train ---------------------------------------------------------------------------------------------------------------


def run(plan: Plan, out: Path, engine: str = "local") -> dict[str, Any]:
    """Train the plan's stages, trace every checkpoint, measure and report; return the JSON object of the command contract.

    A stage that fails leaves the others: they are trained, traced and reported, and `failed` says what is missing.
    """
    machines = registry.find("engine", engine)()
    ready(plan, out, fetch=True)
    store = Store(out)
    with store.locked():
        started = time.monotonic()
        store.write_json("plan.json", plan.model_dump())
        stages, checkpoints, rewards, failed = _train_all(plan, store, machines)
        timings = {"train": round(time.monotonic() - started, 2)}
        result = trace(store, plan, stages, checkpoints, timings, plan.model_dump(), True, _failed_notes(failed), rewards, machines)
    return {"stages": stages, "failed": failed, **result}


def _train_all(
    plan: Plan, store: Store, engine: Any
) -> tuple[list[dict[str, Any]], list[Checkpoint], list[Checkpoint], list[dict[str, Any]]]:
    """Return the trained stages, their checkpoints, the reward models, and what failed. Raises the first failure where all failed.

    A stage is handed to the engine as soon as what it needs is trained.
    """
    from .models import loading

    base = resolve_model(plan.model)
    last = {(BASE, seed): (base, loading.weights_digest(base)) for seed in plan.seeds}
    trained: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    failed: dict[tuple[str, int], str] = {}
    errors: list[BaseException] = []
    nodes = {(node.name, node.seed): node for node in plan.nodes()}
    waiting, running = dict(nodes), set[tuple[str, int]]()
    try:
        while waiting or running:
            for key, node in list(waiting.items()):
                needs = [(name, node.seed) for name in (node.parent, node.reward) if name]
                if missing := next((name for name, seed in needs if (name, seed) in failed), ""):
                    failed[key] = f"{missing}, which it needs, failed"
                elif len(running) < engine.slots and all(need in last for need in needs):
                    reward = last[node.reward, node.seed] if node.reward else None
                    engine.submit(key, node.stage.resources, _train, node, *last[node.parent, node.seed], reward, store.root)
                    running.add(key)
                else:
                    continue
                del waiting[key]
            if not running:
                continue
            try:
                key, trained[key] = engine.next()
            except Failed as failure:  # whatever stops one stage of a night's work must not stop the others
                if processes.world_size() > 1:  # the others wait in the middle of it
                    raise failure.error from failure
                key = failure.key
                if not isinstance(failure.error, BadInput | Stopped):
                    progress.say("".join(traceback.format_exception(failure.error)).rstrip())
                errors.append(failure.error)
                failed[key] = str(failure.error) or type(failure.error).__name__
                progress.say(f"{key[0]}, seed {key[1]}, failed: {failed[key]}")
            else:
                folder, record = trained[key]
                end = f"{folder}/checkpoint-{record['steps'][-1]}"
                last[key] = (end, loading.weights_digest(end))
            running.discard(key)
    except BaseException:
        engine.stop()
        raise
    stages: list[dict[str, Any]] = []
    checkpoints: list[Checkpoint] = []
    rewards: list[Checkpoint] = []
    for key, node in nodes.items():
        if key in failed:
            continue
        folder, record = trained[key]
        paths = [(0, last[node.parent, node.seed][0]), *((step, f"{folder}/checkpoint-{step}") for step in record["steps"])]
        if node.stage.scores:  # a reward model answers nothing
            rewards.append(Checkpoint(node.name, paths[-1][0], *last[key], seed=node.seed))
            continue
        settings = node.stage.model_dump(exclude={"after", "max_bad_rows", "resources"}), node.stage.own().model_dump()
        stages.append(
            {
                "name": node.name,
                "after": node.parent,
                "seed": node.seed,
                "algorithm": node.stage.algorithm,
                "data": node.stage.data,
                "sweep": dict(node.sweep),
                "settings": digest("settings", *map(original_names, settings)),
                "total_steps": record["steps"][-1],
                "steps": [step for step, _ in paths],
                "seconds": record.get("seconds"),
                "dropped": record.get("dropped", 0),
                "read": record["read"],
            }
        )
        checkpoints += [describe(path, node.name, step, node.seed, plan.frame) for step, path in paths]
    if errors and not stages:
        raise errors[0]
    return stages, checkpoints, rewards, [{"name": name, "seed": seed, "reason": reason} for (name, seed), reason in failed.items()]


def _train(node: Node, parent: str, parent_weights: str, reward: tuple[str, str] | None, root: Path) -> tuple[Path, dict[str, Any]]:
    """Train a node from the weights at `parent`; `reward` is where its reward model stands, and the digest of its weights."""
    from .records import digest_of
    from .train.saved_stage import Done
    from .train.stage_trainer import run_stage

    records = records_of(node)
    folder = stage_folder(node, parent_weights, digest_of(records), root, reward[1] if reward else "")
    with progress.training(f"train {node.name}, seed {node.seed}") as tell:
        steps = run_stage(node.stage, node.seed, parent, records, folder, tell, reward[0] if reward else "", anchored_of(node))
    read = [account.as_json() for account in records.accounts]
    return folder, Store(folder).read_json("done.json", Done, {}) | {"steps": steps, "read": read}


def describe(path: str, stage: str, step: int, seed: int = 0, frame: str = "auto") -> Checkpoint:
    """Return the checkpoint behind a folder, named by the content of its weights and the frame it will be asked in."""
    from .models import chat_format, loading

    if path.startswith(loading.API):
        return Checkpoint(stage, step, path, loading.weights_digest(path), "server", seed)
    loading.check_causal(path)
    template = None if frame == "plain" else loading.chat_template(path)
    return Checkpoint(stage, step, path, loading.weights_digest(path), chat_format.frame_digest(template), seed)


def trace_folders(asking: Asking, folders: Sequence[Path | str], base: str | None, out: Path, engine: str = "local") -> dict[str, Any]:
    """Trace checkpoints that any trainer left; return what `trace --json` prints."""
    from .checkpoints.discover import discover

    store = Store(out)
    with store.locked():
        stages, checkpoints, notes = [], [], []
        before = BASE
        for found in discover(folders, base, store.root / "made"):
            steps = [step for step, _ in found.steps]
            what = {"algorithm": "found", "data": None, "total_steps": steps[-1], "steps": steps, "seconds": None}
            stages.append({"name": found.name, "after": before, "seed": 0} | what)
            checkpoints += [describe(path, found.name, step, 0, asking.frame) for step, path in found.steps]
            before = found.name
            if found.left_out:
                notes.append(f"Not traced beside {found.name}: {', '.join(found.left_out)}.")
                progress.say(notes[-1])
        given = asking.model_dump() | {"folders": [str(folder) for folder in folders], "base": base}
        return trace(store, asking, stages, checkpoints, {}, given, notes=notes, engine=registry.find("engine", engine)())


def rejudge(folder: Path, changed: dict[str, Any]) -> dict[str, Any]:
    """Read the stored answers of a run again, under changed settings of the reading; generates nothing.

    Raises BadInput where the run is not finished.
    """
    store = Store(folder)
    with store.locked():
        record = store.provenance()
        if record is None:
            raise BadInput(f"{folder} is not a finished run (it holds no provenance.json); finish it with the command that began it")
        stages = store.stages()
        if not stages:
            raise BadInput(f"{folder} names no stage (stages.json is missing or empty); run the command that began it again")
        plan = record["plan"] | changed
        asking = Asking(**{name: value for name, value in plan.items() if name in Asking.model_fields})
        return trace(store, asking, stages, store.checkpoints(), {}, plan, sample=False)


# -- trace ---------------------------------------------------------------------------------------------------------------


def trace(
    store: Store,
    asking: Asking,
    stages: list[dict[str, Any]],
    checkpoints: list[Checkpoint],
    timings: dict[str, float],
    plan: dict[str, Any],
    sample: bool = True,
    notes: Sequence[str] = (),
    rewards: Sequence[Checkpoint] = (),
    engine: Any = None,
) -> dict[str, Any]:
    """Ask and judge every checkpoint, measure and report; return what `trace --json` prints.

    Without `sample` nothing is generated and no weights are loaded: all answers must be there, and their companions stay as they are.
    """
    from .report.page import write_report

    prompts, gold = suites.load(asking.suite, asking.topics), gold_of(asking.gold)
    named = _named_only(asking, checkpoints)
    with limited(asking.max_cost):  # sampling and judging may both cost money
        judge = CachedJudge(judge_of(asking.judge, asking.max_cost), store)
        backend = registry.find("backend", asking.backend)(asking) if sample else None
    asker, spent = Asker(store, asking, prompts, judge, backend, engine), None
    if sample:
        asker.check(list(jobs_of(asking, stages, checkpoints)))
    with _timed(timings, "sample"):
        if asking.precision or asking.budget:
            spent = adapt(asker, stages, checkpoints) if sample else store.read_json("effort.json", Effort)
        if spent:
            asker.design = Design.from_json(spent["design"])
            checkpoints_asked = within(asker.design, checkpoints)
        else:
            checkpoints_asked = checkpoints
        jobs = list(jobs_of(asking, stages, checkpoints_asked))
        if sample:
            asker.sample(jobs)
    with _timed(timings, "judge"):
        asked = asker.asked(jobs)
        scores = asker.scores(asked)
        unread = judge.unread(scores["item"])
        by_judge = {member.identity: asker.scores(asked, member) for member in judge.members}
        judged = judge.n_new
        standing = standing_of(judge, gold, asking.min_agreement) | {"unread": unread}
        labels = _labels(gold, scores) if gold else None
    missing: list[str] = []
    companions, likely, capable = (None if sample or not store.has_table(name) else store.read_table(name) for name in COLLECTED)
    with _timed(timings, "companions"), _or_said("KL, rewards and lengths are missing", missing):
        if asking.companions and sample:
            from .evaluate.distance import companion_scores

            companions = companion_scores(store, asking, stages, checkpoints_asked, rewards, prompts, asked)
    with _timed(timings, "proxy"), _or_said("The proxy is missing", missing):
        if asking.proxy and sample and not named:
            from .evaluate.likelihood import proxy_scores

            likely = proxy_scores(store, asking, checkpoints, prompts)
    with _timed(timings, "capability"), _or_said("Capability is missing", missing):
        if asking.capability and sample and not named:
            from .evaluate.capability import capability_scores

            capable = capability_scores(store, asking, checkpoints_asked)
    notes = [*notes, *named, *(backend.notes if backend else ()), *missing]
    members = [rows.with_columns(judge=pl.lit(identity)) for identity, rows in by_judge.items()]
    read = {"scores": scores, "scores_by_judge": pl.concat(members) if members else None, "labels": labels}
    read |= {"companion_scores": companions, "proxy_scores": likely, "capability": capable}
    with _timed(timings, "measure"):
        tables = Tables(stages, checkpoints, store.texts(), asking.view, read)
        notes += analyses.measure(tables)
    drifts, found = tables["drifts"], analyses.findings(tables.known, asking.view)
    if spent:  # another judge may find other widths among the same answers
        stances = drifts.filter(pl.col("stance").is_in(STANCES), view=asking.view)
        wide = effort.too_wide(stances, spent["precision"]).height if spent["precision"] else None
        spent |= {"too_wide": wide, "intervals": stances.height}
        notes = [*notes, effort_note(spent)]
    notes = [*notes, *frame_notes(checkpoints), *_dropped_notes(stages), *unread_notes(unread, "answers")]
    notes += _cut_notes(store, asking, asked)
    notes += [f"Drifts: {said}"] if (said := seeds_note(drifts.filter(pl.col("stance").is_in(STANCES)).to_dicts())) else []
    about_run = {
        "prompts.json": [dataclasses.asdict(prompt) for prompt in prompts],
        "stages.json": stages,
        "checkpoints.json": [dataclasses.asdict(checkpoint) for checkpoint in checkpoints],
        "effort.json": spent,
        "provenance.json": provenance.record(plan, asking.view, standing, stages, timings, notes, asker.generated, judged),
    }
    # What the tables stand on is written together with them: a trace that was stopped leaves the run before it as it was.
    store.commit(about_run | {f"{name}.parquet": table for name, table in tables.known.items()})
    write_report(store)
    asked_once = scores.filter(~pl.col("repeat")).unique("answer")  # a checkpoint that ends one stage and starts others counts once
    return {
        "run": str(store.root),
        "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in checkpoints],
        "n_answers": asked_once.height,
        "n_generated": asker.generated,
        "n_judged": judged,
        "cost": judge.spent + (backend.spent if backend else 0.0),
        "outcome_shares": {outcome: _mean(asked_once[outcome]) for outcome in OUTCOMES},
        "drifts": drifts.to_dicts(),
        "findings": found if standing["headlined"] else [standing["why"]],
        "judge": standing,
        "notes": notes,
        "effort": {name: value for name, value in spent.items() if name != "design"} if spent else None,
        "capability": capable.to_dicts() if capable is not None else None,
        "report": str(store.root / "report.html"),
    }


def _labels(gold: Sequence[Gold], scores: pl.DataFrame) -> pl.DataFrame | None:
    """Return the labels of this run's own answers, None where the file labels other texts."""
    from .stats.gold import labels_of

    labels, elsewhere = labels_of(gold, scores)
    if elsewhere:
        progress.say(f"{elsewhere:,} labelled answers are not of this run; they compare the judge with people and correct nothing")
    return labels if labels.height else None


def standing_of(judge: CachedJudge, gold: Sequence[Gold], least: float) -> dict[str, Any]:
    """Return how far a judge is to be believed: identity, note, agreement with people, whether its findings are headlined, and why."""
    from .stats.agreement import calibrate, standing

    found = standing(judge, least, calibrate(judge, gold) if gold else None)
    return {"identity": judge.identity, "note": judge.note, **found}


# -- what is said of it ------------------------------------------------------------------------------------------------------


def _named_only(asking: Asking, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return what a reader must know of models behind an API. Raises BadInput where the backend cannot ask a checkpoint."""
    from .models.loading import API

    behind = [checkpoint.path for checkpoint in checkpoints if checkpoint.path.startswith(API)]
    if (asking.backend == "openai") != bool(behind) or len(behind) not in (0, len(checkpoints)):
        other = next((one.path for one in checkpoints if one.path not in behind), "") if asking.backend == "openai" else behind[0]
        advice = f"the backend 'openai' asks models behind an API only (openai:MODEL), and not {other}"
        raise BadInput(advice if asking.backend == "openai" else f"{other} exists only behind an API; ask it with --backend openai")
    names = ", ".join(dict.fromkeys(path.removeprefix(API) for path in behind))
    wanted = (("distances", asking.companions), ("the proxy", asking.proxy), ("capability", asking.capability))
    unmeasured = [what for what, is_wanted in wanted if is_wanted]
    missing = f" What needs weights is not measured there: {', '.join(unmeasured)}." if unmeasured else ""
    return [f"{names}: known by the server's name alone; what stands behind it may change unseen.{missing}"] if behind else []


def frame_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a sentence for every change of the chat template between neighbouring checkpoints of a stage."""
    notes = []
    for before, after in itertools.pairwise(checkpoints):
        if (before.stage, before.seed) == (after.stage, after.seed) and before.frame != after.frame:
            notes.append(
                f"The frame of the questions changes in {after.stage} between step {before.step} ({before.frame}) and step {after.step} "
                f"({after.frame}): part of that difference may be due to the frame and not to the weights."
            )
    return list(dict.fromkeys(notes))


def _failed_notes(failed: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{stage['name']} (seed {stage['seed']}) is missing: {stage['reason']}" for stage in failed]


def _dropped_notes(stages: Sequence[dict[str, Any]]) -> list[str]:
    read = [f"Data of {stage['name']}: {said}" for stage in stages for data in stage.get("read", ()) for said in data["sentences"]]
    return [*dict.fromkeys(read)] + [
        f"{stage['dropped']:,} records of {stage['name']} (seed {stage['seed']}) were left out of training: "
        "their prompts alone fill max_length."
        for stage in stages
        if stage.get("dropped")
    ]


def _cut_notes(store: Store, asking: Asking, asked: pl.DataFrame) -> list[str]:
    """Return a sentence for answers without a reply, and for answers that the model's context cut."""
    ends = store.answers().select("ended", "n_tokens", answer="key")
    ended = asked.select("answer").unique().join(ends, on="answer")
    thinking = ended.filter(pl.col("ended") == "thinking").height
    cut = ended.filter((pl.col("ended") == "length") & (pl.col("n_tokens") < asking.max_new_tokens)).height
    of = f"of {ended.height:,} answers"
    notes = [f"{thinking:,} {of} end inside a thinking block and count as invalid; raise max_new_tokens."] if thinking else []
    return [*notes, f"{cut:,} {of} are cut at the model's context, before {asking.max_new_tokens} new tokens."] if cut else notes


def _mean(column: pl.Series) -> float | None:
    value = column.mean()
    return None if value is None else float(value)  # type: ignore[arg-type]


class _timed:
    """Add the seconds of a block to a dict."""

    def __init__(self, timings: dict[str, float], name: str):
        self.timings, self.name = timings, name

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.timings[self.name] = round(time.monotonic() - self.started, 2)


@contextlib.contextmanager
def _or_said(what: str, missing: list[str]) -> Iterator[None]:
    """Let a trace go on without what fails here, and say so: what was sampled and judged is told though two models at once may not fit."""

    from .models import loading

    try:
        yield
    except (BadInput, RuntimeError, OSError) as error:
        missing.append(f"{what}: {loading.reason_of(error)}.")
        progress.say(missing[-1])
