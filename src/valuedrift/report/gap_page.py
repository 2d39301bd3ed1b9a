"""The page of a data set: the report's layout, charts and tables of what `stats.gap` measured. It computes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from ..judge.cache import unread_notes
from ..nouns import OUTCOMES, STANCES
from ..stats.verdicts import CONDITION
from ..store import Store
from .chart import PAGE, dots, svg
from .page import framed
from .run import Row
from .words import NO_EVIDENCE, count, esc, estimate, number, outcome, table

VERDICTS = {
    "could move": "Could move a model",
    "undecided": "Undecided",
    "unlikely": "Unlikely to move a model",
    "not headlined": "No conclusion: the judge is too weak",
    "no evidence": "Too little evidence",
    None: "Stances that the texts would teach",
}
FEATURES = {
    "length": "length (words)",
    "readability": "reading grade (ARI)",
    "hedging": "hedges per 100 words",
    "lists": "share with lists",
    "refusal": "share of refusals",
}
WARNING = (
    '<p class="warning" role="note"><strong>Content warning.</strong> These texts are quoted from the data. '
    "Nobody has checked them, and some may be upsetting. They do not express our views.</p>"
)
POLARITY = {1: " (along the topic's axis)", -1: " (against the topic's axis)", 0: ""}
PUT_BY = {
    "data": "Claim stated in the data",
    "suite": "The suite's claim closest to the prompt",
    "user": "No claim of the suite is close; stances refer to what the user says.",
}


def write_gap_page(store: Store, result: Row, sources: list[str]) -> Path:
    """Return the path of OUT/gap.html, written whole next to gap.json with the same numbers."""
    result = json.loads(json.dumps(result, ensure_ascii=False).encode(errors="replace"))  # halves of surrogate pairs become "?"
    store.write_json("gap.json", result)
    return store.write_bytes("gap.html", page(result, sources).encode())


def page(result: Row, sources: list[str]) -> str:
    """Return the whole page."""
    name = f"{'Value gap' if 'n_pairs' in result else 'Stances'} of {', '.join(source.rsplit('/', 1)[-1] for source in sources)}"
    bodies = [
        ("conclusions", "Conclusions", _head(result, sources) + _conclusions(result)),
        ("topics", "By topic", _charts(result)),
        ("style", "Style", _style(result)),
        ("examples", "Examples", _examples(result["examples"])),
        ("numbers", "All numbers", _numbers(result)),
    ]
    return framed(name, bodies)


def _head(result: Row, sources: list[str]) -> str:
    total, noun = (result["n_pairs"], "preference pair") if "n_pairs" in result else (result["n_examples"], "text")
    lead = (
        f"{count(total, noun)} of <strong>{esc(', '.join(sources))}</strong>, as read by the judge <strong>{esc(result['judge'])}</strong>."
    )
    unread = unread_notes(result["unread"], "different texts") if result.get("unread") else []
    about = " ".join(filter(None, (result["note"], result["validity"]["why"], *unread)))
    note = f'<p class="warning" role="note"><strong>About the judge.</strong> {esc(about)}</p>' if about else ""
    tiles = {f"{noun}s": total, "prompts": result["n_prompts"], "on a topic": result["on_topic"], "without a verdict": result["n_failed"]}
    shown = "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>" for name, n in tiles.items())
    read = [sentence for data in result.get("data", ()) for sentence in data["sentences"]]
    return f'<p class="lead">{lead} {esc(result["claims_note"])}</p>{note}<dl class="tiles">{shown}</dl>{_listed(read, "hint")}'


def _listed(sentences: list[str], kind: str = "told") -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{esc(sentence)}</li>" for sentence in sentences)}</ul>' if sentences else ""


def _conclusions(result: Row) -> str:
    parts = [f'<p class="hint">{CONDITION}</p>' if result["validity"]["headlined"] else ""]
    for verdict, title in VERDICTS.items():
        told = [topic["conclusion"] for topic in result["topics"].values() if topic["n"] and topic.get("verdict") == verdict]
        parts.append(f"<h3>{title}</h3>{_listed(told)}" if told else "")
    silent = ", ".join(name for name, topic in result["topics"].items() if not topic["n"])
    return "".join(parts) + (f'<p class="hint">No readable text touches {esc(silent)}: {NO_EVIDENCE}.</p>' if silent else "")


def _charts(result: Row) -> str:
    """Return for each view the gaps and the shares of both sides, or the shares of texts."""
    pairs = "n_pairs" in result
    hint = (
        "Share of a stance among the chosen replies minus its share among the rejected ones, and both shares, with 95 % intervals over "
        "prompts. A gap is filled if it is resolved (Holm-adjusted p below 0.05), and hollow if it may be chance. Gaps within the grey "
        f"band (±{result['matters']:g}) are too small to matter."
        if pairs
        else "Shares of the stances among the texts that take one, with 95 % intervals over prompts."
    )
    turned = "Along each topic's axis (claims of negative polarity reversed, claims without a polarity omitted)"
    claim, axis = result["topics"], {name: topic["axis"] for name, topic in result["topics"].items()}
    views = {"Towards the claims": claim, turned: axis}
    shown = {title: {name: view for name, view in topics.items() if view["n"]} for title, topics in views.items()}
    legend = "".join(f"<li>{outcome(stance)}</li>" for stance in STANCES)
    parts = [
        f'<h3>{title}</h3><div class="overview">'
        + (_gap_chart(topics, result["matters"]) + "".join(_share_chart(topics, side) for side in ("chosen", "rejected")) if pairs else "")
        + ("" if pairs else _share_chart(topics, ""))
        + "</div>"
        for title, topics in shown.items()
        if topics
    ]
    return f'<p class="hint">{hint}</p><ul class="legend">{legend}</ul>{"".join(parts)}' if parts else ""


def _gap_chart(topics: dict[str, Row], matters: float) -> str:
    rows = [
        {"topic": name, "outcome": stance, "resolved": stance in view["resolved"]} | view[stance]["gap"]
        for name, view in topics.items()
        for stance in STANCES
    ]
    ends = [abs(row[key]) for row in rows for key in ("value", "low", "high") if row[key] is not None]
    reach = min(1.0, int(max([*ends, matters]) * 10 + 1) / 10)
    return _figure("gap, chosen − rejected", svg(dots(rows, list(topics), (-reach, reach), "share, chosen − rejected", PAGE, matters)))


def _share_chart(topics: dict[str, Row], side: str) -> str:
    rows = [
        {"topic": name, "outcome": stance, "resolved": True} | (view[stance][side] if side else view[stance])
        for name, view in topics.items()
        for stance in STANCES
    ]
    title = f"share among {side or 'texts'}"
    return _figure(title, svg(dots(rows, list(topics), (0, 1), title, PAGE)))


def _figure(title: str, chart: str) -> str:
    label = f"{title}, by topic. The table of all numbers contains these values."
    return f'<figure><figcaption>{title}</figcaption><div class="dots" role="img" aria-label="{label}">{chart}</div></figure>'


def _style(result: Row) -> str:
    pairs = "n_pairs" in result
    what = (
        "Chosen minus rejected, over the pairs on a topic, with 95 % intervals over prompts. A model may learn these differences instead "
        "of a value. The last column gives them in standard deviations of the pairs."
        if pairs
        else "Means over the texts on a topic, with 95 % intervals over prompts."
    )
    body = ""
    for name, row in result["style"].items():
        size = row["standardised"] if pairs else None
        deviations = f"<td>{'–' if size is None else number(size, sign=True)}</td>" if pairs else ""
        body += f'<tr><th scope="row">{FEATURES[name]}</th><td>{estimate(row, sign=pairs)}</td>{deviations}</tr>'
    heads = ("feature", "95 % interval", *(["in standard deviations"] if pairs else []))
    return f'<p class="hint">{what}</p>{table("Style", heads, body)}'


def _numbers(result: Row) -> str:
    pairs = "n_pairs" in result
    lines = ""
    for name, topic in result["topics"].items():
        for view, found in (("claim", topic), ("axis", topic["axis"])):
            for stance in STANCES if pairs else OUTCOMES:
                cells, kind = [estimate(found[stance])] if not pairs else _gap_cells(found[stance]), ""
                if pairs:
                    kind = "resolved" if stance in found["resolved"] else "unresolved"
                lines += _line(kind, name, view, outcome(stance), found["n"], cells)
        if pairs:
            lines += _line("unresolved", name, "", "total variation", topic["n"], ["", "", estimate(topic["tv"]), ""])
    heads = ("topic", "view", "stance", "prompts", *(("chosen", "rejected", "gap", "adjusted p") if pairs else ("share",)))
    return table("All numbers", heads, lines)


def _gap_cells(row: Row) -> list[str]:
    p = row["gap"]["p_adjusted"]
    shown = "–" if p is None else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"
    return [estimate(row["chosen"]), estimate(row["rejected"]), estimate(row["gap"], sign=True), shown]


def _line(kind: str, name: str, view: str, what: str, n: int, cells: list[str]) -> str:
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><td>{esc(name)}</td><td>{view}</td><td>{what}</td><td>{n:,}</td>{shown}</tr>'


def _examples(examples: dict[str, list[Row]]) -> str:
    """Return the examples of every topic, each topic closed until it is opened; "" if there are none."""
    topics = "".join(
        f"<details><summary>{esc(name)} ({len(rows)})</summary>{''.join(map(_example, rows))}</details>"
        for name, rows in examples.items()
        if rows
    )
    return f'{WARNING}<div class="examples">{topics}</div>' if topics else ""


def _example(row: Row) -> str:
    replies = "".join(_reply(side, row[side]) for side in ("chosen", "rejected", "reply") if side in row)
    claim = "" if row["put_by"] == "user" else f': <q dir="auto">{esc(row["claim"])}</q>{POLARITY[row["polarity"]]}'
    return (
        f'<article class="example"><h3>{esc(row["why"])}</h3>{_asked(row["prompt"])}'
        f'<p class="hint">{PUT_BY[row["put_by"]]}{claim}</p><div class="sides">{replies}</div></article>'
    )


def _asked(prompt: list[Row]) -> str:
    """Return the last message before the reply; earlier messages are folded under a summary."""
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
