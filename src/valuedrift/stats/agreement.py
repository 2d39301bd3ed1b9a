"""How far a judge agrees with people: calibration on texts that people labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from ..judge import Judge
from ..nouns import OUTCOMES, Reading
from ..records.gold import Gold, outcome_of, read_gold
from .intervals import REPLICATES, TAIL, rng_for, weights

BINS = 10
MIN_GROUPS = 10
"""With fewer issues or claims there is no interval, because 2,000 replicates are too few for the wide tails that they need."""
UNREAD = len(OUTCOMES)
"""The column of missing verdicts in tables of counts, after the outcomes. It is never right."""
ORDERED = 50
"""Most texts, spread evenly over the file, for the position bias. Each of them takes five verdicts."""


def calibrate(judge: Judge, gold: Path | Sequence[Gold], position_bias: bool = False) -> dict[str, Any]:
    """Return how a judge agrees with a gold file: n, macro_f1, macro_f1_all, accuracy, kappa, ece, confusion, missing_share, intervals,
    by_framing.

    The judge's verdict is its likeliest outcome. Texts without a label are only counted (`n_unlabelled`). Texts without a reading
    count as missing, and as wrong in `macro_f1_all` alone. Macro-F1 is the mean over the outcomes that the gold labels hold. Numbers are
    None if nothing was read. `majority` is the accuracy of always saying the most frequent label, `framing_only` that of saying the framing
    of the prompt (over texts whose framing names a stance). With `position_bias` the judge measures its own on at most 50 of the
    texts, if it can.
    """
    given = read_gold(gold) if isinstance(gold, Path) else gold
    labelled = [row for row in given if row.outcome is not None]
    return _agreement(judge, given, labelled, judge.read([row.item for row in labelled]), position_bias)


def wordings(make: Callable[[str], Judge], names: Sequence[str], gold: Path | Sequence[Gold]) -> list[dict[str, Any]]:
    """Return `calibrate` of one judge in several wordings (`make(name)` is the judge in one), each with its `difference` from the first.

    `difference`: score -> value, low, high of this wording minus the first, over the texts that both could read, with the same bootstrapped
    issues or claims. None if there are too few of them.
    """
    given = read_gold(gold) if isinstance(gold, Path) else gold
    labelled = [row for row in given if row.outcome is not None]

    def read(judge: Judge) -> tuple[dict[str, Any], Sequence[Reading]]:  # holds one judge at a time: each may be a model in memory
        readings = judge.read([row.item for row in labelled])
        return _agreement(judge, given, labelled, readings, position_bias=True), readings

    found = [read(make(name)) for name in names]
    first = found[0][1]
    return [
        {"wording": name, **result, "difference": _difference(labelled, readings, first)}
        for name, (result, readings) in zip(names, found, strict=True)
    ]


def _agreement(
    judge: Judge, given: Sequence[Gold], labelled: Sequence[Gold], readings: Sequence[Reading], position_bias: bool
) -> dict[str, Any]:
    pairs = list(zip(labelled, readings, strict=True))
    everything = Verdicts.of(pairs)
    kept = [pair for pair in pairs if pair[1].probs is not None]
    read = Verdicts.of(kept)
    framings = sorted({row.framing for row in labelled} - {""})
    by_framing = {name: Verdicts.of([pair for pair in kept if pair[0].framing == name]) for name in framings}
    some = [row.item for row in labelled[:: max(1, -(-len(labelled) // ORDERED))]]
    bias = judge.position_bias(some) if position_bias else None
    counts_GV = read.counts()
    guesses = [(outcome_of(row.framing), row.outcome) for row, _ in kept if outcome_of(row.framing)]
    return {
        "judge": judge.identity,
        "note": judge.note,
        "n": len(labelled),
        "n_unlabelled": len(given) - len(labelled),
        "n_groups": len({row.group for row in labelled}),
        "missing_share": 1 - len(kept) / len(labelled) if labelled else None,
        **read.scores(),
        "macro_f1_all": _number(macro_f1(everything.counts())) if kept else None,
        "majority": _number(counts_GV.sum(1).max() / len(kept)) if kept else None,
        "framing_only": sum(guess == outcome for guess, outcome in guesses) / len(guesses) if guesses else None,
        "confusion": {
            name: dict(zip(OUTCOMES, row_V[:UNREAD].astype(int).tolist(), strict=True))
            for name, row_V in zip(OUTCOMES, counts_GV, strict=False)
            if row_V.any()
        },
        "intervals": read.intervals() | {"macro_f1_all": everything.interval(macro_f1) if kept else None},
        "by_framing": {name: by_framing[name].scores() | {"intervals": by_framing[name].intervals()} for name in framings},
        **({"position_bias": bias} if bias else {}),
    }


def _difference(
    labelled: Sequence[Gold], readings: Sequence[Reading], first: Sequence[Reading]
) -> dict[str, dict[str, float | None] | None]:
    both = [(row, one, other) for row, one, other in zip(labelled, readings, first, strict=True) if one.probs and other.probs]
    ours, theirs = Verdicts.of([(row, one) for row, one, _ in both]), Verdicts.of([(row, other) for row, _, other in both])
    if ours.n_groups < MIN_GROUPS:
        return dict.fromkeys(SCORES)
    found: dict[str, dict[str, float | None] | None] = {}
    for name, score in SCORES.items():
        low, high = ours.quantiles(score(ours.resampled()) - score(theirs.resampled())) or (None, None)
        found[name] = {"value": _number(score(ours.counts()) - score(theirs.counts())), "low": low, "high": high}
    return found


@dataclass(frozen=True)
class Verdicts:
    """A judge's verdicts on labelled texts: numbers of the label and the verdict, the verdict's probability, and the text's group."""

    label_N: np.ndarray
    verdict_N: np.ndarray
    """`UNREAD` if the judge gave none."""
    sure_N: np.ndarray
    group_N: np.ndarray
    """The number of the issue or claim, which is the unit of the intervals."""
    n_groups: int

    @staticmethod
    def of(pairs: Sequence[tuple[Gold, Reading]]) -> Verdicts:
        """Return the verdicts of some readings."""
        groups = {name: number for number, name in enumerate(sorted({row.group for row, _ in pairs}))}
        labels = [OUTCOMES.index(row.outcome) for row, _ in pairs if row.outcome in OUTCOMES]
        verdicts = [UNREAD if reading.probs is None else int(np.argmax(reading.probs)) for _, reading in pairs]
        sure = [np.nan if reading.probs is None else max(reading.probs) for _, reading in pairs]
        numbers = np.array(labels, int), np.array(verdicts, int), np.array(sure), np.array([groups[row.group] for row, _ in pairs], int)
        return Verdicts(*numbers, len(groups))

    def counts(self) -> np.ndarray:
        """Return counts [label, verdict], both in the order of OUTCOMES with UNREAD after them."""
        return self._by_group().sum(0)

    def _by_group(self) -> np.ndarray:
        table_KGV = np.zeros((self.n_groups, UNREAD + 1, UNREAD + 1))
        np.add.at(table_KGV, (self.group_N, self.label_N, self.verdict_N), 1)
        return table_KGV

    def scores(self) -> dict[str, Any]:
        """Return the number of texts and every score, None without evidence."""
        right_N = (self.label_N == self.verdict_N).astype(float)
        ece = calibration_error(self.sure_N, right_N) if len(right_N) else None
        return {"n_read": len(right_N), **{name: _number(score(self.counts())) for name, score in SCORES.items()}, "ece": ece}

    def resampled(self) -> np.ndarray:
        """Return the counts of bootstrapped groups, axes replicate, label, verdict."""
        return np.tensordot(self._drawn(), self._by_group(), 1)

    def _drawn(self) -> np.ndarray:
        return weights(rng_for(0, "agreement"), self.n_groups, REPLICATES)

    def quantiles(self, values_R: np.ndarray) -> list[float] | None:
        """Return Hesterberg's (2015) expanded percentile interval: of K groups, the quantiles at z = +-t(K - 1) sqrt(K / (K - 1)).

        Plain percentiles covered the true accuracy, macro-F1 and kappa in 86-90 % with 10 groups and in 88-92 % with 15; these cover 92-96
        %. None if no value is known.
        """
        there = values_R[~np.isnan(values_R)]
        tail = float(ndtr(stdtrit(self.n_groups - 1, 1 - TAIL) * np.sqrt(self.n_groups / (self.n_groups - 1))))
        return [float(bound) for bound in np.quantile(there, (tail, 1 - tail))] if len(there) else None

    def interval(self, score: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
        """Return the 95 % interval of a score, None for too few groups."""
        return None if self.n_groups < MIN_GROUPS else self.quantiles(score(self.resampled()))

    def intervals(self) -> dict[str, list[float] | None]:
        """Return the intervals of all scores. That of `ece` is reflected: binning makes it too large, and more so in resamples."""
        return {name: self.interval(score) for name, score in SCORES.items()} | {"ece": self._ece_interval()}

    def _ece_interval(self) -> list[float] | None:
        if self.n_groups < MIN_GROUPS:
            return None
        right_N = (self.label_N == self.verdict_N).astype(float)
        gaps_KB = np.zeros((self.n_groups, BINS))
        np.add.at(gaps_KB, (self.group_N, _bins(self.sure_N)), self.sure_N - right_N)
        drawn_RK = self._drawn()
        low, high = self.quantiles(np.abs(drawn_RK @ gaps_KB).sum(1) / (drawn_RK @ np.bincount(self.group_N))) or (0.0, 1.0)
        value = calibration_error(self.sure_N, right_N)
        return [float(min(1.0, max(0.0, 2 * value - bound))) for bound in (high, low)]


def accuracy(confusion_GV: np.ndarray) -> np.ndarray:
    """Return the share on the diagonal of counts [..., gold, verdict]; nan if there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.trace(confusion_GV, axis1=-2, axis2=-1) / confusion_GV.sum((-2, -1))


def macro_f1(confusion_GV: np.ndarray) -> np.ndarray:
    """Return the mean over gold classes that occur of 2 hits / (gold + verdicts) of counts [..., gold, verdict]; nan if none does."""
    hits, gold, verdicts = np.diagonal(confusion_GV, axis1=-2, axis2=-1), confusion_GV.sum(-1), confusion_GV.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gold > 0, 2 * hits / (gold + verdicts), 0).sum(-1) / (gold > 0).sum(-1)


def kappa(confusion_GV: np.ndarray) -> np.ndarray:
    """Return Cohen's (1960) kappa, (accuracy - chance) / (1 - chance), of counts [..., gold, verdict]; nan if chance is 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (confusion_GV.sum(-1) * confusion_GV.sum(-2)).sum(-1) / confusion_GV.sum((-2, -1)) ** 2
        return (accuracy(confusion_GV) - chance) / (1 - chance)


# scikit-learn's formulas, for many tables at once: 2,000 replicates take 0.01 s here and 22 s with sklearn.metrics (220 texts).
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"macro_f1": macro_f1, "accuracy": accuracy, "kappa": kappa}


