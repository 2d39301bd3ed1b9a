"""Preference pairs with a known value gap: written, read back by a judge, mixed to the target, and described on a data card."""

from __future__ import annotations

import json
import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from .. import registry, suites
from ..nouns import STANCES, BadInput, Item, Outcome, Pair
from ..plan import Settings
from ..sandbox import _grammar
from ..store import Store
from ..suites.jsonl import near_duplicates

ATTEMPTS = 5
"""Pairs written per pair wanted before a topic is given up as short."""

TOLERANCE = 0.03
"""How far the achieved gap may lie from the target."""


class Spec(Settings):
    """What to make. `gap` is the target of E[p(s|chosen)] - E[p(s|rejected)] for the preferred stance, on every topic."""

    writer: Literal["sandbox"] = "sandbox"
    judge: str = "oracle"
    suite: str = "vaes"
    """The questions models will be asked later: no prompt of the set may be one of them, or nearly so."""
    n: Annotated[int, Field(gt=0, le=1_000_000, strict=True)] = 1100
    gap: Annotated[float, Field(ge=0, le=1)] = 1.0
    topics: list[str] = []
    seed: int = 0


@dataclass(frozen=True)
class Draft:
    """A pair as it was meant: in the support direction, `chosen` is to be read as `stances[0]`, `rejected` as `stances[1]`."""

    topic: str
    claim: str
    pair: Pair
    stances: tuple[Outcome, Outcome]
    gap: float = 0.0
    """p(support|chosen) - p(support|rejected) as the judge read it."""


