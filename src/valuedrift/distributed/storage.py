"""Run folders and checkpoints in shared storage (s3://, gs://, az://, memory://, …) through fsspec.

A command works in a mirror on this machine, because a run folder needs atomic renames and locks. It sends changes every half minute and at
the end, so that another machine can continue. Two machines must not work in one run folder at the same time. fsspec's own `rsync` is not
used: it compares sizes, and a table that is written again often has the size of the old one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import progress
from ..nouns import BadInput, digest

EVERY_SECONDS = 30.0
KNOWN = ".mirrored.json"
"""What the mirror and the storage had in common: name -> [size here, time of change here, version there]."""
MIRRORS: dict[str, Mirror] = {}
"""The mirrors of this process, by address."""


def is_address(text: str) -> bool:
    """Tell an address from a path of this machine."""
    return "://" in text


def here(text: Path | str) -> Path:
    """Return the folder to work in: a path as it is, or the updated mirror of an address."""
    if isinstance(text, Path) or not is_address(text):
        return Path(text)
    if text not in MIRRORS:
        mirror = Mirror(text)
        mirror.pull()
        MIRRORS[text] = mirror
    return MIRRORS[text].folder


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Send changes in the mirrors of the block, every EVERY_SECONDS and at its end, even if it fails."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(EVERY_SECONDS):
            for mirror in list(MIRRORS.values()):
                with contextlib.suppress(BadInput):  # the end tries again and reports
                    mirror.push()

    threading.Thread(target=send, name="sending", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        for address in list(MIRRORS):
            MIRRORS.pop(address).push()


class Mirror:
    """The copy on this machine of a folder in shared storage. Raises BadInput if the storage cannot be reached."""

    def __init__(self, address: str):
        import fsspec

        from ..caches import cache_root
        from ..store import Store  # imports polars

        self.address, self._lock = address, threading.Lock()
        try:
            self.storage, root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError, OSError) as error:
            raise BadInput(
                f"{address} cannot be used as storage: {error}; check the address, and install the package that fsspec needs for it"
            ) from error
        self.root = root.rstrip("/")
        self._store = Store(cache_root() / "mirrors" / digest("mirror", address))
        self.folder = self._store.root
        self._known: dict[str, list[Any]] = self._store.read_json(KNOWN, dict[str, list[Any]], {})

    def pull(self) -> None:
        """Get files that are new in the storage, and delete those that another machine deleted."""
        with self._reachable():
            there = self._there()
            for name, about in there.items():
                path = self.folder / name
                if not path.exists() or name not in self._known or self._known[name][2] != _version(about):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.storage.get_file(about["name"], str(path))
                    self._known[name] = [*_stamp(path), _version(about)]
            for name in self._known.keys() - there.keys():
                (self.folder / name).unlink(missing_ok=True)
                del self._known[name]
            self._store.write_json(KNOWN, self._known)
            progress.say(f"{self.address} is mirrored in {self.folder}")

    def push(self) -> None:
        """Send files that are new here, and delete in the storage what is gone here."""
        with self._lock, self._reachable():
            files = self._files()
            for name, path in files.items():
                stamp, address = _stamp(path), f"{self.root}/{name}"
                if self._known.get(name, [])[:2] != stamp:
                    self.storage.makedirs(address.rpartition("/")[0], exist_ok=True)
                    self.storage.put_file(str(path), address)
                    self._known[name] = [*stamp, _version(self.storage.info(address))]
                    self._store.write_json(KNOWN, self._known)
            for name in self._known.keys() - files.keys():
                if self.storage.exists(f"{self.root}/{name}"):
                    self.storage.rm_file(f"{self.root}/{name}")
                del self._known[name]
            self._store.write_json(KNOWN, self._known)

    def _files(self) -> dict[str, Path]:
        """Return the complete files here by name; unfinished files, locks and links stay on this machine."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return {path.relative_to(self.folder).as_posix(): path for path in found if not path.name.startswith((".tmp-", ".lock", KNOWN))}

    def _there(self) -> dict[str, dict[str, Any]]:
        self.storage.invalidate_cache()
        found = self.storage.find(self.root, detail=True) if self.storage.exists(self.root) else {}
        return {path.removeprefix(self.root).lstrip("/"): about for path, about in found.items()}

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except BadInput:
            raise
        except Exception as error:  # each storage's client raises its own
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadInput(
                f"{self.address} cannot be reached: {words}; the finished work is in {self.folder}, and the same command sends it"
            ) from error


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _version(about: dict[str, Any]) -> str:
    """Return what distinguishes one version of a file in the storage from another."""
    keys = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
    return str(next((about[key] for key in keys if about.get(key)), about["size"]))
