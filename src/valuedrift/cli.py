"""The command line: verbs that read what the verb before wrote.

Every verb takes --json (one object on stdout, progress on stderr) and exits 0 done, 2 bad input, 3 stopped at a threshold, 4 undecided.
Imports of heavy packages stay inside the verbs, so that `valuedrift --help` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

# Before any import of torch: two spinning OpenMP threads on a busy machine run several times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from .distributed import processes, storage
from .nouns import STANCES, BadInput, Stopped
from .progress import say, shown, tell

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trace where a model's values come from, and when they move.",
)
suite_app = typer.Typer(no_args_is_help=True, help="The questions every checkpoint is asked.")
sandbox_app = typer.Typer(no_args_is_help=True, help="The embedded world: a base model and data made on this machine.")
app.add_typer(suite_app, name="suite")
app.add_typer(sandbox_app, name="sandbox")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, progress on stderr.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", parser=storage.here, metavar="FOLDER", help="Run folder, or its address (s3://…); the same again continues what is there."
    ),
]
RunFolder = Annotated[Path, typer.Argument(parser=storage.here, metavar="RUN", help="A run folder, or its address.")]
SuiteOption = Annotated[str, typer.Option("--suite", help="A suite's name or a JSONL file of prompts.")]
JudgeOption = Annotated[
    str,
    typer.Option(
        "--judge", help="Who reads: labels:PATH_OR_ID, nli:PATH_OR_ID, openai:MODEL, panel:A,B, cues (weak), oracle (sandbox only)."
    ),
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, help="Dollars that models behind an API, asked or judging, may cost at most.")
]
Without = Annotated[
    list[str] | None, typer.Option("--without", help="Leave this stage out; what came after it comes after the one before. Repeatable.")
]
Only = Annotated[list[str] | None, typer.Option("--only", help="Keep only this stage. Repeatable.")]
Gold = Annotated[
    str, typer.Option("--gold", help="Human labels: compares the judge with them, and corrects the figures by those of this run.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the plan, for example draws=3 or stage.dpo.beta=0.2. Repeatable."),
]
Engine = Annotated[str, typer.Option("--engine", help="local, or ray: stages and checkpoints as tasks on a Ray cluster.")]
Topics = Annotated[str, typer.Option("--topics", help="Only these topics, separated by commas.")]


def _print(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        tell(json.dumps(result, ensure_ascii=False))
    else:
        show(result)


# -- the flow ----------------------------------------------------------------------------------------------------------------


@app.command()
def demo(out: Out = Path("runs/demo"), as_json: Json = False) -> None:
    """Train a small model here, base -> SFT -> two preference stages, trace it and write the report. No download, no GPU."""
    with resources.as_file(resources.files("valuedrift.sandbox").joinpath("demo.toml")) as plan:
        run(plan, out=out, as_json=as_json)


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="A plan in TOML.")],
    without: Without = None,
    only: Only = None,
    changes: Set = None,
    engine: Engine = "local",
    out: Out = Path("runs/latest"),
    as_json: Json = False,
) -> None:
    """Train the stages of a plan, trace every checkpoint, measure and report."""
    from . import plan as plans

    loaded = plans.load(plan, changes or ()).ablated(without or (), only or ())
    from . import flow

    result = flow.run(loaded, out, engine)
    _print(result, as_json, _show_trace)
    if result["failed"]:
        raise Stopped(f"{len(result['failed'])} stages failed; the others are in the report, and the same command tries these again")


@app.command()
def check(
    plan: Annotated[Path, typer.Argument(help="A plan in TOML.")],
    without: Without = None,
    only: Only = None,
    changes: Set = None,
    gpu: Annotated[str, typer.Option("--gpu", help="What GPU hours are reckoned for: a100, h100, h200, b200.")] = "h100",
    out: Out = Path("runs/latest"),
    as_json: Json = False,
) -> None:
    """Show a plan's stage graph, what is done already, and what it will cost. Trains nothing."""
    from . import plan as plans

    loaded = plans.load(plan, changes or ()).ablated(without or (), only or ())
    from . import verbs

    _print(verbs.check(loaded, out, gpu), as_json, _show_check)


