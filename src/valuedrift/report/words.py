"""How stored values are printed: the same number reads the same in every panel."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..nouns import OUTCOMES
from ..progress import shown

NO_EVIDENCE = "no evidence"
GLYPHS: dict[str, str] = dict(zip(OUTCOMES, ("▲", "●", "▼", "✕", "?"), strict=True))
"""A sign for each outcome, next to its colour and word: the page is readable in greyscale and aloud."""


def esc(value: Any) -> str:
    """Return text that is safe between tags and inside quoted attributes, with control characters and bidi marks made visible."""
    return html.escape(shown(str(value)), quote=True)


def number(value: float | None, sign: bool = False) -> str:
    """Return three decimals (with its sign for a difference), or the words for an absent number."""
    if value is None:
        return NO_EVIDENCE
    return f"{value:+.3f}".replace("-", "−") if sign else f"{value:.3f}"


def interval(low: float | None, high: float | None, sign: bool = False) -> str:
    """Return "[low, high]", or the words for an absent interval."""
    return "no interval" if low is None or high is None else f"[{number(low, sign)}, {number(high, sign)}]"


def estimate(row: Mapping[str, Any], sign: bool = False) -> str:
    """Return value and interval of a stored row, e.g. "+0.120 [+0.040, +0.200]", or "no evidence"."""
    if row["value"] is None:
        return NO_EVIDENCE
    return f"{number(row['value'], sign)} {interval(row['low'], row['high'], sign)}"


def outcome(name: str) -> str:
    """Return the HTML of an outcome: sign and word, in its colour."""
    return f'<span class="outcome {esc(name)}"><span aria-hidden="true">{GLYPHS.get(name, "")}</span> {esc(name)}</span>'


def table(label: str, heads: Iterable[str], body: str, tall: bool = False) -> str:
    """Return a table that scrolls by itself (`tall`: downwards too, under its headings). Headings and body are HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    scrolled = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll{" tall" if tall else ""}" tabindex="0" role="region" aria-label="{label}">{scrolled}</div>'


def listed(words: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def count(n: int, noun: str) -> str:
    """Return "1 answer" or "1,234 answers"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def embedded(content: Any) -> str:
    """Return JSON for a script element: it contains no "<", so nothing can close the element early."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def figure(head: str, label: str, chart: str, numbers: str, about: str = "") -> str:
    """Return a chart under its head, with its words for those who do not see it, and its numbers in a table that opens.

    All are HTML but `label`; `about` are attributes of the chart.
    """
    drawn = f'<div {about + " " if about else ""}role="img" aria-label="{esc(label)}">{chart}</div>'
    return f"<figure>{head}{drawn}<details><summary>Numbers</summary>{numbers}</details></figure>"
