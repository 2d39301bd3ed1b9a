"""Wordings: how a language model is asked for the stance of a text. Read from plain files; the format stands at the top of labels.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..nouns import OUTCOMES, BadInput, Item, Outcome
from ..registry import among

PARTS = {"instruction": ("labels",), "item": ("prompt", "claim", "text")}
"""The two texts of a wording -> what they may name in braces."""
NEEDED = {"instruction": ("labels",), "item": ("claim", "text")}
BY = {"by outcome": False, "by place": True}
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
"""Other braces are ordinary characters."""


@dataclass(frozen=True)
class Wording:
    """One way to ask: an instruction that is the same for every item, an item, and the word that is the answer for each outcome."""

    name: str
    instruction: str
    item: str
    labels: dict[Outcome, str]
    listed: dict[Outcome, str] = field(default_factory=dict)
    """How an outcome stands in the list, with {label} for its word; an outcome that is not here is listed by its word alone."""
    by_place: bool = False
    """Whether the words belong to the places of the list (A is what stands first) and not to the outcomes."""

    def words(self, order: Sequence[Outcome] = OUTCOMES) -> dict[Outcome, str]:
        """Return the answer for each outcome where the outcomes are listed in this order."""
        words = [self.labels[outcome] for outcome in (OUTCOMES if self.by_place else order)]
        return dict(zip(order, words, strict=True))

    def prefix(self, order: Sequence[Outcome] = OUTCOMES) -> str:
        """Return the instruction with the outcomes listed in this order: one a line where {labels} has a line of its own, else in a row."""
        entries = [filled(self.listed.get(outcome, "{label}"), {"label": word}) for outcome, word in self.words(order).items()]
        alone = re.search(r"^\{labels\}$", self.instruction, re.MULTILINE)
        return filled(self.instruction, {"labels": ("\n" if alone else ", ").join(entries)}) + "\n\n"

    def suffix(self, item: Item) -> str:
        """Return what is asked about one item; it stands behind `prefix`."""
        return filled(self.item, {"prompt": item.prompt, "claim": item.claim, "text": item.text})


def filled(template: str, values: dict[str, str]) -> str:
    """Return a template with {name} replaced, in one pass: braces within the values are left as they are."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def wordings(path: Path) -> dict[str, Wording]:
    """Return the wordings of a file by name, in its order. Raises BadInput with file and line for what cannot be used."""
    found: dict[str, Wording] = {}
    for number, name, lines in _sections(path):
        if name in found:
            raise BadInput(f"{path}:{number}: a second wording is called {name!r}; give it another name")
        found[name] = _wording(path, number, name, lines)
    if not found:
        raise BadInput(f"{path} holds no wording; begin one with a line '[wording NAME]'")
    return found


Lines = list[tuple[int, str]]


def _sections(path: Path) -> list[tuple[int, str, Lines]]:
    """Return (line number, name, numbered lines) of each wording; comments are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as a text file ({error}); give a file of wordings") from error
    found: list[tuple[int, str, Lines]] = []
    for number, line in enumerate(lines, 1):
        if match := re.fullmatch(r"\[wording ([a-z0-9-]+)\]\s*", line):
            found.append((number, match[1], []))
        elif line.startswith("[wording"):
            raise BadInput(f"{path}:{number}: {line!r} begins no wording; write '[wording NAME]', with a NAME of a-z, 0-9 and '-'")
        elif line.startswith("#"):
            continue
        elif found:
            found[-1][2].append((number, line.rstrip()))
        elif line.strip():
            raise BadInput(f"{path}:{number}: {line!r} stands before the first wording; begin one with '[wording NAME]'")
    return found


def _wording(path: Path, number: int, name: str, lines: Lines) -> Wording:
    parts: dict[str, Lines] = {"": []}
    part = ""
    for at, line in lines:
        if match := re.fullmatch(r"\[(.*)\]", line):
            part = match[1]
            if part not in PARTS:
                raise BadInput(f"{path}:{at}: unknown part {part!r} of the wording {name!r}{among(part, list(PARTS))}")
            if part in parts:
                raise BadInput(f"{path}:{at}: a second [{part}] in the wording {name!r}; leave one out")
            parts[part] = []
        else:
            parts[part].append((at, line))
    for part in PARTS:
        if part not in parts:
            raise BadInput(f"{path}:{number}: the wording {name!r} has no [{part}]; add it")
    labels, listed, by_place = _labels(path, number, name, parts[""])
    instruction, item = (_text(path, number, name, part, parts[part]) for part in PARTS)
    return Wording(name, instruction, item, labels, listed, by_place)


def _labels(path: Path, number: int, name: str, lines: Lines) -> tuple[dict[Outcome, str], dict[Outcome, str], bool]:
    settings: dict[str, str] = {}
    for at, line in lines:
        key, sign, value = (piece.strip() for piece in line.partition("="))
        if not line:
            continue
        if key not in ("labels", *OUTCOMES):
            raise BadInput(f"{path}:{at}: unknown key {key!r} in the wording {name!r}{among(key, ['labels', *OUTCOMES])}")
        if not (sign and value.partition("|")[0].strip()) or key in settings:
            raise BadInput(f"{path}:{at}: {line!r} gives {key!r} no word or a second one; write '{key} = WORD' once")
        if key == "labels" and value not in BY:
            raise BadInput(f"{path}:{at}: labels = {value!r} is unknown{among(value, list(BY))}")
        settings[key] = value
    pieces = {outcome: settings[outcome].partition("|") for outcome in OUTCOMES if outcome in settings}
    labels = {outcome: word.strip() for outcome, (word, _, _) in pieces.items()}
    if absent := [outcome for outcome in OUTCOMES if outcome not in labels]:
        raise BadInput(f"{path}:{number}: the wording {name!r} has no word for {absent[0]!r}; add a line '{absent[0]} = WORD'")
    if len(set(labels.values())) < len(labels):
        raise BadInput(f"{path}:{number}: the wording {name!r} has the same word for two outcomes; give each its own")
    return labels, {outcome: text.strip() for outcome, (_, bar, text) in pieces.items() if bar}, BY[settings.get("labels", "by outcome")]


def _text(path: Path, number: int, name: str, part: str, lines: Lines) -> str:
    """Return one of the two texts, checked, without the blank lines round it."""
    for at, line in lines:
        for word in _PLACEHOLDER.findall(line):
            if word not in PARTS[part]:
                raise BadInput(f"{path}:{at}: {{{word}}} means nothing in [{part}]{among(word, PARTS[part])}")
    text = "\n".join(line for _, line in lines).strip()
    for word in NEEDED[part]:
        if text.count(f"{{{word}}}") != 1:
            raise BadInput(f"{path}:{number}: [{part}] of the wording {name!r} must hold {{{word}}} once; put it where it belongs")
    if part == "item" and text.endswith("}"):
        raise BadInput(f"{path}:{number}: [item] of the wording {name!r} ends in a placeholder; end it with words that ask for the answer")
    return text
