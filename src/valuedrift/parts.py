"""Parts of a run folder: immutable Parquet files. Each is named by the digest of its keys and that of its bytes."""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from .nouns import OUTCOMES, BadInput, Reading, digest

T = TypeVar("T")
ANSWER_SCHEMA: dict[str, Any] = {
    "key": pl.String,
    "checkpoint": pl.String,
    "prompt": pl.String,
    "draw": pl.Int32,
    "text": pl.String,
    "ended": pl.String,
    "n_tokens": pl.Int32,
}
READING_SCHEMA: dict[str, Any] = {
    "item": pl.String,
    "judge": pl.String,
    **dict.fromkeys(OUTCOMES, pl.Float64),
    "failure": pl.String,
    "reason": pl.String,
    "missing": pl.Float64,
    "reply": pl.String,
}
NUMBER_SCHEMA: dict[str, Any] = {"key": pl.String, "value": pl.Float64}
PART = re.compile(r"[0-9a-f]{24}(?:-([0-9a-f]{16}))?\.parquet")
"""Digest of the keys, digest of the bytes. Parts of versions up to 0.1.0 lack the second."""
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises for a file that is not Parquet."""


def named(keys: Sequence[Any], kind: str, table: pl.DataFrame) -> tuple[str, bytes]:
    """Return the name of a part and its bytes."""
    written = parquet(table)
    return f"{kind}/{digest(kind, keys)}-{hashlib.sha256(written).hexdigest()[:16]}.parquet", written


def read(
    paths: Sequence[Path], schema: Mapping[str, Any], keys: Sequence[str], content: Sequence[str], refuse: Callable[[Path, str], None]
) -> pl.DataFrame:
    """Return the rows of some parts. `refuse` is called with each damaged part and may raise.

    Raises BadInput if one key has two contents.
    """
    empty, tables = pl.DataFrame(schema=schema), dict[Path, pl.DataFrame]()
    for path in paths:
        try:
            tables[path] = _part(path, empty.schema, (*keys, *content))
        except BadInput as fault:
            refuse(path, str(fault))
    rows = pl.concat([empty, *tables.values()], how="diagonal")  # older parts may lack a column
    told = rows.filter(pl.any_horizontal(pl.col(content).is_not_null()))
    if told.select(*keys, *content).unique().height != told.select(*keys).unique().height:
        raise _two_contents(tables, keys, content)
    return rows


def read_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Make a function of a file read it once per process, and again if its size or time changes."""

    @functools.lru_cache(maxsize=1024)
    def known(path: Path, *_: int) -> T:
        return read(path)

    @functools.wraps(read)
    def once(path: Path) -> T:
        about = path.stat()
        return known(path.absolute(), about.st_size, about.st_mtime_ns)

    return once


@read_once
def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fault_of(path: Path) -> str:
    """Return what is wrong with the bytes of a part, or ""."""
    named = PART.fullmatch(path.name)
    if not named:
        return "was not written by valuedrift"
    try:
        whole = not named[1] or hashlib.sha256(path.read_bytes()).hexdigest().startswith(named[1])
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if whole else "is damaged (its content does not have the digest in its name)"


def _part(path: Path, schema: Mapping[str, Any], needed: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a part. Raises BadInput, with no advice, if it is not as it was written."""
    if fault := fault_of(path):
        raise BadInput(f"{path} {fault}")
    try:
        table = pl.read_parquet(path, glob=False)
    except UNREADABLE as error:
        raise BadInput(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    if wrong := next((name for name, kind in table.schema.items() if schema.get(name) != kind), None):
        raise BadInput(f"{path} has a column {wrong} of type {table.schema[wrong]}, which valuedrift does not write")
    if lacking := [name for name in needed if name not in table.columns]:
        raise BadInput(f"{path} lacks the columns {', '.join(lacking)}")
    return table


def _two_contents(tables: Mapping[Path, pl.DataFrame], keys: Sequence[str], content: Sequence[str]) -> BadInput:
    """Return the sentence for a key that two parts give different contents."""
    rows = pl.concat([table.with_columns(part=pl.lit(str(path))) for path, table in tables.items()], how="diagonal")
    rows = rows.filter(pl.any_horizontal(pl.col(content).is_not_null())).unique([*keys, *content], maintain_order=True)
    twice = rows.filter(pl.struct(keys).is_duplicated()).sort(keys)
    same = twice.filter(pl.all_horizontal(pl.col(name) == twice[name][0] for name in keys))
    return BadInput(
        f"{' and '.join(dict.fromkeys(same['part']))} hold different contents under one key ({', '.join(same.row(0)[: len(keys)])}); "
        "delete the file that should not be there and run the command again"
    )


def parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def readings_table(readings: Sequence[Reading]) -> pl.DataFrame:
    """Return readings as rows, columns of READING_SCHEMA."""
    rows: list[dict[str, Any]] = [
        {name: getattr(reading, name) for name in ("item", "judge", "failure", "reason", "missing", "reply")}
        | (dict(zip(OUTCOMES, reading.probs, strict=True)) if reading.probs else {})
        for reading in readings
    ]
    return pl.DataFrame(rows, schema=READING_SCHEMA)
