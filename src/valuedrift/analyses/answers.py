"""The answers themselves: one prompt's answers across the checkpoints, with the stance that the judge read."""

from __future__ import annotations

from collections import defaultdict

import polars as pl

from ..nouns import OUTCOMES, Prompt, digest
from ..progress import shown
from ..report.run import Run
from ..report.words import GLYPHS, embedded
from . import Analysis as Base

BUDGET = 2_500_000
"""Bytes of embedded answers: a page of this size still opens at once on a phone."""
Block = dict[str, object]


class Analysis(Base):
    """The browser of answers: one prompt and draw across the checkpoints, with the stance that was read."""

    order = 30
    title = "Answers"

    def panel(self, run: Run) -> str:
        """Return the browser of answers and the answers as JSON, at most `BUDGET` bytes of them."""
        blocks, left_out = within_budget(blocks_of(run))
        if not blocks:
            return ""
        note = (
            f'<p class="hint">This page shows {len(blocks)} of {len(blocks) + left_out} prompts, about the same number for each topic, '
            "selected by the digest of their ids. The run folder contains all answers.</p>"
            if left_out
            else ""
        )
        stages = [{name: shown(stage[name]) for name in ("name", "after")} for stage in run.stages]
        content = {"outcomes": OUTCOMES, "glyphs": list(GLYPHS.values()), "stages": stages, "columns": _columns(run), "prompts": blocks}
        return f'{note}{BROWSER}<script type="application/json" id="answers-data">{embedded(content)}</script>'


BROWSER = """<form class="controls" id="browse"><label>Topic <select name="topic"></select></label>
<label class="long">Prompt <select name="prompt"></select></label>
<span class="pair"><button type="button" data-go="-1" aria-label="Previous prompt">‹</button>
<button type="button" data-go="1" aria-label="Next prompt">›</button></span></form>
<div class="question"><p id="question"></p><p class="hint"><span id="claim"></span> <span id="polarity"></span></p></div>
<div class="scroll" tabindex="0" role="region" aria-label="Stances of all samples; select one">
<table id="strip"></table></div>
<div id="texts" aria-live="polite"></div><noscript><p class="none">The browser of answers needs JavaScript.</p></noscript>"""


def _columns(run: Run) -> list[tuple[int, int]]:
    """Return (stage, step) of every measured checkpoint, stages by their number: the columns that answers are laid out in."""
    return [(k, step) for k, stage in enumerate(run.stages) for step in stage["steps"]]


def blocks_of(run: Run) -> list[Block]:
    """Return one block per prompt: its distinct texts, and one cell per sample and column.

    A cell is 0 if there is no answer, else [text, outcome, probability in percent], or [text, reason] if the judge failed.
    """
    column = {(run.stages[k]["name"], step): i for i, (k, step) in enumerate(_columns(run))}
    rows = run.scores.filter(~pl.col("repeat")).join(run.answers, left_on="answer", right_on="key", how="inner", maintain_order="left")
    by_prompt = defaultdict(list)
    for row in rows.iter_rows(named=True):
        by_prompt[row["prompt"]].append(row)
    return [_block(prompt, by_prompt[prompt.id], column) for prompt in run.prompts if prompt.id in by_prompt]


def _block(prompt: Prompt, rows: list[dict], column: dict[tuple[str, int], int]) -> Block:
    texts: dict[str, int] = {}
    draws: dict[tuple[int, int], list] = {}
    for row in rows:
        at = column.get((row["stage"], row["step"]))
        if at is None:
            continue
        text = texts.setdefault(shown(row["text"]), len(texts))
        probs = [row[name] for name in OUTCOMES]
        cells = draws.setdefault((row["seed"], row["draw"]), [0] * len(column))
        if None in probs:
            cells[at] = [text, row["failure"] or "not judged"]
        else:
            best = max(range(len(OUTCOMES)), key=probs.__getitem__)
            cells[at] = [text, best, round(100 * probs[best])]
    asked = {name: shown(getattr(prompt, name)) for name in ("id", "topic", "text", "claim")}
    return {
        **asked,
        "polarity": prompt.polarity,
        "texts": list(texts),
        "draws": [[seed, draw, cells] for (seed, draw), cells in sorted(draws.items())],
    }


def within_budget(blocks: list[Block]) -> tuple[list[Block], int]:
    """Return the blocks that fit, and how many do not: topics take turns, each giving its prompts in the order of their digests."""
    turn: dict[object, int] = defaultdict(int)
    queue: list[tuple[int, Block]] = []
    for block in sorted(blocks, key=lambda block: digest("report", block["id"])):
        queue.append((turn[block["topic"]], block))
        turn[block["topic"]] += 1
    kept, size = set(), 0
    for _, block in sorted(queue, key=lambda entry: entry[0]):
        size += len(embedded(block).encode()) + 1
        if size > BUDGET:
            break
        kept.add(block["id"])
    return [block for block in blocks if block["id"] in kept], len(blocks) - len(kept)