@app.command()
def trace(
    folders: Annotated[
        list[str],
        typer.Argument(help="Checkpoints, folders of them, hub ids (org/name@step*) or openai:MODEL, in the order of training."),
    ],
    base: Annotated[str | None, typer.Option("--base", help="The model the training started from: step 0.")] = None,
    suite: SuiteOption = "vaes",
    judge: JudgeOption = "cues",
    backend: Annotated[str, typer.Option("--backend", help="What runs the model.")] = "transformers",
    draws: Annotated[int, typer.Option("--draws", help="Answers per prompt.")] = 5,
    temperature: Annotated[float, typer.Option("--temperature")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens")] = 256,
    frame: Annotated[str, typer.Option("--frame", help="auto, plain or chat: how the questions are put.")] = "auto",
    topics: Topics = "",
    view: Annotated[str, typer.Option("--view", help="Show claim or axis first (both are measured); paper: measure it too.")] = "claim",
    floor: Annotated[bool, typer.Option("--floor/--no-floor", help="Ask the last checkpoint twice: the noise floor.")] = True,
    companions: Annotated[
        bool, typer.Option("--companions/--no-companions", help="Also measure the distance moved (KL) and the length of the answers.")
    ] = True,
    proxy: Annotated[
        bool, typer.Option("--proxy/--no-proxy", help="Also read stances off likelihoods at every checkpoint, without generating.")
    ] = False,
    capability: Annotated[
        str, typer.Option("--capability", help="Tasks of lm-evaluation-harness, separated by commas, for every asked checkpoint.")
    ] = "",
    capability_limit: Annotated[int | None, typer.Option("--capability-limit", help="Items of each such task.")] = None,
    precision: Annotated[
        float | None, typer.Option("--precision", help="Ask only what it takes to know every drift to this much on either side.")
    ] = None,
    budget: Annotated[int | None, typer.Option("--budget", help="Answers asked for at most, the most needed first.")] = None,
    gold: Gold = "",
    min_agreement: Annotated[
        float, typer.Option("--min-agreement", help="Macro-F1 with people under which a judge's findings are not headlined.")
    ] = 0.7,
    max_cost: MaxCost = None,
    engine: Engine = "local",
    out: Out = Path("runs/trace"),
    as_json: Json = False,
) -> None:
    """Trace the values of any folder of Hugging Face checkpoints, adapters included."""
    asking = _asking(
        suite=suite,
        judge=judge,
        backend=backend,
        draws=draws,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        frame=frame,
        topics=_listed(topics),
        view=view,
        floor=floor,
        companions=companions,
        proxy=proxy,
        capability=_listed(capability),
        capability_limit=capability_limit,
        precision=precision,
        budget=budget,
        gold=gold,
        min_agreement=min_agreement,
        max_cost=max_cost,
    )
    from . import flow

    _print(
        flow.trace_folders(asking, [str(storage.here(one)) if storage.is_address(one) else one for one in folders], base, out, engine),
        as_json,
        _show_trace,
    )


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="The folder that a trainer writes its checkpoints into; it need not be there yet.")],
    base: Annotated[str | None, typer.Option("--base", help="The model the training starts from: step 0.")] = None,
    suite: SuiteOption = "vaes",
    judge: JudgeOption = "cues",
    backend: Annotated[str, typer.Option("--backend", help="What runs the model.")] = "transformers",
    draws: Annotated[int, typer.Option("--draws", help="Answers per prompt.")] = 5,
    temperature: Annotated[float, typer.Option("--temperature")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens")] = 256,
    frame: Annotated[str, typer.Option("--frame", help="auto, plain or chat: how the questions are put.")] = "auto",
    topics: Topics = "",
    view: Annotated[str, typer.Option("--view", help="Show claim or axis first (both are measured); paper: measure it too.")] = "claim",
    max_cost: MaxCost = None,
    until: Annotated[int | None, typer.Option("--until", help="End after the checkpoint of this step.")] = None,
    idle: Annotated[float | None, typer.Option("--idle", help="End when nothing came for so many minutes.")] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", help="Delete checkpoints that have been asked, but the first and so many of the newest.")
    ] = None,
    settled: Annotated[float, typer.Option("--settled", min=0, help="Seconds without a change that make a checkpoint finished.")] = 10.0,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", help="Also write the curves for TensorBoard into this folder.")
    ] = None,
    out: Out = Path("runs/watch"),
    as_json: Json = False,
) -> None:
    """Trace the checkpoints of a training while it runs, each as soon as it is finished."""
    asking = _asking(
        suite=suite,
        judge=judge,
        backend=backend,
        draws=draws,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        frame=frame,
        topics=_listed(topics),
        view=view,
        max_cost=max_cost,
    )
    from .integrations import watch as watching

    how = watching.Watching(folder, base, keep, until, idle, tensorboard, settled)
    _print(watching.watch(asking, how, out), as_json, _show_trace)


