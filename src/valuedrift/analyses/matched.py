"""Two stages compared where both have moved equally far from the reference."""

from __future__ import annotations

import altair as alt
import polars as pl

from ..nouns import STANCES, Outcome
from ..report.chart import DASHES, PAGE, Drawing, Ink, layer, svg
from ..report.run import ALL, Row, Run
from ..report.words import esc, figure, number, outcome, table
from ..stats.matched import matched as measured
from . import Analysis as Base
from . import Measured, Tables, filled
from .effects import SAID, differences

HINT = """<p class="hint">Two algorithms may differ at their ends only because one went further. Here the shares are read off where both
stand equally far along one axis, as far as all curves reach (dashed upright line), between the two checkpoints around that point.
Differences are the second less the first, with 95 % intervals that hold the uncertainty of where the point was reached; along KL a
straight path and one that follows its root both lie within them. Resolved where Holm’s p within the comparison is below 0.05. Steps and
data are not equal there. Curves that lie on each other suggest one path at different speeds; few checkpoints cannot show more.</p>"""
SIZE = (250, 170)


class Analysis(Base):
    """Per comparison and axis: the share of each stance against the distance moved, and the differences at equal distance."""

    order = 24
    title = "At equal distance"

    def measure(self, tables: Tables) -> Measured:
        """Return the differences between stages at equal distance from their start."""
        distances = tables.get("companion_scores")
        if distances is None:
            return {"matched": None}
        formats = {(checkpoint.stage, checkpoint.step): checkpoint.frame for checkpoint in tables.checkpoints}
        by_view = [measured(tables["scores"], distances, tables.stages, view, formats) for view in tables.views]
        return {"matched": filled(pl.concat(by_view))}

    def panel(self, run: Run) -> str:
        """Return the comparisons; "" where no two stages from one start have moved along one axis."""
        matched = run.table("matched")
        if matched is None:
            return ""
        parts = []
        for (first, second, axis), rows in matched.group_by("first", "second", "axis", maintain_order=True):
            at = f"{axis_name(str(axis))} {number(rows['level'][0])} above their start"
            told = esc(f"{SAID['stage'].format(first=first, second=second)}, at {at}")
            stages = str(first), str(second)
            charts = "".join(_figure(run, stages, str(axis), rows["level"][0], stance) for stance in STANCES)
            parts.append(f'<h3>{told}</h3><div class="grid">{charts}</div>{differences(told, rows.to_dicts())}')
        return HINT + "".join(parts)


def axis_name(axis: str) -> str:
    """Return what is measured, with its unit."""
    return {"kl": "KL (nats per answer)", "length": "length (words)"}.get(axis, axis.replace("reward:", "reward by "))


def _figure(run: Run, stages: tuple[str, str], axis: str, level: float, stance: Outcome) -> str:
    rows = [_point(run, stage, stance, row) for stage in stages for row in run.companion_rows(stage, axis)]
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return ""
    label = (
        f"Share of {stance} against {axis_name(axis)}, for {stages[0]} (solid) and {stages[1]} (dashed); every point stands in the table."
    )
    lines = "".join(
        f'<tr><th scope="row">{esc(row["stage"])} step {row["step"]:,}</th><td>{number(row["x"])}</td><td>{number(row["value"])}</td></tr>'
        for row in rows
    )
    numbers = table(esc(label), ("checkpoint", esc(axis_name(axis)), outcome(stance)), lines)
    key = "".join(
        f'<li><svg class="key" viewBox="0 0 34 10" aria-hidden="true"><path d="M0 5h34" class="line {name}"/></svg>{esc(stage)}</li>'
        for name, stage in zip(("", "neutral"), stages, strict=True)
    )
    start = min(known, key=lambda row: row["step"])["x"]
    chart = svg(paths(known, stages, start + level, axis_name(axis), PAGE))
    return figure(f'<figcaption>{outcome(stance)}</figcaption><ul class="legend">{key}</ul>', label, chart, numbers)


def _point(run: Run, stage: str, stance: Outcome, row: Row) -> Row:
    share = run.shares(ALL, stage, row["step"]).get(stance, {}).get("value")
    return {"stage": stage, "step": row["step"], "outcome": stance, "x": row["value"], "value": share}


def paths(rows: list[Row], stages: tuple[str, str], level: float, title: str, ink: Ink) -> Drawing:
    """Return the share of one stance against an axis: the first stage's line solid, the second's dashed, and the level they share."""
    x = alt.X("x:Q", title=title).scale(zero=False, nice=True).axis(domain=False, ticks=False, tickCount=4, grid=False, labelOverlap=True)
    y = alt.Y("value:Q", title=None).scale(zero=False, nice=True).axis(tickCount=4, format=".2~f", domain=False, ticks=False)
    dash = alt.StrokeDash("stage:N", legend=None).scale(domain=list(stages), range=[[1, 0], DASHES["neutral"]])
    shape = alt.Shape("stage:N", legend=None).scale(domain=list(stages), range=["circle", "square"])
    colour = ink[rows[0]["outcome"]]
    layers = [
        layer([{"x": level}]).mark_rule(color=ink["soft"], strokeDash=[3, 3], aria=False).encode(x=x),
        layer(rows).mark_line(color=colour, strokeWidth=2, aria=False).encode(x=x, y=y, strokeDash=dash, order="step:Q"),
        layer(rows).mark_point(filled=True, color=colour, opacity=1, size=30, aria=False).encode(x=x, y=y, shape=shape),
    ]
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1])
