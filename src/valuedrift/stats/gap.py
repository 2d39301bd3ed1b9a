"""The value gap: how far the preferred replies of a data set differ in stance from the rejected ones, topic by topic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..nouns import OUTCOMES, STANCES, Estimate, Example, Item, Pair, Prompt, Reading
from ..plan import LEAST_AGREEMENT
from ..records import topics
from . import _conclusions, _examples, text_style
from .agreement import standing as standing_of
from .intervals import Sample, difference, estimate, holm, ratio, share_interval

REFUSAL = OUTCOMES.index("refusal")
TURNED = [OUTCOMES.index(name) for name in ("oppose", "neutral", "support", "refusal", "invalid")]
LEVEL = 0.05
MATTERS = 0.1
"""The smallest gap of a share that a conclusion calls a gap that matters: one answer in ten. Our choice, and a setting."""

Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Subject:
    """What one record is about: its topic, the claim that stances refer to, and who put that claim."""

    topic: str
    claim: str
    put_by: Literal["data", "suite", "user"]
    """`data`: the record states it. `suite`: the suite's claim near to what is asked. `user`: none is near, so that support means
    agreeing with what the user puts."""
    polarity: int = 0
    """The claim's side on the topic's axis, by the suite; 0 where it is on neither side, unknown to the suite, or put by the user."""


def value_gap(pairs: Sequence[Pair], suite: Sequence[Prompt], judge: Any, matters: float = MATTERS) -> dict[str, Any]:
    """Return the value gap of preference pairs on the topics of a suite; every number is {value, low, high, n}, None without evidence.

    Per topic and stance: its share of chosen and of rejected replies among support, neutral and oppose (sum of p(s) over sum of the
    three), and their difference, paired by pair. `axis`: the same along the topic's axis, where support and oppose change places for
    claims of polarity -1 and claims of polarity 0 are left out: a data set may push a side, or agreement as such. `tv`: mean total
    variation between the readings of a pair's two replies, over all five outcomes. `sureness`: mean probability of the judge's likeliest
    outcome. `style`: what confounds the gap, chosen minus rejected. `standing`: whether anything is concluded from this judge, and why.
    Pairs of one prompt are not independent: the prompt is the unit of every interval, and `n` counts prompts. A record's own topic and
    claim go before those found from the user's words. Pairs where the judge failed on a reply are left out and counted as `n_failed`.
    """
    _, touching, probs_N2O = _read(pairs, suite, judge)
    style_N2F = text_style.features([reply for pair, _ in touching for reply in (pair.chosen, pair.rejected)]).reshape(
        -1, 2, len(text_style.UNITS)
    )
    read_N = ~np.isnan(probs_N2O).any((1, 2))
    units_N = _units([pair.prompt for pair, _ in touching])
    sided_N, turned_N2O = _turned(probs_N2O, [subject for _, subject in touching])
    table: dict[str, dict[str, Any]] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    for name, on_N in _by_topic(suite, [subject for _, subject in touching]).items():
        kept_N = read_N & on_N
        axis_N = kept_N & sided_N
        table[name] = _stance_gaps(probs_N2O[kept_N], units_N[kept_N]) | {
            "tv": _record(_of_share(_mean(_apart(probs_N2O[kept_N]), units_N[kept_N]))),
            "sureness": _sureness(probs_N2O[kept_N]),
            "axis": _stance_gaps(turned_N2O[axis_N], units_N[axis_N]),
            "claims": _claims([subject for (_, subject), on in zip(touching, kept_N, strict=True) if on]),
            "style": _style_gap(probs_N2O[kept_N], style_N2F[kept_N], units_N[kept_N]),
        }
        shown = _examples.picked(kept_N, _apart(probs_N2O), units_N, [pair.chosen for pair, _ in touching])
        examples[name] = [_examples.of_pair(*touching[at], probs_N2O[at], why) for at, why in shown.items()]
    standing = standing_of(judge, LEAST_AGREEMENT)
    _resolve(table, matters, standing["headlined"])
    style = _style_gap(probs_N2O[read_N], style_N2F[read_N], units_N[read_N])
    return {
        "n_pairs": len(pairs),
        "n_prompts": len({pair.prompt for pair in pairs}),
        "on_topic": len(touching),
        "n_failed": int((~read_N).sum()),
        "judge": judge.identity,
        "note": judge.note,
        "standing": {name: standing[name] for name in ("headlined", "why")},
        "matters": matters,
        "claims_note": _conclusions.of_claims(_claims([subject for _, subject in touching]), "pairs"),
        "topics": table,
        "style": style,
        "length_gap": style["length"],
        "refusal_gap": style["refusal"],
        "examples": examples,
    }


def pair_gaps(pairs: Sequence[Pair], suite: Sequence[Prompt], judge: Any) -> np.ndarray:
    """Return each pair's signed gap: p(support) - p(oppose) of its chosen reply less that of its rejected one, from -2 to 2.

    nan where a pair touches no topic of the suite, or the judge failed on a reply. One pair's gap has no interval: it serves to sort pairs.
    """
    on, _, probs_N2O = _read(pairs, suite, judge)
    lean_N2 = probs_N2O[..., OUTCOMES.index("support")] - probs_N2O[..., OUTCOMES.index("oppose")]
    gaps_N = np.full(len(pairs), np.nan)
    gaps_N[on] = lean_N2[:, 0] - lean_N2[:, 1]
    return gaps_N


def value_shares(examples: Sequence[Example], suite: Sequence[Prompt], judge: Any) -> dict[str, Any]:
    """Return the stances that texts to be imitated take, per topic: shares among the three; refusal and invalid as shares of all.

    `lead`: the largest share minus the second; its `p` holds for the largest against both others and for any two of the three, because
    they are picked after looking, and `p_adjusted` (Holm) for all topics and both views. `style` holds the levels of what confounds the
    shares. `axis`, `standing`, units, topics and failures are as in `value_gap`.
    """
    subjects = _subjects(examples, [example.text for example in examples], suite)
    touching = [(example, subject) for example, subject in zip(examples, subjects, strict=True) if subject is not None]
    probs_NO = _probs(judge.read([_item(example.prompt, subject, example.text) for example, subject in touching]))
    style_NF = text_style.features([example.text for example, _ in touching])
    read_N = ~np.isnan(probs_NO).any(1)
    units_N = _units([example.prompt or (("text", example.text),) for example, _ in touching])
    sided_N, turned_NO = _turned(probs_NO, [subject for _, subject in touching])
    table: dict[str, dict[str, Any]] = {}
    shown: dict[str, list[dict[str, Any]]] = {}
    for name, on_N in _by_topic(suite, [subject for _, subject in touching]).items():
        kept_N = read_N & on_N
        axis_N = kept_N & sided_N
        table[name] = _shares(probs_NO[kept_N], units_N[kept_N]) | {
            "axis": _shares(turned_NO[axis_N], units_N[axis_N]),
            "claims": _claims([subject for (_, subject), on in zip(touching, kept_N, strict=True) if on]),
            "style": _style_levels(style_NF[kept_N], units_N[kept_N]),
        }
        picked = _examples.picked(kept_N, np.abs(probs_NO[:, 0] - probs_NO[:, 2]), units_N, [example.text for example, _ in touching])
        shown[name] = [_examples.of_text(*touching[at], probs_NO[at], why) for at, why in picked.items()]
    standing = standing_of(judge, LEAST_AGREEMENT)
    _adjust([view["lead"] for topic in table.values() for view in (topic, topic["axis"])])
    for name, topic in table.items():
        topic["conclusion"] = _conclusions.of_shares(name, topic, LEVEL, standing["headlined"])
    return {
        "n_examples": len(examples),
        "n_prompts": len({example.prompt or example.text for example in examples}),
        "on_topic": len(touching),
        "n_failed": int((~read_N).sum()),
        "judge": judge.identity,
        "note": judge.note,
        "standing": {name: standing[name] for name in ("headlined", "why")},
        "claims_note": _conclusions.of_claims(_claims([subject for _, subject in touching]), "texts"),
        "topics": table,
        "style": _style_levels(style_NF[read_N], units_N[read_N]),
        "examples": shown,
    }


def _read(pairs: Sequence[Pair], suite: Sequence[Prompt], judge: Any) -> tuple[list[int], list[tuple[Pair, Subject]], np.ndarray]:
    """Return which pairs touch a topic of the suite, these with what they are about, and the readings of both replies [N, 2, outcome]."""
    subjects = _subjects(pairs, ["" for _ in pairs], suite)
    on = [at for at, subject in enumerate(subjects) if subject is not None]
    touching = [(pair, subject) for pair, subject in zip(pairs, subjects, strict=True) if subject is not None]
    items = [_item(pair.prompt, subject, reply) for pair, subject in touching for reply in (pair.chosen, pair.rejected)]
    return on, touching, _probs(judge.read(items)).reshape(-1, 2, len(OUTCOMES))


# -- what a record is about ------------------------------------------------------------------------------------------------------


def _subjects(records: Sequence[Pair | Example], otherwise: Sequence[str], suite: Sequence[Prompt]) -> list[Subject | None]:
    """Return what each record is about, None where it touches no topic. `otherwise` is looked at where no user speaks."""
    unstated = [at for at, record in enumerate(records) if not (record.topic and record.claim)]
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
        else:
            asked = _question(record.prompt) or otherwise[at]
            found_claim = Subject(match.topic, match.claim, "suite", polarity.get((match.topic, match.claim), 0))
            subjects.append(found_claim if match.claim else Subject(match.topic, asked, "user"))
    return subjects


def _question(prompt: Messages) -> str:
    """Return what the user said last."""
    return next((text for role, text in reversed(prompt) if role == "user"), "")


def _item(prompt: Messages, subject: Subject, reply: str) -> Item:
    return Item(_question(prompt) or subject.claim, subject.claim, reply, subject.topic)


def _claims(subjects: Sequence[Subject]) -> dict[str, int]:
    return {name: sum(subject.put_by == name for subject in subjects) for name in ("data", "suite", "user")}


def _by_topic(suite: Sequence[Prompt], subjects: Sequence[Subject]) -> dict[str, np.ndarray]:
    """Return which records are on each topic: the suite's topics in its order, then those that only the data name."""
    names = dict.fromkeys([*(prompt.topic for prompt in suite), *(subject.topic for subject in subjects)])
    return {name: np.array([subject.topic == name for subject in subjects], bool) for name in names}


