"""Rows of a file or hub data set, each with the place a fault in it is reported at."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import polars as pl

from ..nouns import BadInput

Row = tuple[str, dict[str, Any]]
Messages = tuple[tuple[str, str], ...]

TABLES = {".parquet": pl.read_parquet, ".csv": lambda path: pl.read_csv(path, infer_schema=False)}


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
    name, _, query = source.partition(":")[2].partition("?")
    try:
        return name, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise BadInput(f"{source}: {query!r} is not a list of settings; write NAME?key=value&key=value") from None


def messages(value: Any, where: str) -> Messages:
    """Return chat messages as (role, text). Raises BadInput for anything but a list of {role, content} with texts."""
    turns = value if isinstance(value, list) else [value]
    for turn in turns:
        if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise BadInput(
                f"{where}: a message needs 'role' and 'content' as texts, not {json.dumps(turn, default=str)[:80]}; correct the row"
            )
    return tuple((turn["role"], turn["content"]) for turn in turns)


def missing(where: str, row: dict[str, Any], needed: str) -> BadInput:
    """Return the fault of a row without the needed keys."""
    present = ", ".join(repr(key) for key, value in row.items() if value is not None) or "none"
    return BadInput(f"{where}: a row needs {needed}, but has the keys {present}; rename or convert the columns")


def _file(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give the path of a JSONL, JSON, Parquet or CSV file")
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
    except ValueError as error:
        raise BadInput(f"{where}: not valid JSON ({error}); correct the line or take it out") from error
    if not isinstance(row, dict):
        raise BadInput(f"{where}: a row is a JSON object, not {line.strip()[:60]}; correct the line")
    return row


def _list(path: Path, head: tuple[int, str], rest: str) -> list[Any]:
    try:
        return json.loads(head[1] + rest)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno + head[0] - 1}: not valid JSON ({error.msg}); correct the list") from error


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
