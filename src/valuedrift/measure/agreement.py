"""How far a judge agrees with people: calibration on texts that people labelled."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from ..data._rows import missing, rows
from ..nouns import OUTCOMES, BadInput, Item, Reading
from ._resample import MIN_PROMPTS, REPLICATES, rng_for, weights

GRADES = {
    "support": ("support", "pro", "favor", "favour", "agree", "only_pro", "mostly_pro", "mildly_support"),
    "neutral": ("neutral", "none", "neither", "balanced"),
    "oppose": ("oppose", "con", "against", "undermine", "disagree", "only_con", "mostly_con", "mildly_undermine"),
    "refusal": ("refusal", "refuse", "refused"),
}
LABELS = {word: outcome for outcome, words in GRADES.items() for word in words}
"""What a gold label may be called -> its outcome; five grades become three."""
BINS = 10


@dataclass(frozen=True)
class Gold:
    """One text that people labelled. `group` is what its rows share (the issue or claim): the unit of the intervals."""

    item: Item
    outcome: str
    group: str
    framing: str


def read_gold(path: Path) -> list[Gold]:
    """Return the labelled texts of a file with `text`, `stance` and `claim` (or `pro_reading`, as in IssueBench).

    The stance is the text's towards the claim. Raises BadInput with the line of an unknown label or a missing key.
    """
    return [_gold(where, row) for where, row in rows(str(path))]


def _gold(where: str, row: dict[str, Any]) -> Gold:
    # An issue in neutral words ("tax evasion") has no side; its pro reading ("tax evasion being good") is the claim.
    claim = row.get("claim") or row.get("pro_reading") or row.get("issue")
    if not (isinstance(claim, str) and isinstance(row.get("text"), str) and row.get("stance") is not None):
        raise missing(where, row, "'text', 'stance', and 'claim', 'pro_reading' or 'issue'")
    outcome = LABELS.get(str(row["stance"]).strip().lower().replace(" ", "_").replace("-", "_"))
    if outcome is None:
        raise BadInput(f"{where}: unknown stance {row['stance']!r}; use one of {', '.join(sorted(LABELS))}")
    item = Item(str(row.get("prompt") or claim), claim, row["text"], str(row.get("topic") or ""))
    return Gold(item, outcome, str(row.get("issue") or claim), str(row.get("prompt_framing") or row.get("framing") or ""))


def calibrate(judge: Any, gold: Path | Sequence[Gold]) -> dict[str, Any]:
    """Return how a judge agrees with a gold file: n, macro_f1, accuracy, kappa, ece, confusion, missing_share, intervals, by_framing.

    The judge's verdict is its likeliest outcome. Rows without a reading count as missing and are scored nowhere. Macro-F1 is the mean
    over the outcomes that the gold labels hold; an `invalid` verdict is wrong on all of them. Numbers are None where nothing was read.
    `majority` is the accuracy of always saying the most frequent label. Intervals: 95 % percentiles, bootstrapped over issues or claims.
    """
    labelled = read_gold(gold) if isinstance(gold, Path) else gold
    readings = judge.read([row.item for row in labelled])
    read = [(row, reading) for row, reading in zip(labelled, readings, strict=True) if reading.probs is not None]
    framings = sorted({row.framing for row in labelled} - {""})
    return {
        "judge": judge.identity,
        "note": judge.note,
        "n": len(labelled),
        "n_groups": len({row.group for row in labelled}),
        "missing_share": 1 - len(read) / len(labelled) if labelled else None,
        **_scores(read),
        "majority": _majority(read),
        "confusion": _named(_confusion(read)),
        "intervals": _intervals(read),
        "by_framing": {framing: _scores([pair for pair in read if pair[0].framing == framing]) for framing in framings},
    }


Read = Sequence[tuple[Gold, Reading]]


def _scores(read: Read) -> dict[str, Any]:
    confusion = _confusion(read)
    return {"n_read": len(read), **{name: _number(score(confusion)) for name, score in SCORES.items()}, "ece": _ece(read)}


def _verdict(reading: Reading) -> int:
    assert reading.probs is not None
    return int(np.argmax(reading.probs))


def _confusion(read: Read) -> np.ndarray:
    """Return counts [gold outcome, verdict], both in the order of OUTCOMES."""
    table = np.zeros((len(OUTCOMES), len(OUTCOMES)))
    for row, reading in read:
        table[OUTCOMES.index(row.outcome), _verdict(reading)] += 1
    return table


def accuracy(confusion_GV: np.ndarray) -> np.ndarray:
    """Return the share on the diagonal of counts [..., gold, verdict]; nan where there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.trace(confusion_GV, axis1=-2, axis2=-1) / confusion_GV.sum((-2, -1))


