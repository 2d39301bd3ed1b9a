"""Side metrics of the drifts: the distance from the reference, rewards, the length of answers, refusals."""

from __future__ import annotations

import altair as alt

from ..evaluate.side_metrics import side_metric_scores
from ..evaluate.visit import Visit
from ..report.chart import PAGE, Drawing, Ink, layer, svg
from ..report.run import Row, Run, places, stage_steps
from ..report.words import esc, figure, interval, number, table
from ..stats.side_metrics import side_metrics as measured
from . import Analysis as Base
from . import Measured, Tables, filled

SIZE = (210, 90)
REFERENCES = {
    "sft": "from the end of supervised fine-tuning",
    "start": "from the stage’s own start",
}
HINT = """<p class="hint">Means over prompts, seeds pooled, with 95 % bands. The steps are those of the trajectories. <em>KL</em> is the
divergence of the answers’ distribution from the reference. <em>Refusal</em> and <em>invalid</em> are shares. Each chart has its own
scale.</p>"""


class Analysis(Base):
    """One row of small charts per stage, one chart per side metric."""

    order = 27
    title = "Side metrics"

    def collect(self, visit: Visit) -> None:
        """Collect the KL from the reference, and the scores of the reward models."""
        if visit.evaluation.settings.side_metrics:
            from ..evaluate import distance

            distance.collect(visit)

    def measure(self, tables: Tables) -> Measured:
        """Return every side metric of every prompt, and its mean at every checkpoint."""
        if not tables.evaluation.settings.side_metrics:
            return {"side_metric_scores": None, "side_metrics": None}
        scores = side_metric_scores(tables.evaluation, tables["scores"], tables.answers)
        return {"side_metric_scores": scores, "side_metrics": filled(measured(scores, tables["profiles"].filter(view="claim")))}

    def panel(self, run: Run) -> str:
        """Return the rows of charts; "" if no side metrics were measured."""
        side_metrics = run.table("side_metrics")
        if side_metrics is None:
            return ""
        names = side_metrics["metric"].unique(maintain_order=True).to_list()
        return HINT + "".join(_stage(run, stage, names) for stage in run.stages)


def _stage(run: Run, stage: Row, names: list[str]) -> str:
    figures = "".join(_figure(stage, name, run.side_metric_rows(stage["name"], name)) for name in names)
    return f'<h3>{esc(stage["name"])}</h3><div class="side_metrics">{figures}</div>' if figures else ""


def _figure(stage: Row, name: str, rows: list[Row]) -> str:
    rows = [row for row in rows if row["value"] is not None]
    if not rows:
        return ""
    label = f"{_named(name)}: {number(rows[0]['value'])} at step {rows[0]['step']}, {number(rows[-1]['value'])} at step {rows[-1]['step']}."
    body = "".join(
        f'<tr><th scope="row">{row["step"]:,}</th><td>{number(row["value"])} {interval(row["low"], row["high"])}</td>'
        f"<td>{row['n']:,}</td></tr>"
        for row in rows
    )
    numbers = table(esc(label), ("step", "value [95 %]", "prompts"), body)
    note = f' <span class="from">{REFERENCES[rows[0]["reference"]]}</span>' if rows[0]["reference"] in REFERENCES else ""
    chart = svg(line(rows, stage, PAGE))
    return figure(f"<figcaption>{esc(_named(name))}{note}</figcaption>", label, chart, numbers)


def _named(metric: str) -> str:
    """Return what a side metric measures, with its unit."""
    return {"kl": "KL (nats per answer)", "length": "length (words)"}.get(metric, metric.replace("reward:", "reward by "))


def line(rows: list[Row], stage: Row, ink: Ink) -> Drawing:
    """Return one side metric along the steps of a stage, with its 95 % band."""
    at = dict(zip(stage_steps(stage), places(stage), strict=True))
    points = [row | {"x": at[row["step"]]} for row in rows if row["step"] in at]
    x = alt.X("x:Q", axis=None).scale(domain=[0, 1], nice=False)
    ticks = alt.Axis(tickCount=3, domain=False, ticks=False, labelPadding=6)
    y, low = (alt.Y(f"{field}:Q", title=None).scale(zero=True, nice=True) for field in ("value", "low"))
    shown = sorted({points[0]["step"], points[-1]["step"]}) if points else []
    steps = [{"x": at[step], "text": f"{step:,}"} for step in shown]
    layers = [
        layer(points).mark_area(opacity=0.17, color=ink["text"], aria=False).encode(x=x, y=low.axis(ticks), y2="high:Q"),
        layer(points).mark_line(color=ink["text"], strokeWidth=1.8, aria=False).encode(x=x, y=y),
        layer(points).mark_point(filled=True, opacity=1, size=22, color=ink["text"], aria=False).encode(x=x, y=y),
        layer(steps)
        .mark_text(dy=11, fontSize=10.5, color=ink["soft"], aria=False, clip=False)
        .encode(x=x, y=alt.value(SIZE[1]), text="text:N"),
    ]
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1])
