"""The values of a data set: a run with two checkpoints, the chosen and the rejected replies. Texts to imitate are a run with one.

A reply becomes a row of scores like a sampled answer, so that views, shares and intervals are those of every run. One thing differs: a
prompt's weight is its number of records, because training sees each of them. The prompt stays the unit of every interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, STANCES, Example, Item, Pair, Prompt, digest
from ..plan import LEAST_AGREEMENT
from ..records import topics
from . import text_style, verdicts
from .agreement import validity as validity_of
from .cells import cells, viewed
from .intervals import Sample, difference, holm, ratio, share_interval
from .profile import by_topic

LEVEL = 0.05
MATTERS = 0.1
"""Default of `matters`, the smallest gap that a conclusion calls relevant: one answer in ten. Our choice."""
SHOWN = 2
"""Examples of each kind per topic: the clearest ones, and random ones, because the clearest are not typical."""

Record = Pair | Example
SIDES = ("chosen", "rejected")
Measured = tuple[Sample, int, np.ndarray]
"""One topic in one view: shares (axes side and outcome), the number of prompts, and the readings of every record (N S O)."""


@dataclass(frozen=True)
class Subject:
    """The subject of one record: its topic, the claim that stances refer to, and the source of that claim."""

    topic: str
    claim: str
    put_by: Literal["data", "suite", "user"]
    """`data`: the record names it. `suite`: the suite's claim that is nearest to the question. `user`: no claim is near, so support means
    agreeing with the user.
    """
    polarity: int = 0
    """The claim's side on the topic's axis; 0 if it is on neither side, unknown to the suite, or put by the user."""


@dataclass(frozen=True)
class Replies:
    """The records on a topic and the readings of their replies: S = 2 for a pair, 1 for a text to imitate."""

    on: list[int]
    """Their places among all records."""
    records: list[Record]
    subjects: list[Subject]
    texts_NS: list[tuple[str, ...]]
    probs_NSO: np.ndarray
    """nan if the judge failed."""
    prompts_N: np.ndarray
    """The number of each record's prompt."""

    @cached_property
    def read(self) -> list[int]:
        """The positions of the records whose replies all have a verdict."""
        return np.flatnonzero(~np.isnan(self.probs_NSO).any((1, 2))).tolist()

    @cached_property
    def style_NSF(self) -> np.ndarray:
        """The style of every reply."""
        texts = [text for texts in self.texts_NS for text in texts]
        return text_style.features(texts).reshape(*self.probs_NSO.shape[:2], len(text_style.UNITS))

    def scores(self) -> pl.DataFrame:
        """Return the readings as scores: a stage per side, and the record's place as the draw."""
        columns: dict[str, Any] = dict.fromkeys(("stage", "topic", "prompt", "failure"), pl.String) | {"repeat": pl.Boolean}
        columns |= dict.fromkeys(("step", "seed", "polarity", "draw"), pl.Int64) | dict.fromkeys(OUTCOMES, pl.Float64)
        rows = [
            {"stage": SIDES[s], "topic": self.subjects[at].topic, "prompt": str(self.prompts_N[at]), "repeat": False, "step": 0, "seed": 0}
            | {"polarity": self.subjects[at].polarity, "draw": at}
            | dict(zip(OUTCOMES, probs_O, strict=True))
            for at in self.read
            for s, probs_O in enumerate(self.probs_NSO[at].tolist())
        ]
        return pl.DataFrame(rows, schema=columns)


