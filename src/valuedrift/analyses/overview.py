"""What was run, how it was read, and what moved: in words, from stored rows only."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ..report.run import Row, Run, path_of
from ..report.words import count, esc, listed
from . import Analysis as Base
from . import findings

NOT_HEADLINED = "This judge is not validated; see the tables below for what it read."


class Analysis(Base):
    """What was run and what moved, in words."""

    order = 0
    title = "What was run"

    def panel(self, run: Run) -> str:
        """Return the summary, the judge's warning, the notes, the counts, and a card per stage."""
        judge = run.provenance.get("judge") or {}
        said = " ".join(text for text in (judge.get("why"), judge.get("note")) if text)
        warning = f'<p class="warning" role="note"><strong>About the judge.</strong> {esc(said)}</p>' if said else ""
        notes = "".join(f"<li>{esc(note)}</li>" for note in run.provenance.get("notes") or [])
        notes = f'<ul class="notes" aria-label="Notes on this run">{notes}</ul>' if notes else ""
        cards = "".join(_card(run, stage) for stage in run.stages)
        sentences = findings(run.tables, run.view) if judge.get("headlined", True) else [NOT_HEADLINED]
        found = "".join(f"<li>{esc(sentence)}</li>" for sentence in sentences)
        found = f'<h3>Findings</h3><ul class="findings">{found}</ul>' if found else ""
        return f'<p class="lead">{_summary(run, judge)}</p>{warning}{found}{notes}{_tiles(run)}<div class="cards">{cards}</div>'


def _summary(run: Run, judge: Row) -> str:
    plan = run.plan
    model = plan.get("model") or listed(PurePath(folder).name for folder in plan.get("folders") or ["a model"])
    branches = listed(esc(path_of(chain)) for chain in run.chains)
    suite = f" of the suite <strong>{esc(plan['suite'])}</strong>" if plan.get("suite") else ""
    draws = f", {count(plan['draws'], 'answer')} per prompt" if plan.get("draws") else ""
    reader = judge.get("identity") or plan.get("judge") or "not recorded"
    return (
        f"<strong>{esc(model)}</strong> was evaluated along {branches} with {count(len(run.prompts), 'prompt')}{suite} "
        f"on {count(len(run.topics), 'topic')}{draws}. Judge: <strong>{esc(reader)}</strong>."
    )


def _tiles(run: Run) -> str:
    scores = run.scores.unique("answer")
    failed = scores["support"].null_count()
    tiles = {
        "checkpoints": len({(checkpoint.weights, checkpoint.prompt_format) for checkpoint in run.checkpoints}),
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
    return f'<article class="card"><h3>{esc(stage["name"])}</h3><dl class="facts">{listing}</dl></article>'