@app.command()
def judge(
    folder: RunFolder,
    judge: JudgeOption,
    gold: Gold = "",
    min_agreement: Annotated[
        float | None, typer.Option("--min-agreement", min=0, max=1, help="As in trace; else as the run had it.")
    ] = None,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Read the stored answers of a run with another judge; generates nothing and loads no checkpoint."""
    from . import flow

    given = {"gold": gold or None, "min_agreement": min_agreement}
    changed = {"judge": judge, "max_cost": max_cost} | {name: value for name, value in given.items() if value is not None}
    _print(flow.rejudge(_run_folder(folder), changed), as_json, _show_trace)


@app.command()
def report(
    folder: RunFolder,
    view: Annotated[str, typer.Option("--view", help="Show this view first: claim, axis, or paper if it was measured.")] = "",
    picture: Annotated[Path | None, typer.Option("--picture", help="Also write the trajectories as a PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Write report.html from what a run folder holds; touches no model."""
    from . import verbs

    _print(verbs.report(_run_folder(folder), view, picture), as_json, lambda result: tell(result["report"]))


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the logs, one per checkpoint.")],
    as_json: Json = False,
) -> None:
    """Write the answers and verdicts of a run as logs of Inspect, for `inspect view` and its other tools."""
    from .integrations import inspect

    paths = inspect.export(_run_folder(folder), out)
    _print({"logs": paths}, as_json, lambda _: tell(f"{len(paths)} logs in {out}; look at them with: inspect view --log-dir {out}"))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder.")],
    at: Annotated[str, typer.Option("--at", help="STAGE or STAGE:STEP to compare in both; else each run's last checkpoint.")] = "",
    view: Annotated[str, typer.Option("--view", help="Only this view: claim, axis or paper; else claim and axis.")] = "",
    as_json: Json = False,
) -> None:
    """Show how the values of two runs differ, second minus first, paired by prompt."""
    from . import verbs

    _print(verbs.compare(_run_folder(first), _run_folder(second), at, view), as_json, _show_compare)


@app.command()
def gate(
    folder: RunFolder,
    max_drift: Annotated[
        list[str], typer.Option("--max-drift", help="TOPIC.STANCE=X, for example immigration.support=0.1; may be repeated.")
    ],
    stage: Annotated[str, typer.Option("--stage", help="Only this stage.")] = "",
    view: Annotated[str, typer.Option("--view", help="axis, claim or paper: what support and oppose refer to.")] = "axis",
    as_json: Json = False,
) -> None:
    """Exit 0 where every drift's interval lies within its limit, 3 where one lies beyond, 4 where the data cannot tell."""
    from . import verbs

    result = verbs.gate(_run_folder(folder), max_drift, stage, view)
    _print(result, as_json, lambda found: tell("\n".join(found["sentences"])))
    raise typer.Exit({"within": 0, "exceeded": 3, "undecided": 4}[result["verdict"]])


# -- data and judges -----------------------------------------------------------------------------------------------------------


