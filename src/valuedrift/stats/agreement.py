"""How far a judge agrees with people: calibration on texts that people labelled."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from .. import registry
from ..judge import Judge
from ..nouns import OUTCOMES, Item, Reading
from .gold import Gold, outcome_of, read_gold
from .intervals import REPLICATES, TAIL, rng_for, weights

BINS = 10
MIN_GROUPS = 10
"""Issues or claims under which there is no interval: 2,000 replicates have too few in the tails that so few groups need."""
UNREAD = len(OUTCOMES)
"""The verdict, in tables of counts, of a judge that gave none: after the outcomes, and never right."""
ORDERED = 100
"""Texts, evenly spread over the file, on which a judge measures its position bias: each costs several verdicts."""


def calibrate(judge: Judge, gold: Path | Sequence[Gold], position_bias: bool = False) -> dict[str, Any]:
    """Return how a judge agrees with a gold file: n, macro_f1, macro_f1_all, accuracy, kappa, ece, confusion, missing_share, intervals,
    by_framing.

    The judge's verdict is its likeliest outcome. Texts without a label are counted (`n_unlabelled`) and not judged; those without a reading
    count as missing and are scored nowhere but in `macro_f1_all`, where they count as wrong. Macro-F1 is the mean over the outcomes that
    the gold labels hold. Numbers are None where nothing was read. `majority` is the accuracy of always saying the most frequent label,
    `framing_only` that of saying the framing of the prompt (over texts whose framing names a stance). Intervals: 95 %, bootstrapped over
    issues or claims (none under 10 of them): expanded percentiles, for `ece` reflected (2 ece - percentiles), because binning makes it too
    large, and more so in resamples. With `position_bias` the judge measures its own on about a hundred of the texts, if it can.
    """
    given = read_gold(gold) if isinstance(gold, Path) else gold
    return _agreement(judge, given, judge.read(_items(given)), position_bias)


def wordings(make: Callable[[str], Judge], names: Sequence[str], gold: Path | Sequence[Gold]) -> list[dict[str, Any]]:
    """Return `calibrate` of one judge in several wordings (`make(name)` is the judge in one), each with its `difference` from the first.

    `difference`: score -> value, low, high of this wording less the first, over the texts that both read, on the same bootstrapped issues
    or claims. None without the texts or groups for it.
    """
    given = read_gold(gold) if isinstance(gold, Path) else gold

    def read(judge: Judge) -> tuple[dict[str, Any], list[Reading]]:  # holds one judge at a time: each may be a model in memory
        readings = judge.read(_items(given))
        return _agreement(judge, given, readings, position_bias=True), readings

    found = [read(make(name)) for name in names]
    first, labelled = found[0][1], _labelled(given)
    return [
        {"wording": name, **result, "difference": _difference(labelled, readings, first)}
        for name, (result, readings) in zip(names, found, strict=True)
    ]


Read = Sequence[tuple[Gold, Reading]]


def _labelled(given: Sequence[Gold]) -> list[Gold]:
    return [row for row in given if row.outcome is not None]


def _items(given: Sequence[Gold]) -> list[Item]:
    return [row.item for row in _labelled(given)]


def _agreement(judge: Judge, given: Sequence[Gold], readings: Sequence[Reading], position_bias: bool) -> dict[str, Any]:
    labelled = _labelled(given)
    everything = list(zip(labelled, readings, strict=True))
    read = [(row, reading) for row, reading in everything if reading.probs is not None]
    framings = sorted({row.framing for row in labelled} - {""})
    some = _items(given)[:: max(1, len(labelled) // ORDERED)]
    bias = judge.position_bias(some) if position_bias else None
    return {
        "judge": judge.identity,
        "note": judge.note,
        "n": len(labelled),
        "n_unlabelled": len(given) - len(labelled),
        "n_groups": len({row.group for row in labelled}),
        "missing_share": 1 - len(read) / len(labelled) if labelled else None,
        **_scores(read),
        "macro_f1_all": _number(macro_f1(_confusion(everything))) if read else None,
        "majority": _majority(read),
        "framing_only": _framing_only(read),
        "confusion": _named(_confusion(read)),
        "intervals": _intervals(read) | {"macro_f1_all": _interval_all(everything) if read else None},
        "by_framing": {framing: _part([pair for pair in read if pair[0].framing == framing]) for framing in framings},
        **({"position_bias": bias} if bias else {}),
    }


def _difference(
    labelled: Sequence[Gold], readings: Sequence[Reading], first: Sequence[Reading]
) -> dict[str, dict[str, float | None] | None]:
    both = [(row, one, other) for row, one, other in zip(labelled, readings, first, strict=True) if one.probs and other.probs]
    ours: Read = [(row, one) for row, one, _ in both]
    theirs: Read = [(row, other) for row, _, other in both]
    resampled = _resampled(ours), _resampled(theirs)
    if resampled[0] is None or resampled[1] is None:
        return dict.fromkeys(SCORES)
    found: dict[str, dict[str, float | None] | None] = {}
    for name, score in SCORES.items():
        low, high = _quantiles(score(resampled[0]) - score(resampled[1]), _tails(ours)) or (None, None)
        found[name] = {"value": _number(score(_confusion(ours)) - score(_confusion(theirs))), "low": low, "high": high}
    return found


def _scores(read: Read) -> dict[str, Any]:
    confusion = _confusion(read)
    return {"n_read": len(read), **{name: _number(score(confusion)) for name, score in SCORES.items()}, "ece": _ece(read)}


def _part(read: Read) -> dict[str, Any]:
    return _scores(read) | {"intervals": _intervals(read)}


def _verdict(reading: Reading) -> int:
    return UNREAD if reading.probs is None else int(np.argmax(reading.probs))


def _confusion(read: Read) -> np.ndarray:
    """Return counts [gold outcome, verdict], both in the order of OUTCOMES with UNREAD after them."""
    table = np.zeros((UNREAD + 1, UNREAD + 1))
    for row, reading in read:
        table[OUTCOMES.index(str(row.outcome)), _verdict(reading)] += 1
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
    return calibration_error(*_sureness(read)) if read else None


def _sureness(read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each verdict, and whether it was right."""
    sure = np.array([max(reading.probs or ()) for _, reading in read])
    return sure, np.array([OUTCOMES[_verdict(reading)] == row.outcome for row, reading in read], float)


