"""One offline HTML page on the values of a data set. It prints what `measure.gap` returned and computes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from ..judge.cache import unread_notes
from ..nouns import OUTCOMES, STANCES
from ..store import Store
from . import _gap_chart, _gap_examples
from .chart import PAGE, svg
from .page import framed
from .run import Row
from .words import NO_EVIDENCE, count, esc, estimate, number, outcome, table

VERDICTS = {
    "could move": "Could move a model",
    "undecided": "Undecided",
    "unlikely": "Unlikely to move a model",
    "not headlined": "Measured by a judge that is too weak to conclude from",
}
FEATURES = {
    "length": "length (words)",
    "readability": "reading grade (ARI)",
    "hedging": "hedges per 100 words",
    "lists": "share with lists",
    "refusal": "share of refusals",
}


def write_gap_page(store: Store, result: Row, sources: list[str]) -> Path:
    """Return the path of OUT/gap.html, written whole next to gap.json with the same numbers."""
    result = json.loads(json.dumps(result, ensure_ascii=False).encode(errors="replace"))  # halves of surrogate pairs become "?"
    store.write_json("gap.json", result)
    return store.write_bytes("gap.html", page(result, sources).encode())


def page(result: Row, sources: list[str]) -> str:
    """Return the whole page."""
    name = f"{'Value gap' if _is_pairs(result) else 'Stances'} of {', '.join(source.rsplit('/', 1)[-1] for source in sources)}"
    bodies = [
        ("conclusions", "What follows", _head(result, sources) + _conclusions(result)),
        ("topics", "By topic", _overview(result) + _cards(result)),
        ("style", "Style", _style(result)),
        ("examples", "Examples", _gap_examples.html(result["examples"])),
        ("numbers", "Every number", _numbers(result)),
    ]
    return framed(name, bodies)


def _is_pairs(result: Row) -> bool:
    return "n_pairs" in result


def _head(result: Row, sources: list[str]) -> str:
    pairs = _is_pairs(result)
    total, noun = (result["n_pairs"], "preference pair") if pairs else (result["n_examples"], "text")
    said = "how the stances of the preferred replies differ from those of the rejected ones" if pairs else "which stances they take"
    lead = (
        f"{count(total, noun)} of <strong>{esc(', '.join(sources))}</strong>, and {said}, as read by the judge "
        f"<strong>{esc(result['judge'])}</strong>. {esc(result['claims_note'])}"
    )
    unread = unread_notes(result["unread"], "different texts") if result.get("unread") else []
    about = " ".join(filter(None, (result["note"], result["standing"]["why"], *unread)))
    note = f'<p class="warning" role="note"><strong>About the judge.</strong> {esc(about)}</p>' if about else ""
    tiles = {f"{noun}s": total, "prompts": result["n_prompts"], "on a topic": result["on_topic"], "without a verdict": result["n_failed"]}
    shown = "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>" for name, n in tiles.items())
    read = "".join(f"<li>{esc(sentence)}</li>" for data in result.get("data", ()) for sentence in data["sentences"])
    return f'<p class="lead">{lead}</p>{note}<dl class="tiles">{shown}</dl>' + (f'<ul class="hint">{read}</ul>' if read else "")


def _conclusions(result: Row) -> str:
    topics = result["topics"].items()
    if not _is_pairs(result):
        told = "".join(f"<li>{esc(topic['conclusion'])}</li>" for _, topic in topics if topic["n"])
        return f'<ul class="told">{told}</ul>{_silent(result)}' if told else _silent(result)
    parts = []
    for verdict, title in VERDICTS.items():
        told = "".join(f"<li>{esc(topic['conclusion'])}</li>" for _, topic in topics if topic["verdict"] == verdict)
        parts.append(f'<h3>{title}</h3><ul class="told">{told}</ul>' if told else "")
    few = [topic["conclusion"] for _, topic in topics if topic["verdict"] == "no evidence" and topic["n"]]
    rest = "".join(f"<li>{esc(sentence)}</li>" for sentence in few)
    parts.append(f'<h3>Too little evidence</h3><ul class="told">{rest}</ul>' if rest else "")
    return "".join(parts) + _silent(result)


def _silent(result: Row) -> str:
    names = [name for name, topic in result["topics"].items() if not topic["n"]]
    return f'<p class="hint">Nothing that could be read touches {esc(", ".join(names))}: {NO_EVIDENCE}.</p>' if names else ""


def _overview(result: Row) -> str:
    if not _is_pairs(result):
        return '<p class="hint">Shares of the stances among the texts that take one, with 95 % intervals over prompts.</p>'
    claim, axis = _drawn(result, result["topics"]), _drawn(result, {name: topic["axis"] for name, topic in result["topics"].items()})
    if not claim:
        return ""
    hint = (
        '<p class="hint">Share of a stance among the chosen replies minus its share among the rejected ones, with 95 % intervals over '
        "prompts; filled where it is resolved (Holm-adjusted p below 0.05), hollow where it may be chance. Gaps within the grey band "
        f"(±{result['matters']:g}) are called too small to matter.</p>"
    )
    legend = "".join(f"<li>{outcome(stance)}</li>" for stance in STANCES)
    turned = (
        "<h3>Along each topic's axis</h3>" + '<p class="hint">Claims of negative polarity turned round; those without one left out.</p>'
    )
    return f'{hint}<ul class="legend">{legend}</ul><h3>Towards the claims</h3>{claim}{turned + axis if axis else ""}'


def _drawn(result: Row, views: dict[str, Row]) -> str:
    """Return the chart of the gaps of one view of the topics; "" where it has no pairs."""
    rows: list[Row] = [
        {"topic": name, "outcome": stance, "resolved": stance in view["resolved"]}
        | {key: view[stance]["gap"][key] for key in ("value", "low", "high")}
        for name, view in views.items()
        if view["n"]
        for stance in STANCES
    ]
    if not rows:
        return ""
    ends = [abs(row[key]) for row in rows for key in ("value", "low", "high") if row[key] is not None]
    reach = min(1.0, int(max([*ends, result["matters"]]) * 10 + 1) / 10)
    chart = svg(_gap_chart.gaps(rows, reach, result["matters"], PAGE))
    label = "Value gap by topic. The table of every number holds what is drawn."
    return f'<figure class="gaps"><div role="img" aria-label="{label}">{chart}</div></figure>'


def _cards(result: Row) -> str:
    cards = "".join(_card(name, topic) for name, topic in result["topics"].items() if topic["n"])
    key = "Filled: chosen replies; hollow: rejected ones." if _is_pairs(result) else ""
    return f'<h3>Shares of the stances</h3><p class="hint">{key}</p><div class="grid">{cards}</div>' if cards else ""


def _card(name: str, topic: Row) -> str:
    sides = {side: {stance: topic[stance][side] for stance in STANCES} for side in _gap_chart.SIDES} if "tv" in topic else {"texts": topic}
    rows = [
        {"side": side, "outcome": stance} | {key: found[stance][key] for key in ("value", "low", "high")}
        for side, found in sides.items()
        for stance in STANCES
    ]
    told = "; ".join(f"{row['outcome']} {row['side']} {number(row['value'])}" for row in rows)
    total = count(topic["n_pairs"], "pair") if "tv" in topic else count(topic["n_texts"], "text")
    chart = svg(_gap_chart.shares(rows, PAGE)) if any(row["value"] is not None for row in rows) else f'<p class="none">{NO_EVIDENCE}</p>'
    return (
        f'<figure><figcaption>{esc(name)} <span class="n">{count(topic["n"], "prompt")}, {total}</span></figcaption>'
        f'<div role="img" aria-label="{esc(f"{name}: {told}")}">{chart}</div></figure>'
    )


def _style(result: Row) -> str:
    pairs = _is_pairs(result)
    what = "Chosen minus rejected" if pairs else "Means"
    more = (
        " A model may learn these differences in place of a value; the last column compares them in standard deviations of the pairs."
        if pairs
        else ""
    )
    heads = ("feature", "95 % interval", *(["in deviations"] if pairs else []))
    body = "".join(
        f'<tr><th scope="row">{FEATURES[name]}</th><td>{estimate(row, sign=pairs)}</td>'
        + (f"<td>{_deviations(row)}</td>" if pairs else "")
        + "</tr>"
        for name, row in result["style"].items()
    )
    hint = f'<p class="hint">{what}, over what is on a topic, with 95 % intervals over prompts.{more}</p>'
    return hint + table("Style", heads, body)


def _deviations(row: Row) -> str:
    return "–" if row["standardised"] is None else number(row["standardised"], sign=True)


def _numbers(result: Row) -> str:
    pairs = _is_pairs(result)
    heads = ("topic", "view", "stance", "prompts", *(("chosen", "rejected", "gap", "adjusted p") if pairs else ("share",)))
    lines = [line for name, topic in result["topics"].items() for line in (_gap_lines(name, topic) if pairs else _share_lines(name, topic))]
    return table("Every number", heads, "".join(lines))


def _gap_lines(name: str, topic: Row) -> list[str]:
    lines = []
    for view, found in (("claim", topic), ("axis", topic["axis"])):
        for stance in STANCES:
            row = found[stance]
            cells = (estimate(row["chosen"]), estimate(row["rejected"]), estimate(row["gap"], sign=True), _p(row["gap"]["p_adjusted"]))
            lines.append(_line("resolved" if stance in found["resolved"] else "unresolved", name, view, outcome(stance), found["n"], cells))
    return [*lines, _line("unresolved", name, "", "total variation", topic["n"], ("", "", estimate(topic["tv"]), ""))]


def _share_lines(name: str, topic: Row) -> list[str]:
    views = (("claim", topic), ("axis", topic["axis"]))
    return [_line("", name, view, outcome(stance), found["n"], (estimate(found[stance]),)) for view, found in views for stance in OUTCOMES]


def _line(kind: str, name: str, view: str, what: str, n: int, cells: tuple[str, ...]) -> str:
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><td>{esc(name)}</td><td>{view}</td><td>{what}</td><td>{n:,}</td>{shown}</tr>'


def _p(value: float | None) -> str:
    return "–" if value is None else "&lt; 0.001" if value < 0.001 else f"{value:.3f}"
