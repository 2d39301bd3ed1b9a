"""Parse lists and objects that a cell holds as text: JSON, or as Python or numpy (without commas) prints them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[A-Za-z_][\w.]*)|(?P<mark>[\[\](){},:=]))\s*",
    re.DOTALL,
)
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None, "nan": None, "NaN": None}


def parsed(text: str) -> Any:
    """Return the list or object that a text writes out. Raises ValueError if the text is anything else."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return _value(ast.parse(_with_commas(text), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError("not a list or object") from error


def plain(value: Any) -> Any:
    """Return a value without its empty fields. Parquet and Arrow give every object the fields of all objects."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _with_commas(text: str) -> str:
    """Return a text with a comma between neighbours in brackets, because Python would join numpy's ['one' 'two'] to one text."""
    pieces, at, before, depth = list[str](), 0, "", 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"not understood: {text[at : at + 20]!r}")
        at, kind, piece = match.end(), str(match.lastgroup), match[str(match.lastgroup)]
        follows_value = before in ("text", "number", "word") or before in ("]", ")", "}")
        if depth and follows_value and (kind != "mark" or piece in "[({") and (before, piece) != ("word", "("):
            pieces.append(",")
        pieces.append(piece)
        depth += (piece in "[({") - (piece in "])}") if kind == "mark" else 0
        before = piece if kind == "mark" else kind
    return "".join(pieces)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in WORDS:
            return WORDS[node.id]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return ast.literal_eval(node)
        case ast.List() | ast.Tuple():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
        case ast.Call(args=[first, *_]):  # array([…], dtype=object)
            return _value(first)
    raise ValueError(f"not understood: {ast.unparse(node):.20}")
