"""The value gap: how far the preferred replies of a data set differ in stance from the rejected ones, topic by topic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data import topics
from ..nouns import OUTCOMES, STANCES, Estimate, Example, Item, Pair, Prompt, Reading
from ._resample import Sample, difference, estimate, holm, interval, ratio, share_interval

REFUSAL = OUTCOMES.index("refusal")
LEVEL = 0.05


def value_gap(pairs: Sequence[Pair], suite: Sequence[Prompt], judge: Any) -> dict[str, Any]:
    """Return the value gap of preference pairs on the topics of a suite; every number is {value, low, high, n}, None without evidence.

    Per topic and stance: its share of chosen and of rejected replies among support, neutral and oppose (sum of p(s) over sum of the
    three), and their difference, paired by pair. `tv`: mean total variation between the readings of a pair's two replies, over all five
    outcomes. `refusal_gap` and `length_gap` (words): chosen minus rejected over all pairs on a topic; they confound the gap. A pair's
    topic and claim are found from the user's words. Pairs where the judge failed on a reply are left out and counted as `n_failed`.
    """
    matched = topics.match(suite, [_asked(pair.prompt, "") for pair in pairs])
    touching = [(pair, prompt) for pair, prompt in zip(pairs, matched, strict=True) if prompt is not None]
    items = [_item(pair.prompt, prompt, reply) for pair, prompt in touching for reply in (pair.chosen, pair.rejected)]
    probs_N2O = _probs(judge.read(items)).reshape(-1, 2, len(OUTCOMES))
    read_N = ~np.isnan(probs_N2O).any((1, 2))
    names = [prompt.topic for _, prompt in touching]
    words = np.array([len(pair.chosen.split()) - len(pair.rejected.split()) for pair, _ in touching], float)
    table = {name: _topic_gap(probs_N2O[read_N & _is(name, names)]) for name in _topics(suite)}
    _conclude(table)
    return {
        "n_pairs": len(pairs),
        "on_topic": len(touching),
        "n_failed": int((~read_N).sum()),
        "judge": judge.identity,
        "note": judge.note,
        "topics": table,
        "length_gap": {**_scaled(words), "unit": "words"},
        "refusal_gap": _record(interval(probs_N2O[read_N, 0, REFUSAL] - probs_N2O[read_N, 1, REFUSAL])),
    }


def value_shares(examples: Sequence[Example], suite: Sequence[Prompt], judge: Any) -> dict[str, Any]:
    """Return the stances that texts to be imitated take, per topic: shares among the three; refusal and invalid as shares of all."""
    matched = topics.match(suite, [_asked(example.prompt, example.text) for example in examples])
    touching = [(example, prompt) for example, prompt in zip(examples, matched, strict=True) if prompt is not None]
    probs_NO = _probs(judge.read([_item(example.prompt, prompt, example.text) for example, prompt in touching]))
    read_N = ~np.isnan(probs_NO).any(1)
    names = [prompt.topic for _, prompt in touching]
    return {
        "n_examples": len(examples),
        "on_topic": len(touching),
        "n_failed": int((~read_N).sum()),
        "judge": judge.identity,
        "note": judge.note,
        "topics": {name: _shares(probs_NO[read_N & _is(name, names)]) for name in _topics(suite)},
    }


def _asked(prompt: tuple[tuple[str, str], ...], otherwise: str) -> str:
    """Return all that the user says: in a long conversation the last words ("and why?") rarely name the topic."""
    return "\n".join(text for role, text in prompt if role == "user") or otherwise


def _item(prompt: tuple[tuple[str, str], ...], near: Prompt, reply: str) -> Item:
    question = next((text for role, text in reversed(prompt) if role == "user"), near.text)
    return Item(question, near.claim, reply, near.topic)


def _probs(readings: Iterable[Reading]) -> np.ndarray:
    """Return probabilities [N, outcome]; nan where the judge failed."""
    rows = [reading.probs or (np.nan,) * len(OUTCOMES) for reading in readings]
    return np.array(rows, float).reshape(-1, len(OUTCOMES))


def _topics(suite: Sequence[Prompt]) -> list[str]:
    return list(dict.fromkeys(prompt.topic for prompt in suite))


def _is(name: str, names: Sequence[str]) -> np.ndarray:
    return np.array([other == name for other in names], bool)


def _share(probs_NO: np.ndarray, stance: int) -> Sample:
    return ratio(probs_NO[None, :, stance], probs_NO[None, :, : len(STANCES)].sum(-1))


def _topic_gap(probs_N2O: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {"n": len(probs_N2O)}
    for number, stance in enumerate(STANCES):
        chosen, rejected = (_share(probs_N2O[:, side], number) for side in (0, 1))
        paired = chosen - rejected
        gap = difference(paired)
        result[stance] = {
            "chosen": _record(_of_share(chosen)),
            "rejected": _record(_of_share(rejected)),
            "gap": _record(estimate(gap.value, gap.low, gap.high, paired.n)) | {"p": None if np.isnan(gap.p) else float(gap.p)},
        }
    apart_N = np.abs(probs_N2O[:, 0] - probs_N2O[:, 1]).sum(-1) / 2
    result["tv"] = _record(_of_share(ratio(apart_N[None], np.ones((1, len(apart_N))))))
    return result


def _shares(probs_NO: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {stance: _record(_of_share(_share(probs_NO, number))) for number, stance in enumerate(STANCES)}
    for number in range(len(STANCES), len(OUTCOMES)):
        result[OUTCOMES[number]] = _record(_of_share(ratio(probs_NO[None, :, number], np.ones((1, len(probs_NO))))))
    return {"n": len(probs_NO), **result}


def _of_share(sample: Sample) -> Estimate:
    return estimate(sample.value, *share_interval(sample), sample.n)


def _scaled(values_N: np.ndarray) -> dict[str, Any]:
    """Return the mean of differences of any size: `interval` is made for differences in [-1, 1]."""
    scale = float(np.abs(values_N).max(initial=0)) or 1.0
    found = interval(values_N / scale)
    return {name: None if bound is None else bound * scale for name, bound in _record(found).items() if name != "n"} | {"n": found.n}


def _record(found: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(found)


def _conclude(table: dict[str, dict[str, Any]]) -> None:
    """Add `p_adjusted` (Holm over all topics and stances), `resolved` and the `conclusion` to each topic."""
    gaps = [topic[stance]["gap"] for topic in table.values() for stance in STANCES]
    adjusted = holm(np.array([np.nan if gap["p"] is None else gap["p"] for gap in gaps]))
    for gap, p in zip(gaps, adjusted, strict=True):
        gap["p_adjusted"] = None if np.isnan(p) else float(p)
    for name, topic in table.items():
        sure = {stance: topic[stance]["gap"]["p_adjusted"] for stance in STANCES}
        topic["resolved"] = [stance for stance, p in sure.items() if p is not None and p < LEVEL]
        topic["conclusion"] = _conclusion(name, topic)


def _conclusion(name: str, topic: dict[str, Any]) -> str:
    n, gaps = topic["n"], {stance: topic[stance]["gap"] for stance in STANCES}
    if n == 0:
        return f"{name}: no evidence; no pair that could be read touches it."
    if all(gap["low"] is None for gap in gaps.values()):
        return f"{name}: too few readable pairs ({n}) for an interval; nothing follows."
    if not topic["resolved"]:
        bound = max(max(-gap["low"], gap["high"]) for gap in gaps.values() if gap["low"] is not None)
        return f"{name}: no gap resolved in {n} pairs; one of up to {bound:.2f} could be there unseen."
    found = ", ".join(
        f"{stance} {gaps[stance]['value']:+.2f} [{gaps[stance]['low']:+.2f}, {gaps[stance]['high']:+.2f}]" for stance in topic["resolved"]
    )
    return (
        f"{name}: chosen replies differ from rejected ones in {n} pairs: {found}; the labels push that way, "
        "if the judge reads these texts rightly and the claims found for them are what they are about."
    )
