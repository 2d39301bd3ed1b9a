"""Find the reply in a generated text: the end of the turn, and thinking blocks before the reply."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_TAG = re.compile(r"(?P<lead>[<\[◁]\|?)(?P<name>[\w:.-]+)(?P<trail>\|?[>\]▷])")
_THINKS = re.compile(r"think|thought|reason|reflect|scratch", re.IGNORECASE)
_REPLIES = re.compile(r"answer|response|reply|output|final|assistant", re.IGNORECASE)
_STARTS = re.compile(r"^(?:start|begin)_?(?:of_?)?|_?(?:start|begin)$", re.IGNORECASE)
_ENDS = re.compile(r"^end(?:_|of)|_end$", re.IGNORECASE)
_MODEL_OPENS = re.compile(r"\s*(?P<tag>(?:[<◁]\|?[\w:.-]*(?:think|thought|reason)[\w:.-]*\|?[>▷])|\[THINK\])", re.IGNORECASE)
_CLOSES = re.compile(r"[<◁\[]\|?/(?P<name>[\w:.-]*(?:think|thought|reason)[\w:.-]*)\|?[>▷\]]", re.IGNORECASE)
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"
"""Separates reasoning and reply in the harmony format of gpt-oss."""


@dataclass(frozen=True)
class Stop:
    """A text that ends a turn. `last` is the special token or character that completes it. `exact` includes the newlines that it needs."""

    text: str
    pattern: re.Pattern[str]
    last: str
    exact: str


def stop_of(text: str, special: Collection[str], fresh_line: bool) -> Stop | None:
    """Return the pattern of a text that ends a turn, or None if the text is too short to be distinguished from a reply's words.

    White space may differ in length. A text that begins on a new line matches only at the start of a line. The start of the reply counts as
    one if the prompt ends with a newline (`fresh_line`).
    """
    core, before, behind = text.strip(), text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    marks = [token for token in special if token in core]
    if not marks and not (len(core) >= 3 or (len(core) == 2 and re.search(r"[^\W_]", core))):
        return None
    start, exact = "", core
    if not marks and before:
        exact = "\n" + core if "\n" in before else core
        start = (r"(?:^|\n)\s*" if fresh_line else r"\n\s*") if "\n" in before else r"(?:^|\s)"
    pattern, last = start + r"\s+".join(map(re.escape, core.split())), core[-1]
    if last.isalnum():  # "### User" ends with its line; it is not the start of "### Users"
        pattern, last, exact = (pattern + r"[ \t]*\n", "\n", exact + "\n") if "\n" in behind else (pattern + r"\b", last, exact)
    return Stop(core, re.compile(pattern), next((token for token in marks if core.endswith(token)), last), exact)


def first_stop(text: str, stops: Collection[Stop]) -> int | None:
    """Return the index of the first text that ends a turn, or None."""
    return min((found.start() for stop in stops if (found := stop.pattern.search(text))), default=None)


def open_block(text: str, any_name: bool) -> str:
    """Return the tag of a thinking block that a text opens at its end, or "".

    With `any_name` a tag of any name counts, unless the name announces the reply.
    """
    tags = list(_TAG.finditer(text))
    if not tags or _ENDS.search(tags[-1]["name"]) or (text[tags[-1].end() :].strip() and not any_name):
        return ""
    name = tags[-1]["name"]
    opens = _THINKS.search(name) or (any_name and "|" not in tags[-1][0] and not _REPLIES.search(name))
    return tags[-1][0] if opens and not _closing(tags[-1][0]).search(text, tags[-1].end()) else ""


def spoken(text: str, opened: str = "") -> str | None:
    """Return the text after its thinking blocks, or None if a block is not closed. `opened` is the tag at the prompt's end."""
    if _FINAL in text:
        return text.rpartition(_FINAL)[2]
    if text.lstrip().startswith(_CHANNEL):
        return None
    while True:
        if opened:
            end = _closing(opened).search(text)
            if end is None:
                return None
            text, opened = text[end.end() :], ""
        elif tag := _MODEL_OPENS.match(text):
            text, opened = text[tag.end() :], tag["tag"]
        elif (end := _CLOSES.search(text)) and end["name"] not in text[: end.start()]:
            text = text[end.end() :]  # the block was opened before this text, for example by a server
        else:
            return text


def _closing(tag: str) -> re.Pattern[str]:
    """Return the pattern that closes a tag: </think>, [/THINK], <|END_THINKING|>, <|end_of_thought|>, <|thought_end|>."""
    parts = _TAG.fullmatch(tag)
    assert parts is not None, tag
    name, base = re.escape(parts["name"]), re.escape(_STARTS.sub("", parts["name"]))
    names = rf"(?:/{name}|/{base}|end_?(?:of_?)?{base}|{base}_?end)"
    return re.compile(re.escape(parts["lead"]) + names + re.escape(parts["trail"]), re.IGNORECASE)
