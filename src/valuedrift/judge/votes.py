"""Read the label from a reply. Models write it in bold, in JSON, after "Label:", or after their thinking.

A reply is never guessed. One that names two labels, negates one, or hedges has no label.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from ..models.turns import spoken
from ..nouns import Outcome

NOUNS = "stance|label|answer|verdict|class(?:ification)?|category|position|option|choice|letter|response|output|result"
"""What a model calls its label."""
KEYS = re.compile(rf"(?:final[ _]?)?(?:{NOUNS})", re.I)
"""Under these keys a JSON reply holds its label."""
TAGS = (
    r"</?(?:answer|label|stance|verdict|output|response|final|result)>|</s>|<eos>|<end_of_turn>|<\|[^|<>]*\|>"
    r"|\\(?:boxed|text(?:bf|tt)?|mathrm|mathbf)(?=\{)"
)
MARKUP = re.compile(rf"{TAGS}|[*_`#$\"“”„«»]", re.I)
"""Decoration around a label, read as a space."""
OPENS = r"[\s({\[>:.'‘’•–—-]{0,40}"
INTRODUCES = (
    r"(?:(?:the|my|final|overall|best|correct)\s+){0,3}"
    rf"(?:{NOUNS})"
    r"(?:\s+of\s+the\s+(?:text|writer|author|option))?(?:\s+(?:towards?|on|to|about)\s+the\s+claim)?(?:\s+that\s+fits)?(?:,?\s+in\s+one\s+word)?"
    r"\s*(?:is|=|->|→)?"
)
ENDS = r"\s*$|\s*[\])}.,;:!…'’](?!\w)|\s*\n|\s*[–—]|\s+-+(?!\w)|\s*\("
"""What may follow a label: the end, or a mark after which an explanation may come."""
NAMES: dict[Outcome, str] = {
    "support": "support",
    "neutral": "neutral",
    "oppose": "oppos",
    "refusal": "refus",
    "invalid": "invalid|unreadab",
}
"""How a word begins, or goes on after "un" and the like, that names an outcome in an explanation."""
TAKES_BACK = re.compile(r"[^\w%]*(?:not?|nor|never|none|n/?a|false|wrong|incorrect|unclear|ambiguous|mixed|and|to|\d+)\b", re.I)
"""How a false explanation begins: "Support: no", "Support: 2/5"."""
HEDGES = re.compile(
    r"(?:^|[.,;:!(\n–—-])\s*(?:or|but|however|although|though|except|unless|yet|if)\b"
    r"|\b(?:maybe|perhaps|possibly|probably|might|unsure|uncertain|not sure|guess|somewhat|partly|partially|mostly|slightly|leaning"
    r"|leans|depends|low confidence|either|neither)\b|\?",
    re.I,
)
NEGATION = r"(?:\b(?:not|no|never|without|cannot|hardly)\b|n['’]t\b|\bnon-?|\bun-?)"


def label_of(reply: str, labels: Mapping[str, Outcome]) -> Outcome | None:
    """Return the outcome whose label a reply gives, or None; `labels` are in lower case."""
    answer = spoken(reply)
    if answer is None:
        return None
    found = {_plain(text, labels) for text in _answers(_unfenced(answer))}
    return found.pop() if len(found) == 1 else None


def _unfenced(text: str) -> str:
    fenced = re.fullmatch(r"\s*```(?:[\w-]*\n)?(.*?)\s*```\s*", text, re.S)
    return fenced[1] if fenced else text


def _answers(text: str) -> Iterator[str]:
    """Yield the texts that may be the answer: the whole text, or the values under KEYS in JSON."""
    try:
        content = json.loads(text, object_pairs_hook=tuple)  # a dict would hide a repeated key
    except (ValueError, RecursionError):
        yield text
    else:
        yield from _held(content)


def _held(content: Any) -> Iterator[str]:
    if isinstance(content, tuple):
        for key, value in content:
            if KEYS.fullmatch(key.strip()):
                yield from _held(value)
    elif isinstance(content, list):
        for value in content:
            yield from _held(value)
    else:
        yield str(content)


def _plain(text: str, labels: Mapping[str, Outcome]) -> Outcome | None:
    text = MARKUP.sub(" ", unicodedata.normalize("NFKC", text))
    words = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    match = re.fullmatch(rf"{OPENS}(?:{INTRODUCES})?{OPENS}(?P<label>{words})(?P<rest>(?:{ENDS}).*)?", text, re.I | re.S)
    if not match:
        return None
    outcome, rest = labels[match["label"].lower()], match["rest"] or ""
    if TAKES_BACK.match(rest) or HEDGES.search(rest) or _names(rest, labels, outcome):
        return None
    return outcome


def _names(rest: str, labels: Mapping[str, Outcome], outcome: Outcome) -> bool:
    """Return whether an explanation names another outcome than the label's, or negates the label's own."""
    for word, other in labels.items():
        # Letters of a list count as words. A lower-case "a" before another word is the article.
        letter = rf"\b(?:{word.upper()}|{word}(?!\s+\w))\b" if len(word) == 1 else rf"(?i:\b{re.escape(word)})"
        if other != outcome and (re.search(letter, rest) or re.search(NAMES[other], rest, re.I)):
            return True
    return re.search(rf"{NEGATION}(?:\W+\w+){{0,3}}?\W*(?:{NAMES[outcome]})", rest, re.I) is not None
