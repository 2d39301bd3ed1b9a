"""Records of a data set with the judge's readings, as HTML in which every text is escaped."""

from __future__ import annotations

from ..nouns import OUTCOMES
from .run import Row
from .words import esc, outcome

WARNING = (
    '<p class="warning" role="note"><strong>Content warning.</strong> These texts are shown as they stand in the data; '
    "nobody has checked them, and some may be upsetting. They are nobody's opinion here.</p>"
)
SIDES = {1: " (along the topic's axis)", -1: " (against the topic's axis)", 0: ""}
PUT_BY = {
    "data": "Claim, as the data state it",
    "suite": "Claim of the suite nearest to what is asked",
    "user": "No claim of the suite is near; stances refer to what the user puts.",
}


def html(examples: dict[str, list[Row]]) -> str:
    """Return the examples of every topic, each topic closed until it is opened; "" where there are none."""
    topics = "".join(
        f"<details><summary>{esc(name)} ({len(rows)})</summary>{''.join(map(_example, rows))}</details>"
        for name, rows in examples.items()
        if rows
    )
    return f'{WARNING}<div class="examples">{topics}</div>' if topics else ""


def _example(row: Row) -> str:
    sides = [(side, row[side]) for side in ("chosen", "rejected", "reply") if side in row]
    replies = "".join(_reply(side, reply) for side, reply in sides)
    claim = (
        "" if row["put_by"] == "user" else f': <q dir="auto">{esc(row["claim"])}</q>{SIDES[row["polarity"]]}'
    )  # the user's words stand above
    return (
        f'<article class="example"><h3>{esc(row["why"])}</h3>{_asked(row["prompt"])}'
        f'<p class="hint">{PUT_BY[row["put_by"]]}{claim}</p><div class="sides">{replies}</div></article>'
    )


def _asked(prompt: list[Row]) -> str:
    """Return the last message before the reply; what was said before it stands behind a summary."""
    if not prompt:
        return '<p class="missing">(running text, no prompt)</p>'
    *before, last = prompt
    earlier = "".join(f'<p class="said" dir="auto"><strong>{esc(turn["role"])}:</strong> {esc(turn["content"])}</p>' for turn in before)
    folded = f"<details><summary>{len(before)} earlier messages</summary>{earlier}</details>" if before else ""
    return f'{folded}<div class="question"><p class="said" dir="auto">{esc(last["content"])}</p></div>'


def _reply(side: str, reply: Row) -> str:
    probs = reply["probs"]
    likeliest = max(OUTCOMES, key=lambda name: probs[name])
    read = ", ".join(f"{name} {probs[name]:.2f}" for name in OUTCOMES if probs[name] >= 0.005)
    words = f'<p dir="auto">{esc(reply["text"])}</p>' if reply["text"].strip() else '<p class="missing">(empty reply)</p>'
    return (
        f'<div class="answer {likeliest}"><div class="at"><strong>{side}</strong>{outcome(likeliest)}<span>{read}</span></div>{words}</div>'
    )