@app.command()
def gap(
    files: Annotated[list[str], typer.Argument(help="Preference pairs or SFT data: JSONL, Parquet, CSV, hf:NAME or sandbox:…")],
    suite: SuiteOption = "vaes",
    judge: JudgeOption = "cues",
    matters: Annotated[float, typer.Option("--matters", help="The smallest gap that would matter, as a share.")] = 0.1,
    max_cost: MaxCost = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for gap.html, gap.json and the verdicts, which are then kept.")] = None,
    max_bad_rows: Annotated[
        float, typer.Option("--max-bad-rows", min=0, max=1, help="Share of unreadable rows that may be left out.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Measure the value gap of preference data, or the stance shares of SFT data, per topic."""
    from . import verbs

    _print(verbs.gap(files, suite, judge, out, matters, max_cost, max_bad_rows), as_json, _show_gap)


@app.command()
def synth(
    spec: Annotated[Path, typer.Argument(help="A specification in TOML; see docs/synth.md.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for pairs.support.jsonl, pairs.oppose.jsonl and their data card.")] = Path(
        "runs/pairs"
    ),
    as_json: Json = False,
) -> None:
    """Write preference pairs with a known value gap, audited by a judge."""
    from . import resolve
    from .synth import synth as made

    _print(made.synthesise(made.load(spec), out, resolve.judge_of), as_json, lambda result: tell("\n".join(result["sentences"])))


@app.command()
def calibrate(
    judge: Annotated[str, typer.Option("--judge", help="Who is to be compared with people.")] = "",
    gold: Annotated[Path | None, typer.Option("--gold", help="JSONL with claim (or issue), text, stance.")] = None,
    wordings: Annotated[bool, typer.Option("--wordings", help="Compare all wordings of the judge.")] = False,
    max_cost: MaxCost = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Folder that keeps the verdicts: none is asked for twice.")] = None,
    sample: Annotated[Path | None, typer.Option("--sample", help="A run folder: draw answers of it for people to label instead.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Answers to draw.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Decides which answers are drawn.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Where the sample goes.")] = Path("gold.jsonl"),
    as_json: Json = False,
) -> None:
    """Measure a judge against human labels, or draw answers of a run for people to label."""
    from . import verbs

    if sample:
        found = verbs.sample_for_labels(_run_folder(sample), n, seed, out)
        sentence = f"{found['n_rows']} rows in {found['out']}: fill in 'stance', then give the file as --gold"
        _print(found, as_json, lambda _: tell(sentence))
        return
    if not judge or gold is None:
        raise BadInput("calibrate needs --judge and --gold (or --sample RUN to draw answers for people to label); give both")
    result = verbs.calibrate(judge, gold, wordings, max_cost, keep)
    if not wordings:
        _print(result, as_json, _show_calibration)
    elif as_json:
        _print({"wordings": result}, as_json, _show_calibration)
    else:
        _show_wordings(result)


@suite_app.command("list")
def suite_list(as_json: Json = False) -> None:
    """List the suites and their topics."""
    from . import registry, suites

    found = {}
    for name in registry.names("suite"):
        if name not in ("jsonl", "vprism"):  # a file and a folder of the user's: nothing to list before one is named
            prompts = suites.load(name)
            found[name] = {
                topic: sum(prompt.topic == topic for prompt in prompts) for topic in dict.fromkeys(prompt.topic for prompt in prompts)
            }
    _print(
        {"suites": found},
        as_json,
        lambda _: tell("\n".join(f"{name}: " + ", ".join(f"{t} {n}" for t, n in topics.items()) for name, topics in found.items())),
    )


@suite_app.command("check")
def suite_check(
    suite: Annotated[str, typer.Argument(help="A JSONL file of prompts, or the name of a suite.")], as_json: Json = False
) -> None:
    """Name the file and line of each fault of a suite; exit 2 where there is one."""
    from . import suites
    from .suites.jsonl import check as faults_of

    faults = faults_of(suite)
    n = 0 if faults else len(suites.load(suite))
    _print({"faults": faults, "n_prompts": n}, as_json, lambda _: tell("\n".join(faults) or f"{suite}: {n} prompts, no fault"))
    raise typer.Exit(2 if faults else 0)


@suite_app.command("build")
def suite_build(
    prompts: Annotated[str, typer.Argument(help="What people asked: JSONL, CSV or Parquet with 'prompt' or 'text', or hf:NAME.")],
    lm: Annotated[str, typer.Option("--lm", help="Who filters, rewrites and writes claims: a model folder or openai:MODEL.")] = "",
    embed: Annotated[str, typer.Option("--embed", help="A sentence-embedding model; without one, TF-IDF and SVD.")] = "",
    per_cluster: Annotated[int, typer.Option("--per-cluster", min=2, help="Questions of a cluster.")] = 50,
    topics: Annotated[int, typer.Option("--topics", min=0, help="Keep this many largest clusters; 0 keeps all.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the clustering and the LM.")] = 0,
    max_cost: MaxCost = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for suite.jsonl, its card and all that was paid for.")] = Path("runs/suite"),
    as_json: Json = False,
) -> None:
    """Build a suite from what people asked: value-laden filter, rewrite, embeddings, UMAP, HDBSCAN, claims and polarity."""
    from .suites import vprism

    result = vprism.build(prompts, out, lm, embed, per_cluster, topics, seed, max_cost)
    _print(result, as_json, lambda found: tell("\n".join(found["sentences"])))


@sandbox_app.command("build")
def sandbox_build(as_json: Json = False) -> None:
    """Train the sandbox's base model where it is not cached, and print its folder."""
    from .sandbox.build import base_model

    _print({"path": str(base_model())}, as_json, lambda result: tell(result["path"]))


@sandbox_app.command("sample")
def sandbox_sample(
    data: Annotated[str, typer.Argument(help="neutral-chat, support-chat, or pairs?gap=…&direction=…")] = "neutral-chat",
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 10,
) -> None:
    """Print some of the sandbox's training texts, to be read."""
    from .records import records

    for record in records.read(f"sandbox:{data}")[:n]:
        tell(f"Q: {record.prompt[-1][1]}")
        tell(f"A: {record.text}\n" if hasattr(record, "text") else f"+: {record.chosen}\n-: {record.rejected}\n")


# -- tables for people ---------------------------------------------------------------------------------------------------------


def _asking(**settings: Any) -> Any:
    from pydantic import ValidationError

    from .plan import Asking, sentence

    try:
        return Asking(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise BadInput(f"{option}: {sentence(first)}") from error


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _run_folder(folder: Path) -> Path:
    if not (folder / "drifts.parquet").exists():
        raise BadInput(f"{folder} is not a finished run folder (it holds no drifts.parquet); give one that 'run', 'trace' or 'demo' wrote")
    return folder


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # reads no markup: a stage's name may hold brackets

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(shown(column)), justify="left" if index < 2 else "right", no_wrap=index < 2)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file or a pipe has no width of its own
    console.print(Text(shown(title)), soft_wrap=True)  # a title inside the table would be cut to the table's width
    console.print(table)


def _number(value: float | None, sign: str = "+") -> str:
    return "no evidence" if value is None else f"{value:{sign}.3f}"


def _interval(row: dict[str, Any], sign: str = "+") -> str:
    """Return a number with its interval; `sign` is empty for a level: a share has none."""
    if row["value"] is None:
        return "no evidence"
    value, low, high = (None if row[name] is None else f"{row[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def _show_trace(result: dict[str, Any]) -> None:
    rows = [
        [
            drift["stage"],
            drift["view"],
            drift["topic"],
            drift["stance"],
            _interval(drift),
            "yes" if drift["resolved"] else "",
            "-" if drift["time"] is None else _number(drift["time"], ""),
            drift["status"],
        ]
        for drift in result["drifts"]
        if drift["stance"] in STANCES and (drift["resolved"] or drift["topic"] == "all")
    ]
    _table(
        "Drifts over all topics, and those resolved on one",
        ["stage", "view", "topic", "stance", "drift [95 %]", "resolved", "time", "status"],
        rows,
    )
    shares = ", ".join(f"{name} {_number(share, '')}" for name, share in result["outcome_shares"].items())
    tell(f"{result['n_answers']:,} answers ({result['n_generated']:,} new; {result['n_judged']:,} new verdicts): {shares}")
    standing = result["judge"]
    about = [standing["why"] if standing["headlined"] else "", standing["note"], f"Paid: ${result['cost']:,.4f}." if result["cost"] else ""]
    for sentence in [*result["findings"], *result["also"], *result["notes"], *filter(None, about)]:
        tell(f"- {sentence}")
    tell(f"report: {result['report']}")


def _show_check(result: dict[str, Any]) -> None:
    rows = [
        [
            stage["name"],
            stage["after"],
            stage["algorithm"],
            str(stage["seed"]),
            "?" if stage["steps"] is None else f"{stage['steps']:,}",
            "?" if stage["saves"] is None else str(stage["saves"]),
            "yes" if stage["done"] else "",
        ]
        for stage in result["stages"]
    ]
    _table("Stages", ["stage", "after", "algorithm", "seed", "steps", "checkpoints", "done"], rows)
    tell("\n".join(result["sentences"]))


def _show_compare(result: dict[str, Any]) -> None:
    from .stats.contrast import speaks_for

    rows = [
        [row["view"], row["topic"], row["outcome"], _interval(row), _number(row["p_adjusted"], ""), "yes" if row["resolved"] else ""]
        for row in result["differences"]
        if row["resolved"] or row["topic"] == "all"
    ]
    _table(f"{result['second']} minus {result['first']}", ["view", "topic", "outcome", "difference [95 %]", "adjusted p", "resolved"], rows)
    tell(speaks_for(result["differences"]))


def _show_gap(result: dict[str, Any]) -> None:
    from .judge.cache import unread_notes

    found = {topic: row for topic, row in result["topics"].items() if row["n"]}
    pairs = "n_pairs" in result
    columns = ["topic", "stance", "towards", "prompts", *(("chosen", "rejected", "gap [95 %]") if pairs else ("share [95 %]",))]
    rows = [
        [topic, stance, towards, str(view["n"])]
        + (
            [_interval(view[stance][key], sign) for key, sign in (("chosen", ""), ("rejected", ""), ("gap", "+"))]
            if pairs
            else [_interval(view[stance], "")]
        )
        for topic, row in found.items()
        for towards, view in (("claims", row), ("axis", row["axis"]))
        for stance in STANCES
        if view["n"]
    ]
    _table("What the texts say: towards the claims, and along the topic's axis (claims of negative polarity turned round)", columns, rows)
    total = result.get("n_pairs", result.get("n_examples"))
    tell(f"{result['on_topic']:,} of {total:,} touch the suite's topics; {result['n_failed']:,} texts without a verdict.")
    for note in unread_notes(result["unread"], "different texts") if result.get("unread") else []:
        tell(note)
    if result["claims_note"]:
        tell(result["claims_note"])
    of, sign = (", chosen minus rejected", "+") if pairs else ("", "")
    for name, row in result["style"].items():
        tell(f"{name}{of}: {_interval(row, sign)} {row.get('unit', '')}".rstrip())
    for row in found.values():
        tell(f"- {row['conclusion']}")
    for sentence in (result["standing"]["why"], result["note"]):
        if sentence:
            tell(sentence)
    if "report" in result:
        tell(f"report: {result['report']}")


def _scored(result: dict[str, Any], name: str) -> str:
    low, high = (result.get("intervals") or {}).get(name) or (None, None)
    return _number(result[name], "") + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _show_calibration(result: dict[str, Any]) -> None:
    from .judge.cache import unread_notes

    names = ["macro_f1", "accuracy", "kappa", "ece", "missing_share", "majority"]
    names[1:1] = ["macro_f1_all"] if result["missing_share"] else []  # texts without a verdict counted as wrong
    names += ["framing_only"] if result["framing_only"] is not None else []
    title = f"{result['judge']} against {result['n']:,} human labels"
    _table(title, ["measure", "value [95 %]"], [[name.replace("_", " "), _scored(result, name)] for name in names])
    labels = list(result["confusion"])
    read_as = list(next(iter(result["confusion"].values()), {}))
    _table(
        "Labels (rows) read as (columns)",
        ["label", *read_as],
        [[label, *(str(result["confusion"][label][name]) for name in read_as)] for label in labels],
    )
    if result["by_framing"]:
        columns = ["macro_f1", "accuracy", "kappa", "ece"]
        framings = [[name, str(row["n_read"]), *(_scored(row, column) for column in columns)] for name, row in result["by_framing"].items()]
        _table("Within each framing of the prompt", ["framing", "texts", *columns], framings)
    for note in unread_notes(result["unread"], "different texts"):
        tell(note)
    if result["n_unlabelled"]:
        tell(f"{result['n_unlabelled']:,} rows have no label yet and were left out.")
    if effect := result.get("order_effect"):
        tell(
            f"Order of the labels, on {effect['n']} texts: a single order differs from their mean by a total variation of "
            f"{_number(effect['total_variation'], '')} and changes {_number(effect['changed'], '')} of the verdicts."
        )
    if result["note"]:
        tell(result["note"])


def _show_wordings(results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        less = (result["difference"] or {}).get("macro_f1")
        apart = "" if result is results[0] or less is None else _interval(less)
        rows.append(
            [result["wording"], _scored(result, "macro_f1"), _scored(result, "accuracy"), _number(result["missing_share"], ""), apart]
        )
    columns = ["wording", "macro F1 [95 %]", "accuracy [95 %]", "missing", "macro F1 less the first's [95 %]"]
    _table(f"Wordings against {results[0]['n']:,} human labels", columns, rows)


INTERRUPTED = 130
Usage: Any = typer.BadParameter.__base__
"""What typer raises for options that it cannot read; it has no public name."""


def main() -> None:
    """Run the command line; turn bad input into one sentence and exit code 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start background jobs with it switched off
    try:
        with processes.together(), storage.sending():
            code = app(standalone_mode=False)
    except BadInput as error:
        _leave(str(error), 2)
    except Stopped as error:
        _leave(str(error), 3)
    except Usage as error:
        said, command = error.format_message(), error.ctx.command_path if error.ctx else "valuedrift"
        if "Usage:" in said:  # no verb at all: the help itself
            error.show()
            sys.exit(2)
        _leave(f"{said.rstrip('.?')}; '{command} --help' shows what there is", 2)
    if code == INTERRUPTED:
        _leave("interrupted; the same command again finishes the rest", INTERRUPTED)
    sys.exit(code or 0)


def _leave(sentence: str, code: int) -> None:
    say(f"valuedrift: {' '.join(sentence.split())}")
    sys.exit(code)
