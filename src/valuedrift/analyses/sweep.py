"""How drifts grow with a number that was swept."""

from __future__ import annotations

import altair as alt
import polars as pl

from ..nouns import STANCES
from ..report.chart import PAGE, Drawing, Ink, layer, scales_of, svg
from ..report.run import ALL, Row, Run
from ..report.words import NO_EVIDENCE, count, esc, estimate, figure, number, outcome, table
from ..stats.sweep import sweep_response
from . import Analysis as Base
from . import Measured, Tables, filled

HINT = """<p class="hint">Drift of the stage at each swept value, paired by prompt and seed, with 95 % intervals. The line is the fitted
straight line with its 95 % band; there is none if the drifts do not follow a straight line. <em>Change</em> is the change along that line
from the lowest to the highest value. It is resolved if Holm’s p within the sweep is below 0.05. <em>p</em> is the lack of fit of the
line.</p>"""
WIDTH, HEIGHT = 460, 260


class Analysis(Base):
    """One chart per swept number: the mean over topics, next to a table of it and of the topics with a resolved response."""

    order = 26
    title = "Sweep response"

    def measure(self, tables: Tables) -> Measured:
        """Return how drifts respond to a swept number, and the fitted curves."""
        by_view = (sweep_response(tables["scores"], tables.stages, view) for view in tables.views)
        response, curve = (filled(pl.concat(each)) for each in zip(*by_view, strict=True))
        return {"sweep_response": response, "sweep_curve": curve}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return one sentence per sweep over a number and view: how each stance responds over all topics."""
        response = tables.get("sweep_response")
        if response is None:
            return []
        sentences = []
        for (family, setting, view), rows in response.filter(pl.col("outcome").is_in(STANCES)).group_by(
            "family", "setting", "view", maintain_order=True
        ):
            by_topic = rows.filter(pl.col("topic") != "all")
            said = []
            for row in rows.filter((pl.col("topic") == "all") & pl.col("resolved")).sort(pl.col("value").abs(), descending=True).to_dicts():
                bent = "" if row["straight"] else "; a straight line does not fit"
                said.append(f"{row['outcome']} changes by {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]{bent}")
            ends = f"{setting} {rows['lowest'][0]:g} to {rows['highest'][0]:g}, {view}"
            over_all = ". ".join(said) or "no change from the lowest to the highest value is resolved"
            n = by_topic.filter("resolved").height
            sentences.append(f"{family}, {ends}, over all topics: {over_all}. {n} of {by_topic.height} topic-stance responses resolved.")
        return sentences

    def panel(self, run: Run) -> str:
        """Return the charts and tables; "" if no number was swept over three values."""
        response, curve = run.table("sweep_response"), run.table("sweep_curve")
        if response is None or curve is None:
            return ""
        families = list(dict.fromkeys(response.select("family", "setting").rows()))
        parts = []
        for family in families:
            rows, points = ([row for row in table.to_dicts() if _of(row) == family] for table in (response, curve))
            parts.append(_response(family, rows, [point for point in points if point["topic"] == ALL and point["outcome"] in STANCES]))
        return HINT + "".join(parts)


def _of(row: Row) -> tuple[str, str]:
    return row["family"], row["setting"]


def _response(family: tuple[str, str], rows: list[Row], points: list[Row]) -> str:
    rows = [row for row in rows if row["outcome"] in STANCES]
    overall = [row for row in rows if row["topic"] == ALL]
    resolved = [row for row in rows if row["resolved"] and row["topic"] != ALL]
    told = esc(f"{family[0]}: {family[1]} from {rows[0]['lowest']:g} to {rows[0]['highest']:g}")
    heads = ("topic", "stance", "change [95 %]", "line, p", "prompts")
    body = "".join(_line(row) for row in [*overall, *resolved])
    n = count(sum(row["topic"] != ALL for row in rows), "topic–stance pair")
    said = f"<p>{len(resolved)} of {n} resolved.</p>{table(told, heads, body)}"
    return f'<h3>{told}</h3><div class="overall">{_figure(told, overall, points)}<div>{said}</div></div>'


def _figure(told: str, rows: list[Row], points: list[Row]) -> str:
    caption = f"<figcaption>All topics: {' '.join(outcome(name) for name in STANCES)}</figcaption>"
    observed = [point for point in points if point["kind"] == "observed"]
    if not any(point["value"] is not None for point in observed):
        return f'<figure>{caption}<p class="none">{NO_EVIDENCE}</p></figure>'
    label = f"{told}. " + "; ".join(f"{row['outcome']} {estimate(row, sign=True)}" for row in rows)
    lines = "".join(
        f'<tr><th scope="row">{point["swept"]:g}</th><td>{outcome(point["outcome"])}</td>'
        f'<td class="nums">{estimate(point, sign=True)}</td><td>{point["n"]:,}</td></tr>'
        for point in sorted(observed, key=lambda point: point["swept"])
    )
    numbers = table(f"Numbers of {told}", ("swept value", "stance", "drift [95 %]", "prompts"), lines)
    return figure(caption, label, svg(curves(rows, points, PAGE)), numbers, 'class="dots"')


def _line(row: Row) -> str:
    topic = "all topics" if row["topic"] == ALL else row["topic"]
    fits = "–" if row["p_straight"] is None else "&lt; 0.001" if row["p_straight"] < 0.001 else number(row["p_straight"])
    change = f'<span class="nums">{estimate(row, sign=True)}</span>'
    cells = (outcome(row["outcome"]), change, fits, f"{row['n']:,}")
    return f'<tr><th scope="row">{esc(topic)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def curves(rows: list[Row], points: list[Row], ink: Ink) -> Drawing:
    """Return the drifts by swept value with their intervals, and the fitted lines with their bands."""
    known = [point for point in points if point["value"] is not None]
    observed, fitted = ([point for point in known if point["kind"] == kind] for kind in ("observed", "fitted"))
    values = sorted({point["swept"] for point in observed})
    highest = values[-1]
    x = (
        alt.X("swept:Q", title=rows[0]["setting"])
        .scale(type="log" if rows[0]["scale"] == "log" else "linear", domain=[values[0], highest], nice=False, padding=14)
        .axis(
            values=values,
            format=".1~e" if highest < 0.01 or rows[0]["scale"] == "log" else ".3~g",
            domain=False,
            grid=False,
            tickColor=ink["grid"],
            labelOverlap=True,
        )
    )
    y, low = (alt.Y(f"{name}:Q", title=None).scale(zero=True) for name in ("value", "low"))
    scales, detail = scales_of(ink), alt.Detail("outcome:N")
    axis = alt.Axis(format="+.2~f", labelExpr="datum.value == 0 ? '0' : datum.label", tickCount=5, domain=False, ticks=False)
    layers = [
        layer([{"value": 0}]).mark_rule(color=ink["soft"], aria=False).encode(y=y),
        layer(fitted).mark_area(opacity=0.17, aria=False).encode(x=x, y=low.axis(axis), y2="high:Q", color=scales["color"], detail=detail),
        layer(fitted)
        .mark_line(aria=False)
        .encode(x=x, y=y, color=scales["color"], strokeDash=scales["dash"], strokeWidth=scales["width"], detail=detail),
    ]
    for k, name in enumerate(STANCES):  # side by side, so that intervals at one value do not hide each other
        base, beside = layer([point for point in observed if point["outcome"] == name]), 7 * (k - 1)
        layers += [
            base.mark_rule(strokeWidth=1.6, xOffset=beside, aria=False).encode(x=x, y=low, y2="high:Q", color=scales["color"]),
            base.mark_point(filled=True, opacity=1, size=46, xOffset=beside, aria=False).encode(
                x=x, y=y, color=scales["color"], shape=scales["shape"]
            ),
        ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
