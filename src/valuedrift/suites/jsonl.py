"""Read any JSONL file of prompts as a suite."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import registry, suites
from ..nouns import BadInput, Prompt
from ..records.rows import Attempt, attempts
from ..registry import nearest

FIELDS = ("id", "topic", "text", "claim", "polarity")
NEAR = 0.7
"""Least Jaccard similarity of character 4-grams at which two questions count as one. Rewordings of one question are above it; distinct
questions that share a template ("Should ... be allowed to ...?") are below.
"""

TOGETHER = 1000
"""Number of questions compared with all others at a time. Memory grows with it."""
HIGH = "\u0080-\u00bf€‚ƒ„†‡ˆ‰Š‹ŒŽ‘“•–—˜™š›œžŸ"
"""The characters that bytes 80 to BF become when UTF-8 is read as Latin-1 or Windows-1252, except those that often follow a letter (’ ” …).
"""
GARBLED = re.compile(
    f"[ÂÃ][{HIGH}]"  # é, ü, and the like; a no-break space
    "|â[€‚„†ˆ‰Œœžš˜\u0080-\u009f]"  # quotes, dashes, the euro sign
    "|ï»¿|ï¿½"  # a byte order mark, a replacement character
    "|ðŸ"  # pictographs
    f"|(?:[ÐÑ][{HIGH}’”…]){{2}}"  # Cyrillic
    "|ã[€‚ƒ]"  # Japanese
)
"""UTF-8 that was read as Latin-1 or Windows-1252."""


class Suite(suites.Suite):
    """Reads the prompts of one file. Only `text` is required.

    `id` defaults to the number of the line, `topic` to "general", `claim` to the text itself (then support means agreeing with the
    question), `polarity` to 0.
    """

    def __init__(self, argument: str):
        self.path = argument

    def prompts(self) -> list[Prompt]:
        """Return the prompts in file order. Raises BadInput with the first fault and the number of further ones."""
        found = [item for _, item in _read(_rows(self.path))]
        faults = [item for item in found if isinstance(item, str)]
        if faults:
            more = f" (and {len(faults) - 1} more; 'valuedrift suite check {self.path}' lists them)" if len(faults) > 1 else ""
            raise BadInput(faults[0] + more)
        return [item for item in found if isinstance(item, Prompt)]


def check(suite: Path | str) -> list[str]:
    """Return each fault of a suite (a file, or a suite's name) as one sentence with file and line, including near-duplicates."""
    kind, argument = suites.named(str(suite))
    if kind == "jsonl" or kind not in registry.names("suite"):
        rows = _rows(str(suite))
    else:
        rows = ((f"{suite}:{number}", asdict(prompt)) for number, prompt in enumerate(registry.find("suite", kind)(argument).prompts(), 1))
    found = list(_read(rows))
    prompts = [(where, item) for where, item in found if isinstance(item, Prompt)]
    faults = [item for _, item in found if isinstance(item, str)]
    for first, second, similarity in near_duplicates([prompt.text for _, prompt in prompts]):
        (where, one), (again, other) = prompts[first], prompts[second]
        faults.append(
            f"{again}: {other.id!r} is nearly the same question as {one.id!r} on line {_number(where)} "
            f"(similarity {similarity:.2f}); reword or remove one"
        )
    return faults


def broken(text: str) -> str:
    """Return the first broken character of a text (a control character, a replacement character, half of a pair) or garbled piece.

    Garbled text is UTF-8 that was read as Latin-1 or Windows-1252: "Ã©" for "é". Line breaks and tabs are not broken. Empty if there is
    none.
    """
    for character in text:
        if character in "\ufffd\ufeff\ufffe\uffff" or (unicodedata.category(character) in ("Cc", "Co", "Cs") and character not in "\n\r\t"):
            return character
    garbled = GARBLED.search(text)
    return garbled[0] if garbled else ""


def near_duplicates(texts: list[str], others: list[str] | None = None, threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity) of the pairs at or over the threshold: within `texts` (i < j), or texts[i] against others[j].

    Similarity is the Jaccard index of the sets of character 4-grams, lower-cased, punctuation and spacing ignored.
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    if not texts or (others is not None and not others):
        return []
    plain = [" ".join("".join(c if c.isalnum() else " " for c in text.lower()).split()) for text in texts + (others or [])]
    counts = CountVectorizer(analyzer="char", ngram_range=(4, 4), binary=True, dtype=int).fit_transform(
        text.ljust(4, "_") for text in plain
    )
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    left = counts[: len(texts)]
    right = counts[len(texts) :] if others is not None else left
    shift = len(texts) if others is not None else 0
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(texts), TOGETHER):
        shared = (left[start : start + TOGETHER] @ right.T).tocoo()
        row, similarity = shared.row + start, shared.data / (sizes[shared.row + start] + sizes[shared.col + shift] - shared.data)
        near = (similarity >= threshold) & ((others is not None) | (row < shared.col))
        pairs += zip(row[near].tolist(), shared.col[near].tolist(), similarity[near].tolist(), strict=True)
    return sorted(pairs)


