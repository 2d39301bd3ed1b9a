"""Lists and objects that stand in a cell as text: as JSON, as Python prints them, or as numpy does (without commas)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[A-Za-z_][\w.]*)|(?P<mark>[\[\](){},:=]))",
    re.DOTALL,
)
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None, "nan": None, "NaN": None}
CLOSING = {"[": "]", "(": ")", "{": "}"}


def parsed(text: str) -> Any:
    """Return the list or object that a text writes out. Raises ValueError if the text is anything else.

    Python's own parser would join the neighbours in numpy's ['one' 'two'] to one text, so it is not asked.
    """
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        tokens = _tokens(text)
        found = _value(tokens, next(tokens))
        if next(tokens, None) is not None:
            raise ValueError("more follows the list")
    except (StopIteration, RecursionError, SyntaxError, IndexError, TypeError) as error:
        raise ValueError("not a list or object") from error
    return found


def plain(value: Any) -> Any:
    """Return a value without the fields that hold nothing: Parquet and Arrow give every object the fields of all of them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    text, at = text.rstrip(), 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"not understood: {text[at : at + 20]!r}")
        at = match.end()
        yield str(match.lastgroup), match[str(match.lastgroup)]


def _value(tokens: Iterator[tuple[str, str]], token: tuple[str, str]) -> Any:
    kind, text = token
    if kind == "text":
        return ast.literal_eval(text)
    if kind == "number":
        return float(text) if re.search(r"[.eE]", text) else int(text)
    if kind == "word" and text in WORDS:
        return WORDS[text]
    if kind == "word":  # array([…], dtype=object): the first argument
        if next(tokens) != ("mark", "("):
            raise ValueError(f"unknown word {text!r}")
        return _items(tokens, ")")[0]
    if text in "[(":
        return _items(tokens, CLOSING[text])
    if text == "{":
        found = _items(tokens, "}")
        if any(not isinstance(item, tuple) for item in found):
            raise ValueError("an object without keys")
        return dict(found)
    raise ValueError(f"unexpected {text!r}")


def _items(tokens: Iterator[tuple[str, str]], closing: str) -> list[Any]:
    """Return what stands up to a bracket, commas between or not; (key, value) for what a colon or "=" joins."""
    found: list[Any] = []
    for token in tokens:
        if token == ("mark", closing):
            return found
        if token == ("mark", ","):
            continue
        if token in (("mark", ":"), ("mark", "=")):
            found.append((found.pop(), _value(tokens, next(tokens))))
        elif token[0] == "word" and token[1] not in WORDS and closing == ")":
            found.append(_named(tokens, token))
        else:
            found.append(_value(tokens, token))
    raise ValueError("the end is missing")


def _named(tokens: Iterator[tuple[str, str]], token: tuple[str, str]) -> Any:
    """Return what a call holds at a word: dtype=object, or a further call."""
    following = next(tokens)
    if following == ("mark", "("):
        return _items(tokens, ")")[0]
    if following != ("mark", "="):
        raise ValueError(f"unknown word {token[1]!r}")
    kind, text = next(tokens)
    return token[1], text if kind == "word" else _value(tokens, (kind, text))
