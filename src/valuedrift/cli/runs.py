"""Verbs that train or evaluate: demo, run, check, trace, watch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from .. import plan as plans
from ..distributed import storage
from ..nouns import STANCES, Stopped
from ..plan import EvaluationSettings
from ..progress import tell
from .options import Base, Engine, Json, Out, Set, settings
from .program import app, interval, number, output, table

PlanFile = Annotated[Path, Argument(help="A plan in TOML.")]
Without = Annotated[
    list[str] | None, Option("--without", help="Leave this stage out; what follows it starts from the stage before it. Repeatable.")
]
Only = Annotated[list[str] | None, Option("--only", help="Keep only this stage. Repeatable.")]


@app.command()
def demo(out: Out = Path("runs/demo"), as_json: Json = False) -> None:
    """Train a small model here, base -> SFT -> two preference stages, trace it and write the report. No download, no GPU."""
    with resources.as_file(resources.files("valuedrift.sandbox").joinpath("demo.toml")) as plan:
        run(plan, out=out, as_json=as_json)


@app.command()
def run(
    plan: PlanFile,
    changes: Set = None,
    without: Without = None,
    only: Only = None,
    engine: Engine = "local",
    launch: Annotated[
        str,
        Option(metavar="COMMAND", help="Launcher of the processes that train a stage, such as 'torchrun --nproc-per-node 8'."),
    ] = "",
    out: Out = Path("runs/latest"),
    as_json: Json = False,
) -> None:
    """Train the stages of a plan, trace every checkpoint, measure and report."""
    loaded = plans.load(plan, changes or ()).ablated(without or (), only or ())
    from .. import pipeline

    result = pipeline.run(loaded, out, engine, launch)
    output(result, as_json, show_trace)
    if result["failed"]:
        raise Stopped(f"{len(result['failed'])} stages failed; the others are in the report, and the same command tries these again")


@app.command()
def stage(
    folder: Annotated[Path, Argument(help="The folder of a stage, which 'valuedrift run' has made.")],
    attached: Annotated[bool, Option("--attached", help="End when stdin closes.")] = False,
) -> None:
    """Train one stage of a run, in all processes of a launcher; 'run --launch' gives this command."""
    from ..train.task import stage_process

    stage_process(folder, attached)


@app.command()
def check(
    plan: PlanFile,
    changes: Set = None,
    without: Without = None,
    only: Only = None,
    gpu: Annotated[str, Option(help="GPU type to estimate for: a100, h100, h200, b200.")] = "h100",
    out: Out = Path("runs/latest"),
    as_json: Json = False,
) -> None:
    """Show a plan's stage graph, which stages are done, and what the rest will cost. Trains nothing."""
    loaded = plans.load(plan, changes or ()).ablated(without or (), only or ())
    from .. import verbs

    output(verbs.check(loaded, out, gpu), as_json, _show_check)


@app.command()
@settings(EvaluationSettings)
def trace(
    folders: Annotated[
        list[str],
        Argument(help="Checkpoints, folders of them, GGUF files, hub ids (org/name@step*) or openai:MODEL, in the order of training."),
    ],
    settings: EvaluationSettings,
    base: Base = None,
    engine: Engine = "local",
    out: Out = Path("runs/trace"),
    as_json: Json = False,
) -> None:
    """Trace the values of any Hugging Face checkpoints, adapters and GGUF files included."""
    from .. import pipeline

    places = [str(storage.here(folder)) if storage.is_address(folder) else folder for folder in folders]
    output(pipeline.trace_folders(settings, places, base, out, engine), as_json, show_trace)


@app.command()
@settings(EvaluationSettings)
def watch(
    folder: Annotated[Path, Argument(help="The folder that a trainer writes its checkpoints into; it need not exist yet.")],
    settings: EvaluationSettings,
    base: Base = None,
    until: Annotated[int | None, Option(help="End after the checkpoint of this step.")] = None,
    idle: Annotated[
        float | None, Option(help="End if no checkpoint comes for this many minutes; by default, wait until interrupted.")
    ] = None,
    keep: Annotated[int | None, Option(help="Delete evaluated checkpoints, but keep the first checkpoint and the N newest.")] = None,
    settled: Annotated[float, Option(min=0, help="Seconds without a change after which a checkpoint counts as finished.")] = 10.0,
    tensorboard: Annotated[
        Path | None, Option(help="Also write the curves eval/values/TOPIC/OUTCOME for TensorBoard into this folder.")
    ] = None,
    out: Out = Path("runs/watch"),
    as_json: Json = False,
) -> None:
    """Trace the checkpoints of a training while it runs, each as soon as it is finished."""
    from ..integrations import watch as watching

    how = watching.Watching(folder, base, keep, until, idle, tensorboard, settled)
    output(watching.watch(settings, how, out), as_json, show_trace)


def show_trace(result: dict[str, Any]) -> None:
    """Print what a trace found."""
    rows = [
        [
            *(drift[name] for name in ("stage", "view", "topic", "stance")),
            *(interval(drift), "yes" if drift["resolved"] else "", "-" if drift["time"] is None else number(drift["time"])),
            drift["status"],
        ]
        for drift in result["drifts"]
        if drift["stance"] in STANCES and (drift["resolved"] or drift["topic"] == "all")
    ]
    columns = ["stage", "view", "topic", "stance", "drift [95 %]", "resolved", "time", "status"]
    table("Drifts over all topics, and those resolved on one", columns, rows)
    shares = ", ".join(f"{name} {number(share)}" for name, share in result["outcome_shares"].items())
    tell(f"{result['n_answers']:,} answers ({result['n_generated']:,} new; {result['n_judged']:,} new verdicts): {shares}")
    judge = result["judge"]
    about = [judge["why"] if judge["headlined"] else "", judge["note"], f"Paid: ${result['cost']:,.4f}." if result["cost"] else ""]
    for sentence in [*result["findings"], *result["notes"], *filter(None, about)]:
        tell(f"- {sentence}")
    tell(f"report: {result['report']}")


def _show_check(result: dict[str, Any]) -> None:
    rows = [
        [stage["name"], stage["after"], stage["algorithm"], str(stage["seed"])]
        + ["?" if stage[name] is None else f"{stage[name]:,}" for name in ("steps", "saves")]
        + ["yes" if stage["done"] else ""]
        for stage in result["stages"]
    ]
    table("Stages", ["stage", "after", "algorithm", "seed", "steps", "checkpoints", "done"], rows)
    tell("\n".join(result["sentences"]))
