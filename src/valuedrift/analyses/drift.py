"""How far each stance moved on each topic and stage, which drifts are resolved, and how small a drift could have been."""

from __future__ import annotations

from typing import Any

import polars as pl

from ..nouns import OUTCOMES, STANCES
from ..report.chart import PAGE, dots, svg
from ..report.run import ALL, Row, Run
from ..report.words import NO_EVIDENCE, esc, interval, number, outcome
from ..stats.cells import VIEWS
from ..stats.drift import drifts as measured
from . import Analysis as Base
from . import Measured, Tables

LARGEST = 3
"""Resolved drifts that a finding lists; the table has the rest."""
HEADINGS = {
    "topic": "topic",
    "stance": "stance",
    "stage": "stage",
    "view": "view",
    "value": "drift",
    "low": "95 % interval",
    "p_adjusted": "adjusted p",
    "floor": "noise floor",
    "detectable": "smallest detectable",
    "time": "time",
    "n": "prompts",
}
"""column that a heading sorts by -> heading"""


class Analysis(Base):
    """The drifts of every stage: an overview in dots, and the sortable table with intervals, floor and detectability."""

    order = 20
    title = "Drifts"

    required = True

    def measure(self, tables: Tables) -> Measured:
        """Return the change of every share along each stage."""
        return {"drifts": measured(tables["scores"], tables.stages, *tables.views)}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return one sentence per stage and view: its resolved drifts, and how large a drift could have been missed."""
        drifts = tables["drifts"]
        assert drifts is not None
        sentences = []
        for (stage, name), rows in drifts.group_by("stage", "view", maintain_order=True):
            stances = rows.filter(pl.col("stance").is_in(STANCES))
            by_topic, overall = (stances.filter((pl.col("topic") == ALL) == mean) for mean in (False, True))
            head = f"{stage}, {name} ({VIEWS[str(name)]})"
            if by_topic["value"].null_count() == by_topic.height:
                sentences.append(f"{head}: no topic has evidence at both ends, so no drift can be measured.")
                continue
            moved, largest = _resolved(overall), _resolved(by_topic)
            over_all = f"over all topics {'; '.join(moved)}" if moved else "over all topics no drift is resolved"
            named = f", the largest {'; '.join(largest[:LARGEST])}" if largest else ""
            others = _resolved(rows.filter(~pl.col("stance").is_in(STANCES), topic=ALL)) if name == view else []  # alike in every view
            beside = f" Answers without a stance: {'; '.join(others)}." if others else ""
            n = f"{len(largest)} of {by_topic.height} topic-stance drifts resolved"
            sentences.append(f"{head}: {over_all}; {n}{named}; {_missed(by_topic)}.{beside}")
        return sentences

    def panel(self, run: Run) -> str:
        """Return the overview of dots per stage and the table of every stored drift."""
        rows = run.drifts.to_dicts()
        if not rows:
            return f'<p class="none">No stage has a start and an end to compare: {NO_EVIDENCE}.</p>'
        reach = _reach([row for row in rows if row["stance"] in STANCES])
        shown = "".join(_overview(run, view, reach) for view in run.views)
        return f"{HINT}{shown}<h3>Every drift</h3>{_filters(run)}{_table(rows)}"


def _resolved(rows: pl.DataFrame) -> list[str]:
    """Return the resolved drifts of some rows in words, the largest first."""
    return [
        f"{'' if row['topic'] == ALL else row['topic'] + ' '}{row['stance']} {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        for row in rows.filter("resolved").sort(pl.col("value").abs(), descending=True).to_dicts()
    ]


def _missed(by_topic: pl.DataFrame) -> str:
    """Return how large a drift on one topic could have been missed."""
    detectable = by_topic["detectable"].drop_nulls().to_list()
    if not detectable:
        return "the smallest detectable drift is unknown"
    if min(detectable) >= 1:  # two or three seeds that differ widely
        return "there are too few seeds or prompts, or they differ too much, to detect any drift on one topic"
    if max(detectable) >= 1:
        return "on some topics no drift could have been detected"
    return f"a drift of up to {max(detectable):.2f} on one topic could have been missed"


HINT = """<p class="hint">Share at the end of a stage minus share at its start, with 95 % intervals. A marker is filled if the drift is
resolved (Holm-adjusted p below 0.05 within its family), and hollow and pale if it may be chance. The <em>noise floor</em> is the
change between two evaluations of the same checkpoint. The <em>smallest detectable</em> drift is one that would be detected with 80 % power.
<em>Time</em> is the share of the stage's steps after which 80 % of the drift had happened, with its 95 % interval in saved steps. A drift
is <em>still moving</em> if the last third of the stage contributed a resolved part of it, and <em>undecided</em> if the data cannot
tell. With one seed, intervals cover other prompts but not another training run (n = 1). With several seeds, they cover both.</p>"""


def _reach(rows: list[Row]) -> float:
    """Return how far the shared x axis goes to either side: the largest stored end, up to the next tenth."""
    ends = [abs(row[name]) for row in rows for name in ("value", "low", "high") if row[name] is not None]
    return int(max(ends, default=0) * 10 + 1) / 10


def _overview(run: Run, view: str, reach: float) -> str:
    shown = "".join(_dots(run, stage["name"], view, reach) for stage in run.stages)
    return f'<h3>View {view}: {esc(VIEWS[view])}</h3><div class="overview">{shown}</div>'


def _dots(run: Run, stage: str, view: str, reach: float) -> str:
    rows = run.drifts_of(stage, view)
    head = f"<figcaption>{esc(stage)}</figcaption>"
    if not any(row["value"] is not None for row in rows):
        return f'<figure>{head}<p class="none">{NO_EVIDENCE}</p></figure>'
    resolved = [row for row in rows if row["resolved"]]
    label = f"Drifts in {stage}, view {view}: {len(resolved)} of {len(rows)} resolved. The table below holds every number."
    shown = [{"outcome": row["stance"]} | row for row in rows]
    chart = svg(dots(shown, run.topics, (-reach, reach), "drift, end of stage − start", PAGE))
    return f'<figure>{head}<div class="dots" role="img" aria-label="{esc(label)}">{chart}</div></figure>'


def _filters(run: Run) -> str:
    stages = "".join(f'<option value="{esc(stage["name"])}">{esc(stage["name"])}</option>' for stage in run.stages)
    views = "".join(f'<option value="{view}">{view}</option>' for view in run.views)
    return (
        '<form class="controls" id="drift-filter"><label>Stage <select name="stage"><option value="">all</option>'
        f'{stages}</select></label><label>View <select name="view"><option value="">all</option>{views}</select></label>'
        '<label class="check"><input type="checkbox" name="resolved"> resolved only</label>'
        '<label class="check"><input type="checkbox" name="others"> refusal and invalid too</label>'
        '<output id="drift-count" aria-live="polite"></output></form>'
    )


def _table(rows: list[Row]) -> str:
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-sort="{name}">{text}</button></th>' for name, text in HEADINGS.items()
    )
    body = "".join(_line(row) for row in rows)
    return (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Table of drifts"><table id="drifts">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(row: Row) -> str:
    """Return a table row. `data-v` of each cell holds the unrounded value, for sorting and scripts."""
    order = (*STANCES, *OUTCOMES[len(STANCES) :])
    cells = [
        _cell("topic", "" if row["topic"] == ALL else row["topic"], esc("all topics" if row["topic"] == ALL else row["topic"])),
        _cell("stance", order.index(row["stance"]), outcome(row["stance"])),
        _cell("stage", row["stage"], esc(row["stage"])),
        _cell("view", row["view"], row["view"]),
        _cell("value", row["value"], number(row["value"], sign=True)),
        _cell("low", row["low"], "" if row["value"] is None else interval(row["low"], row["high"], sign=True)),
        _cell("p_adjusted", row["p_adjusted"], _significance(row)),
        _cell("floor", row["floor"], "no repeat" if row["floor"] is None else f"±{number(row['floor'])}"),
        _cell("detectable", row["detectable"], "–" if row["detectable"] is None else number(row["detectable"])),
        _cell("time", row["time"], _time(row)),
        _cell("n", row["n"], f"{row['n']:,}"),
    ]
    kind = "resolved" if row["resolved"] else "unresolved"
    other = "" if row["stance"] in STANCES else " other"
    about = f'data-stage="{esc(row["stage"])}" data-view="{row["view"]}"{" hidden" if other else ""}'
    return f'<tr class="{kind}{other}" {about}>{"".join(cells)}</tr>'


def _cell(name: str, value: Any, shown: str) -> str:
    return f'<td data-c="{name}" data-v="{"" if value is None else esc(value)}">{shown}</td>'


def _significance(row: Row) -> str:
    p = row["p_adjusted"]
    if p is None:
        return "–"
    return ("&lt; 0.001" if p < 0.001 else f"{p:.3f}") + (' <span class="badge">resolved</span>' if row["resolved"] else "")


def _time(row: Row) -> str:
    """Return the drift time with its interval, or the status if there is no time."""
    if row["time"] is None:
        return esc(row["status"])
    ends = "" if row["time_low"] is None or row["time_high"] is None else f" [{row['time_low']:.2f}, {row['time_high']:.2f}]"
    return f"{row['time']:.2f}{ends}" + ("" if row["status"] == "reached" else f' <span class="nums">({esc(row["status"])})</span>')
