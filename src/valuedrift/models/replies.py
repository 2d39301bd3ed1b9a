"""A file of replies that are paid for and not stored yet: a command that is killed in the middle of a batch pays for none of them again."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..nouns import digest
from ..store import disk_fault, sealed
from .chat_api import Reply, Request


class Replies:
    """The file of one batch. It holds a line per reply, with its own digest, because a kill may cut the last one."""

    def __init__(self, path: Path, *about: str):
        self.path, self._about = path, about
        self._lock = threading.Lock()
        self._known: dict[str, list[Reply]] = defaultdict(list)
        for line in path.read_bytes().splitlines() if path.exists() else ():
            if found := _whole(line):
                self._known[found["request"]].append(_reply(found["reply"]))

    def take(self, request: Request) -> Reply | None:
        """Return a reply to such a request that an earlier command left, each once; None if there is none."""
        known = self._known.get(self._key(request))
        return known.pop() if known else None

    def add(self, request: Request, reply: Reply) -> None:
        """Write a reply at the end of the file. Raises BadInput if the disk is full."""
        line = json.dumps(sealed({"request": self._key(request), "reply": asdict(reply)})) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, open(self.path, "ab") as handle:
                handle.write((b"" if handle.tell() == 0 else b"\n") + line.encode())  # the line before may be cut
        except OSError as error:
            raise disk_fault(self.path, error) from error

    def delete(self) -> None:
        """Delete the file, once the batch is stored."""
        self.path.unlink(missing_ok=True)

    def _key(self, request: Request) -> str:
        return digest(*self._about, asdict(request))


def _whole(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line; None if it was cut or changed."""
    try:
        found = json.loads(line)
        return found if found == sealed({name: found[name] for name in ("request", "reply")}) else None
    except (ValueError, TypeError, KeyError):
        return None


def _reply(found: dict[str, Any]) -> Reply:
    tops = found["top_logprobs"]
    lists = {"texts": tuple(found["texts"]), "ended": tuple(found["ended"])}
    return Reply(**found | lists | {"top_logprobs": None if tops is None else tuple((token, logprob) for token, logprob in tops)})
