"""Side metrics of the drifts: the distance from the reference, rewards, the length of answers, refusals."""

from __future__ import annotations

from ..evaluate.side_metrics import side_metric_scores
from ..evaluate.visit import Visit
from ..report.chart import PAGE, small, svg
from ..report.run import Row, Run, places, stage_steps
from ..report.words import esc, figure, interval, number, table
from ..stats.side_metrics import side_metrics as measured
from . import Analysis as Base
from . import Measured, Tables, filled

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
    at = dict(zip(stage_steps(stage), places(stage), strict=True))
    chart = svg(small([row | {"x": at[row["step"]]} for row in rows if row["step"] in at], PAGE, zero=True))
    return figure(f"<figcaption>{esc(_named(name))}{note}</figcaption>", label, chart, numbers)


def _named(metric: str) -> str:
    """Return what a side metric measures, with its unit."""
    return {"kl": "KL (nats per answer)", "length": "length (words)"}.get(metric, metric.replace("reward:", "reward by "))