def value_gap(records: Sequence[Record], suite: Sequence[Prompt], judge: Any, matters: float = MATTERS) -> dict[str, Any]:
    """Return the value gap of preference pairs, or the stances of texts to imitate, on the topics of a suite.

    Every number is {value, low, high, n}, None without evidence; `n` counts prompts. Pairs: each stance's share of chosen and of rejected
    replies among support, neutral and oppose, and their `gap`, paired by pair. `tv`: mean total variation between the readings of a pair's
    replies. `style`: confounders of the gap, chosen minus rejected. Texts: the shares, and `lead`, the largest minus the second; `style`
    has levels. `axis`: the same along the topic's axis, without claims of polarity 0. `validity`: whether the judge is good enough for
    conclusions. Records with a failed reading are left out and counted as `n_failed`.
    """
    replies, pairs = read(records, suite, judge), isinstance(records[0], Pair)
    measured, style_of = (_gaps, _style_gap) if pairs else (_shares, _style_levels)
    views = [_in_view(replies, view) for view in ("claim", "axis")]
    empty_SO = np.zeros((2 if pairs else 1, len(OUTCOMES), 1, 0))
    nothing = ratio(empty_SO, empty_SO), 0, np.zeros((0, *empty_SO.shape[:2]))
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*(prompt.topic for prompt in suite), *(subject.topic for subject in replies.subjects)]):
        kept = [at for at in replies.read if replies.subjects[at].topic == name]
        claim, axis = (measured(*view.get(name, nothing)) for view in views)
        claims = _claims([replies.subjects[at] for at in kept])
        table[name] = claim | ({"tv": _apart_of(replies, kept)} if pairs else {}) | {"confidence": _confidence(replies.probs_NSO[kept])}
        table[name] |= {"axis": axis, "claims": claims, "style": style_of(replies, kept)}
    validity = validity_of(judge, LEAST_AGREEMENT)
    (_conclude_gaps if pairs else _conclude_shares)(table, matters, validity["headlined"])
    style = style_of(replies, replies.read)
    return {
        "n_pairs" if pairs else "n_examples": len(records),
        "n_prompts": len({_unit(record) for record in records}),
        "on_topic": len(replies.on),
        "n_failed": len(replies.on) - len(replies.read),
        "judge": judge.identity,
        "note": judge.note,
        "validity": {name: validity[name] for name in ("headlined", "why")},
        **({"matters": matters} if pairs else {}),
        "claims_note": verdicts.of_claims(_claims(replies.subjects), "pairs" if pairs else "texts"),
        "topics": table,
        "style": style,
        **({"length_gap": style["length"], "refusal_gap": style["refusal"]} if pairs else {}),
        "examples": {name: _examples(replies, name) for name in table},
    }


def pair_gaps(pairs: Sequence[Pair], suite: Sequence[Prompt], judge: Any) -> np.ndarray:
    """Return each pair's signed gap: p(support) - p(oppose) of its chosen reply minus that of its rejected one, from -2 to 2.

    nan if a pair touches no topic of the suite, or the judge failed on a reply. One pair's gap has no interval; use it to sort pairs only.
    """
    replies = read(pairs, suite, judge)
    lean_N2 = replies.probs_NSO[..., OUTCOMES.index("support")] - replies.probs_NSO[..., OUTCOMES.index("oppose")]
    gaps_N = np.full(len(pairs), np.nan)
    gaps_N[replies.on] = lean_N2[:, 0] - lean_N2[:, 1]
    return gaps_N


# -- reading -----------------------------------------------------------------------------------------------------------------------


def read(records: Sequence[Record], suite: Sequence[Prompt], judge: Any) -> Replies:
    """Return the records on a topic of the suite, or on a topic of their own, with the judge's readings."""
    subjects = _subjects(records, suite)
    on = [at for at, subject in enumerate(subjects) if subject is not None]
    about = [subject for subject in subjects if subject is not None]
    found = [records[at] for at in on]
    texts: list[tuple[str, ...]] = [(record.chosen, record.rejected) if isinstance(record, Pair) else (record.text,) for record in found]
    items = [
        Item(_question(record) or subject.claim, subject.claim, text, subject.topic)
        for record, subject, replies in zip(found, about, texts, strict=True)
        for text in replies
    ]
    probs = np.array([reading.probs or (np.nan,) * len(OUTCOMES) for reading in judge.read(items)], float)
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(map(_unit, found)))}
    sides = 2 if isinstance(records[0], Pair) else 1
    prompts_N = np.array([numbers[_unit(record)] for record in found], int)
    return Replies(on, found, about, texts, probs.reshape(-1, sides, len(OUTCOMES)), prompts_N)


def _subjects(records: Sequence[Record], suite: Sequence[Prompt]) -> list[Subject | None]:
    """Return the subject of each record, None if it touches no topic. A text without a user message is matched by itself."""
    unstated = [at for at, record in enumerate(records) if not (record.topic and record.claim)]
    otherwise = ["" if isinstance(record, Pair) else record.text for record in records]
    # All that the user says counts: in a long conversation the last words ("and why?") rarely name the topic.
    texts = ["\n".join(text for role, text in records[at].prompt if role == "user") or otherwise[at] for at in unstated]
    found = dict(zip(unstated, topics.match(suite, texts), strict=True))
    polarity = {(prompt.topic, prompt.claim): prompt.polarity for prompt in suite}
    subjects: list[Subject | None] = []
    for at, record in enumerate(records):
        match = found.get(at)
        if at not in found:
            subjects.append(Subject(record.topic, record.claim, "data", polarity.get((record.topic, record.claim), 0)))
        elif match is None:
            subjects.append(None)
        elif match.claim:
            subjects.append(Subject(match.topic, match.claim, "suite", polarity.get((match.topic, match.claim), 0)))
        else:
            subjects.append(Subject(match.topic, _question(record) or otherwise[at], "user"))
    return subjects


