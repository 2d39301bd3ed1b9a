"""Verbs that read a finished run: judge, report, export, compare, gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from ..plan import EvaluationSettings
from ..progress import tell
from .options import Json, RunFolder, settings
from .program import app, interval, number, output, table
from .runs import show_trace

AS_RUN = "as in the run"


@app.command()
@settings(EvaluationSettings, "max_cost", judge="required", gold=AS_RUN, min_agreement=AS_RUN)
def judge(folder: RunFolder, settings: EvaluationSettings, as_json: Json = False) -> None:
    """Read the stored answers of a run with another judge; generates nothing and loads no checkpoint."""
    from .. import pipeline

    given = settings.model_dump(include=settings.model_fields_set)
    output(pipeline.rejudge(folder, {"max_cost": None} | given), as_json, show_trace)


@app.command()
def report(
    folder: RunFolder,
    view: Annotated[str, Option(help="The view to show first: claim, axis, or paper if the run measured it; by default the run's.")] = "",
    picture: Annotated[Path | None, Option(help="Also write the trajectories as a PNG to this path.")] = None,
    as_json: Json = False,
) -> None:
    """Write report.html from what a run folder holds; loads no model."""
    from .. import verbs

    output(verbs.report(folder, view, picture), as_json, lambda result: tell(result["report"]))


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, Option(help="Folder for the logs, one per checkpoint.")],
    as_json: Json = False,
) -> None:
    """Write the answers and verdicts of a run as logs of Inspect, for `inspect view` and its other tools."""
    from ..integrations import inspect

    paths = inspect.export(folder, out)
    output({"logs": paths}, as_json, lambda _: tell(f"{len(paths)} logs in {out}; look at them with: inspect view --log-dir {out}"))


@app.command()
def compare(
    first: Annotated[Path, Argument(help="A run folder.")],
    second: Annotated[Path, Argument(help="Another run folder.")],
    at: Annotated[str, Option(help="STAGE or STAGE:STEP to compare in both runs, or FIRST,SECOND; by default the last checkpoints.")] = "",
    view: Annotated[str, Option(help="Only this view: claim, axis or paper; by default claim and axis.")] = "",
    as_json: Json = False,
) -> None:
    """Show how the values of two runs differ, second minus first, paired by prompt."""
    from .. import verbs

    output(verbs.compare(first, second, at, view), as_json, _show_compare)


@app.command()
def gate(
    folder: RunFolder,
    max_drift: Annotated[list[str], Option(help="TOPIC.STANCE=X, for example immigration.support=0.1; topic all is the mean. Repeatable.")],
    stage: Annotated[str, Option(help="Only this stage; by default every stage.")] = "",
    view: Annotated[str, Option(help="What support and oppose refer to: axis, claim, or paper if the run measured it.")] = "axis",
    as_json: Json = False,
) -> None:
    """Exit 0 if every drift's interval lies within its limit, 3 if one lies beyond, 4 if the data cannot tell."""
    from .. import verbs

    result = verbs.gate(folder, max_drift, stage, view)
    output(result, as_json, lambda found: tell("\n".join(found["sentences"])))
    raise typer.Exit({"within": 0, "exceeded": 3, "undecided": 4}[result["verdict"]])


def _show_compare(result: dict[str, Any]) -> None:
    from ..stats.contrast import speaks_for

    rows = [
        [row["view"], row["topic"], row["outcome"], interval(row), number(row["p_adjusted"]), "yes" if row["resolved"] else ""]
        for row in result["differences"]
        if row["resolved"] or row["topic"] == "all"
    ]
    table(f"{result['second']} minus {result['first']}", ["view", "topic", "outcome", "difference [95 %]", "adjusted p", "resolved"], rows)
    tell(speaks_for(result["differences"]))
