"""Any JSONL file of prompts as a suite."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..nouns import BadInput, Prompt
from ..registry import nearest

FIELDS = ("id", "topic", "text", "claim", "polarity")
NEAR = 0.7
"""Character 4-gram Jaccard similarity from which on two questions count as one. Rewordings of one question lie above it;
distinct questions that share a template ("Should ... be allowed to ...?") lie below."""


class Suite:
    """The prompts of one file. Only `text` is required.

    `id` defaults to the line number, `topic` to "general", `claim` to the text itself (then support means agreeing with what the
    question puts), `polarity` to 0.
    """

    def __init__(self, argument: str):
        self.path = Path(argument)

    def prompts(self) -> list[Prompt]:
        """Return the prompts in file order. Raises BadInput naming the first fault and how many more there are."""
        found = [item for _, item in _read(self.path)]
        faults = [item for item in found if isinstance(item, str)]
        if faults:
            more = f" (and {len(faults) - 1} more; 'valuedrift suite check {self.path}' lists them)" if len(faults) > 1 else ""
            raise BadInput(faults[0] + more)
        return [item for item in found if isinstance(item, Prompt)]


def check(path: Path | str) -> list[str]:
    """Return every fault of a suite file as one sentence with file and line, near-duplicates included."""
    path = Path(path)
    found = list(_read(path))
    prompts = [(line, item) for line, item in found if isinstance(item, Prompt)]
    faults = [item for _, item in found if isinstance(item, str)]
    for first, second, similarity in near_duplicates([prompt.text for _, prompt in prompts]):
        (line, one), (again, other) = prompts[first], prompts[second]
        faults.append(
            f"{path}:{again}: {other.id!r} is nearly the question of {one.id!r} on line {line} "
            f"(similarity {similarity:.2f}); reword or remove one"
        )
    return faults


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
    shared = (left @ right.T).tocoo()
    pairs = []
    for i, j, both in zip(shared.row, shared.col, shared.data, strict=True):
        similarity = both / (sizes[i] + sizes[j + shift] - both)
        if similarity >= threshold and (others is not None or i < j):
            pairs.append((int(i), int(j), float(similarity)))
    return sorted(pairs)


def _read(path: Path) -> Iterator[tuple[int, Prompt | str]]:
    """Yield each line's number with its prompt or the sentence that says what is wrong with it; blank lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise BadInput(f"there is no suite file {path}; give a JSONL file or the name of a suite ('valuedrift suite list')") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the suite file {path} cannot be read: {error}; it must be JSONL in UTF-8") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _prompt(line, f"{path}:{number}", number, seen)
    if not seen:
        raise BadInput(f"the suite file {path} holds no prompt; write one JSON object with a 'text' per line")


def _prompt(line: str, where: str, number: int, seen: dict[str, int]) -> Prompt | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        seen.setdefault("", number)
        return f"{where}: not a JSON object ({error}); mend or remove the line"
    fault = _fault(row)
    id = str(row.get("id", number)) if isinstance(row, dict) else ""
    if not fault and id in seen:
        fault = f"the id {id!r} stands already on line {seen[id]}; ids must be unique"
    seen.setdefault(id, number)
    if fault:
        return f"{where}: {fault}"
    return Prompt(id, str(row.get("topic", "general")), row["text"], row.get("claim") or row["text"], row.get("polarity", 0))


def _fault(row: Any) -> str:
    if not isinstance(row, dict):
        return "not a JSON object; write one object with a 'text' per line"
    for key in row:
        if key not in FIELDS and (hint := nearest(key, list(FIELDS))):
            return f"unknown key {key!r}{hint}"
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        return "the key 'text' is missing or empty; every prompt needs a question"
    if broken := [c for c in text + str(row.get("claim", "")) if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Co", "Cs")]:
        return f"broken character {broken[0]!r} in the text or claim; mend the encoding"
    if row.get("topic") == "all":
        return "the topic 'all' names the mean over all topics; call it otherwise"
    if row.get("polarity", 0) not in (1, -1, 0):
        return f"polarity must be 1, -1 or 0, not {row['polarity']!r}"
    if "claim" in row and not (isinstance(row["claim"], str) and row["claim"].strip()):
        return "the claim is no text or empty; write the proposition that support and oppose refer to, or leave the key out"
    return ""
