"""Read the rows of a file, a saved data set or a hub data set, each with its place for error messages."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl

from ..nouns import BadInput
from ..parts import UNREADABLE
from ..registry import among, query

Row = tuple[str, dict[str, Any]]
Attempt = tuple[str, dict[str, Any] | BadInput]
"""A row, or the fault of its line."""

LINES = (".jsonl", ".json", ".ndjson", "")
TABLES = {
    ".parquet": lambda source: pl.read_parquet(source, glob=False),
    ".csv": lambda source: pl.read_csv(source, infer_schema=False, glob=False),
    ".tsv": lambda source: pl.read_csv(source, infer_schema=False, glob=False, separator="\t"),
}
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
"""Suffix of a compressed file -> pyarrow's name of the compression."""
SAVED = ("dataset_info.json", "dataset_dict.json")
"""Files that `save_to_disk` of the library datasets writes into a folder: for one set, and for a set per split."""


def rows(source: str) -> Iterator[Row]:
    """Return the rows of a source as (where, row): "FILE:LINE" in JSONL, "FILE, row N" in other formats and data sets.

    Raises BadInput if the source is missing, empty or not of the format its name states, and for a line that is no row.
    """
    return map(_sure, attempts(source))


def attempts(source: str) -> Iterator[Attempt]:
    """Return the rows of a source as `rows` does, but with a Fault for each line that is no row."""
    found = _data_set(source) if source.startswith("hf:") or _saved(Path(source.partition("?")[0])) else _file(Path(source))
    try:
        first = next(found)
    except StopIteration:
        raise BadInput(f"{source} holds no rows; give a file with at least one") from None
    return itertools.chain([first], found)


def address(source: str) -> tuple[str, dict[str, str]]:
    """Split "kind:NAME?key=value&…" into NAME and its settings."""
    return query(source.partition(":")[2], source)


def missing(where: str, row: dict[str, Any], needed: str) -> BadInput:
    """Return the fault of a row without the needed keys."""
    return BadInput(f"{where}: a row needs {needed}, but has the keys {present(row)}; rename or convert the columns")


def present(row: dict[str, Any]) -> str:
    """Return the names of the filled columns, quoted."""
    return ", ".join(repr(key) for key, value in row.items() if value is not None) or "none"


def _sure(attempt: Attempt) -> Row:
    if isinstance(attempt[1], BadInput):
        raise attempt[1]
    return attempt[0], attempt[1]


# -- files -----------------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Iterator[Attempt]:
    if not path.is_file():
        found = f"{path} is no regular file" if path.exists() else f"there is no file {path}"
        raise BadInput(f"{found}; give the path of a JSONL, JSON, Parquet or CSV file, or of a folder that save_to_disk wrote")
    packed = PACKED.get(path.suffix, "")
    kind = path.with_suffix("").suffix if packed else path.suffix
    if kind not in (*LINES, *TABLES):
        known = "one that ends in .jsonl, .json, .csv, .tsv or .parquet, which may be compressed (.gz, .zst, .bz2)"
        raise BadInput(f"{path} ends in {''.join(path.suffixes[-2:] if packed else [path.suffix])!r}; give {known}")
    return _lines(path, packed) if kind in LINES else _numbered(str(path), _table(path, kind, packed))


def _open(path: Path, packed: str) -> Any:
    """Return the bytes of a file as a stream, decompressed."""
    if not packed:
        return open(path, "rb")
    import pyarrow

    return pyarrow.input_stream(str(path), compression=packed)


def _table(path: Path, kind: str, packed: str) -> Iterator[dict[str, Any]]:
    try:
        with _open(path, packed) as stream:
            source = io.BytesIO(stream.read()) if packed else path
        return TABLES[kind](source).iter_rows(named=True)
    except pl.exceptions.NoDataError:
        return iter(())
    except UNREADABLE as error:
        raise BadInput(f"{path} cannot be read as {kind[1:]} ({str(error).splitlines()[0]}); convert it or give another file") from error


def _lines(path: Path, packed: str) -> Iterator[Attempt]:
    """Yield the rows of JSON lines or of one JSON list. The first character decides which."""
    try:
        with _open(path, packed) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as handle:
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
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); copy or compress the file again") from error


def _object(line: str, where: str) -> dict[str, Any] | BadInput:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadInput(f"{where}: not valid JSON ({_why(error)}); correct or remove the line")
    return row if isinstance(row, dict) else BadInput(f"{where}: a row is a JSON object, not {line.strip()[:60]}; correct the line")


def _list(path: Path, head: tuple[int, str], rest: str) -> list[Any]:
    try:
        return json.loads(head[1] + rest)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno + head[0] - 1}: not valid JSON ({error.msg}); correct the list") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON ({_why(error)}); correct the list") from error


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _numbered(name: str, found: Iterable[Any]) -> Iterator[Attempt]:
    for number, row in enumerate(found, 1):
        where = f"{name}, row {number}"
        fault = BadInput(f"{where}: a row is an object with named fields, not {str(row)[:60]}; convert the list")
        yield where, row if isinstance(row, dict) else fault


# -- data sets -------------------------------------------------------------------------------------------------------------------


def _saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAVED)


def _data_set(source: str) -> Iterator[Attempt]:
    name, settings = address(source) if source.startswith("hf:") else query(source, source)
    unknown = settings.keys() - {"split", "config", "revision"}
    if unknown:
        raise BadInput(f"{source}: unknown setting {sorted(unknown)[0]!r}; a data set knows split, config and revision")
    import datasets

    saved = _saved(Path(name))
    split = settings.get("split")
    try:
        if saved:
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, settings.get("config"), split=split or "train", revision=settings.get("revision"))
    except Exception as error:  # the library raises many kinds; to the user all of them say that the set cannot be had
        cure = "save it again" if saved else "check its name, split and config, and the network"
        raise BadInput(f"{source} cannot be loaded {'from the folder' if saved else 'from the hub'} ({error}); {cure}") from error
    return _numbered(source, _split(source, found, split) if saved else cast(Iterable[Any], found))


def _split(source: str, found: Any, split: str | None) -> Iterable[Any]:
    """Return a split of a saved set: the named one, `train`, or the only one."""
    splits = dict(found) if isinstance(found, dict) else {str(found.split or split or "train"): found}
    wanted = split or ("train" if "train" in splits else next(iter(splits), ""))
    if wanted not in splits or (not split and wanted != "train" and len(splits) > 1):
        raise BadInput(f"{source}: the saved set has no split {split or 'train'!r}{among(split or 'train', list(splits))}")
    return splits[wanted]