def calibration_error(sure_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the expected calibration error: |mean confidence - accuracy| in ten equal bins, weighted by rows (Naeini et al. 2015)."""
    gap_B = np.bincount(_bins(sure_N), sure_N - right_N, BINS)
    return float(np.abs(gap_B).sum() / len(sure_N))


def _bins(sure_N: np.ndarray) -> np.ndarray:
    return np.minimum((sure_N * BINS).astype(int), BINS - 1)


def _majority(read: Read) -> float | None:
    return _number(_confusion(read).sum(1).max() / len(read)) if read else None


def _framing_only(read: Read) -> float | None:
    """Return the accuracy of taking the framing of the prompt for the stance of the text; None where no framing names a stance."""
    guesses = [(outcome_of(row.framing), row.outcome) for row, _ in read if outcome_of(row.framing)]
    return sum(guess == outcome for guess, outcome in guesses) / len(guesses) if guesses else None


def _named(confusion: np.ndarray) -> dict[str, dict[str, int]]:
    counts = confusion[:UNREAD, :UNREAD].astype(int)
    return {name: dict(zip(OUTCOMES, row.tolist(), strict=True)) for name, row in zip(OUTCOMES, counts, strict=True) if row.any()}


def _intervals(read: Read) -> dict[str, list[float] | None]:
    resampled_RGV = _resampled(read)
    if resampled_RGV is None:
        return dict.fromkeys((*SCORES, "ece"))
    tails = _tails(read)
    found: dict[str, list[float] | None] = {name: _quantiles(score(resampled_RGV), tails) for name, score in SCORES.items()}
    return found | {"ece": _ece_interval(read)}


def _interval_all(everything: Read) -> list[float] | None:
    resampled_RGV = _resampled(everything)
    return None if resampled_RGV is None else _quantiles(macro_f1(resampled_RGV), _tails(everything))


def _groups(read: Read) -> tuple[np.ndarray, int]:
    """Return the number of each row's group (issue or claim), and how many there are."""
    names = {name: number for number, name in enumerate(sorted({row.group for row, _ in read}))}
    return np.array([names[row.group] for row, _ in read], int), len(names)


def _resampled(read: Read) -> np.ndarray | None:
    """Return the counts [gold, verdict] of bootstrapped groups, axes R, G, V; None where there are too few groups."""
    group_N, n_groups = _groups(read)
    if n_groups < MIN_GROUPS:
        return None
    tables_KGV = np.zeros((n_groups, UNREAD + 1, UNREAD + 1))
    for group, (row, reading) in zip(group_N, read, strict=True):
        tables_KGV[group, OUTCOMES.index(str(row.outcome)), _verdict(reading)] += 1
    return np.tensordot(weights(rng_for(0, "agreement"), n_groups, REPLICATES), tables_KGV, 1)


def _ece_interval(read: Read) -> list[float]:
    group_N, n_groups = _groups(read)
    sure_N, right_N = _sureness(read)
    gaps_KB, counts_K = np.zeros((n_groups, BINS)), np.bincount(group_N)
    np.add.at(gaps_KB, (group_N, _bins(sure_N)), sure_N - right_N)
    drawn_RK = weights(rng_for(0, "agreement"), n_groups, REPLICATES)
    low, high = np.quantile(np.abs(drawn_RK @ gaps_KB).sum(1) / (drawn_RK @ counts_K), _tails(read))
    value = calibration_error(sure_N, right_N)
    return [float(min(1.0, max(0.0, 2 * value - bound))) for bound in (high, low)]


def _tails(read: Read) -> tuple[float, float]:
    """Return the quantiles of Hesterberg's (2015) expanded percentile interval: of K groups, those at z = +-t(K - 1) sqrt(K / (K - 1)).

    Plain percentiles held the truth of accuracy, macro-F1 and kappa in 86-90 % with 10 groups and 88-92 % with 15; these in 92-96 %.
    """
    _, n_groups = _groups(read)
    low = float(ndtr(stdtrit(n_groups - 1, 1 - TAIL) * np.sqrt(n_groups / (n_groups - 1))))
    return low, 1 - low


def _quantiles(values_R: np.ndarray, tails: tuple[float, float]) -> list[float] | None:
    """Return the quantiles `tails` of what is not nan, None where all is."""
    there = values_R[~np.isnan(values_R)]
    return [float(bound) for bound in np.quantile(there, tails)] if len(there) else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def headlined(agreement: dict[str, Any] | None, least: float) -> tuple[bool, str]:
    """Return whether findings of a judge may be headlined, and the sentence that says why; `agreement` is what `calibrate` returns.

    The macro-F1 itself has to reach `least`, not the lower end of its interval: a judge that was never compared is headlined with a
    warning, and one that was compared on few texts must not fare worse for that. The sentence gives the interval. Texts that the judge did
    not read count as wrong: what it reads of a run is no better known than what it reads of these.
    """
    if agreement is None:
        return True, "This judge was never compared with people; its figures may be wrong by an unknown amount."
    n, n_read = agreement["n"], agreement["n_read"]
    if not n_read:
        return False, f"This judge read none of {n} human-labelled texts; its findings are reported but not headlined."
    score = "macro_f1" if n_read == n else "macro_f1_all"  # the same, where all were read
    found, (low, high) = agreement[score], agreement["intervals"][score] or (None, None)
    shown = f"{found:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
    measured = f"This judge agrees with {n} human labels at a macro-F1 of {shown}"
    if n_read < n:
        measured = f"This judge read {n_read} of {n} human-labelled texts; with the rest counted as wrong, its macro-F1 is {shown}"
    if found < least:
        return False, f"{measured}, under the {least:.2f} asked for; its findings are reported but not headlined."
    if low is not None and low < least:
        return True, f"{measured}; the {least:.2f} asked for lies inside the interval, so it may well be under it."
    return True, f"{measured}; too few issues for an interval, so that it is hardly known." if low is None else f"{measured}."


def standing(judge: Judge, least: float, compared: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what `headlined` says of a judge, and the agreement it was said of.

    A comparison made here and now (`compared`) counts first. Without one, a judge that is exact by construction needs none, and of
    others the agreement that is stored with them counts.
    """
    if compared is None and judge.exact:
        return {"agreement": None, "headlined": True, "why": ""}
    agreement = compared or judge.agreement
    fine, why = headlined(agreement, least)
    return {"agreement": agreement, "headlined": fine, "why": why}


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
        low, high = row["intervals"]["macro_f1"] or (float("nan"),) * 2
        numbers = " | ".join(f"{row[name]:.2f}" for name in ("accuracy", "majority", "kappa", "ece"))
        lines.append(f"| {row['gold']} | {row['part']} | {row['n']} | {row['macro_f1']:.2f} [{low:.2f}, {high:.2f}] | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(record(sys.argv[1], [Path(argument) for argument in sys.argv[2:]])))