def macro_f1(confusion_GV: np.ndarray) -> np.ndarray:
    """Return the mean over gold classes that occur of 2 hits / (gold + verdicts) of counts [..., gold, verdict]; nan where none does."""
    hits, gold, verdicts = np.diagonal(confusion_GV, axis1=-2, axis2=-1), confusion_GV.sum(-1), confusion_GV.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gold > 0, 2 * hits / (gold + verdicts), 0).sum(-1) / (gold > 0).sum(-1)


def kappa(confusion_GV: np.ndarray) -> np.ndarray:
    """Return Cohen's (1960) kappa, (accuracy - chance) / (1 - chance), of counts [..., gold, verdict]; nan where chance is 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (confusion_GV.sum(-1) * confusion_GV.sum(-2)).sum(-1) / confusion_GV.sum((-2, -1)) ** 2
        return (accuracy(confusion_GV) - chance) / (1 - chance)


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"macro_f1": macro_f1, "accuracy": accuracy, "kappa": kappa}


def _ece(read: Read) -> float | None:
    if not read:
        return None
    sure = np.array([max(reading.probs or ()) for _, reading in read])
    right = np.array([OUTCOMES[_verdict(reading)] == row.outcome for row, reading in read], float)
    return calibration_error(sure, right)


def calibration_error(sure_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the expected calibration error: |mean confidence - accuracy| in ten equal bins, weighted by rows (Naeini et al. 2015)."""
    bin_N = np.minimum((sure_N * BINS).astype(int), BINS - 1)
    gap_B = np.bincount(bin_N, sure_N - right_N, BINS)
    return float(np.abs(gap_B).sum() / len(sure_N))


def _majority(read: Read) -> float | None:
    return _number(_confusion(read).sum(1).max() / len(read)) if read else None


def _named(confusion: np.ndarray) -> dict[str, dict[str, int]]:
    gold = [name for name, row in zip(OUTCOMES, confusion, strict=True) if row.any()]
    return {name: dict(zip(OUTCOMES, confusion[OUTCOMES.index(name)].astype(int).tolist(), strict=True)) for name in gold}


def _intervals(read: Read) -> dict[str, list[float] | None]:
    groups = sorted({row.group for row, _ in read})
    if len(groups) < MIN_PROMPTS:
        return dict.fromkeys(SCORES)
    tables_KGV = np.stack([_confusion([pair for pair in read if pair[0].group == group]) for group in groups])
    drawn_RK = weights(rng_for(0, "agreement"), len(groups), REPLICATES)
    resampled_RGV = np.tensordot(drawn_RK, tables_KGV, 1)
    return {name: [float(bound) for bound in np.nanquantile(score(resampled_RGV), (0.025, 0.975))] for name, score in SCORES.items()}


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def half(group: str) -> str:
    """Return "half A" or "half B": a fixed split by issue, for judges that are made on one half and reported on the other."""
    return f"half {'AB'[int(hashlib.sha256(group.encode()).hexdigest(), 16) % 2]}"


def record(name: str, golds: Sequence[Path]) -> list[dict[str, Any]]:
    """Measure a judge on gold files, whole and in halves; write the rows beside its file as NAME_agreement.jsonl and return them."""
    judge_class = registry.find("judge", name)
    judge = judge_class("")
    found = []
    for path in golds:
        labelled = read_gold(path)
        for part in ("all", "half A", "half B"):
            result = calibrate(judge, [row for row in labelled if part in ("all", half(row.group))])
            result.pop("note")  # made from these very rows
            found.append({"gold": path.resolve().parent.name, "part": part, **result})
    into = Path(inspect.getfile(judge_class)).with_name(f"{name}_agreement.jsonl")
    into.write_text("".join(json.dumps(row) + "\n" for row in found))
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return recorded agreement as a Markdown table."""
    lines = [
        "| gold | part | texts | macro-F1 [95 %] | accuracy | most frequent label | kappa | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        low, high = row["intervals"]["macro_f1"]
        numbers = " | ".join(f"{row[name]:.2f}" for name in ("accuracy", "majority", "kappa", "ece"))
        lines.append(f"| {row['gold']} | {row['part']} | {row['n']} | {row['macro_f1']:.2f} [{low:.2f}, {high:.2f}] | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(record(sys.argv[1], [Path(argument) for argument in sys.argv[2:]])))
