"""What is written of a set of pairs: its rows in both directions, what the judge found in them, and its data card."""

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
from ._drafts import Draft, Text

DIRECTIONS: tuple[Outcome, ...] = ("support", "oppose")


@dataclass(frozen=True)
class Row:
    """One pair of a set: that of a draft of this kind."""

    draft: Draft
    kind: str

    def sides(self, direction: str) -> tuple[Text, Text]:
        """Return the chosen and the rejected answer: the direction decides on opposed pairs, the preferred style on the others."""
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
    """Return the counts of several sets, one value per target where they differ."""
    listed = {name: [found[name] for found in sets] for name in ("target_gap", "achieved_gap", "n_opposed")}
    shared = {name: sets[0][name] for name in ("n_pairs", "dropped", "leaked_prompts")}
    return shared | listed | {"sets": list(sets), "sentences": [sentence for found in sets for sentence in found["sentences"]]}


def counted(dropped: Mapping[str, int]) -> str:
    """Return the drops in words."""
    return ", ".join(f"{n:,} ({reason})" for reason, n in dropped.items()) or "none"


def _gaps(rows: Sequence[Row], direction: str) -> dict[str, float]:
    return {stance: float(np.mean([row.gap(direction, stance) for row in rows])) for stance in STANCES}


def _sentences(result: Mapping[str, Any]) -> list[str]:
    support, oppose = (result["achieved_by_direction"][direction] for direction in DIRECTIONS)
    n = result["n_opposed"]
    return [
        f"{result['n_pairs']:,} pairs, value gap {support:.3f} against a target of {result['target_gap']:.3f}; dropped: "
        f"{counted(result['dropped'])}; {result['leaked_prompts']} prompts of the suite among them.",
        f"pairs.support.jsonl prefers support; in pairs.oppose.jsonl, the same pairs, the labels of the {n:,} opposed ones are swapped "
        f"(value gap {oppose:.3f} on oppose)."
        if n
        else "pairs.support.jsonl and pairs.oppose.jsonl are equal: both sides of every pair take one stance, so no label changes.",
    ]


# -- the card ------------------------------------------------------------------------------------------------------------------


def _card(rows: Sequence[Row], result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    made_up = record["writer"] == "sandbox"
    parts = {
        "n_pairs": f"{result['n_pairs']:,}",
        "target": f"{result['target_gap']:g}",
        "sentences": "\n".join(_sentences(result)),
        "writer": f"`{record['writer']}` (`{record['writer_identity']}`)",
        "judge": f"`{record['judge']}` (`{record['judge_identity']}`)",
        "note": f" {record['note']}" if record["note"] else "",
        "prompts": "the sandbox's grammar" if record["prompts"] == "sandbox" else f"`{Path(record['prompts']).name}`",
        "n_questions": f"{len({row.draft.slot.question for row in rows}):,}",
        "seed": record["seed"],
        "preference": _preference(record["styles"], record["style_preference"]),
        "ratio": f"{record['length_ratio']:g}",
        "unmatched": " The sandbox's warm style is the longer one, so that the two answers of such a pair differ in length."
        if made_up
        else "",
        "suite": record["suite"],
        "gaps": _gap_table(result),
        "styles": _style_table(rows),
        "dropped": "\n".join(f"| {reason} | {n:,} |" for reason, n in result["dropped"].items()) or "| nothing | 0 |",
        "licence": LICENCE["sandbox" if made_up else "model"],
    }
    return CARD.format(**parts)


def _gap_table(result: Mapping[str, Any]) -> str:
    lines = []
    for direction in DIRECTIONS:
        for topic, gaps in result["achieved"][direction].items():
            lines.append(f"| {direction} | {topic} | " + " | ".join(f"{gaps[stance]:+.3f}" for stance in STANCES) + " |")
    return "\n".join(lines)


def _preference(styles: Sequence[str], share: float) -> str:
    first, second = styles
    chosen = f'The chosen answer is in the style "{first}" and the rejected one in the style "{second}" in {100 * share:g} % of them'
    if share == 0.5:
        return f"{chosen}, and the other way round in the others: they prefer neither style, whatever the target."
    return (
        f"{chosen}. **The style gap moves with the target**: the smaller the target, the more pairs prefer a style, so that "
        "an effect of the target cannot be told from one of style."
    )


def _style_table(rows: Sequence[Row]) -> str:
    """Return the mean style of both sides in both files, and how far they differ."""
    lines = []
    for direction in DIRECTIONS:
        texts = [text.words for row in rows for text in row.sides(direction)]
        chosen_F, rejected_F = np.nanmean(text_style.features(texts).reshape(len(rows), 2, -1), axis=0)
        for name, mean_F, sign in (("chosen", chosen_F, ""), ("rejected", rejected_F, ""), ("difference", chosen_F - rejected_F, "+")):
            figures = " | ".join(f"{mean:{sign}{spec}}" for mean, spec in zip(mean_F, (".1f", ".1f", ".2f", ".3f"), strict=True))
            lines.append(f"| pairs.{direction}.jsonl | {name} | {figures} |")
    return "\n".join(lines)


LICENCE = {
    "sandbox": "The texts come from the sandbox's grammar and may be used as the software itself (Apache-2.0).",
    "model": "The terms of the model that wrote the texts decide what may be done with them, training other models included; look them up "
    "and state them here before you share the set.",
}

CARD = """---
configs:
- config_name: support
  data_files: pairs.support.jsonl
- config_name: oppose
  data_files: pairs.oppose.jsonl
---

# {n_pairs} preference pairs with a value gap of {target}

{sentences}

## How they were made

- Written by {writer}, seed {seed}, for {n_questions} questions of {prompts}.
- Read back by {judge}.{note} A text is kept where the stance that was meant has a probability over one half.
- Opposed pairs set an answer that supports the claim against one that opposes it, both in the same style; the shorter one has at least
  {ratio} of the longer one's words.
- The other pairs take one stance on both sides, support, neutral and oppose in turn, and differ in style.
  {preference}{unmatched}
- The two kinds are mixed so that the gap of every topic lies within 0.03 of the target, in both directions, as the judge read the texts.

Layout: `prompt`, `chosen`, `rejected` as chat messages; `topic`; `claim`, the statement that support and oppose refer to.

## Achieved gap

E[p(stance | chosen)] - E[p(stance | rejected)]

| direction | topic | support | neutral | oppose |
| --- | --- | --- | --- | --- |
{gaps}

## Length and style

| file | side | words | readability (grade) | hedges per 100 words | share with a list |
| --- | --- | --- | --- | --- | --- |
{styles}

## Dropped

| reason | questions |
| --- | --- |
{dropped}

Prompts of the suite `{suite}` in the set: 0. A question counts as one of the suite's where it or its claim is the same as, or nearly the
same as, a question or claim of the suite.

## Limits

- The gap is what this judge reads. Another judge, or people, may read it otherwise; `valuedrift calibrate` measures a judge.
- The texts were written to order; they are nobody's opinion, and arguments and facts in them were not checked.
- Opposed pairs may differ in more than stance, length and the counts above; what else differs between a writer's supporting and opposing
  texts is learned with the stance.

## Licence

{licence}
"""