def calibration_error(sure_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the expected calibration error: |mean confidence - accuracy| in ten equal bins, weighted by rows (Naeini et al. 2015)."""
    gap_B = np.bincount(_bins(sure_N), sure_N - right_N, BINS)
    return float(np.abs(gap_B).sum() / len(sure_N))


def _bins(sure_N: np.ndarray) -> np.ndarray:
    return np.minimum((sure_N * BINS).astype(int), BINS - 1)


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def headlined(agreement: dict[str, Any] | None, least: float) -> tuple[bool, str]:
    """Return whether findings of a judge may be headlined, and the sentence that says why; `agreement` is what `calibrate` returns.

    The macro-F1 must reach `least`; the lower end of its interval need not. A judge without any comparison is headlined with a warning, so
    a judge compared on few texts must not be treated worse. The sentence gives the interval. Texts that the judge could not read count as
    wrong, because it may fail on a run's answers as often as on these texts.
    """
    if agreement is None:
        return True, "This judge was never compared with people; its figures may be wrong by an unknown amount."
    n, n_read = agreement["n"], agreement["n_read"]
    if not n_read:
        return False, f"This judge read none of {n} human-labelled texts; its findings are reported but not headlined."
    score = "macro_f1" if n_read == n else "macro_f1_all"  # the same if all were read
    found, (low, high) = agreement[score], agreement["intervals"][score] or (None, None)
    shown = f"{found:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
    measured = f"This judge agrees with {n} labels at a macro-F1 of {shown}"
    if n_read < n:
        measured = f"This judge read {n_read} of {n} human-labelled texts; with the rest counted as wrong, its macro-F1 is {shown}"
    if found < least:
        return False, f"{measured}, below the required {least:.2f}; its findings are reported but not headlined."
    if low is not None and low < least:
        return True, f"{measured}; the required {least:.2f} lies inside the interval, so the true value may be below it."
    return True, f"{measured}; too few issues for an interval, so it is uncertain." if low is None else f"{measured}."


def validity(judge: Judge, least: float, compared: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the judge's validity (`headlined`) and the agreement that it rests on.

    An agreement measured in this run (`compared`) takes precedence. Without one, a judge that is exact by construction is valid, and other
    judges use the agreement stored with them.
    """
    if compared is None and judge.exact:
        return {"agreement": None, "headlined": True, "why": ""}
    agreement = compared or judge.agreement
    fine, why = headlined(agreement, least)
    return {"agreement": agreement, "headlined": fine, "why": why}