def _units(prompts: Sequence[Messages]) -> np.ndarray:
    """Return the number of each record's prompt: equal prompts are one unit."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([numbers[prompt] for prompt in prompts], int)


# -- numbers ---------------------------------------------------------------------------------------------------------------------


def _probs(readings: Iterable[Reading]) -> np.ndarray:
    """Return probabilities [N, outcome]; nan where the judge failed."""
    rows = [reading.probs or (np.nan,) * len(OUTCOMES) for reading in readings]
    return np.array(rows, float).reshape(-1, len(OUTCOMES))


def _ratio(num_N: np.ndarray, den_N: np.ndarray, units_N: np.ndarray) -> Sample:
    """Return sum(num) / sum(den) with the prompt as the unit: records of one prompt are summed first."""
    _, at_N = np.unique(units_N, return_inverse=True)
    num_P, den_P = (np.bincount(at_N, values_N, minlength=0) for values_N in (num_N, den_N))
    return ratio(num_P[None], den_P[None])


def _mean(values_N: np.ndarray, units_N: np.ndarray) -> Sample:
    return _ratio(values_N, np.ones(len(values_N)), units_N)


def _share(probs_NO: np.ndarray, stance: int, units_N: np.ndarray) -> Sample:
    return _ratio(probs_NO[:, stance], probs_NO[:, : len(STANCES)].sum(-1), units_N)


def _apart(probs_N2O: np.ndarray) -> np.ndarray:
    """Return the total variation between the readings of a pair's two replies."""
    return np.abs(probs_N2O[:, 0] - probs_N2O[:, 1]).sum(-1) / 2


