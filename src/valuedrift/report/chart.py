"""Charts in Vega-Lite through Altair: static SVG whose colours are the page's CSS variables, or PNG with fixed colours."""

from __future__ import annotations

import itertools
import re
from typing import Any

import altair as alt
import vl_convert

from ..nouns import OUTCOMES, STANCES
from ..progress import shown
from .run import ALL, Row, Run, places, stage_steps
from .words import NO_EVIDENCE

Ink = dict[str, str]
Drawing = alt.LayerChart | alt.FacetChart
PAPER: Ink = {
    **dict(zip(OUTCOMES, ("#0b5596", "#737985", "#c2540a", "#8b3fa8", "#7a5a2f"), strict=True)),
    "text": "#1d2430",
    "soft": "#5c6470",
    "grid": "#dfe3e8",
    "wash": "#f4f6f8",
    "back": "#ffffff",
}
PAGE: Ink = {name: f"var(--{name})" for name in PAPER}
"""The style sheet decides between light and dark, because an SVG attribute may hold a CSS variable."""

DASHES = dict(zip(OUTCOMES, ([1, 0], [7, 3], [2, 2], [1, 3], [5, 5]), strict=True))
SHAPES = dict(zip(STANCES, ("triangle-up", "circle", "triangle-down"), strict=True))
SMALL = (210, 100)
"""Plot size of `small`, in px."""
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def scales_of(ink: Ink) -> dict[str, Any]:
    names = list(OUTCOMES)
    return {
        "color": alt.Color("outcome:N", legend=None).scale(domain=names, range=[ink[name] for name in names]),
        "dash": alt.StrokeDash("outcome:N", legend=None).scale(domain=names, range=[DASHES[name] for name in names]),
        "width": alt.StrokeWidth("outcome:N", legend=None).scale(type="ordinal", domain=names, range=[2.4, 2, 2.4, 1.2, 1.2]),
        "shape": alt.Shape("outcome:N", legend=None).scale(domain=list(STANCES), range=[SHAPES[name] for name in STANCES]),
    }


def layer(rows: list[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=rows))


def trajectory(run: Run, chain: list[Row], topic: str, ink: Ink, size: tuple[int, int]) -> Drawing:
    """Return the shares of a topic along a chain of stages, each stage one unit wide on x, with 95 % bands for the stances."""
    x = alt.X("x:Q", axis=None).scale(domain=[0, len(chain)], nice=False)
    y, low = (alt.Y(f"{field}:Q", title=None).scale(domain=[0, 1]) for field in ("value", "low"))
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", domain=False, ticks=False, labelPadding=6)
    rows, scales = _points(run, chain, topic), scales_of(ink)
    stances = [row for row in rows if row["outcome"] in STANCES]
    single = [row for row in stances if row["single"]]
    data = {"detail": "stage:N", "color": scales["color"]}
    layers = [
        layer(_columns(chain)[1::2]).mark_rect(color=ink["wash"], aria=False).encode(x=x, x2="x2:Q", y=alt.value(0), y2=alt.value(size[1])),
        layer(stances).mark_area(opacity=0.17, aria=False).encode(x=x, y=low.axis(axis), y2="high:Q", **data),
        layer(single).mark_rule(opacity=0.5, aria=False).encode(x=x, y=low, y2="high:Q", **data),
        layer(rows).mark_line(aria=False).encode(x=x, y=y, strokeDash=scales["dash"], strokeWidth=scales["width"], **data),
        layer(stances).mark_point(filled=True, opacity=1, size=34, aria=False).encode(x=x, y=y, shape=scales["shape"], **data),
        layer(_columns(chain)[1:]).mark_rule(color=ink["soft"], aria=False).encode(x=x),
        *_labels(chain, ink, size, x),
        layer(_hits(chain))
        .mark_rect(color="transparent", aria=False)
        .encode(x=x, x2="x2:Q", y=alt.value(0), y2=alt.value(size[1]))
        .properties(name="hits"),
    ]
    return alt.layer(*layers).properties(width=size[0], height=size[1])


