"""The run folder: immutable Parquet parts keyed by content, small JSON files, and derived tables.

Every file is written whole or not at all, and so is the set of derived files. A run that is killed at any moment can therefore be continued
by the same command. Digests reveal damage: a part has its digest in its name, and tables.json lists those of the derived files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from . import parts, progress
from .nouns import OUTCOMES, Answer, BadInput, Checkpoint, Prompt, Reading, digest
from .parts import ANSWER_SCHEMA, NUMBER_SCHEMA, READING_SCHEMA, UNREADABLE, fault_of, parquet, readings_table

KINDS = ("answers", "readings", "numbers")
"""The folders of parts that the tables are made of."""
MANIFEST = "tables.json"
UNFINISHED = ".tmp-"
"""What the name of a file begins with while it is written."""
NEXT = ".next-"
"""What the name of a derived file begins with until its whole set is written."""
AGAIN = "run the command that made it again"


@with_config({"extra": "allow"})
class StageEntry(TypedDict):
    """One stage in `stages.json`."""

    name: str
    after: str | None
    seed: int
    steps: list[int]
    total_steps: int


@with_config({"extra": "allow"})
class JudgeEntry(TypedDict):
    """The judge in `provenance.json`."""

    identity: str
    headlined: bool
    why: str


@with_config({"extra": "allow"})
class Provenance(TypedDict):
    """The fields of `provenance.json` that verbs read."""

    plan: dict[str, Any]
    view: str
    judge: JudgeEntry


class Manifest(TypedDict):
    """`tables.json`: the SHA-256 of every derived file by name, and the names of the parts by kind."""

    files: dict[str, str]
    parts: dict[str, list[str]]


class Store:
    """A run folder.

    Parts in `answers/`, `readings/` and `numbers/` are only added. The tables beside them are derived and rewritten.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self._held = False
        self._drafts: dict[str, str | None] = {}
        """The SHA-256 of each draft by the name of its file, None for a file that is to go."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder against other processes until this one ends. Make it if needed, and remove it again if it got no file."""
        made = not self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the run folder {self.root}: {error.strerror}; choose another with --out") from error
        try:
            lock = open(self.root / ".lock", "w")  # noqa: SIM115 - held below
        except OSError as error:
            raise disk_fault(self.root / ".lock", error) from error
        with lock as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"another valuedrift process is working in {self.root}; wait for it or use another --out") from None
            self._held = True
            try:
                self._finish_commit()
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    self._finish_commit()  # leaves no draft
                raise
            finally:
                self._held = False
                self._drafts.clear()
                if made and [path.name for path in self.root.glob("*")] == [".lock"]:
                    shutil.rmtree(self.root)

    # -- whole files ---------------------------------------------------------------------------------------------

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all. Raises BadInput if the disk is full."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{UNFINISHED}{path.name}")
            try:
                with open(unfinished, "wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.replace(unfinished, path)
                _keep_names(path.parent)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise disk_fault(path, error) from error
        return path

    def write_json(self, name: str, content: Any) -> Path:
        return self.write_bytes(name, _json(content))

    def read_json(self, name: str, kind: Any = Any, default: Any = None) -> Any:
        """Return a JSON file as a `kind` (any type), or the default if there is no file.

        Raises BadInput if the file is damaged or holds another type.
        """
        content = self._content(name)
        if content is None:
            return default
        try:
            found = _adapter(kind).validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise BadInput(
                f"{self.root / name} is not as valuedrift writes it ({what}); restore it from a copy, or delete it and {AGAIN}"
            ) from error
        if isinstance(found, dict) and "digest" in found and found != sealed({key: found[key] for key in found if key != "digest"}):
            raise BadInput(f"{self.root / name} is not as it was written; restore it from a copy, or delete it and {AGAIN}")
        plain = json.loads(content)  # with its keys in the order in which they were written
        return plain if plain == found else found

    def read_table(self, name: str) -> pl.DataFrame:
        path = self.root / f"{name}.parquet"
        content = self._content(path.name)
        if content is None:
            raise BadInput(f"{self.root} holds no {name}.parquet; is it a run folder? Make one with 'valuedrift run' or 'trace'")
        try:
            return pl.read_parquet(content)
        except UNREADABLE as error:
            raise BadInput(f"{path} cannot be read as Parquet ({error}); {AGAIN}") from error

    def find_table(self, name: str) -> pl.DataFrame | None:
        """Return a table, or None if this run has no such table."""
        files = (self.manifest["files"] if self.manifest else {}) | self._drafts
        return self.read_table(name) if files.get(f"{name}.parquet") else None

    def tables(self) -> list[str]:
        """Return the names of the tables."""
        names = self.manifest["files"] if self.manifest else ()
        return sorted(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))

    # -- derived files -------------------------------------------------------------------------------------------

    def draft(self, name: str, content: Any) -> None:
        """Write a derived file of the current command: a table, content for JSON, or None to delete the file.

        Reading methods see the draft at once. The previous file stays until `publish`.
        """
        self._drafts[name] = None
        if content is not None:
            written = parquet(content) if isinstance(content, pl.DataFrame) else _json(content)
            self.write_bytes(f"{NEXT}{name}", written)
            self._drafts[name] = hashlib.sha256(written).hexdigest()

    def publish(self, files: Mapping[str, Any] | None = None) -> None:
        """Replace the derived files by their drafts, and by `files` (by name, as `draft` takes them), all at once.

        tables.json names the digests of the drafts, and then they take their places. A command that is killed before the first step leaves
        the old set; after it, the next one finishes the second.
        """
        for name, content in (files or {}).items():
            self.draft(name, content)
        digests = {name: written for name, written in (self._digests() | self._drafts).items() if written is not None}
        parts = {kind: [path.name for path in self._paths(kind)] for kind in KINDS}
        self.write_json(MANIFEST, Manifest(files=digests, parts=parts))
        for name, written in self._drafts.items():
            if written is None:
                (self.root / name).unlink(missing_ok=True)
        self._drafts.clear()
        self._finish_commit()

    def _finish_commit(self) -> None:
        """Give files that a commit named their places, and delete those that none named or that a kill left unfinished."""
        self.__dict__.pop("manifest", None)
        for path in self.root.rglob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)
        for path in self.root.glob(f"{NEXT}*"):
            name = path.name.removeprefix(NEXT)
            if hashlib.sha256(path.read_bytes()).hexdigest() == self._digests().get(name):
                os.replace(path, self.root / name)
            else:
                path.unlink()
        _keep_names(self.root)

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """What the last finished command wrote; None if there was none since version 0.1.0."""
        path = self.root / MANIFEST
        return self.read_json(MANIFEST, Manifest) if path.exists() else None

    def _digests(self) -> dict[str, str]:
        """Return the digests that tables.json names; none if it is damaged, so that the next commit can replace it."""
        with contextlib.suppress(BadInput):
            return dict(self.manifest["files"]) if self.manifest else {}
        return {}

    def _content(self, name: str) -> bytes | None:
        """Return the bytes of a file, of its draft if there is one. Raises BadInput if they are not those that tables.json names."""
        if name in self._drafts:
            return None if self._drafts[name] is None else (self.root / f"{NEXT}{name}").read_bytes()
        known = self.manifest["files"].get(name) if name != MANIFEST and self.manifest else None
        for path in (self.root / name, self.root / f"{NEXT}{name}"):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise BadInput(f"cannot read {path}: {error.strerror}; check it and {AGAIN}") from error
            if known is None or hashlib.sha256(content).hexdigest() == known:
                return content
        if known is None:
            return None
        raise BadInput(f"{self.root / name} is missing or is not as it was written (its digest is another one); {AGAIN}")

    def check_tables(self) -> None:
        """Raise BadInput unless all derived files are those of the last command, and are made of the parts that are here now."""
        heal = "run the command that made it again, or 'valuedrift judge' with its judge, which generates nothing"
        if self.manifest is None:
            raise BadInput(f"{self.root} holds no {MANIFEST}, which says whether its tables are whole (older versions wrote none); {heal}")
        for name in self.manifest["files"]:
            self._content(name)
        for kind in KINDS:
            paths, known = {path.name: path for path in self._paths(kind)}, set(self.manifest["parts"].get(kind, []))
            if gone := sorted(known - paths.keys()):
                raise BadInput(f"{self.root / kind / gone[0]} is gone, of which the tables of {self.root} were made; {AGAIN}")
            for path in paths.values():
                if fault := fault_of(path):
                    raise BadInput(f"{path} {fault}; {AGAIN}: it sets the file aside")
            if new := sorted(paths.keys() - known):
                more = f" and {len(new) - 1:,} more" if len(new) > 1 else ""
                raise BadInput(f"the tables of {self.root} are older than {self.root / kind / new[0]}{more}; {heal}")

    # -- parts ---------------------------------------------------------------------------------------------------

    def _paths(self, kind: str) -> list[Path]:
        return sorted((self.root / kind).glob("[!.]*.parquet"))

    def parts(self, kind: str, schema: Mapping[str, Any], content: Sequence[str], keys: Sequence[str] = ("key",)) -> pl.DataFrame:
        """Return the rows of all parts of a kind.

        A command that has locked the folder sets a damaged part aside, so that its content is computed again; other commands raise
        BadInput. All raise BadInput if one key has two contents.
        """

        def refuse(path: Path, fault: str) -> None:
            if not self._held:
                raise BadInput(f"{fault}; {AGAIN}: it sets the file aside")
            progress.say(f"{fault}; it was set aside as {set_aside(path).name}, and what it held is made again")

        return parts.read(self._paths(kind), schema, keys, content, refuse)

    def add_part(self, kind: str, table: pl.DataFrame, keys: Sequence[Any]) -> None:
        """Add one part."""
        if keys:
            self.write_bytes(*parts.named(keys, kind, table))

    def answers(self) -> pl.DataFrame:
        """Return every stored answer, one row each (columns of ANSWER_SCHEMA)."""
        return self.parts("answers", ANSWER_SCHEMA, ("text", "ended"))

    def texts(self) -> pl.DataFrame:
        """Return the text of every answer once, columns key and text."""
        return self.answers().select("key", "text").unique("key", keep="first", maintain_order=True)

    def readings(self) -> pl.DataFrame:
        """Return every stored reading, one row each (columns of READING_SCHEMA)."""
        return self.parts("readings", READING_SCHEMA, OUTCOMES, ("item", "judge"))  # a failure has no content: it may be tried again

    def numbers(self) -> dict[str, float | None]:
        """Return every stored number of an answer or checkpoint, by content key; None if the number does not exist."""
        return dict(self.parts("numbers", NUMBER_SCHEMA, ("value",)).iter_rows())

    def add_numbers(self, numbers: Mapping[str, float | None]) -> None:
        """Add one part of numbers."""
        self.add_part("numbers", pl.DataFrame(list(numbers.items()), schema=NUMBER_SCHEMA, orient="row"), list(numbers))

    def add_answers(self, answers: Sequence[Answer]) -> None:
        """Add one part of answers."""
        rows = [dataclasses.asdict(answer) for answer in answers]
        self.add_part("answers", pl.DataFrame(rows, schema=ANSWER_SCHEMA), [row["key"] for row in rows])

    def add_readings(self, readings: Sequence[Reading]) -> None:
        """Add one part of verdicts."""
        self.add_part("readings", readings_table(readings), [[reading.item, reading.judge] for reading in readings])

    # -- what every run has --------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of this run in the order of training."""
        return self.read_json("checkpoints.json", list[Checkpoint], [])

    def prompts(self) -> list[Prompt]:
        """Return the questions of this run."""
        return self.read_json("prompts.json", list[Prompt], [])

    def stages(self) -> list[dict[str, Any]]:
        """Return the stages of this run in the order of training."""
        return self.read_json("stages.json", list[StageEntry], [])

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of this run's figures. Raises BadInput if no command has finished here."""
        if record := self.read_json("provenance.json", Provenance):
            return record
        raise BadInput(
            f"{self.root} is not a finished run (it holds no provenance.json); give a folder that 'run', 'trace' or 'demo' wrote, "
            "or finish it with the command that began it"
        )

    def finished(self) -> dict[str, Any]:
        """Return `provenance`. Raises BadInput also unless the tables are whole and as new as their parts."""
        record = self.provenance()
        self.check_tables()
        return record


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return content for JSON with its own digest, which `Store.read_json` compares."""
    return {**content, "digest": digest(content)}


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that nothing takes it for whole; return its new path."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    os.replace(path, aside)
    return aside


def disk_fault(path: Path, error: OSError) -> BadInput:
    """Return the sentence for a file that could not be written."""
    advice = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EFBIG: "allow larger files (ulimit -f)"}
    todo = advice.get(error.errno or 0, "check the folder")
    return BadInput(f"cannot write {path}: {error.strerror or error}; {todo} and run the same command again (finished parts are kept)")


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _keep_names(folder: Path) -> None:
    """Have the disk keep the names of a folder's files: after a power cut a renamed file has else its old name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
