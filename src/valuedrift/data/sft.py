"""Examples to imitate from the layouts that trainers use."""

from __future__ import annotations

from typing import Any

from ..nouns import BadInput, Example
from ._rows import PROMPTS, Messages, address, messages, missing, rows, stated, system

TALKS = ("messages", "conversations", "conversation")
REPLIES = ("completion", "output", "response", "answer", "targets")
LAYOUTS = "'messages' (or 'conversations'), 'prompt' with 'completion' or 'response', 'instruction' with 'output', or 'text'"


def read(source: str) -> list[Example]:
    """Return the examples of a source, in order.

    Understood: `messages`, `conversations` (ShareGPT) or `conversation` (WildChat); `prompt` or `question` with `completion`, `response` or
    `answer` (texts or message lists); `instruction`, perhaps with `input`, with `output`; `text`. Of several replies in a conversation the
    last one is the text and the others belong to the prompt. Raises BadInput with the place of the first row that is not understood.
    """
    if source.startswith("sandbox:"):
        from ..sandbox._data import examples

        return examples(*address(source))
    return [_example(where, row) for where, row in rows(source)]


def fits(row: dict[str, Any]) -> bool:
    """Return whether a row is laid out as a text to imitate."""
    return any(row.get(key) is not None for key in ("text", *TALKS)) or bool(_asked(row) and _replied(row))


def _example(where: str, row: dict[str, Any]) -> Example:
    row = {key: value for key, value in row.items() if value is not None}
    talk = next((key for key in TALKS if key in row), None)
    if talk:
        return _last_reply(where, row, messages(row[talk], where))
    asked, replied = _asked(row), _replied(row)
    if asked and replied:
        prompt, reply = _turns(row[asked], "user", where), _turns(row[replied], "assistant", where)
        if asked == "instruction" and row.get("input"):
            prompt = (("user", "\n\n".join(_text(row[key], key, where) for key in ("instruction", "input"))),)
        return _last_reply(where, row, prompt + reply)
    if "text" in row:
        return Example((), _text(row["text"], "text", where), **stated(row))
    raise missing(where, row, LAYOUTS)


def _asked(row: dict[str, Any]) -> str | None:
    return next((key for key in PROMPTS if row.get(key) is not None), None)


def _replied(row: dict[str, Any]) -> str | None:
    return next((key for key in REPLIES if row.get(key) is not None), None)


def _last_reply(where: str, row: dict[str, Any], turns: Messages) -> Example:
    at = max((number for number, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if at is None:
        raise BadInput(f"{where}: no message is by 'assistant', so there is nothing to learn; take the row out")
    opening = () if turns[0][0] == "system" else system(row)
    return Example(opening + turns[:at], turns[at][1], **stated(row))


def _turns(value: Any, role: str, where: str) -> Messages:
    return ((role, value),) if isinstance(value, str) else messages(value, where)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{where}: {key!r} is {type(value).__name__}, not text; correct the row")
    return value
