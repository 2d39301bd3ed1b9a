"""Capability: the results of lm-evaluation-harness along the stages."""

from __future__ import annotations

from ..evaluate.visit import Visit
from ..models.loading import API
from ..report.chart import PAGE, Drawing, Ink, small, svg
from ..report.run import Row, Run, places
from ..report.words import esc, figure, interval, number, table
from . import Analysis as Base
from . import Measured, Tables, filled

HINT = """<p class="hint">Tasks of lm-evaluation-harness at every evaluated checkpoint, averaged over seeds. The steps are those of the
trajectories. Bands are ±1.96 of the harness's standard errors over a task's items. All checkpoints answer the same items, so a
difference between checkpoints is more certain than the bands suggest.</p>"""


class Analysis(Base):
    """Per stage one chart per task and metric."""

    order = 29
    title = "Capability"

    def collect(self, visit: Visit) -> None:
        """Have lm-evaluation-harness evaluate a checkpoint."""
        if visit.evaluation.settings.capability and not visit.checkpoint.path.startswith(API):
            from ..evaluate import capability

            capability.collect(visit)

    def measure(self, tables: Tables) -> Measured:
        """Return the metrics of every task at every checkpoint."""
        if not tables.evaluation.settings.capability:
            return {"capability": None}
        from ..evaluate.capability import capability_scores

        return {"capability": filled(capability_scores(tables.evaluation))}

    def panel(self, run: Run) -> str:
        """Return the charts; "" if the plan names no task."""
        if run.table("capability") is None:
            return ""
        return HINT + "".join(_stage(run, stage) for stage in run.stages)


def _stage(run: Run, stage: Row) -> str:
    capability = run.table("capability")
    assert capability is not None
    own = capability.filter(stage=stage["name"])
    if not own.height:
        return ""
    kinds = own.select("task", "metric").unique(maintain_order=True).iter_rows()
    figures = "".join(_figure(stage, task, metric, own.filter(task=task, metric=metric).to_dicts()) for task, metric in kinds)
    return f'<h3>{esc(stage["name"])}</h3><div class="side_metrics">{figures}</div>'


def _figure(stage: Row, task: str, metric: str, rows: list[Row]) -> str:
    at = dict(zip(stage["steps"], places(stage), strict=True))
    by_step: dict[int, list[Row]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    points = [{"step": step, "x": at[step]} | pooled(some) for step, some in sorted(by_step.items()) if step in at]
    if not points:
        return ""
    label = f"{metric} on {task} along {stage['name']}."
    body = "".join(
        f'<tr><th scope="row">{row["step"]:,}</th><td>{number(row["value"])} {interval(row["low"], row["high"])}</td>'
        f"<td>{row['n']}</td></tr>"
        for row in points
    )
    caption = f"<figcaption>{esc(task)}: {esc(metric)}</figcaption>"
    return figure(caption, esc(label), svg(curve(points, PAGE)), table(esc(label), ("step", "value [95 %]", "items"), body))


def pooled(rows: list[Row]) -> Row:
    """Return the mean over seeds; its standard error takes those of the seeds as independent."""
    n = len(rows)
    value = sum(row["value"] for row in rows) / n
    errors = [row["stderr"] for row in rows]
    half = None if None in errors else 1.96 * sum(error**2 for error in errors) ** 0.5 / n
    return {
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
        "n": rows[0]["n"],
    }


def curve(points: list[Row], ink: Ink) -> Drawing:
    """Return the chart of one metric along a stage; shares have an axis from 0 to 1."""
    ends = [value for row in points for value in (row["low"], row["high"], row["value"]) if value is not None]
    inside = min(ends) >= -0.05 and max(ends) <= 1.05
    return small(points, ink, domain=[0, 1] if inside else [min(ends), max(ends) or 1.0], clamp=True)
