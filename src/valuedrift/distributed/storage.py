"""Run folders and checkpoints in shared storage (s3://, gs://, az://, memory://, …), through fsspec: mirrored here and sent back.

Work is done in a mirror on this machine, because whole files, renames and locks are what keeps a run folder safe. What changed is sent
every half minute and at the end, so that another machine can go on. Two machines that work in one run folder at a time are not kept apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import progress
from ..nouns import BadInput, digest

EVERY_SECONDS = 30.0
KNOWN = ".mirrored.json"
"""What the mirror and the storage had in common: name -> [size here, changed here, token there]."""
MIRRORS: dict[str, Mirror] = {}
"""Those that this process works in, by address."""


def is_address(text: str) -> bool:
    """Tell an address from a path of this machine."""
    return "://" in text


def here(text: Path | str) -> Path:
    """Return the folder to work in: a path as it is; of an address the mirror, brought up to date."""
    if isinstance(text, Path) or not is_address(text):
        return Path(text)
    if text not in MIRRORS:
        mirror = Mirror(text)
        mirror.pull()
        MIRRORS[text] = mirror
    return MIRRORS[text].folder


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Send what changes in the mirrors that are made within, now and then and at the end, however that comes about."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(EVERY_SECONDS):
            for mirror in list(MIRRORS.values()):
                with contextlib.suppress(BadInput):  # the end tries again, and tells
                    mirror.push()

    threading.Thread(target=send, name="sending", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        for address in list(MIRRORS):
            MIRRORS.pop(address).push()


class Mirror:
    """A folder in shared storage and its likeness here. Raises BadInput where the storage cannot be reached."""

    def __init__(self, address: str):
        import fsspec

        from ..store import cache_root  # here, because it brings polars with it

        self.address, self._lock = address, threading.Lock()
        try:
            self.storage, self.root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError, OSError) as error:
            raise BadInput(
                f"{address} cannot be used as storage: {error}; check the address, and install what fsspec needs for it"
            ) from error
        self.root = self.root.rstrip("/")
        self.folder = cache_root() / "mirrors" / digest("mirror", address)
        self.folder.mkdir(parents=True, exist_ok=True)

    def pull(self) -> None:
        """Bring what is new there."""
        with self._told():
            known, there = self._known(), self._there()
            for name, about in there.items():
                token, path = _token(about), self.folder / name
                if path.exists() and known.get(name, [None] * 3)[2] == token:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                self.storage.get_file(about["name"], str(path))
                known[name] = [*_stamp(path), token]
            for name in [name for name in known if name not in there]:  # taken away by another machine
                (self.folder / name).unlink(missing_ok=True)
                del known[name]
            self._keep(known)
            progress.say(f"{self.address} is worked on in {self.folder}")

    def push(self) -> None:
        """Send what is new here, and take away there what is gone."""
        with self._lock, self._told():
            known = self._known()
            for name, path in self._files().items():
                stamp = _stamp(path)
                if known.get(name, [None] * 3)[:2] != stamp:
                    self.storage.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
                    self.storage.put_file(str(path), f"{self.root}/{name}")
                    known[name] = [*stamp, _token(self.storage.info(f"{self.root}/{name}"))]
                    self._keep(known)
            for name in [name for name in known if not (self.folder / name).exists()]:
                if self.storage.exists(f"{self.root}/{name}"):
                    self.storage.rm_file(f"{self.root}/{name}")
                del known[name]
            self._keep(known)

    def _files(self) -> dict[str, Path]:
        """Return the whole files here; unfinished ones, locks and links are this machine's."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        names = {path.relative_to(self.folder).as_posix(): path for path in found}
        return {name: path for name, path in names.items() if not path.name.startswith((".tmp-", ".lock", KNOWN))}

    def _there(self) -> dict[str, dict[str, Any]]:
        self.storage.invalidate_cache()
        if not self.storage.exists(self.root):
            return {}
        found = self.storage.find(self.root, detail=True)
        return {path.removeprefix(self.root).lstrip("/"): about for path, about in found.items()}

    def _known(self) -> dict[str, list[Any]]:
        file = self.folder / KNOWN
        return json.loads(file.read_text()) if file.exists() else {}

    def _keep(self, known: dict[str, list[Any]]) -> None:
        unfinished = self.folder / f".tmp-{KNOWN}"
        unfinished.write_text(json.dumps(known))
        os.replace(unfinished, self.folder / KNOWN)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BadInput:
            raise
        except Exception as error:  # each storage's client raises its own
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadInput(
                f"{self.address} cannot be reached: {words}; what was done stands in {self.folder}, and the same command sends it"
            ) from error


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _token(about: dict[str, Any]) -> str:
    """Return what tells one version of a file there from another."""
    return str(
        next((about[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if about.get(key)), about["size"])
    )
