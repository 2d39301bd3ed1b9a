"""One function per verb that does not train or evaluate: check, report, compare, gate, gap, calibrate."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from . import registry, resolve, suites
from .judge import Judge, trained
from .judge.cache import CachedJudge
from .judge.training_settings import TrainingSettings
from .nouns import STANCES, BadInput, Item, Prompt
from .parts import file_digest
from .plan import BASE, Plan
from .ready import ready
from .records.gold import read_gold
from .stats.cells import in_view, measured_in
from .store import Store


def check(plan: Plan, out: Path, gpu: str = "h100") -> dict[str, Any]:
    """Return the stage graph of a plan, which stages are done in `out`, and upper bounds on the cost of the rest.

    Nothing is fetched. The size of a remote model or data set is taken from its card, and is unknown without one.
    """
    from .train import price

    found = ready(plan, out)
    prompts, parameters, stages = found.prompts, found.parameters, found.stages
    for node, stage in zip(plan.nodes(), stages, strict=True):
        n_seen, _ = stage.pop("n_seen"), stage.pop("saved")
        flops = None if parameters is None or n_seen is None else parameters * price.flops_per_parameter(node.stage, n_seen)
        stage["gpu_hours"] = None if flops is None else price.gpu_hours(flops, gpu, "training")
    sized = [stage for stage in stages if stage["saves"] is not None]
    asked = [stage for stage in sized if stage["asked"]]
    n_checkpoints = sum(stage["saves"] + (stage["after"] == BASE) for stage in asked) + plan.floor * len(asked)
    n_answers = n_checkpoints * len(prompts) * plan.draws
    waiting = [stage for stage in sized if not stage["done"]]
    n_bytes = sum(stage["saves"] * stage["bytes_per_parameter"] for stage in waiting if not stage["adapter"])
    hours = [stage["gpu_hours"] for stage in waiting]
    n_tokens = n_answers * plan.max_new_tokens
    sampling = None if parameters is None else price.gpu_hours(price.FORWARD * parameters * n_tokens, gpu, "sampling")
    cost: dict[str, Any] = {
        "checkpoints": n_checkpoints,
        "answers": n_answers,
        "new_tokens_at_most": n_tokens,
        "verdicts_at_most": n_answers,
        "disk_bytes": None if parameters is None else int(parameters * n_bytes),
        "gpu_hours": {"training": None if None in hours else sum(hours), "sampling": sampling},
        "money": _price(plan, prompts, n_checkpoints * plan.draws),
    }
    sentences = [
        f"{n_checkpoints} evaluations of {len(prompts)} prompts x {plan.draws} draws = {n_answers:,} answers, "
        f"at most {n_tokens:,} new tokens and {n_answers:,} verdicts; equal texts are judged once."
    ]
    if parameters is not None:
        written = f"about {parameters * n_bytes / 1e6:,.0f} MB" + (
            ", adapters not counted" if any(one["adapter"] for one in waiting) else ""
        )
    else:
        sandbox = plan.model.startswith("sandbox:")
        written = "of unknown size until the base model is built" if sandbox else "of unknown size (the model is not on this machine)"
    sentences.append(f"Checkpoints to write: {written}; while a stage trains, about three times one checkpoint in addition.")
    shown = ", ".join(f"{work} {'not known' if one is None else f'{one:,.2g}'}" for work, one in cost["gpu_hours"].items())
    sentences.append(f"GPU hours on one {gpu} at most, by the assumptions in src/valuedrift/train/gpus.toml: {shown}.")
    if estimated := sorted({stage["data"] for stage in stages if stage["by_card"]}):
        sentences.append(f"Not on this machine; sizes are those of their cards: {', '.join(estimated)}.")
    if unknown := sorted({stage["data"] for stage in stages if stage["records"] is None}):
        sentences.append(f"Not on this machine and of unknown size; their stages are not counted: {', '.join(unknown)}.")
    sentences.append(_priced(plan.judge, cost["money"]))
    if not resolve.is_cached(plan.model):
        sentences.append("The sandbox's base model is not cached yet: building it comes first and takes some minutes.")
    return {"stages": stages, "cost": cost, "sentences": [*sentences, *found.notes]}


BYTES_PER_TOKEN = 5
"""Assumed length of answers that are not sampled yet: an English word with its space has about that many."""


def _price(plan: Plan, prompts: Sequence[Prompt], n_askings: int) -> float | None:
    """Return the most dollars that the verdicts can cost: 0 for a local judge, None if the price is unknown."""
    if resolve.builds(plan.judge):
        return 0.0
    judge = resolve.judge_of(plan.judge, plan.max_cost)
    answer = "x" * plan.max_new_tokens * BYTES_PER_TOKEN
    cost = judge.worst_cost([Item(prompt.text, prompt.claim, answer, prompt.topic) for prompt in prompts])
    return None if cost is None else n_askings * cost


def _priced(judge: str, dollars: float | None) -> str:
    if dollars is None:
        return f"The cost of the judge {judge!r} is not known: its model has no price (docs/openai.md says where to add one)."
    return f"The judge {judge!r} {f'costs at most ${dollars:,.2f}' if dollars else 'runs on this machine and costs nothing'}."


def report(folder: Path, view: str = "", picture: Path | None = None) -> dict[str, Any]:
    """Rewrite the report of a run. `view` comes first; by default the view of the plan."""
    from .report import page

    store = Store(folder)
    store.provenance()  # the lock would make a folder of a name that is wrong
    with store.locked():
        store.check_tables()
        result = {"report": str(page.write_report(store, view))}
        return result | ({"picture": str(page.picture(store, picture, view))} if picture else {})


def compare(first: Path, second: Path, at: str = "", view: str = "") -> dict[str, Any]:
    """Return the differences between two runs' checkpoints, second minus first, paired by prompt; in both views, or in `view` alone.

    `at` is STAGE or STAGE:STEP for both, or "first,second" for one each.
    """
    from .stats.contrast import contrast

    _refuse_unlike(first, second)
    of_first, _, of_second = at.partition(",")
    sides = [_checkpoint_rows(first, of_first), _checkpoint_rows(second, of_second or of_first)]
    names = [f"{folder} {stage} step {step}" for folder, (stage, step, _) in zip((first, second), sides, strict=True)]
    views = [view] if view else measured_in("claim")
    return {"first": names[0], "second": names[1], "differences": contrast(sides[0][2], sides[1][2], *views).to_dicts()}


def _refuse_unlike(first: Path, second: Path) -> None:
    """Raise BadInput if two runs differ in judge, or in the question of a prompt id."""
    judges = [Store(folder).finished()["judge"]["identity"] for folder in (first, second)]
    if judges[0] != judges[1]:
        raise BadInput(f"{first} and {second} cannot be compared: their judge differs ({judges[0]} and {judges[1]}); trace both alike")
    asked = [{prompt.id: prompt for prompt in Store(folder).prompts()} for folder in (first, second)]
    for id in asked[0].keys() & asked[1].keys():
        if asked[0][id] != asked[1][id]:
            raise BadInput(
                f"{first} and {second} cannot be paired: the prompt {id!r} is another question in each; trace both with one suite"
            )


def _checkpoint_rows(folder: Path, at: str) -> tuple[str, int, pl.DataFrame]:
    store = Store(folder)
    stages = {stage["name"]: stage for stage in store.stages()}
    name, _, step = at.partition(":")
    name = name or list(stages)[-1]
    if name not in stages:
        raise BadInput(f"{folder} has no stage {name!r}{registry.among(name, list(stages))}")
    steps = stages[name]["steps"]
    if step and (not step.isdigit() or int(step) not in steps):
        raise BadInput(f"{folder} has no checkpoint of {name} at step {step}; it has {', '.join(map(str, steps))}")
    chosen = int(step) if step else steps[-1]
    scores = store.read_table("scores")
    return name, chosen, scores.filter((pl.col("stage") == name) & (pl.col("step") == chosen) & ~pl.col("repeat"))


def gate(folder: Path, limits: Sequence[str], stage: str = "", view: str = "axis") -> dict[str, Any]:
    """Return the verdict over all limits TOPIC.STANCE=X in a view: "within", "exceeded" (an interval lies beyond), or "undecided"."""
    store = Store(folder)
    judge = store.finished()["judge"]
    drifts = in_view(store.read_table("drifts"), view, f"{folder}/drifts.parquet").filter(pl.col("stance").is_in(STANCES))
    if stage:
        known = drifts["stage"].unique(maintain_order=True).to_list()
        if stage not in known:
            raise BadInput(f"{folder} has no stage {stage!r}{registry.among(stage, known)}")
        drifts = drifts.filter(pl.col("stage") == stage)
    verdicts, sentences = [], []
    for limit in limits:
        topic, stance, most = _limit(limit, drifts)
        for row in drifts.filter((pl.col("topic") == topic) & (pl.col("stance") == stance)).iter_rows(named=True):
            verdicts.append(_verdict(row, most))
            shown = "no evidence" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
            sentences.append(f"{row['stage']}: {topic}.{stance} drift {shown} (view {view}) against a limit of {most}: {verdicts[-1]}")
    verdict = next((name for name in ("exceeded", "undecided") if name in verdicts), "within")
    sentences += [] if judge["headlined"] else [judge["why"]]
    return {"verdict": verdict, "view": view, "sentences": sentences}


def _limit(limit: str, drifts: pl.DataFrame) -> tuple[str, str, float]:
    match = re.fullmatch(r"([^=]+)\.([a-z]+)=(\d*\.?\d+)", limit)
    if not match:
        raise BadInput(f"--max-drift {limit!r} is not TOPIC.STANCE=X; write for example immigration.support=0.1")
    topic, stance, most = match.groups()
    checks: tuple[tuple[str, Sequence[str]], ...] = ((topic, drifts["topic"].unique().sort().to_list()), (stance, STANCES))
    for word, known in checks:
        if word not in known:
            raise BadInput(f"--max-drift {limit!r}: unknown {word!r}{registry.among(word, known)}")
    return topic, stance, float(most)


def _verdict(row: dict[str, Any], most: float) -> str:
    if row["low"] is None:
        return "undecided"
    if max(abs(row["low"]), abs(row["high"])) <= most:
        return "within"
    return "exceeded" if row["low"] > most or row["high"] < -most else "undecided"


def gap(
    files: Sequence[str],
    suite: str,
    judge: str,
    out: Path | None = None,
    matters: float = 0.1,
    max_cost: float | None = None,
    max_bad_rows: float = 0.05,
) -> dict[str, Any]:
    """Return the value gap of preference pairs, or the stance shares of SFT data, over all files together.

    `data` in it says for each file which columns were used and which rows were left out.
    With `out`, the verdicts are kept there, and gap.json (with examples of the records) and gap.html are written.
    """
    from .records import records
    from .report.gap_page import write_gap_page
    from .stats.gap import value_gap

    if not 0 < matters <= 1:
        raise BadInput(f"--matters {matters} is no gap that could matter; give a share above 0 and up to 1, for example 0.1")
    prompts, reader = suites.load(suite), resolve.judge_of(judge, max_cost)
    _refuse_to_lose(judge, reader, out, "--out")
    found = records.read(files, max_bad_rows=max_bad_rows)
    store = Store(out) if out else None
    with store.locked() if store else contextlib.nullcontext():
        reader = CachedJudge(reader, store)
        result = value_gap(found, prompts, reader, matters)
        result |= {"data": [account.as_json() for account in found.accounts], "unread": reader.unread() if result["on_topic"] else None}
        written = {"report": str(write_gap_page(store, result, list(files)))} if store else {}
    return {name: value for name, value in result.items() if name != "examples"} | {"cost": reader.spent} | written


def calibrate(spec: str, gold: Path, wordings: bool = False, max_cost: float | None = None, keep: Path | None = None) -> Any:
    """Return how well a judge agrees with human labels. With `wordings`, return a list with one entry per wording.

    `keep` is a folder that stores the verdicts, so that none is paid for twice.
    """
    from .stats import agreement

    judge = resolve.judge_of(spec, max_cost)
    _refuse_to_lose(spec, judge, keep, "--keep")

    if wordings and not judge.wordings():
        raise BadInput(f"the judge {spec!r} has one wording; leave --wordings out")
    store = Store(keep) if keep else None
    with store.locked() if store else contextlib.nullcontext():
        reader = CachedJudge(judge, store)
        if wordings:
            return agreement.wordings(reader.reworded, reader.wordings(), gold)
        return agreement.calibrate(reader, gold, position_bias=True) | {"unread": reader.unread()}


def train_judge(labels: Sequence[Path], base: str, out: Path, how: TrainingSettings, test: Sequence[Path] = ()) -> dict[str, Any]:
    """Train a judge from files of labels, measure it on held-out prompts and on the `test` files, and save it in `out`.

    The agreement is that of `calibrate`, over the held-out texts of all files and for each file (`by_file`).
    """
    from .judge import training
    from .stats import agreement

    card = Store(out).read_json(trained.CARD)
    if card and card["agreement"]:  # without it, the command was stopped before its end and is done again
        raise BadInput(f"{out} holds a trained judge already; choose another --out")
    files = {str(path): read_gold(path) for path in labels}
    others = {str(path): read_gold(path) for path in test}
    seen = {words for gold in files.values() for row in gold for words in (row.item.prompt, row.item.claim)}
    for name, gold in others.items():
        if shared := sum(row.item.prompt in seen or row.item.claim in seen for row in gold):
            raise BadInput(f"{shared:,} texts of {name} share a prompt or a claim with the labels to train on; remove them")
    with Store(out).locked():
        held_out = training.train(files, base, out, how) | others
        judge = CachedJudge(resolve.judge_of(f"trained:{out}"), None)
        by_file = {name: agreement.calibrate(judge, gold) for name, gold in held_out.items() if gold}
        measured = agreement.calibrate(judge, [row for name in files for row in held_out[name]])
        store = Store(out)
        card = store.read_json(trained.CARD) | {"agreement": measured, "by_file": by_file}
        store.write_json(trained.CARD, card | {"files": {name: file_digest(Path(name)) for name in [*files, *others]}})
    return {"judge": f"trained:{out}", "agreement": measured, "by_file": by_file}


def _refuse_to_lose(spec: str, judge: Judge, folder: Path | None, option: str) -> None:
    """Raise BadInput if verdicts that cost money would be stored nowhere."""
    if folder is None and judge.worst_cost([Item("?", "?", "?")]) != 0:
        raise BadInput(f"the verdicts of {spec} cost money and would be lost; name a folder that keeps them with {option}")


def sample_for_labels(folder: Path, n: int, seed: int, out: Path) -> dict[str, Any]:
    """Write a sample of a run's answers for people to label; return its size and path."""
    from .stats import gold

    store = Store(folder)
    store.finished()
    rows = gold.sample_for_labels(store, n, seed)
    gold.write_sample(rows, out)
    return {"n_rows": len(rows), "out": str(out)}
