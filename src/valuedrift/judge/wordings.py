"""Wordings: how a language model is asked for the stance of a text. TOML files hold them; labels.toml explains the format."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError, with_config

from ..nouns import OUTCOMES, BadInput, Item, Outcome

ALLOWED = {"instruction": {"labels"}, "item": {"prompt", "claim", "text"}}
NEEDED = {"instruction": ["labels"], "item": ["claim", "text"]}
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
"""Other braces are ordinary characters."""


@with_config(extra="forbid")
@dataclass(frozen=True)
class Wording:
    """One way to ask: an instruction shared by all items, an item, and the word that stands for each outcome."""

    name: str
    instruction: str
    item: str
    labels: dict[Outcome, str]
    listed: dict[Outcome, str] = field(default_factory=dict)
    """How an outcome appears in the list, with {label} for its word; an outcome that is not here is listed by its word alone."""
    by_place: bool = False
    """Whether the words belong to positions in the list (A comes first) and not to outcomes."""

    def words(self, order: Sequence[Outcome] = OUTCOMES) -> dict[Outcome, str]:
        """Return the word for each outcome if the outcomes are listed in this order."""
        words = [self.labels[outcome] for outcome in (OUTCOMES if self.by_place else order)]
        return dict(zip(order, words, strict=True))

    def prefix(self, order: Sequence[Outcome] = OUTCOMES) -> str:
        """Return the instruction with the outcomes listed in this order."""
        entries = [filled(self.listed.get(outcome, "{label}"), {"label": word}) for outcome, word in self.words(order).items()]
        alone = re.search(r"^\{labels\}$", self.instruction, re.MULTILINE)
        return filled(self.instruction, {"labels": ("\n" if alone else ", ").join(entries)}) + "\n\n"

    def suffix(self, item: Item) -> str:
        """Return the question about one item, which follows `prefix`."""
        return filled(self.item, {"prompt": item.prompt, "claim": item.claim, "text": item.text})

    def fault(self) -> str:
        """Return what makes this wording unusable, or an empty string."""
        if absent := [outcome for outcome in OUTCOMES if not self.labels.get(outcome, "").strip()]:
            return f"labels has no word for {absent[0]!r}"
        if len(set(self.labels.values())) < len(self.labels):
            return "labels has the same word for two outcomes"
        for part, template in (("instruction", self.instruction), ("item", self.item)):
            if unknown := set(_PLACEHOLDER.findall(template)) - ALLOWED[part]:
                return f"{part} holds {{{min(unknown)}}}, which means nothing there"
            if wrong := [word for word in NEEDED[part] if template.count(f"{{{word}}}") != 1]:
                return f"{part} must hold {{{wrong[0]}}} exactly once"
        return "item ends in a placeholder and not in words that ask for the answer" if self.item.endswith("}") else ""


_FILE = TypeAdapter(dict[str, Wording])


def filled(template: str, values: dict[str, str]) -> str:
    """Return a template with {name} replaced in one pass, so that braces within the values stay as they are."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def wordings(path: Path) -> dict[str, Wording]:
    """Return the wordings of a file by name, in its order. Raises BadInput if the file or one of its wordings cannot be used."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        found = _FILE.validate_python({name: {"name": name, **table} for name, table in tables.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; correct the wording") from error
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path} cannot be read as a TOML file of wordings ({error}); correct it") from error
    if not found:
        raise BadInput(f"{path} holds no wording; begin one with a line '[NAME]'")
    for name, wording in found.items():
        if fault := wording.fault():
            raise BadInput(f"{path}: the wording {name!r} cannot be used: {fault}; correct it")
    return found
