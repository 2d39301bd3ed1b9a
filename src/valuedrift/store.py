"""The run folder: immutable Parquet parts keyed by content, small JSON files, and derived tables.

Every file appears whole or not at all (written to a temporary name, flushed, renamed), so that a run killed at any moment
can be continued by the same command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from .nouns import OUTCOMES, Answer, BadInput, Checkpoint, Reading, digest

ANSWER_SCHEMA = {
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


class Store:
    """A run folder.

    `answers/`, `readings/` and `numbers/` hold parts that are only ever added; the tables beside them are derived and rewritten.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the run folder {self.root}: {error.strerror}; choose another with --out") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder against a second process; the lock goes with the process, however that ends."""
        try:
            lock = open(self.root / ".lock", "w")  # noqa: SIM115 - held below
        except OSError as error:
            raise disk_fault(self.root / ".lock", error) from error
        with lock as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"another valuedrift process is working in {self.root}; wait for it or use another --out") from None
            yield

    # -- whole files ---------------------------------------------------------------------------------------------

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all. Raises BadInput when the disk is full."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".tmp-{path.name}")
            try:
                with open(unfinished, "wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.replace(unfinished, path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise disk_fault(path, error) from error
        return path

    def write_json(self, name: str, content: Any) -> Path:
        return self.write_bytes(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def keep_json(self, name: str, content: Any) -> None:
        """Write what not every run has; without it, take away what an earlier invocation left."""
        if content is None:
            (self.root / name).unlink(missing_ok=True)
        else:
            self.write_json(name, content)

    def read_json(self, name: str, default: Any = None) -> Any:
        path = self.root / name
        if not path.exists():
            return default
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise BadInput(f"{path} is not valid JSON ({error}); delete it and run the command again") from error

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Write a derived table (`profiles`, `drifts`, …) as NAME.parquet."""
        buffer = io.BytesIO()
        table.write_parquet(buffer, compression="zstd")
        return self.write_bytes(f"{name}.parquet", buffer.getvalue())

    def read_table(self, name: str) -> pl.DataFrame:
        path = self.root / f"{name}.parquet"
        if not path.exists():
            raise BadInput(f"{self.root} holds no {name}.parquet; is it a run folder? Make one with 'valuedrift run' or 'trace'")
        return _read_parquet(path)

    def has_table(self, name: str) -> bool:
        return (self.root / f"{name}.parquet").exists()

    def keep_table(self, name: str, table: pl.DataFrame | None) -> None:
        """Write a derived table that not every run has; without one, take away what an earlier invocation left."""
        if table is None:
            (self.root / f"{name}.parquet").unlink(missing_ok=True)
        else:
            self.write_table(name, table)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _parts(self, kind: str, schema: dict[str, Any]) -> pl.DataFrame:
        paths = sorted((self.root / kind).glob("[!.]*.parquet"))
        empty = pl.DataFrame(schema=schema)
        return pl.concat([empty, *(_read_parquet(path) for path in paths)], how="diagonal")  # older parts may lack a column

    def answers(self) -> pl.DataFrame:
        """Return every stored answer, one row each (columns of ANSWER_SCHEMA)."""
        return self._parts("answers", ANSWER_SCHEMA)

    def readings(self) -> pl.DataFrame:
        """Return every stored reading, one row each (columns of READING_SCHEMA)."""
        return self._parts("readings", READING_SCHEMA)

    def numbers(self) -> dict[str, float | None]:
        """Return every number that was computed of an answer, by key; None where there is none to be had."""
        return dict(self._parts("numbers", NUMBER_SCHEMA).iter_rows())

    def add_numbers(self, numbers: Mapping[str, float | None]) -> None:
        """Add one part of numbers."""
        self._add("numbers", pl.DataFrame(list(numbers.items()), schema=NUMBER_SCHEMA, orient="row"), list(numbers))

    def add_answers(self, answers: Sequence[Answer]) -> None:
        """Add one part of answers."""
        rows = [dataclasses.asdict(answer) for answer in answers]
        self._add("answers", pl.DataFrame(rows, schema=ANSWER_SCHEMA), [row["key"] for row in rows])

    def add_readings(self, readings: Sequence[Reading]) -> None:
        """Add one part of verdicts."""
        self._add("readings", readings_table(readings), [[reading.item, reading.judge] for reading in readings])

    def _add(self, kind: str, table: pl.DataFrame, keys: list[Any]) -> None:
        if keys:
            self.write_table(f"{kind}/{digest(kind, keys)}", table)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of this run in the order of training."""
        return [Checkpoint(**row) for row in self.read_json("checkpoints.json", [])]

    def write_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.write_json("checkpoints.json", [dataclasses.asdict(checkpoint) for checkpoint in checkpoints])


def cache_root() -> Path:
    """Return the folder of what is built once for all runs: $VALUEDRIFT_CACHE, or valuedrift under the user's cache folder."""
    if own := os.environ.get("VALUEDRIFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "valuedrift"


def readings_table(readings: Sequence[Reading]) -> pl.DataFrame:
    """Return readings as rows, columns of READING_SCHEMA."""
    rows: list[dict[str, Any]] = [
        {name: getattr(reading, name) for name in ("item", "judge", "failure", "reason", "missing", "reply")}
        | (dict(zip(OUTCOMES, reading.probs, strict=True)) if reading.probs else {})
        for reading in readings
    ]
    return pl.DataFrame(rows, schema=READING_SCHEMA)


def disk_fault(path: Path, error: OSError) -> BadInput:
    """Return the sentence for a file that could not be written."""
    advice = "free some space" if error.errno == errno.ENOSPC else "check the folder"
    return BadInput(f"cannot write {path}: {error.strerror or error}; {advice} and run the same command again (finished parts are kept)")


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{path} cannot be read as Parquet ({error}); delete it and run the command again") from error
