"""Gold labels: texts that people labelled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..nouns import BadInput, Item
from .rows import missing, rows

GRADES = {
    "support": ("support", "pro", "favor", "favour", "agree", "only_pro", "mostly_pro", "mildly_support"),
    "neutral": ("neutral", "none", "neither", "balanced"),
    "oppose": ("oppose", "con", "against", "undermine", "disagree", "only_con", "mostly_con", "mildly_undermine"),
    "refusal": ("refusal", "refuse", "refused"),
    "invalid": ("invalid", "incoherent", "unreadable", "off_topic"),
}
LABELS = {word: outcome for outcome, words in GRADES.items() for word in words}
"""Gold label -> outcome. Five grades become three."""


@dataclass(frozen=True)
class Gold:
    """One text that people labelled. `group`, the issue or claim that its rows share, is the unit of the intervals."""

    item: Item
    outcome: str | None
    """None if the text has no label yet."""
    group: str
    framing: str
    answers: tuple[str, ...] = ()
    """Keys of the run's sampled answers that the label applies to."""
    inclusion: tuple[float, ...] = ()
    """The probability with which each answer was drawn."""


def read_gold(path: Path) -> list[Gold]:
    """Return the texts of a file with `text`, `stance` (null or empty: not labelled yet) and `claim` (or `pro_reading`, as in IssueBench).

    The stance is the text's towards the claim. Raises BadInput with the line of an unknown label, a missing key, or a second label that
    contradicts the first.
    """
    gold = _once((where, _gold(where, row)) for where, row in rows(str(path)))
    if all(row.outcome is None for row in gold):
        raise BadInput(f"{path} holds {len(gold)} texts and no label; fill in 'stance' with one of {', '.join(GRADES)}")
    return gold


def outcome_of(label: Any) -> str | None:
    """Return the outcome that a label names, or None."""
    return LABELS.get(str(label).strip().lower().replace(" ", "_").replace("-", "_"))


def _gold(where: str, row: dict[str, Any]) -> Gold:
    # An issue in neutral words ("tax evasion") has no side; its pro reading ("tax evasion being good") is the claim.
    claim = row.get("claim") or row.get("pro_reading") or row.get("issue")
    if not (isinstance(claim, str) and isinstance(row.get("text"), str) and "stance" in row):
        raise missing(where, row, "'text', 'stance', and 'claim', 'pro_reading' or 'issue'")
    unlabelled = row["stance"] is None or not str(row["stance"]).strip()
    outcome = None if unlabelled else outcome_of(row["stance"])
    if outcome is None and not unlabelled:
        raise BadInput(f"{where}: unknown stance {row['stance']!r}; use one of {', '.join(sorted(LABELS))}")
    answers = row.get("answer") or ()
    if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
        raise BadInput(f"{where}: 'answer' is {answers!r}, not a list of keys; restore it from the sample")
    inclusion = row.get("inclusion") or []
    chances = isinstance(inclusion, list) and all(isinstance(chance, float | int) and 0 < chance <= 1 for chance in inclusion)
    if not chances or len(inclusion) != len(answers):
        raise BadInput(f"{where}: 'inclusion' is {inclusion!r}, not a chance for each key in 'answer'; restore both from the sample")
    item = Item(str(row.get("prompt") or claim), claim, row["text"], str(row.get("topic") or ""))
    framing = str(row.get("prompt_framing") or row.get("framing") or "")
    return Gold(item, outcome, str(row.get("issue") or claim), framing, tuple(answers), tuple(inclusion))


def _once(read: Iterable[tuple[str, Gold]]) -> list[Gold]:
    """Return each labelled text once, for the sampled answers of all its rows. The same text under another prompt or claim is another text.

    Two rows of one text are one label. Counted twice, they would make the interval of every score too narrow.
    """
    first: dict[Item, int] = {}
    found: list[Gold] = []
    for where, row in read:
        at = len(found) if row.outcome is None else first.setdefault(row.item, len(found))
        if at == len(found):
            found.append(row)
            continue
        if row.outcome != found[at].outcome:
            raise BadInput(
                f"{where}: the stance is {row.outcome!r}, but an earlier row labels the same text {found[at].outcome!r}; keep one of them"
            )
        found[at] = replace(found[at], answers=found[at].answers + row.answers, inclusion=found[at].inclusion + row.inclusion)
    return found
