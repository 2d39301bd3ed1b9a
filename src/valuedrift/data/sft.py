"""Examples to imitate from the layouts that trainers use."""

from __future__ import annotations

from typing import Any

from ..nouns import BadInput, Example
from ._rows import Messages, address, messages, missing, rows

LAYOUTS = "'messages', 'prompt' with 'completion', 'instruction' with 'output', or 'text'"


def read(source: str) -> list[Example]:
    """Return the examples of a source, in order.

    Understood: `messages`; `prompt` with `completion` (texts or message lists); `instruction`, perhaps with `input`, with
    `output`; `text`. Of several replies in a conversation the last one is the text and the others belong to the prompt.
    Raises BadInput with the place of the first row that is not understood.
    """
    if source.startswith("sandbox:"):
        from ..sandbox._data import examples

        return examples(*address(source))
    return [_example(where, row) for where, row in rows(source)]


def _example(where: str, row: dict[str, Any]) -> Example:
    row = {key: value for key, value in row.items() if value is not None}
    if "messages" in row:
        return _last_reply(where, messages(row["messages"], where))
    if {"prompt", "completion"} <= row.keys():
        prompt, reply = (_turns(row[key], role, where) for key, role in (("prompt", "user"), ("completion", "assistant")))
        return _last_reply(where, prompt + reply)
    if {"instruction", "output"} <= row.keys():
        question = "\n\n".join(_text(row.get(key, ""), key, where) for key in ("instruction", "input") if row.get(key))
        return Example((("user", question),), _text(row["output"], "output", where))
    if "text" in row:
        return Example((), _text(row["text"], "text", where))
    raise missing(where, row, LAYOUTS)


def _last_reply(where: str, turns: Messages) -> Example:
    at = max((number for number, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if at is None:
        raise BadInput(f"{where}: no message is by 'assistant', so there is nothing to learn; take the row out")
    return Example(turns[:at], turns[at][1])


def _turns(value: Any, role: str, where: str) -> Messages:
    return ((role, value),) if isinstance(value, str) else messages(value, where)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{where}: {key!r} is {type(value).__name__}, not text; correct the row")
    return value