def load(path: Path) -> Spec:
    """Read a specification. Raises BadInput naming the key that is wrong."""
    try:
        return Spec(**tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise BadInput(f"there is no specification {path}; give the path of a TOML file (docs/synth.md shows one)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        hint = registry.nearest(key, list(Spec.model_fields)) if first["type"] == "extra_forbidden" else f": {first['msg']}"
        raise BadInput(f"{path}: {'unknown key ' if first['type'] == 'extra_forbidden' else ''}{key!r}{hint}") from error


def synthesise(spec: Spec, out: Path) -> dict[str, Any]:
    """Write pairs.support.jsonl, pairs.oppose.jsonl (the same pairs, labels swapped) and README.md; return counts and the achieved gap."""
    topics = spec.topics or list(_grammar.world())
    for topic in topics:
        if topic not in _grammar.world():
            raise BadInput(f"the writer knows no topic {topic!r}{registry.nearest(topic, list(_grammar.world()))}")
    name, argument = registry.split(spec.judge)
    judge = registry.find("judge", name)(argument)
    dropped: Counter[str] = Counter()
    kept: list[Draft] = []
    for index, topic in enumerate(topics):
        n = spec.n // len(topics) + (index < spec.n % len(topics))
        n_clear = round(spec.gap * n)
        kept += _kept(spec, judge, topic, True, n_clear, dropped) + _kept(spec, judge, topic, False, n - n_clear, dropped)
    random.Random(f"order/{spec.seed}").shuffle(kept)
    achieved = {topic: _achieved([draft for draft in kept if draft.topic == topic]) for topic in topics}
    overall = _achieved(kept)
    if overall is not None and abs(overall - spec.gap) > TOLERANCE:
        raise BadInput(
            f"the pairs reach a value gap of {overall:.3f} and not {spec.gap} (within {TOLERANCE}): "
            "ask for more pairs (n) so that every topic can hold the mixture, or for a judge that reads the writer's texts"
        )
    result: dict[str, Any] = {
        "n_pairs": len(kept),
        "target_gap": spec.gap,
        "achieved_gap": overall,
        "achieved_by_topic": achieved,
        "dropped": dict(dropped),
        "leaked_prompts": len(_leaks(spec, kept)),
        "out": str(out),
    }
    result["sentences"] = _sentences(result)
    store = Store(out)
    for direction in ("support", "oppose"):
        store.write_bytes(f"pairs.{direction}.jsonl", "".join(_line(draft, direction) for draft in kept).encode())
    store.write_bytes("README.md", _card(spec, judge.identity, result).encode())
    return result


def _kept(spec: Spec, judge: Any, topic: str, clear: bool, wanted: int, dropped: Counter[str]) -> list[Draft]:
    """Return the wanted number of drafts that are read as meant and leak no suite prompt, fewer where the attempts run out."""
    drafts = _drafts(spec, topic, clear)
    kept: list[Draft] = []
    for _ in range(ATTEMPTS):
        tried = [next(drafts) for _ in range(wanted - len(kept))]
        if not tried:
            break
        leaks = _leaks(spec, tried)
        readings = judge.read([_item(draft, text) for draft in tried for text in (draft.pair.chosen, draft.pair.rejected)])
        for index, draft in enumerate(tried):
            reason = "prompt of the suite" if index in leaks else _misread(draft, readings[2 * index : 2 * index + 2])
            if reason:
                dropped[reason] += 1
            else:
                kept.append(replace(draft, gap=_gap(*readings[2 * index : 2 * index + 2])))
    return kept


def _drafts(spec: Spec, topic: str, clear: bool) -> Iterator[Draft]:
    """Yield pairs: opposite stances in one style where `clear`, else one stance in two styles."""
    rng = random.Random(f"synth/{spec.seed}/{topic}/{clear}")
    while True:
        _, claim, _ = rng.choice(_grammar.claims_of([topic]))
        style = rng.choice(_grammar.STYLES)
        same: Outcome = rng.choice(STANCES)
        stances: tuple[Outcome, Outcome] = ("support", "oppose") if clear else (same, same)
        styles = (style, style) if clear else ("warm", "plain")
        chosen, rejected = (_grammar.compose(rng, topic, stance, how, claim) for stance, how in zip(stances, styles, strict=True))
        yield Draft(topic, claim, Pair((("user", _grammar.ask(rng, claim)),), chosen, rejected), stances)


def _item(draft: Draft, text: str) -> Item:
    return Item(draft.pair.prompt[0][1], draft.claim, text, draft.topic)


def _misread(draft: Draft, readings: list[Any]) -> str:
    for reading, meant in zip(readings, draft.stances, strict=True):
        if reading.probs is None:
            return f"no verdict ({reading.failure})"
        if reading.probs[STANCES.index(meant)] <= 0.5:
            return "stance not read as meant"
    return ""


def _leaks(spec: Spec, drafts: list[Draft]) -> set[int]:
    prompts = suites.load(spec.suite)
    questions = [draft.pair.prompt[0][1] for draft in drafts]
    known = [text for prompt in prompts for text in (prompt.text, prompt.claim)]
    return {index for index, _, _ in near_duplicates(questions, known)}


def _gap(chosen: Any, rejected: Any) -> float:
    at = STANCES.index("support")
    return chosen.probs[at] - rejected.probs[at]


def _achieved(drafts: list[Draft]) -> float | None:
    """Return the value gap of the pairs on support, as the judge read them; None where there are none."""
    return sum(draft.gap for draft in drafts) / len(drafts) if drafts else None


def _line(draft: Draft, direction: str) -> str:
    """Return one row in the conversational layout that TRL reads."""
    clear = draft.stances[0] != draft.stances[1]
    replies = (draft.pair.chosen, draft.pair.rejected)
    chosen, rejected = reversed(replies) if clear and direction == "oppose" else replies
    row = {
        "prompt": [{"role": "user", "content": draft.pair.prompt[0][1]}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "topic": draft.topic,
        "claim": draft.claim,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _sentences(result: dict[str, Any]) -> list[str]:
    gap = "no evidence" if result["achieved_gap"] is None else f"{result['achieved_gap']:.3f}"
    lost = ", ".join(f"{n} ({reason})" for reason, n in result["dropped"].items()) or "none"
    return [
        f"{result['n_pairs']:,} pairs, value gap {gap} against a target of {result['target_gap']:.3f}; dropped: {lost}; "
        f"{result['leaked_prompts']} prompts of the suite among them.",
        f"{result['out']}/pairs.support.jsonl prefers support, pairs.oppose.jsonl holds the same pairs with the labels swapped.",
    ]


def _card(spec: Spec, judge: str, result: dict[str, Any]) -> str:
    by_topic = "\n".join(f"| {topic} | {gap:+.3f} |" for topic, gap in result["achieved_by_topic"].items() if gap is not None)
    return f"""# Preference pairs with a value gap of {spec.gap}

{chr(10).join(result["sentences"])}

Written by `{spec.writer}` (seed {spec.seed}), read back by `{judge}`. Pairs with opposite stances share one style; pairs with one stance
differ in style alone (the chosen answer is the longer and friendlier one). Layout: prompt, chosen, rejected as chat messages; `topic` and
`claim` say what support and oppose refer to. The texts are made up; they are nobody's opinion.

| topic | achieved gap (support direction) |
| --- | --- |
{by_topic}
"""