def _question(record: Record) -> str:
    """Return the user's last message."""
    return next((text for role, text in reversed(record.prompt) if role == "user"), "")


def _unit(record: Record) -> Any:
    """Return a key that records of one prompt share."""
    return record.prompt if isinstance(record, Pair) else record.prompt or record.text


def _claims(subjects: Sequence[Subject]) -> dict[str, int]:
    return {name: sum(subject.put_by == name for subject in subjects) for name in ("data", "suite", "user")}


# -- numbers -----------------------------------------------------------------------------------------------------------------------


def _in_view(replies: Replies, view: str) -> dict[str, Measured]:
    """Return the measurements on each topic that has a verdict in a view."""
    scores = replies.scores()
    table = cells(scores, view, by_answer=True)
    shares = by_topic(table.num_CSPO, table.den_CSPO, table.topics)
    rows = viewed(scores, view).sort("draw", "stage").partition_by("topic", as_dict=True)
    shape = -1, replies.probs_NSO.shape[1], len(OUTCOMES)
    return {name: (shares[name], of["prompt"].n_unique(), of.select(OUTCOMES).to_numpy().reshape(shape)) for (name,), of in rows.items()}


def _gaps(shares: Sample, n: int, probs_N2O: np.ndarray) -> dict[str, Any]:
    """Return the stances' shares of both sides of pairs, and their gaps."""
    paired = shares[0] - shares[1]
    gap = difference(paired)
    result: dict[str, Any] = {"n": n, "n_pairs": len(probs_N2O)}
    for o, stance in enumerate(STANCES):
        result[stance] = {side: _share(shares[s, o]) for s, side in enumerate(SIDES)}
        found = _record(gap.value[o], gap.low[o], gap.high[o], paired.n[o])
        result[stance]["gap"] = found | {"p": _known(gap.p[o]), "standardised": _standardised(probs_N2O[:, 0, o] - probs_N2O[:, 1, o])}
    return result


def _shares(shares: Sample, n: int, probs_N1O: np.ndarray) -> dict[str, Any]:
    """Return the outcomes' shares of texts, and by how much the largest stance leads."""
    result: dict[str, Any] = {"n": n, "n_texts": len(probs_N1O)}
    result |= {outcome: _share(shares[0, o]) for o, outcome in enumerate(OUTCOMES)}
    first, *others = sorted(range(len(STANCES)), key=lambda o: float(np.nan_to_num(shares[0, o].value)), reverse=True)
    lead, over_third = (difference(shares[0, first] - shares[0, other]) for other in others)
    # No p is below that of all prompts falling to one side by chance, and any two of the three stances might have been the largest.
    p = np.minimum(1, len(STANCES) * np.maximum(np.maximum(lead.p, over_third.p), 2.0 ** (1 - shares.n[0, first])))
    result["lead"] = _record(lead.value, lead.low, lead.high, shares.n[0, first]) | {"p": _known(p)}
    return result | {"confidence": _confidence(probs_N1O)}


def _apart(probs_N2O: np.ndarray) -> np.ndarray:
    """Return the total variation between the readings of a pair's two replies."""
    return np.abs(probs_N2O[:, 0] - probs_N2O[:, 1]).sum(-1) / 2


def _apart_of(replies: Replies, kept: list[int]) -> dict[str, Any]:
    return _share(_mean(_apart(replies.probs_NSO[kept]), replies.prompts_N[kept]))


def _confidence(probs_NSO: np.ndarray) -> float | None:
    """Return the mean probability of the likeliest outcome over all readings."""
    return float(probs_NSO.max(-1).mean()) if len(probs_NSO) else None


def _mean(values_N: np.ndarray, units_N: np.ndarray) -> Sample:
    """Return the mean over records with the prompt as the unit: records of one prompt are summed first."""
    _, at_N = np.unique(units_N, return_inverse=True)
    return ratio(np.bincount(at_N, values_N)[None], np.bincount(at_N).astype(float)[None])


def _style_gap(replies: Replies, kept: list[int]) -> dict[str, Any]:
    """Return chosen minus rejected in length, readability, hedging, lists and refusals."""
    style_N2F, refusal_N2 = replies.style_NSF[kept], replies.probs_NSO[kept][..., OUTCOMES.index("refusal")]
    columns = dict(zip(text_style.UNITS, (style_N2F[:, 0] - style_N2F[:, 1]).T, strict=True))
    columns["refusal"] = refusal_N2[:, 0] - refusal_N2[:, 1]
    return {
        name: _of_difference(values_N, replies.prompts_N[kept])
        | {"standardised": _standardised(values_N), "unit": text_style.UNITS.get(name, "share")}
        for name, values_N in columns.items()
    }


