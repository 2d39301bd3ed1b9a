"""Where the numbers come from: versions, plan, seeds, devices, timings, and the weights of every checkpoint."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from ..report.run import Run
from ..report.words import esc
from . import Analysis as Base


class Analysis(Base):
    """Where the figures came from: versions, commit, plan, devices, timings, checkpoints."""

    order = 40
    title = "Provenance"

    def panel(self, run: Run) -> str:
        """Return every entry of the provenance, the plan as text, and the table of checkpoints."""
        told = {"plan", "notes"}
        entries = "".join(
            f"<div><dt>{esc(name)}</dt><dd>{_value(value)}</dd></div>"
            for name, value in run.provenance.items()
            if name not in told and value
        )
        plan = run.provenance.get("plan")
        text = plan if isinstance(plan, str) else json.dumps(plan, indent=2, ensure_ascii=False)
        shown = f"<details open><summary>Plan</summary><pre tabindex='0'>{esc(text)}</pre></details>" if plan else ""
        return f'<dl class="facts broad">{entries}</dl>{shown}{_checkpoints(run)}'


def _value(value: Any) -> str:
    """Return a stored JSON value as HTML: tables as lists of names and values, numbers with at most three decimals."""
    if isinstance(value, dict):
        return "<ul>" + "".join(f"<li>{esc(name)}: {_value(inner)}</li>" for name, inner in value.items()) + "</ul>"
    if isinstance(value, list):
        return ", ".join(_value(inner) for inner in value)
    return esc(f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value)


def _checkpoints(run: Run) -> str:
    if not run.checkpoints:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("stage", "seed", "step", "weights", "precision", "prompt format", "folder"))
    body = "".join(
        f'<tr><th scope="row">{esc(point.stage)}</th><td>{point.seed}</td><td>{point.step:,}</td><td><code>{esc(point.weights)}</code></td>'
        f"<td>{esc(point.dtype)}</td><td><code>{esc(point.prompt_format)}</code></td><td>{esc(PurePath(point.path).name)}</td></tr>"
        for point in run.checkpoints
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="Checkpoints">{table}</div>'
    return f"<details><summary>{len(run.checkpoints)} checkpoints with the digests of their weights</summary>{scroll}</details>"
