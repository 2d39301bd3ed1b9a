"""The proxy's dense curve under the judged points, and how far the two go together."""

from __future__ import annotations

import altair as alt

from ..nouns import STANCES
from ..report.chart import PAGE, Drawing, Ink, layer, svg
from ..report.run import ALL, Row, Run, places
from ..report.words import esc, figure, interval, number, outcome, table
from ..stats.proxy import correlation, proxy_finding
from ..stats.proxy import proxy as measured
from . import Analysis as Base
from . import Measured, Tables, filled

SIZE = (210, 110)
HINT = """<p class="hint">Lines: shares of stances read off the likelihoods of written answers at every saved checkpoint, none generated,
with 95 % bands; points: the judged shares of sampled answers. Means over topics; steps as in the trajectories. The levels of the two may
differ by an offset of the wordings; the correlations tell how far to trust the line between the points.</p>"""


class Analysis(Base):
    """Per stage one chart per stance, and the correlation with the judged shares."""

    order = 28
    title = "Proxy"

    def measure(self, tables: Tables) -> Measured:
        """Return the shares of stances by likelihood, and how far they go along with the judged ones."""
        scores = tables.get("proxy_scores")
        shares = None if scores is None else measured(scores, *tables.views)
        alike = None if shares is None else correlation(shares, tables["profiles"])
        return {"proxy": filled(shares), "proxy_correlation": filled(alike)}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return one sentence per kind of share: how far the proxy goes along with the judged shares."""
        alike = tables.get("proxy_correlation")
        return [] if alike is None else [proxy_finding(row) for row in alike.filter(view=view).to_dicts()]

    def panel(self, run: Run) -> str:
        """Return the correlations and the charts; "" where no proxy was asked for."""
        alike = run.table("proxy_correlation")
        if alike is None:
            return ""
        return HINT + _alike(alike.to_dicts()) + "".join(_stage(run, stage) for stage in run.stages)


def _alike(rows: list[Row]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{row["of"]}</th>'
        + "".join(f"<td>{number(row[m])} {interval(row[f'{m}_low'], row[f'{m}_high'])}</td>" for m in ("pearson", "spearman"))
        + f"<td>{row['n']:,}</td><td>{row['n_topics']}</td></tr>"
        for row in rows
    )
    return table("Proxy and judged shares", ("shares", "Pearson [95 %]", "Spearman [95 %]", "points", "topics"), lines)


def _stage(run: Run, stage: Row) -> str:
    proxy = run.table("proxy")
    assert proxy is not None
    own = proxy.filter(stage=stage["name"], topic=ALL).sort("step")
    dense = stage | {"steps": own["step"].unique().sort().to_list()}
    figures = "".join(_figure(run, dense, stance, own.filter(stance=stance).to_dicts()) for stance in STANCES)
    return f'<h3>{esc(stage["name"])}</h3><div class="companions">{figures}</div>'


def _figure(run: Run, stage: Row, stance: str, rows: list[Row]) -> str:
    at = dict(zip(stage["steps"], places(stage), strict=True))
    judged = {row["step"]: run.shares(ALL, stage["name"], row["step"]).get(stance, {}).get("value") for row in rows}
    points = [row | {"x": at[row["step"]], "judged": judged[row["step"]]} for row in rows if row["value"] is not None]
    if not points:
        return ""
    label = f"Proxy of {stance} along {stage['name']}, with the judged shares."
    body = "".join(
        f'<tr><th scope="row">{row["step"]:,}</th><td>{number(row["value"])} {interval(row["low"], row["high"])}</td>'
        f"<td>{number(row['judged'])}</td></tr>"
        for row in points
    )
    numbers = table(esc(label), ("step", "proxy [95 %]", "judged"), body)
    return figure(f"<figcaption>{outcome(stance)}</figcaption>", label, svg(curve(points, stance, PAGE)), numbers)


def curve(points: list[Row], stance: str, ink: Ink) -> Drawing:
    """Return the proxy of one stance along a stage with its 95 % band, and the judged shares as points."""
    x = alt.X("x:Q", axis=None).scale(domain=[0, 1], nice=False)
    y, low, judged = (alt.Y(f"{field}:Q", title=None).scale(domain=[0, 1]) for field in ("value", "low", "judged"))
    ticks = alt.Axis(values=[0, 0.5, 1], format=".2~f", domain=False, ticks=False, labelPadding=6)
    ends = [points[k] | {"text": f"{points[k]['step']:,}"} for k in sorted({0, len(points) - 1})]
    layers = [
        layer(points).mark_area(opacity=0.17, color=ink[stance], aria=False).encode(x=x, y=low.axis(ticks), y2="high:Q"),
        layer(points).mark_line(color=ink[stance], strokeWidth=1.8, aria=False).encode(x=x, y=y),
        layer([row for row in points if row["judged"] is not None])
        .mark_point(filled=True, opacity=1, size=30, color=ink[stance], aria=False)
        .encode(x=x, y=judged),
        layer(ends)
        .mark_text(dy=11, fontSize=10.5, color=ink["soft"], aria=False, clip=False)
        .encode(x=x, y=alt.value(SIZE[1]), text="text:N"),
    ]
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1])