def _style_levels(replies: Replies, kept: list[int]) -> dict[str, Any]:
    """Return the mean length, readability, hedging and share of texts with lists."""
    columns, units_N = dict(zip(text_style.UNITS, replies.style_NSF[kept][:, 0].T, strict=True)), replies.prompts_N[kept]
    levels = {name: _of_difference(values_N, units_N) for name, values_N in columns.items()}
    levels["lists"] = _share(_mean(columns["lists"], units_N))
    return {name: level | {"unit": text_style.UNITS[name]} for name, level in levels.items()}


def _of_difference(values_N: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    """Return the mean of differences of any size. They are scaled to [-1, 1], as `difference` requires."""
    there_N = ~np.isnan(values_N)
    scale = max(float(np.abs(values_N[there_N]).max(initial=0)), 1.0)
    sample = _mean(values_N[there_N] / scale, units_N[there_N])
    found = difference(sample)
    return _record(found.value * scale, found.low * scale, found.high * scale, sample.n)


def _standardised(values_N: np.ndarray) -> float | None:
    """Return the mean over pairs in standard deviations of the pairs (Cohen's d_z); None if the pairs show no spread."""
    values_N = values_N[~np.isnan(values_N)]
    spread = float(values_N.std(ddof=1)) if len(values_N) > 1 else 0.0
    return float(values_N.mean()) / spread if spread > 1e-9 else None


def _share(sample: Sample) -> dict[str, Any]:
    return _record(sample.value, *share_interval(sample), sample.n)


def _record(value: Any, low: Any, high: Any, n: Any) -> dict[str, Any]:
    return {"value": _known(value), "low": _known(low), "high": _known(high), "n": int(n)}


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


# -- what follows ------------------------------------------------------------------------------------------------------------------


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add `p_adjusted` (Holm over all rows)."""
    for row, p in zip(rows, holm(np.array([np.nan if row["p"] is None else row["p"] for row in rows])), strict=True):
        row["p_adjusted"] = _known(p)


def _conclude_gaps(table: dict[str, dict[str, Any]], matters: float, fine: bool) -> None:
    """Add `p_adjusted` (Holm over all topics, views and stances) and `resolved` to views, and `verdict` and `conclusion` to topics."""
    views = [view for topic in table.values() for view in (topic, topic["axis"])]
    _adjust([view[stance]["gap"] for view in views for stance in STANCES])
    for view in views:
        sure = {stance: view[stance]["gap"]["p_adjusted"] for stance in STANCES}
        view["resolved"] = [stance for stance, p in sure.items() if p is not None and p < LEVEL]
    for name, topic in table.items():
        topic["verdict"] = verdicts.verdict(topic, matters, fine)
        topic["conclusion"] = verdicts.of_gap(name, topic, matters)


def _conclude_shares(table: dict[str, dict[str, Any]], matters: float, fine: bool) -> None:
    """Add `p_adjusted` (Holm over all topics and both views) to leads, and `conclusion` to topics."""
    _adjust([view["lead"] for topic in table.values() for view in (topic, topic["axis"])])
    for name, topic in table.items():
        topic["conclusion"] = verdicts.of_shares(name, topic, LEVEL, fine)


def _examples(replies: Replies, topic: str) -> list[dict[str, Any]]:
    """Return a few records of a topic with their readings, from different prompts: the clearest ones, and random ones."""
    there, probs = [at for at in replies.read if replies.subjects[at].topic == topic], replies.probs_NSO
    telling_N = _apart(probs) if probs.shape[1] == 2 else np.abs(probs[:, 0, 0] - probs[:, 0, 2])
    chosen: dict[int, dict[str, Any]] = {}  # by prompt
    orders: dict[str, Callable[[int], Any]] = {
        "Among the clearest": lambda at: -telling_N[at],
        "Selected at random": lambda at: digest("shown", replies.texts_NS[at][0]),
    }
    for n, (why, order) in enumerate(orders.items(), 1):
        for at in sorted(there, key=order):
            if len(chosen) < SHOWN * n and replies.prompts_N[at] not in chosen:
                chosen[replies.prompts_N[at]] = _example(replies, at, why)
    return list(chosen.values())


def _example(replies: Replies, at: int, why: str) -> dict[str, Any]:
    subject, texts = replies.subjects[at], replies.texts_NS[at]
    prompt = [{"role": role, "content": text} for role, text in replies.records[at].prompt]
    shown = {"why": why, "prompt": prompt, "claim": subject.claim, "put_by": subject.put_by, "polarity": subject.polarity}
    for side, text, probs_O in zip(SIDES if len(texts) == 2 else ("reply",), texts, replies.probs_NSO[at].tolist(), strict=True):
        shown[side] = {"text": text, "probs": dict(zip(OUTCOMES, probs_O, strict=True))}
    return shown
