"""The folder is the registry: a choice is a file that defines the class of its kind, or an entry point of the same kind."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from .nouns import BadInput

KINDS = {
    "algorithm": ("train", "Algorithm"),
    "backend": ("evaluate", "Backend"),
    "judge": ("judge", "Judge"),
    "suite": ("suites", "Suite"),
    "analysis": ("analyses", "Analysis"),
    "engine": ("distributed", "Engine"),
}
"""kind -> (folder under valuedrift, name of the class that a file of this kind defines)"""
DERIVED = ("backend", "judge", "suite", "engine")
"""Kinds whose classes derive from the class of the same name in the folder's `__init__`, which defines their contract and defaults."""


def nearest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" if a known word is close, else ""."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def among(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, and all of them."""
    return f"{nearest(word, known) or '.'} Known: {', '.join(known)}."


@functools.cache  # reading the installed packages' entry points takes milliseconds
def third_party(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"valuedrift.{kind}")}


@functools.cache
def _own(kind: str) -> frozenset[str]:
    folder, attribute = KINDS[kind]
    defines = re.compile(rf"^class {attribute}\b", re.MULTILINE)
    return frozenset(
        path.stem
        for path in (Path(__file__).parent / folder).glob("*.py")
        if path.stem != "__init__" and defines.search(path.read_text("utf-8"))
    )


def names(kind: str) -> list[str]:
    """Return the names of a kind, sorted, including those of installed extensions. Imports none of them."""
    return sorted(_own(kind) | set(third_party(kind)))


@functools.cache
def find(kind: str, name: str) -> Any:
    """Return the class behind a choice. Raises BadInput for an unknown name, and for a class that does not derive from its base."""
    folder, attribute = KINDS[kind]
    known = names(kind)
    if name not in known:
        raise BadInput(f"unknown {kind} {name!r}{among(name, known)}")
    if name not in third_party(kind):
        return getattr(importlib.import_module(f"valuedrift.{folder}.{name}"), attribute)
    found = third_party(kind)[name].load()
    if kind in DERIVED:
        base = getattr(importlib.import_module(f"valuedrift.{folder}"), attribute)
        if not (isinstance(found, type) and issubclass(found, base)):
            where = third_party(kind)[name].value
            raise BadInput(f"the {kind} {name!r} ({where}) does not derive from valuedrift.{folder}.{attribute}; make it a subclass")
    return found


def refuse_argument(kind: str, choice: type, argument: str) -> None:
    """Raise BadInput if a choice that takes no argument was given one."""
    if argument:
        name = choice.__module__.rpartition(".")[2]
        raise BadInput(f'the {kind} {name!r} takes no argument, but was given {argument!r}; write {kind} = "{name}"')


def in_order(kind: str) -> list[Any]:
    """Return one of every choice of a kind, sorted by its `order`."""
    return sorted((find(kind, name)() for name in names(kind)), key=lambda choice: choice.order)


def algorithm(spec: str) -> Any:
    """Return the class of a stage's algorithm, such as "dpo" or "trl:KTOTrainer". The class makes another one of an argument (`named`)."""
    name, argument = split(spec)
    found = find("algorithm", name)
    if hasattr(found, "named"):
        return found.named(argument)
    refuse_argument("algorithm", found, argument)
    return found


def query(text: str, where: str) -> tuple[str, dict[str, str]]:
    """Split "NAME?key=value&…" into NAME and its settings. Raises BadInput, naming `where`, if the settings are malformed."""
    name, _, settings = text.partition("?")
    try:
        return name, dict(parse_qsl(settings, keep_blank_values=True, strict_parsing=bool(settings)))
    except ValueError:
        raise BadInput(f"{where}: {settings!r} is not a list of settings; write NAME?key=value&key=value") from None


def split(spec: str) -> tuple[str, str]:
    """Split "labels:path/or/id" into the name and its argument ("" if there is none)."""
    name, _, argument = spec.partition(":")
    return name, argument
