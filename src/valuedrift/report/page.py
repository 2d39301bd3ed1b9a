"""One offline HTML page out of the panels, and one picture of the trajectories."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

import altair as alt
import vl_convert

from .. import registry
from ..store import Store
from .chart import PAPER, Drawing, configured, legend, trajectory
from .run import ALL, Row, Run, path_of, read, stage_steps
from .words import NO_EVIDENCE, esc


def write_report(store: Store, view: str = "") -> Path:
    """Write RUN/report.html and return its path. Raises BadInput if the run is not finished or has no such view."""
    return store.write_bytes("report.html", page(read(store, view)).encode())


def page(run: Run) -> str:
    """Return the whole page: no request leaves it, and its policy lets no script run but its own."""
    bodies = [(f"panel-{k}", analysis.title, analysis.panel(run)) for k, analysis in enumerate(registry.in_order("analysis"))]
    return framed(run.name, bodies)


def framed(name: str, bodies: list[tuple[str, str, str]]) -> str:
    """Return a whole page out of (key, title, HTML) parts; a part without HTML is left out."""
    shown = [entry for entry in bodies if entry[2]]
    links = "".join(f'<a href="#{key}">{esc(title)}</a>' for key, title, _ in shown)
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{esc(title)}</h2>{body}</section>'
        for key, title, body in shown
    )
    style, script = ((files(__package__) / part).read_text() for part in ("page.css", "page.js"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<title>{esc(name)} · valuedrift</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><a class="skip" href="#main">Skip to the report</a>
<header><h1>{esc(name)}</h1><nav aria-label="Parts of the report">{links}</nav>
<button type="button" id="theme" aria-label="Switch between light and dark">◐</button></header>
<main id="main">{sections}</main><div id="tip" role="status" aria-live="polite" hidden></div>
<script>{script}</script></body></html>
"""


def _policy(script: str) -> str:
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{own}'"


def picture(store: Store, path: Path, view: str = "") -> Path:
    """Write a PNG about 1600 px wide and return its path: all topics along the first two chains, then every topic of the first.

    Raises BadInput if the run is not finished or the picture cannot be written.
    """
    run = read(store, view)
    shown = run.chains[:2]
    large = [_titled(run, chain, ALL, f"All topics: {path_of(chain)}", (int(900 / len(shown)), 200)) for chain in shown]
    small = [_titled(run, shown[0], topic, topic, (198, 100)) for topic in run.topics]
    by_topic = alt.concat(*small, columns=4, spacing=18, title=_title(f"By topic: {path_of(shown[0])}"))
    chart = alt.vconcat(legend(PAPER), alt.hconcat(*large, spacing=24), by_topic, spacing=18)
    drawn = configured(chart, PAPER) | {"background": PAPER["back"], "padding": 14}
    return Store(path.parent).write_bytes(path.name, vl_convert.vegalite_to_png(drawn, scale=1.6))


def _title(text: str) -> alt.TitleParams:
    return alt.Title(text, anchor="start", fontSize=14, color=PAPER["text"], offset=12)


def _titled(run: Run, chain: list[Row], topic: str, text: str, size: tuple[int, int]) -> Drawing:
    known = any(
        row["value"] is not None
        for stage in chain
        for step in stage_steps(stage)
        for row in run.shares(topic, stage["name"], step).values()
    )
    title = _title(text if known else f"{text}: {NO_EVIDENCE}")
    return trajectory(run, chain, topic, PAPER, size).properties(title=title)