def _points(run: Run, chain: list[Row], topic: str) -> list[Row]:
    return [
        {"x": k + place, "stage": stage["name"], "outcome": outcome, "single": len(stage_steps(stage)) == 1}
        | {name: row[name] for name in ("value", "low", "high")}
        for k, stage in enumerate(chain)
        for step, place in zip(stage_steps(stage), places(stage), strict=True)
        for outcome, row in run.shares(topic, stage["name"], step).items()
    ]


def _columns(chain: list[Row]) -> list[Row]:
    return [{"x": k, "x2": k + 1, "name": stage["name"]} for k, stage in enumerate(chain)]


def _hits(chain: list[Row]) -> list[Row]:
    """Return one invisible column per checkpoint, up to the midpoints to its neighbours, in which the pointer selects it."""
    hits = []
    for k, stage in enumerate(chain):
        at = places(stage)
        edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(at)), 1.0]
        hits += [{"x": k + a, "x2": k + b} for a, b in itertools.pairwise(edges)]
    return hits


def _labels(chain: list[Row], ink: Ink, size: tuple[int, int], x: alt.X) -> list[alt.Chart]:
    """Return the stages' names above the plot and the steps below it, leaving out steps that would touch."""
    width = size[0] / len(chain)
    names, steps = [], []
    for k, stage in enumerate(chain):
        names.append({"x": k + 0.5, "text": stage["name"]})
        taken = [1e9] if k == 0 else [0.0]
        for step, place in reversed(list(zip(stage_steps(stage), places(stage), strict=True))):
            room = 7 * len(f"{step:,}") + 8
            if all(abs(place * width - other) > room for other in taken):
                steps.append({"x": k + place, "text": f"{step:,}"})
                taken.append(place * width)
    text: dict[str, Any] = {"aria": False, "clip": False, "limit": width - 4}
    return [
        layer(names).mark_text(dy=-9, fontSize=12, fontWeight=600, color=ink["text"], **text).encode(x=x, y=alt.value(0), text="text:N"),
        layer(steps).mark_text(dy=11, fontSize=10.5, color=ink["soft"], **text).encode(x=x, y=alt.value(size[1]), text="text:N"),
    ]


def dots(rows: list[Row], topics: list[str], span: tuple[float, float], title: str, ink: Ink, band: float = 0.0) -> Drawing:
    """Return three dots with intervals per topic, on an axis of range `span`. Unresolved ones are hollow and pale.

    A band of this half width marks differences that are too small to matter.
    """
    known = [row for row in rows if row["value"] is not None]
    unknown = [row | {"text": NO_EVIDENCE} for row in rows if row["value"] is None and row["outcome"] == STANCES[1]]
    shown = [topic for topic in (ALL, *topics) if any(row["topic"] == topic for row in rows)]
    y = (
        alt.Y("topic:N", title=None, sort=shown)
        .axis(domain=False, ticks=False, labelPadding=8, labelLimit=120, grid=True, tickBand="extent")
        .scale(paddingInner=0.25, domain=shown)
    )
    offset = alt.YOffset("outcome:N").scale(domain=list(STANCES))
    x = (
        alt.X("value:Q", title=title)
        .scale(domain=list(span), nice=False)
        .axis(format="+.2~f" if span[0] < 0 else ".2~f", labelExpr="datum.value == 0 ? '0' : datum.label", tickCount=5, domain=False)
    )
    scales = scales_of(ink)
    opacity = alt.condition("datum.resolved", alt.value(1), alt.value(0.45))
    filled = alt.condition("datum.resolved", scales["color"], alt.value(ink["back"]))
    base = layer(known).encode(y=y, yOffset=offset, opacity=opacity)
    bands = layer([{"low": -band, "high": band}]).mark_rect(color=ink["grid"], opacity=0.55, aria=False).encode(x="low:Q", x2="high:Q")
    layers = [
        *([bands] if band else []),
        layer([{"value": 0}]).mark_rule(color=ink["soft"], aria=False).encode(x=x),
        base.mark_rule(strokeWidth=1.6, aria=False).encode(x="low:Q", x2="high:Q", color=scales["color"]),
        base.mark_point(size=46, strokeWidth=1.6, aria=False).encode(
            x=x, shape=scales["shape"], stroke=scales["color"].copy(), fill=filled
        ),
        layer(unknown).mark_text(color=ink["soft"], fontStyle="italic", aria=False).encode(y=y, text="text:N"),
    ]
    return alt.layer(*layers).properties(width=240, height=alt.Step(9))


