"""Rows of a file or hub data set, each with the place a fault in it is reported at."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ..nouns import BadInput
from ..registry import among, query

Row = tuple[str, dict[str, Any]]
Messages = tuple[tuple[str, str], ...]

TABLES = {".parquet": pl.read_parquet, ".csv": lambda path: pl.read_csv(path, infer_schema=False)}

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    "tool": "tool",
}
"""Who speaks, as the usual sets call it -> as chat templates call it."""

PROMPTS = ("prompt", "instruction", "question", "query", "input", "inputs")
"""Columns that hold what is asked, the first one there counts."""


def rows(source: str) -> Iterator[Row]:
    """Yield (where, row) for each row: "FILE:LINE" in JSONL, "FILE, row N" in the other formats and hub data sets.

    Raises BadInput where the source is missing, empty or not what its name says.
    """
    found = _hub(source) if source.startswith("hf:") else _file(Path(source))
    try:
        first = next(found)
    except StopIteration:
        raise BadInput(f"{source} holds no rows; give a file with at least one") from None
    return itertools.chain([first], found)


def address(source: str) -> tuple[str, dict[str, str]]:
    """Split "kind:NAME?key=value&…" into NAME and its settings."""
    return query(source.partition(":")[2], source)


def messages(value: Any, where: str) -> Messages:
    """Return chat messages as (role, text), from {role, content} or ShareGPT's {from, value}. Raises BadInput for anything else."""
    turns = value if isinstance(value, list) else [value]
    return tuple(_message(turn, where) for turn in turns)


def system(row: dict[str, Any]) -> Messages:
    """Return the system message that some sets keep in a column of its own; empty where there is none."""
    found = [row[key] for key in ("system", "system_prompt") if isinstance(row.get(key), str) and row[key].strip()]
    return tuple(("system", text) for text in found[:1])


def stated(row: dict[str, Any]) -> dict[str, str]:
    """Return the topic and claim that a row states about itself; empty unless both are texts."""
    found = {key: row.get(key) for key in ("topic", "claim")}
    return {key: text for key, text in found.items() if isinstance(text, str)} if all(_is_said(text) for text in found.values()) else {}


def _is_said(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _message(turn: Any, where: str) -> tuple[str, str]:
    named = turn if isinstance(turn, dict) else {}
    speaker, text = (named.get(key) for key in (("role", "content") if "role" in named else ("from", "value")))
    if isinstance(text, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in text):
        text = "\n".join(part["text"] for part in text)
    if not (isinstance(speaker, str) and isinstance(text, str)):
        shown = json.dumps(turn, default=str)[:80]
        raise BadInput(f"{where}: a message needs 'role' and 'content' (or 'from' and 'value') as texts, not {shown}; correct the row")
    if speaker.lower() not in ROLES:
        raise BadInput(f"{where}: unknown role {speaker!r}{among(speaker.lower(), list(ROLES))}")
    return ROLES[speaker.lower()], text


def missing(where: str, row: dict[str, Any], needed: str) -> BadInput:
    """Return the fault of a row without the needed keys."""
    present = ", ".join(repr(key) for key, value in row.items() if value is not None) or "none"
    return BadInput(f"{where}: a row needs {needed}, but has the keys {present}; rename or convert the columns")


def _file(path: Path) -> Iterator[Row]:
    if not path.is_file():
        found = f"{path} is no regular file" if path.exists() else f"there is no file {path}"
        raise BadInput(f"{found}; give the path of a JSONL, JSON, Parquet or CSV file")
    if path.suffix == ".csv":
        return _numbered(str(path), ({key: _unpacked(cell) for key, cell in row.items()} for row in _table(path)))
    if path.suffix in TABLES:
        return _numbered(str(path), _table(path))
    if path.suffix in (".jsonl", ".json", ".ndjson"):
        return _json(path)
    raise BadInput(f"{path} ends in {path.suffix!r}; give a file that ends in .jsonl, .json, .parquet or .csv (unpacked)")


def _table(path: Path) -> Iterator[dict[str, Any]]:
    try:
        return TABLES[path.suffix](path).iter_rows(named=True)
    except pl.exceptions.NoDataError:
        return iter(())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{path} cannot be read as {path.suffix[1:]} ({error}); convert it or give another file") from error


def _unpacked(cell: str | None) -> Any:
    """Return the list of objects that a CSV cell holds as JSON or as Python prints it, else the cell."""
    if not cell or not cell.lstrip().startswith("[{"):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(turn, dict) for turn in found):
            return found
    return cell


def _json(path: Path) -> Iterator[Row]:
    """Yield the rows of JSON lines, or of one JSON list: the first character tells which."""
    try:
        with open(path, encoding="utf-8-sig") as handle:
            lines = ((number, line) for number, line in enumerate(handle, 1) if line.strip())
            head = next(lines, None)
            if head is None:
                return
            if head[1].lstrip().startswith("["):
                yield from _numbered(str(path), _list(path, head, handle.read()))
                return
            for number, line in itertools.chain([head], lines):
                yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not valid JSON ({_why(error)}); correct the line or take it out") from error
    if not isinstance(row, dict):
        raise BadInput(f"{where}: a row is a JSON object, not {line.strip()[:60]}; correct the line")
    return row


def _list(path: Path, head: tuple[int, str], rest: str) -> list[Any]:
    try:
        return json.loads(head[1] + rest)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno + head[0] - 1}: not valid JSON ({error.msg}); correct the list") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON ({_why(error)}); correct the list") from error


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _hub(source: str) -> Iterator[Row]:
    name, settings = address(source)
    unknown = settings.keys() - {"split", "config", "revision"}
    if unknown:
        raise BadInput(f"{source}: unknown setting {sorted(unknown)[0]!r}; a hub data set knows split, config and revision")
    from datasets import load_dataset

    try:
        found = load_dataset(name, settings.get("config"), split=settings.get("split", "train"), revision=settings.get("revision"))
    except Exception as error:  # the library raises many kinds; to the user all of them say that the set cannot be had
        raise BadInput(f"{source} cannot be loaded from the hub ({error}); check its name, split and config, and the network") from error
    return _numbered(source, found)


def _numbered(name: str, found: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise BadInput(f"{name}, row {number}: a row is an object with named fields, not {str(row)[:60]}; convert the list")
        yield f"{name}, row {number}", row
