"""Write a set of pairs: its rows in both directions, the judged gaps, and the data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..nouns import STANCES, Outcome
from ..stats import text_style
from ..store import Store
from ..suites import written
from .drafting import Draft, Text

DIRECTIONS: tuple[Outcome, ...] = ("support", "oppose")


@dataclass(frozen=True)
class Row:
    """One pair of a set: the pair of this kind from a draft."""

    draft: Draft
    kind: str

    def sides(self, direction: str) -> tuple[Text, Text]:
        """Return the chosen and the rejected answer. The direction decides for opposed pairs, the preferred style for the others."""
        first, second = self.draft.pairs[self.kind]
        first_chosen = direction == "support" if self.kind == "opposed" else self.draft.prefers_first
        return (first, second) if first_chosen else (second, first)

    def gap(self, direction: str, stance: Outcome) -> float:
        """Return p(stance|chosen) - p(stance|rejected)."""
        chosen, rejected = self.sides(direction)
        return chosen.probs[STANCES.index(stance)] - rejected.probs[STANCES.index(stance)]

    def line(self, direction: str) -> str:
        """Return the row in the conversational layout that TRL reads."""
        chosen, rejected = self.sides(direction)
        row = {
            "prompt": [{"role": "user", "content": self.draft.slot.question}],
            "chosen": [{"role": "assistant", "content": chosen.words}],
            "rejected": [{"role": "assistant", "content": rejected.words}],
            "topic": self.draft.slot.topic,
            "claim": self.draft.slot.claim,
        }
        return json.dumps(row, ensure_ascii=False) + "\n"


def write_set(folder: Path, rows: Sequence[Row], target: float, record: Mapping[str, Any], dropped: Counter[str]) -> dict[str, Any]:
    """Write pairs.support.jsonl, pairs.oppose.jsonl and README.md; return counts and the achieved gap."""
    topics = list(dict.fromkeys(sorted(row.draft.slot.topic for row in rows)))
    by_topic = {topic: [row for row in rows if row.draft.slot.topic == topic] for topic in topics}
    achieved = {direction: {topic: _gaps(own, direction) for topic, own in by_topic.items()} for direction in DIRECTIONS}
    result: dict[str, Any] = {
        "n_pairs": len(rows),
        "n_opposed": sum(row.kind == "opposed" for row in rows),
        "target_gap": target,
        "achieved_gap": _gaps(rows, "support")["support"],
        "achieved_by_direction": {direction: _gaps(rows, direction)[direction] for direction in DIRECTIONS},
        "achieved_by_topic": {topic: gaps["support"] for topic, gaps in achieved["support"].items()},
        "achieved": achieved,
        "dropped": dict(dropped),
        "leaked_prompts": 0,
        "out": str(folder),
    }
    result["sentences"] = [*_sentences(result), f"The pairs are in {folder}."]
    store = Store(folder)
    for direction in DIRECTIONS:
        written.write(store, f"pairs.{direction}.jsonl", "".join(row.line(direction) for row in rows))
    written.write(store, "README.md", _card(rows, result, record))
    return result


def together(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of several sets. Counts that differ by target are lists with one value per target."""
    listed = {name: [found[name] for found in sets] for name in ("target_gap", "achieved_gap", "n_opposed")}
    shared = {name: sets[0][name] for name in ("n_pairs", "dropped", "leaked_prompts")}
    return shared | listed | {"sets": list(sets), "sentences": [sentence for found in sets for sentence in found["sentences"]]}


def counted(dropped: Mapping[str, int]) -> str:
    """Return the drops as text."""
    return ", ".join(f"{n:,} ({reason})" for reason, n in dropped.items()) or "none"


def _gaps(rows: Sequence[Row], direction: str) -> dict[str, float]:
    return {stance: float(np.mean([row.gap(direction, stance) for row in rows])) for stance in STANCES}


def _sentences(result: Mapping[str, Any]) -> list[str]:
    support, oppose = (result["achieved_by_direction"][direction] for direction in DIRECTIONS)
    n = result["n_opposed"]
    return [
        f"{result['n_pairs']:,} pairs, value gap {support:.3f} against a target of {result['target_gap']:.3f}; dropped: "
        f"{counted(result['dropped'])}; {result['leaked_prompts']} prompts are from the suite.",
        f"pairs.support.jsonl prefers support. pairs.oppose.jsonl has the same pairs, with the labels of the {n:,} opposed ones swapped "
        f"(value gap {oppose:.3f} on oppose)."
        if n
        else "pairs.support.jsonl and pairs.oppose.jsonl are equal, because both sides of every pair take one stance.",
    ]


def _card(rows: Sequence[Row], result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return the text of the folder's README.md."""
    return written.page(
        Path(__file__).with_name("card.md.jinja"),
        result=result,
        record=record,
        sentences=_sentences(result),
        prompts=Path(record["prompts"]).name,
        n_questions=len({row.draft.slot.question for row in rows}),
        styles=[figures for direction in DIRECTIONS for figures in _styles(rows, direction)],
    )


def _styles(rows: Sequence[Row], direction: str) -> list[tuple[str, str, str]]:
    """Return (direction, side, mean style) for both sides of a file and for their difference."""
    texts = [text.words for row in rows for text in row.sides(direction)]
    chosen_F, rejected_F = np.nanmean(text_style.features(texts).reshape(len(rows), 2, -1), axis=0)
    return [
        (direction, side, " | ".join(f"{mean:{sign}{spec}}" for mean, spec in zip(mean_F, (".1f", ".1f", ".2f", ".3f"), strict=True)))
        for side, mean_F, sign in (("chosen", chosen_F, ""), ("rejected", rejected_F, ""), ("difference", chosen_F - rejected_F, "+"))
    ]
