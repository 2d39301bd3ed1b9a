"""Write files that people may edit. The command recognises its own files by content, and overwrites no others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from ..nouns import BadInput, digest
from ..store import Store

RECORD = ".written.json"
"""Name -> digests of everything written under it in this folder. A digest is written before its file, so that the command recognises the
file after a kill between the two.
"""


def page(template: Path, **values: Any) -> str:
    """Return a Jinja2 template with its values filled in."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def write(store: Store, name: str, text: str) -> Path:
    """Write a file and remember its content."""
    record = store.read_json(RECORD, dict[str, list[str]], {})
    store.write_json(RECORD, record | {name: sorted({*record.get(name, []), digest(text)})})
    return store.write_bytes(name, text.encode())


def refuse_strangers(folder: Path, names: Iterable[str], command: str) -> None:
    """Raise BadInput if a file of one of these names has content that `write` did not write."""
    there = [folder / name for name in names if (folder / name).exists()]
    record = Store(folder).read_json(RECORD, dict[str, list[str]], {}) if there else {}
    for path in there:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}; check it and run the same command again") from error
        if digest(content.decode(errors="surrogateescape")) not in record.get(path.name, []):
            raise BadInput(
                f"{path} is not as 'valuedrift {command}' wrote it (it was edited, or another program wrote it) and would be overwritten; "
                "move it away, or use another --out"
            )
