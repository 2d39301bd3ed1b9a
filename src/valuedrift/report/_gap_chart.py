"""The charts of a data set's values: gaps by topic, and the shares of stances on one topic."""

from __future__ import annotations

import altair as alt

from ..nouns import STANCES
from .chart import Drawing, Ink, layer, scales_of
from .run import Row
from .words import NO_EVIDENCE

SIDES = ("chosen", "rejected")


def gaps(rows: list[Row], reach: float, matters: float, ink: Ink) -> Drawing:
    """Return per topic three dots with intervals; what is not resolved is hollow and pale. The band holds gaps too small to matter."""
    known = [row for row in rows if row["value"] is not None]
    unknown = [row | {"text": NO_EVIDENCE} for row in rows if row["value"] is None and row["outcome"] == STANCES[1]]
    names = list(dict.fromkeys(row["topic"] for row in rows))
    y = (
        alt.Y("topic:N", title=None, sort=names)
        .axis(domain=False, ticks=False, labelPadding=8, labelLimit=140, labelFontSize=12, grid=True, tickBand="extent")
        .scale(paddingInner=0.25, domain=names)
    )
    x = (
        alt.X("value:Q", title="share, chosen − rejected")
        .scale(domain=[-reach, reach], nice=False)
        .axis(format="+.2~f", labelExpr="datum.value == 0 ? '0' : datum.label", tickCount=5, domain=False)
    )
    scales = scales_of(ink)
    filled = alt.condition("datum.resolved", scales["color"], alt.value(ink["back"]))
    opacity = alt.condition("datum.resolved", alt.value(1), alt.value(0.6))
    base = layer(known).encode(y=y, yOffset=alt.YOffset("outcome:N").scale(domain=list(STANCES)), opacity=opacity)
    layers = [
        layer([{"low": -matters, "high": matters}]).mark_rect(color=ink["grid"], opacity=0.55, aria=False).encode(x="low:Q", x2="high:Q"),
        layer([{"value": 0}]).mark_rule(color=ink["soft"], aria=False).encode(x=x),
        base.mark_rule(strokeWidth=1.6, aria=False).encode(x="low:Q", x2="high:Q", color=scales["color"]),
        base.mark_point(size=46, strokeWidth=1.6, aria=False).encode(
            x=x, shape=scales["shape"], stroke=scales["color"].copy(), fill=filled
        ),
        layer(unknown).mark_text(color=ink["soft"], fontStyle="italic", aria=False).encode(y=y, text="text:N"),
    ]
    return alt.layer(*layers).properties(width=320, height=alt.Step(11))


def shares(rows: list[Row], ink: Ink) -> Drawing:
    """Return the shares of the three stances with intervals: of chosen replies filled, of rejected ones hollow, each on its own line."""
    known = [row for row in rows if row["value"] is not None]
    sides = [side for side in (*SIDES, "texts") if any(row["side"] == side for row in rows)]
    y = alt.Y("outcome:N", title=None, sort=list(STANCES)).axis(domain=False, ticks=False, labelPadding=8, labelFontSize=12)
    x = alt.X("value:Q", title=None).scale(domain=[0, 1]).axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", domain=False, ticks=False)
    scales = scales_of(ink)
    filled = alt.condition("datum.side == 'rejected'", alt.value(ink["back"]), scales["color"])
    base = layer(known).encode(y=y.scale(domain=list(STANCES), paddingInner=0.3), yOffset=alt.YOffset("side:N").scale(domain=sides))
    layers = [
        base.mark_rule(strokeWidth=1.6, aria=False).encode(x="low:Q", x2="high:Q", color=scales["color"]),
        base.mark_point(size=46, strokeWidth=1.6, aria=False).encode(
            x=x, shape=scales["shape"], stroke=scales["color"].copy(), fill=filled
        ),
    ]
    return alt.layer(*layers).properties(width=230, height=alt.Step(13 if len(sides) > 1 else 18))