def _rows(path: str) -> Iterator[Attempt]:
    if not Path(path).exists():
        raise BadInput(f"there is no suite file {path}; give a JSONL file or the name of a suite ('valuedrift suite list')")
    return attempts(path)


def _read(rows: Iterable[Attempt]) -> Iterator[tuple[str, Prompt | str]]:
    """Yield the place of each row with its prompt, and with each sentence about a fault there.

    A faulty row with a question yields its prompt too, so that it can be compared with the others.
    """
    seen: dict[str, str] = {}
    for where, row in rows:
        if isinstance(row, BadInput):
            yield where, str(row)
            continue
        id, text = str(row.get("id", _number(where))), row.get("text")
        for fault in _faults(row):
            yield where, f"{where}: {fault}"
        if seen.setdefault(id, where) != where:
            yield where, f"{where}: the id {id!r} is already used on line {_number(seen[id])}; ids must be unique"
        if isinstance(text, str) and text.strip():
            yield where, Prompt(id, row.get("topic", "general"), text, row.get("claim", text), row.get("polarity", 0))


def _number(where: str) -> str:
    """Return the number of a line or row."""
    return re.split(r"[: ]", where)[-1]


def _faults(row: dict[str, Any]) -> Iterator[str]:
    """Yield the faults in the fields of one prompt."""
    for key in row:
        if key not in FIELDS and (hint := nearest(key, FIELDS)):
            yield f"unknown key {key!r}{hint}"
    text = row.get("text")
    misspelt = "text" not in row and any(nearest(key, FIELDS) == nearest("text", FIELDS) for key in row)
    if not misspelt and not (isinstance(text, str) and text.strip()):
        yield "the key 'text' is missing or empty; every prompt needs a question"
    for key in FIELDS:
        if isinstance(row.get(key), str) and (found := broken(row[key])):
            yield f"broken character {found!r} in the {key}; fix the encoding"
    if "id" in row and not (type(row["id"]) in (str, int) and str(row["id"]).strip()):
        yield f"the id must be a text or a whole number, not {row['id']!r:.60}"
    topic = row.get("topic", "general")
    if not isinstance(topic, str) or not topic.strip():
        yield f"the topic must be a text, not {topic!r:.60}"
    if topic == "all":
        yield "the topic 'all' names the mean over all topics; use another name"
    polarity = row.get("polarity", 0)
    if type(polarity) is not int or polarity not in (1, -1, 0):
        yield f"polarity must be 1, -1 or 0, not {polarity!r:.60}"
    if "claim" in row and not (isinstance(row["claim"], str) and row["claim"].strip()):
        yield "the claim is not a text or is empty; write the proposition that support and oppose refer to, or leave the key out"