def small(points: list[Row], ink: Ink, **scale: Any) -> Drawing:
    """Return one number along a stage with its band; `points` have x from 0 to 1, step, value, low and high; `scale` is that of y."""
    x = alt.X("x:Q", axis=None).scale(domain=[0, 1], nice=False)
    y, low = (alt.Y(f"{field}:Q", title=None).scale(**scale) for field in ("value", "low"))
    ticks = alt.Axis(tickCount=3, domain=False, ticks=False, labelPadding=6)
    ends = [points[k] | {"text": f"{points[k]['step']:,}"} for k in sorted({0, len(points) - 1})]
    layers = [
        layer([row for row in points if row["low"] is not None])
        .mark_area(opacity=0.17, color=ink["text"], aria=False)
        .encode(x=x, y=low.axis(ticks), y2="high:Q"),
        layer(points).mark_line(color=ink["text"], strokeWidth=1.8, point={"color": ink["text"], "size": 24}, aria=False).encode(x=x, y=y),
        layer(ends)
        .mark_text(dy=11, fontSize=10.5, color=ink["soft"], aria=False, clip=False)
        .encode(x=x, y=alt.value(SMALL[1]), text="text:N"),
    ]
    return alt.layer(*layers).properties(width=SMALL[0], height=SMALL[1])


def legend(ink: Ink) -> Drawing:
    """Return a legend strip for a picture outside the page."""
    rows = [{"x": 110 * k, "x2": 110 * k + 30, "middle": 110 * k + 15, "outcome": name} for k, name in enumerate(OUTCOMES)]
    x, scales = alt.X("x:Q", axis=None).scale(domain=[0, 940], nice=False), scales_of(ink)
    layers = [
        layer(rows).mark_rule().encode(x=x, x2="x2:Q", color=scales["color"], strokeDash=scales["dash"], strokeWidth=scales["width"]),
        layer(rows[: len(STANCES)])
        .mark_point(filled=True, opacity=1, size=40)
        .encode(x="middle:Q", color=scales["color"], shape=scales["shape"]),
        layer(rows).mark_text(align="left", dx=8, fontSize=13, fontWeight=600).encode(x="x2:Q", text="outcome:N", color=scales["color"]),
    ]
    return alt.layer(*layers).properties(width=940, height=16)


def configured(chart: Drawing | alt.VConcatChart, ink: Ink) -> Row:
    """Return the Vega-Lite specification with the page's quiet look."""
    axis = {"labelColor": ink["soft"], "titleColor": ink["soft"], "gridColor": ink["grid"], "labelFontSize": 11, "titleFontSize": 11}
    look = {"font": FONT, "background": "transparent", "view": {"stroke": None}, "axis": axis | {"titleFontWeight": "normal"}}
    return _drawable(chart.to_dict(validate=False)) | {"config": look}


def _drawable(part: Any) -> Any:
    """Return a specification without control characters: one in a topic's name aborts the renderer."""
    if isinstance(part, dict):
        return {name: _drawable(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_drawable(value) for value in part]
    return shown(part) if isinstance(part, str) else part


def svg(chart: Drawing) -> str:
    """Return the chart as an SVG element that scales with its box. Its text for screen readers is outside it."""
    drawn = vl_convert.vegalite_to_svg(configured(chart, PAGE))
    drawn = re.sub(r' (?:aria-[a-z]+|role|pointer-events|xmlns(?::xlink)?|version|font-family|stroke-miterlimit)="[^"]*"', "", drawn)
    drawn = re.sub(r'<path class="(?:background|foreground)"[^>]*/>|<rect [^>]*fill="transparent"[^>]*/>', "", drawn)
    drawn = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", drawn)
    return re.sub(
        r'<svg class="marks" width="[\d.]+" height="[\d.]+"', r'<svg class="chart" aria-hidden="true" focusable="false"', drawn, count=1
    )
