"""The pages of a forecast and of an attribution: the report's layout; they compute nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..nouns import STANCES
from ..report.chart import PAGE, dots, svg
from ..report.gap_page import WARNING
from ..report.page import framed
from ..report.words import NO_EVIDENCE, esc, estimate, number, outcome, table
from ..stats.forecast import MEASURES
from ..store import Store

LONGEST = 600
"""Characters of a text that a row shows."""


def write_forecast_page(store: Store, result: dict[str, Any]) -> Path:
    """Write OUT/forecast.html and return its path."""
    from .predict import sentences

    result = json.loads(json.dumps(result, ensure_ascii=False).encode(errors="replace"))
    topics = list(dict.fromkeys(row["topic"] for row in result["forecast"]))
    told = "".join(f"<li>{esc(sentence)}</li>" for sentence in sentences(result))
    lead = (
        f'<p class="lead">What {esc(result["training"]["algorithm"])} on <strong>{esc(result["data"])}</strong> is expected to do to '
        f"<strong>{esc(result['model'])}</strong>, written before any training. Digest {esc(result['digest'][:16])}.</p>"
    )
    bodies = [
        ("forecast", "Forecast", f'{lead}<ul class="told">{told}</ul>{_chart(result, topics)}{_cells(result, topics)}'),
        ("record", "Record of such forecasts", _record(result)),
    ]
    return store.write_bytes("forecast.html", framed("Forecast", bodies).encode())


def _chart(result: dict[str, Any], topics: list[str]) -> str:
    rows = [
        {"topic": row["topic"], "outcome": row["measure"], "value": row["value"], "low": row["low"], "high": row["high"]}
        | {"resolved": row["low"] > 0 or row["high"] < 0}
        for row in result["forecast"]
        if row["measure"] in STANCES and row["low"] is not None
    ]
    if not rows:
        return ""
    ends = [abs(row[end]) for row in rows for end in ("low", "high")]
    legend = "".join(f"<li>{outcome(stance)}</li>" for stance in STANCES)
    chart = svg(dots(rows, topics, (-max(ends), max(ends)), "expected drift, 90 % intervals", PAGE))
    return f'<ul class="legend">{legend}</ul><div class="overview"><figure>{chart}</figure></div>'


def _cells(result: dict[str, Any], topics: list[str]) -> str:
    at = {(row["topic"], row["measure"]): row for row in result["forecast"]}
    arrows = {"up": "up", "down": "down", "none": "no drift", "no evidence": NO_EVIDENCE}
    body = ""
    for topic in topics:
        cells = "".join(
            f"<td>{arrows[at[topic, name]['direction']] if at[topic, name]['value'] is None else estimate(at[topic, name], sign=True)}</td>"
            for name in MEASURES
        )
        body += f'<tr><th scope="row">{esc(topic)}</th>{cells}</tr>'
    heads = ("topic", *(outcome(name) for name in MEASURES[:-1]), "words")
    return table("Expected drift by topic, shares and words [90 %]", heads, body)


def _record(result: dict[str, Any]) -> str:
    if not result["record"]:
        return ""
    body = ""
    for name, row in result["record"].items():
        gain = row["gain"]
        body += (
            f'<tr><th scope="row">{esc(name)}</th><td>{number(row["spearman"])}</td><td>{number(row["mae"])}</td>'
            f"<td>{number(row['skill'])}</td><td>{number(row['sign'])}</td><td>{number(row['coverage'])}</td><td>{number(row['width'])}</td>"
            f"<td>{estimate(gain, sign=True) if name != 'gap' else ''}</td></tr>"
        )
    about = (
        "Each data set of the archive was left out in turn. Rank correlation over topics and stances within a training; mean absolute "
        "error in shares; skill against no drift; share of the resolved drifts with the right sign; share of drifts inside the 90 % "
        "intervals and their mean width; how much lower the error is than the gap's [95 %]."
    )
    heads = ("forecast", "rank correlation", "mean error", "skill", "right sign", "coverage", "width", "gain over the gap")
    return f'<p class="hint">{about}</p>{table("Record", heads, body)}'


def write_attribution_page(store: Store, result: dict[str, Any]) -> Path:
    """Write OUT/attribution.html and return its path."""
    from .attribution import sentences

    result = json.loads(json.dumps(result, ensure_ascii=False).encode(errors="replace"))
    told = "".join(f"<li>{esc(sentence)}</li>" for sentence in sentences(result))
    agreement = ", ".join(f"{name} {number(value)}" for name, value in result["agreement"].items())
    of = f"{result['stance']} on {result['topic']}"
    lead = (
        f'<p class="lead">The records of <strong>{esc(result["data"])}</strong> by their effect on <strong>{esc(of)}</strong> in '
        f'{esc(result["stage"])}, seed {result["seed"]}.</p><ul class="told">{told}</ul>'
        f'<p class="hint">Score: how much one copy of the record, seen once, moves the share, to first order at the start of the training. '
        f"Rank correlation of the scores with other rankings: {esc(agreement)}.</p>"
    )
    first = [row for row in result["examples"] if row["score"] > 0]
    last = [row for row in result["examples"] if row["score"] <= 0][::-1]
    bodies = [
        ("summary", "Which examples did it", lead),
        ("raising", "Examples that raise it most", WARNING + _ranked(first)),
        ("lowering", "Examples that lower it most", _ranked(last)),
    ]
    return store.write_bytes("attribution.html", framed(f"Attribution: {of}", bodies).encode())


def _ranked(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    replies = ("chosen", "rejected") if "chosen" in rows[0] else ("text",)
    body = "".join(
        f'<tr><th scope="row">{row["rank"]:,}</th><td>{row["row"]:,}</td><td>{row["score"]:+.2e}</td>'
        + "".join(f'<td class="words">{esc(row[name][:LONGEST])}</td>' for name in ("prompt", *replies))
        + "</tr>"
        for row in rows
    )
    return table("Examples", ("rank", "record", "score", "prompt", *replies), body, tall=True)