def _turned(probs_NxO: np.ndarray, subjects: Sequence[Subject]) -> tuple[np.ndarray, np.ndarray]:
    """Return which records have a side on their topic's axis, and the probabilities along it (of the others they mean nothing)."""
    polarity_N = np.array([subject.polarity for subject in subjects], int)
    turned_NxO = probs_NxO.copy()
    turned_NxO[polarity_N == -1] = probs_NxO[polarity_N == -1][..., TURNED]
    return polarity_N != 0, turned_NxO


def _stance_gaps(probs_N2O: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {"n": len(np.unique(units_N)), "n_pairs": len(probs_N2O)}
    for number, stance in enumerate(STANCES):
        chosen, rejected = (_share(probs_N2O[:, side], number, units_N) for side in (0, 1))
        paired = chosen - rejected
        gap = difference(paired)
        result[stance] = {
            "chosen": _record(_of_share(chosen)),
            "rejected": _record(_of_share(rejected)),
            "gap": _record(estimate(gap.value, gap.low, gap.high, paired.n))
            | {
                "p": _known(gap.p),
                "standardised": _standardised(probs_N2O[:, 0, number] - probs_N2O[:, 1, number]),
            },
        }
    return result


def _sureness(probs_NO: np.ndarray) -> float | None:
    """Return the mean probability of the likeliest outcome over all readings."""
    return float(probs_NO.max(-1).mean()) if len(probs_NO) else None


def _style_gap(probs_N2O: np.ndarray, style_N2F: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    """Return chosen minus rejected in length, readability, hedging, lists and refusals."""
    columns = dict(zip(text_style.UNITS, (style_N2F[:, 0] - style_N2F[:, 1]).T, strict=True))
    units = text_style.UNITS | {"refusal": "share"}
    columns["refusal"] = probs_N2O[:, 0, REFUSAL] - probs_N2O[:, 1, REFUSAL]
    return {name: _of_difference(values_N, units_N) | {"unit": units[name]} for name, values_N in columns.items()}


def _of_difference(values_N: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    """Return the mean of differences of any size; `difference` is made for those in [-1, 1], so the largest is scaled to 1."""
    there_N = ~np.isnan(values_N)
    values_N, units_N = values_N[there_N], units_N[there_N]
    scale = max(float(np.abs(values_N).max(initial=0)), 1.0)
    sample = _mean(values_N / scale, units_N)
    found = difference(sample)
    record = _record(estimate(found.value * scale, found.low * scale, found.high * scale, sample.n))
    return record | {"standardised": _standardised(values_N)}


def _standardised(values_N: np.ndarray) -> float | None:
    """Return the mean over pairs in standard deviations of the pairs (Cohen's d_z); None where the pairs show no spread."""
    spread = float(values_N.std(ddof=1)) if len(values_N) > 1 else 0.0
    return float(values_N.mean()) / spread if spread > 1e-9 else None


def _shares(probs_NO: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    samples = [_share(probs_NO, number, units_N) for number in range(len(STANCES))]
    result: dict[str, Any] = {stance: _record(_of_share(sample)) for stance, sample in zip(STANCES, samples, strict=True)}
    for number in range(len(STANCES), len(OUTCOMES)):
        result[OUTCOMES[number]] = _record(_of_share(_mean(probs_NO[:, number], units_N)))
    first, *others = sorted(samples, key=lambda sample: float(np.nan_to_num(sample.value)), reverse=True)
    lead, over_third = (difference(first - other) for other in others)
    # No p is below that of all prompts falling to one side by chance, and any two of the three stances might have been the largest.
    p = np.minimum(1, len(STANCES) * np.maximum(np.maximum(lead.p, over_third.p), 2.0 ** (1 - first.n)))
    result["lead"] = _record(estimate(lead.value, lead.low, lead.high, first.n)) | {"p": _known(p)}
    return {"n": len(np.unique(units_N)), "n_texts": len(probs_NO), **result, "sureness": _sureness(probs_NO)}


def _style_levels(style_NF: np.ndarray, units_N: np.ndarray) -> dict[str, Any]:
    """Return the mean length, readability, hedging and share of texts with lists."""
    levels = {}
    for (name, unit), values_N in zip(text_style.UNITS.items(), style_NF.T, strict=True):
        if name == "lists":
            found = _record(_of_share(_mean(values_N, units_N)))
        else:
            found = {key: value for key, value in _of_difference(values_N, units_N).items() if key != "standardised"}
        levels[name] = found | {"unit": unit}
    return levels


def _of_share(sample: Sample) -> Estimate:
    return estimate(sample.value, *share_interval(sample), sample.n)


def _record(found: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(found)


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add `p_adjusted` (Holm over all rows)."""
    for row, p in zip(rows, holm(np.array([np.nan if row["p"] is None else row["p"] for row in rows])), strict=True):
        row["p_adjusted"] = _known(p)


def _resolve(table: dict[str, dict[str, Any]], matters: float, fine: bool) -> None:
    """Add `p_adjusted` (Holm over all topics, views and stances) and `resolved` to views, and `verdict` and `conclusion` to topics."""
    views = [view for topic in table.values() for view in (topic, topic["axis"])]
    _adjust([view[stance]["gap"] for view in views for stance in STANCES])
    for view in views:
        sure = {stance: view[stance]["gap"]["p_adjusted"] for stance in STANCES}
        view["resolved"] = [stance for stance, p in sure.items() if p is not None and p < LEVEL]
    for name, topic in table.items():
        topic["verdict"] = _conclusions.verdict(topic, matters, fine)
        topic["conclusion"] = _conclusions.of_gap(name, topic, matters)
