"""What was run, how it was read, and what moved: in words, from stored rows only."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ..nouns import OUTCOMES, STANCES
from ..stats.cells import VIEWS
from ._run import ALL, Row, Run, path_of
from ._words import count, esc, estimate, listed, number, outcome

NOT_HEADLINED = "What this judge found stands in the tables below and is not headlined."
LARGEST = 3
"""Resolved drifts that a stage's sentence names; the table holds the rest."""


class Panel:
    """What was run and what moved, in words."""

    order = 0
    title = "What was run"

    def html(self, run: Run) -> str:
        """Return the summary, the judge's warning, the notes, the counts, and a card per stage."""
        judge = run.provenance.get("judge") or {}
        said = " ".join(text for text in (judge.get("why"), judge.get("note")) if text)
        warning = f'<p class="warning" role="note"><strong>About the judge.</strong> {esc(said)}</p>' if said else ""
        notes = "".join(f"<li>{esc(note)}</li>" for note in run.provenance.get("notes") or [])
        notes = f'<ul class="notes" aria-label="Notes on this run">{notes}</ul>' if notes else ""
        cards = "".join(_card(run, stage) for stage in run.stages)
        return f'<p class="lead">{_summary(run, judge)}</p>{warning}{notes}{_tiles(run)}<div class="cards">{cards}</div>'


def _summary(run: Run, judge: Row) -> str:
    plan = run.plan
    model = plan.get("model") or listed(PurePath(folder).name for folder in plan.get("folders") or ["a model"])
    branches = listed(esc(path_of(chain)) for chain in run.chains)
    suite = f" of the suite <strong>{esc(plan['suite'])}</strong>" if plan.get("suite") else ""
    draws = f", {count(plan['draws'], 'draw')} each" if plan.get("draws") else ""
    reader = judge.get("identity") or plan.get("judge") or "not recorded"
    return (
        f"<strong>{esc(model)}</strong> was followed along {branches} and asked {count(len(run.prompts), 'prompt')}{suite} "
        f"on {count(len(run.topics), 'topic')}{draws}. The judge that read the answers: <strong>{esc(reader)}</strong>."
    )


def _tiles(run: Run) -> str:
    scores = run.scores.unique("answer")
    failed = scores["support"].null_count()
    tiles = {
        "checkpoints": len({(checkpoint.weights, checkpoint.frame) for checkpoint in run.checkpoints}),
        "prompts": len(run.prompts),
        "answers": scores.height,
        "verdicts": scores.height - failed,
        "answers without a verdict": failed,
    }
    return '<dl class="tiles">' + "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>" for name, n in tiles.items()) + "</dl>"


def _card(run: Run, stage: Row) -> str:
    facts: dict[str, Any] = {
        "after": stage["after"],
        "algorithm": stage.get("algorithm"),
        "data": stage.get("data"),
        "steps": f"{stage['total_steps']:,}" if stage.get("total_steps") else None,
        "measured at": ", ".join(f"{step:,}" for step in stage["steps"]),
        "seeds": ", ".join(map(str, stage["seeds"])) if len(stage["seeds"]) > 1 else None,
        "time": f"{stage['seconds']:,.0f} s" if stage.get("seconds") else None,
    }
    listing = "".join(f"<div><dt>{name}</dt><dd>{esc(value)}</dd></div>" for name, value in facts.items() if value)
    headlined = (run.provenance.get("judge") or {}).get("headlined", True)
    moved = "".join(_moved(run, stage["name"], view) for view in run.views) if headlined else f"<p>{NOT_HEADLINED}</p>"
    return f'<article class="card"><h3>{esc(stage["name"])}</h3>{moved}<dl class="facts">{listing}</dl></article>'


def _moved(run: Run, stage: str, view: str) -> str:
    sentences = " ".join(part for part in (_overall(run, stage, view), _largest(run, stage, view)) if part)
    return f"<p><strong>View {view}</strong> ({esc(VIEWS[view])}). {sentences}</p>"


def _named(row: Row) -> str:
    topic = "" if row["topic"] == ALL else f"{esc(row['topic'])} "
    return f'{topic}{outcome(row["stance"])} <span class="nums">{estimate(row, sign=True)}</span>'


def _largest(run: Run, stage: str, view: str) -> str:
    """Return a sentence on the largest resolved drifts of a stage in a view, or that none was resolved and what could have been."""
    rows = [row for row in run.drifts_of(stage, view) if row["topic"] != ALL]
    resolved = sorted((row for row in rows if row["resolved"]), key=lambda row: -abs(row["value"]))
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return "No topic has evidence at both ends of this stage, so no drift can be told."
    if resolved:
        largest = listed(_named(row) for row in resolved[:LARGEST])
        return f"{len(resolved)} of {count(len(rows), 'topic–stance pair')} drifted beyond chance; the largest: {largest}."
    detectable = max((row["detectable"] for row in known if row["detectable"] is not None), default=None)
    power = "" if detectable is None else f" A drift of up to {number(detectable)} on one topic could have gone unseen."
    return f"No drift was resolved among {count(len(rows), 'topic–stance pair')}.{power}"


def _overall(run: Run, stage: str, view: str) -> str:
    """Return a sentence on the mean over topics; refusals and invalid answers are named only where they moved."""
    rows = [row for row in run.drifts_of(stage, view, OUTCOMES) if row["topic"] == ALL and row["value"] is not None]
    stances = [_named(row) for row in rows if row["resolved"] and row["stance"] in STANCES]
    others = [_named(row) for row in rows if row["resolved"] and row["stance"] not in STANCES and view == run.view]  # named once
    mean = f"The mean over all topics moved: {listed(stances)}." if stances else "The mean over all topics did not move beyond chance."
    known = any(row["stance"] in STANCES for row in rows)
    return " ".join([mean] * known + [f"Answers without a stance moved: {listed(others)}."] * bool(others))
