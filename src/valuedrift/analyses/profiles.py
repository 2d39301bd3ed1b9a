"""How the shares of support, neutral and oppose went, checkpoint by checkpoint, over all topics and for each."""

from __future__ import annotations

from ..nouns import OUTCOMES, STANCES
from ..report.chart import PAGE, svg, trajectory
from ..report.run import ALL, Row, Run, path_of, stage_steps
from ..report.words import NO_EVIDENCE, esc, estimate, figure, number, outcome, table
from ..stats.cells import VIEWS
from ..stats.profile import profiles as measured
from . import Analysis as Base
from . import Measured, Tables

SMALL, LONE, SIDE = (268, 160), (820, 320), (560, 260)
"""Plot sizes in px: small charts, and on wide screens the overall chart, alone or next to other chains."""


class Analysis(Base):
    """The shares of stances along every chain of stages, over all topics and on each."""

    order = 10
    title = "Trajectories"

    required = True

    def measure(self, tables: Tables) -> Measured:
        """Return the shares of every checkpoint, topic and outcome."""
        return {"profiles": measured(tables["scores"], *tables.views)}

    def panel(self, run: Run) -> str:
        """Return the overall charts of all chains, and one grid of topic charts per chain with a switch between chains."""
        if run.profiles["value"].drop_nulls().is_empty():
            return f'<p class="none">No checkpoint has a readable answer: {NO_EVIDENCE}.</p>'
        wide = '<div class="overall">' + "".join(_overall(run, chain, len(run.chains)) for chain in run.chains) + "</div>"
        grids = "".join(_grid(run, chain, k) for k, chain in enumerate(run.chains)) if run.topics else ""
        return f"{_legend(run)}{wide}<h3>By topic</h3>{_switch(run)}{grids}"


def _legend(run: Run) -> str:
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 34 10" aria-hidden="true"><path d="M0 5h34" class="line {name}"/></svg>{outcome(name)}</li>'
        for name in OUTCOMES
    )
    return (
        f'<ul class="legend" aria-label="Legend">{keys}</ul><p class="hint">Shares among support, neutral and oppose in the view '
        f"<em>{run.view}</em> ({VIEWS[run.view]}), with 95 % bands; refusal and invalid are shares of all judged answers. "
        "To show another view here, run the report with --view. Steps run from left to right, one stage after the other. "
        "Hover over a chart, or focus it and use the arrow keys, to read the numbers of a checkpoint.</p>"
    )


def _switch(run: Run) -> str:
    if len(run.chains) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-chain="{k}" aria-pressed="{"true" if k == 0 else "false"}">{esc(path_of(chain))}</button>'
        for k, chain in enumerate(run.chains)
    )
    return f'<div class="switch" role="group" aria-label="Chain of stages shown by topic">{buttons}</div>'


def _overall(run: Run, chain: list[Row], n_chains: int) -> str:
    title = "All topics" if n_chains == 1 else f"All topics: {path_of(chain)}"
    return _figure(run, chain, ALL, title, {"wide alone" if n_chains == 1 else "wide": LONE if n_chains == 1 else SIDE, "narrow": SMALL})


def _grid(run: Run, chain: list[Row], k: int) -> str:
    figures = "".join(_figure(run, chain, topic, topic, {"any": SMALL}) for topic in run.topics)
    return f'<div class="grid" data-chain-grid="{k}"{" hidden" if k else ""}>{figures}</div>'


def _figure(run: Run, chain: list[Row], topic: str, title: str, sizes: dict[str, tuple[int, int]]) -> str:
    shown = [run.shares(topic, stage["name"], step) for stage in chain for step in stage_steps(stage)]
    if not any(row["value"] is not None for rows in shown for row in rows.values()):
        return f'<figure><figcaption>{esc(title)}</figcaption><p class="none">{NO_EVIDENCE}</p></figure>'
    charts = "".join(f'<div class="{width}">{svg(trajectory(run, chain, topic, PAGE, size))}</div>' for width, size in sizes.items())
    label = f"{title}. {_in_words(shown)} The table below holds every number."
    head, about = f"<figcaption>{esc(title)}</figcaption>", 'class="plot" tabindex="0"'
    return figure(head, label, charts, _table(run, chain, topic), about)


def _in_words(shown: list[dict[str, Row]]) -> str:
    """Return the stored shares of the first and the last checkpoint as a text alternative to the chart."""
    ends = [", ".join(f"{name} {number(rows[name]['value'])}" for name in STANCES if name in rows) for rows in (shown[0], shown[-1])]
    return f"At the first checkpoint: {ends[0] or NO_EVIDENCE}; at the last: {ends[1] or NO_EVIDENCE}."


def _table(run: Run, chain: list[Row], topic: str) -> str:
    """Return the rows of a chart, one line per checkpoint. The pointer shows the same ones, so each number is written once."""
    lines = []
    for stage in chain:
        for step in stage_steps(stage):
            rows = run.shares(topic, stage["name"], step)
            cells = "".join(f"<td>{estimate(rows[name]) if name in rows else NO_EVIDENCE}</td>" for name in OUTCOMES)
            n = rows["support"]["n"] if "support" in rows else 0
            lines.append(f'<tr><th scope="row">{esc(stage["name"])} step {step:,}</th>{cells}<td>{n}</td></tr>')
    return table("Numbers", ("checkpoint", *map(outcome, OUTCOMES), "prompts"), "".join(lines))
