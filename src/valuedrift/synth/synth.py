"""Write preference pairs with a known value gap: draft them, judge them, mix them to the target, and describe them on a data card."""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from .. import judge as judges
from .. import plan, registry, suites
from ..judge.cache import CachedJudge
from ..models.writer import writer_of
from ..nouns import BadInput, Prompt, Stopped, digest
from ..store import Store
from ..suites.jsonl import near_duplicates
from ..suites.written import refuse_strangers
from . import _card, drafting, mixing
from ._card import Row
from .drafting import KINDS, Draft, Drafter, Slot

ATTEMPTS = 5
"""Most questions tried per wanted question, before the topic counts as short."""
FUTILE = 20
"""Questions after which the work stops if none has given a pair, because the writer or the judge does not follow its task."""
COMPARED_TOGETHER = 2_000
LEAK = "a prompt of the suite"

Gap = Annotated[float, Field(ge=0, le=1)]


class Spec(plan.Settings):
    """The pairs to write. `gap` is the target of E[p(s|chosen)] - E[p(s|rejected)] for the preferred stance, on every topic."""

    writer: str = "sandbox"
    """Who writes the texts: the sandbox's grammar, openai:MODEL, a model folder, or a hub id with its revision."""
    judge: str = "oracle"
    """The judge that reads the texts (docs/judge.md)."""
    suite: str = "vaes"
    """The suite of later evaluations: no prompt may equal or nearly equal one of its questions."""
    prompts: str = "sandbox"
    """The questions to write about: those of the sandbox, or a JSONL file with text, topic and claim."""
    n: Annotated[int, Field(gt=0, le=1_000_000, strict=True)] = 1100
    """Number of pairs, spread over the topics as evenly as the gap allows."""
    gap: Gap | list[Gap] = 1.0
    """Target gap on every topic, 0 to 1; or a list of targets, each with its folder (gap-0.25) and the same questions."""
    topics: list[str] = []
    """Only these topics; all topics if empty."""
    seed: int = 0
    """Random seed of the pairs."""
    styles: Annotated[list[str], Field(min_length=2, max_length=2)] = ["warm", "plain"]
    """The two styles; a same-stance pair has an answer in each."""
    style_preference: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the same-stance pairs that prefer the first style, exact to one pair per topic (docs/synth.md#style).

    At 0.5 the pairs prefer neither style, so that style does not move with the gap.
    """
    candidates: Annotated[int, Field(gt=0)] = 2
    """Texts written per side; the two that match best in length, hedging and list use are taken."""
    length_ratio: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Smallest ratio of the shorter to the longer answer of a pair, in words."""
    length: Annotated[int, Field(gt=0)] = 80
    """Length in words to request from a language model."""
    words: str = ""
    """A file of instructions for a language model, for other styles or another language; by default, src/valuedrift/synth/synth.toml."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature of a language model."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    """Longest text in tokens; longer texts are dropped."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Limit in dollars for the writer, and the same again for the judge."""

    @field_validator("gap", "styles")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("a list must have entries, none of them twice")
        return value

    def gaps(self) -> list[float]:
        """Return the targets, one per set of pairs."""
        return self.gap if isinstance(self.gap, list) else [self.gap]

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of pairs that the targets need."""
        called_for = (max(self.gaps()) > 0, min(self.gaps()) < 1)
        return tuple(kind for kind, wanted in zip(KINDS, called_for, strict=True) if wanted)


def load(path: Path, changes: Sequence[str] = ()) -> Spec:
    """Read a specification and apply KEY=VALUE changes. Raises BadInput with the name of the wrong key."""
    try:
        return Spec(**plan.changed(tomllib.loads(path.read_text()), changes))
    except FileNotFoundError:
        raise BadInput(f"there is no specification {path}; give the path of a TOML file (docs/synth.md shows one)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        # If a key takes a value or a list, the deepest fault is the one of the form that was given.
        first = max(error.errors(), key=lambda found: (found["type"] == "extra_forbidden", len(found["loc"])))
        key, where = str(first["loc"][0]), "docs/synth.md says what each key takes"
        source = plan.set_by(key, changes) or path
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{source}: unknown key {key!r}{registry.nearest(key, list(Spec.model_fields)) or f'; {where}'}") from error
        said = first["msg"].removeprefix("Value error, ").removesuffix(" after validation").replace("Input should", "it should")
        raise BadInput(f"{source}: {key!r} is {first['input']!r}, and {said[0].lower()}{said[1:]}; {where}") from error


def synthesise(spec: Spec, out: Path, make: Callable[[str, float | None], Any] = judges.make) -> dict[str, Any]:
    """Write pairs.support.jsonl, pairs.oppose.jsonl (the same pairs, labels swapped) and README.md; return counts and the achieved gap.

    Each of several targets gets a folder, with pairs of the same questions. Raises Stopped if the writer or the judge fails too often or
    the target cannot be met. What was written and judged stays in `out`, and the same command resumes from it. `make` builds the judge from
    its name and its limit in dollars.
    """
    dropped: Counter[str] = Counter()
    asked = [prompt.text for prompt in suites.load(spec.suite)] + [prompt.claim for prompt in suites.load(spec.suite)]
    prompts = _prompts(spec, asked, dropped)
    questions = drafting.Questions(prompts, spec.topics, spec.seed, spec.styles)
    n_of = [dict(zip(questions.topics, mixing.sizes(spec.n, len(questions.topics), gap), strict=True)) for gap in spec.gaps()]
    drafter, reader = _drafter(spec, questions.topics), make(spec.judge, spec.max_cost)
    store = Store(out)  # after all checks, so that a refused call leaves no folder
    with store.locked():
        judge = CachedJudge(reader, store)
        record = {
            **spec.model_dump(exclude={"max_cost"}),
            "writer_identity": drafter.identity,
            "judge_identity": judge.identity,
            "prompts_digest": digest([[prompt.topic, prompt.text, prompt.claim] for prompt in prompts]),
            "suite_digest": digest(asked),
        }
        _check_folder(store, record)
        wanted = {topic: max(n[topic] for n in n_of) for topic in questions.topics}
        drafts = drafting.preferring(_written(spec, drafter, judge, store, questions, wanted, asked, dropped), spec.style_preference)
        mixtures = [_mixture(spec, drafts, n, gap) for gap, n in zip(spec.gaps(), n_of, strict=True)]
        store.write_json("spec.json", record)  # before the pairs, so that a kill never leaves pairs without it
        folders = [out / f"gap-{gap:g}" for gap in spec.gaps()] if isinstance(spec.gap, list) else [out]
        sets = [
            _card.write_set(folder, rows, gap, record | {"note": judge.note}, dropped)
            for folder, rows, gap in zip(folders, mixtures, spec.gaps(), strict=True)
        ]
    result = sets[0] if not isinstance(spec.gap, list) else _card.together(sets)
    return result | {"spent": drafter.spent + judge.spent, "out": str(out)}


# -- what goes in --------------------------------------------------------------------------------------------------------------


def _prompts(spec: Spec, asked: Sequence[str], dropped: Counter[str]) -> list[Prompt]:
    """Return the prompts of the specification's file, without those of the suite; none if the sandbox makes the questions."""
    if spec.prompts == "sandbox":
        return []
    prompts = suites.load(spec.prompts, spec.topics)
    for prompt in prompts:
        if prompt.claim == prompt.text:
            raise BadInput(
                f"{spec.prompts}: the prompt {prompt.id!r} has no claim of its own; add the statement that answers agree with or not"
            )
    leaked = _leaked([(prompt.text, prompt.claim) for prompt in prompts], asked)
    dropped.update([LEAK] * len(leaked))
    kept = [prompt for index, prompt in enumerate(prompts) if index not in leaked]
    for topic in dict.fromkeys(prompt.topic for prompt in prompts):
        if topic not in {prompt.topic for prompt in kept}:
            raise BadInput(f"{spec.prompts}: every prompt on {topic!r} is (nearly) one of the suite {spec.suite!r}; give other prompts")
    return kept


def _leaked(prompts: Sequence[tuple[str, str]], asked: Sequence[str]) -> set[int]:
    """Return the indices of the prompts whose question or claim equals or nearly equals a question or claim of the suite."""
    texts = list(dict.fromkeys(text for prompt in prompts for text in prompt))
    # In parts, because a comparison needs memory for every text times every question of the suite.
    parts = [texts[start : start + COMPARED_TOGETHER] for start in range(0, len(texts), COMPARED_TOGETHER)]
    near = {part[index] for part in parts for index, _, _ in near_duplicates(part, list(asked))}
    return {index for index, prompt in enumerate(prompts) if not near.isdisjoint(prompt)}


def _drafter(spec: Spec, topics: Sequence[str]) -> Drafter:
    """Return the writer of the texts. Raises BadInput if the specification names none that can be used."""
    if spec.writer != "sandbox":
        words = drafting.words_of(spec.words, spec.styles)
        writer = writer_of(spec.writer, spec.temperature, spec.max_new_tokens, spec.max_cost)
        return drafting.Instructed(writer, words, spec.length, spec.seed, spec.candidates)
    if spec.words:
        raise BadInput(f"words = {spec.words!r} instructs a language model and the writer is the sandbox's grammar; remove one of them")
    return drafting.Grammar(spec.seed, spec.candidates, spec.styles, topics)


def _check_folder(store: Store, record: Mapping[str, Any]) -> None:
    """Raise BadInput if the folder holds finished pairs of another specification, or a file of such a name that synth did not write."""
    finished = [
        path
        for pattern in ("pairs.*.jsonl", "README.md", "gap-*/pairs.*.jsonl", "gap-*/README.md")
        for path in sorted(store.root.glob(pattern))
    ]
    known = store.read_json("spec.json", dict[str, Any])
    if known == record:
        for path in finished:
            refuse_strangers(path.parent, [path.name], "synth")
        return
    if not finished:
        return
    if known is None:
        raise BadInput(f"{finished[0]} was not written by 'valuedrift synth' and would be overwritten; use another --out")
    key = next(key for key in record if known.get(key) != record[key])
    raise BadInput(
        f"{store.root} holds the pairs of another specification ({key} is {known.get(key)!r} there and {record[key]!r} here); use another "
        f"--out, or delete {finished[0].name} and its like to rebuild the pairs from the cached texts and verdicts"
    )


# -- writing -------------------------------------------------------------------------------------------------------------------


def _written(
    spec: Spec,
    drafter: Drafter,
    judge: CachedJudge,
    store: Store,
    questions: drafting.Questions,
    wanted: Mapping[str, int],
    asked: Sequence[str],
    dropped: Counter[str],
) -> dict[str, list[Draft]]:
    """Return the wanted number of drafts per topic, and count the drops by reason. Raises Stopped if a topic stays short."""
    kept: dict[str, list[Draft]] = {topic: [] for topic in wanted}
    tried: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    while True:
        # A few questions first show whether the writer and the judge can do it, before the rest cost money.
        most = spec.n if tried else -(-FUTILE // len(wanted))
        missing = {topic: min(n - len(kept[topic]), ATTEMPTS * n - tried[topic], most) for topic, n in wanted.items()}
        slots = [slot for topic, n in missing.items() for slot in questions.take(topic, n)]
        tried.update(slot.topic for slot in slots)
        leaked = _leaked([(slot.question, slot.claim) for slot in slots], asked)
        dropped.update([LEAK] * len(leaked))
        for draft in _settled(spec, drafter, judge, store, [slot for index, slot in enumerate(slots) if index not in leaked]):
            if isinstance(draft, str):
                dropped[draft] += 1
            elif draft.contents() & seen:
                dropped["the same pair again"] += 1
            else:
                seen |= draft.contents()
                kept[draft.slot.topic].append(draft)
        if not slots or (tried.total() >= FUTILE and not any(kept.values())):
            break
    _refuse_short(kept, wanted, tried, dropped, drafter)
    return kept


def _settled(spec: Spec, drafter: Drafter, judge: CachedJudge, store: Store, slots: Sequence[Slot]) -> list[Draft | str]:
    """Return the draft of each slot, or why there is none."""
    sides_of = [{kind: slot.sides(kind, spec.styles) for kind in spec.kinds()} for slot in slots]
    wants = [(slot, side) for slot, sides in zip(slots, sides_of, strict=True) for side in dict.fromkeys(sum(sides.values(), ()))]
    texts = drafter.write(wants, store)
    readings = iter(judge.read([drafting.item(slot, text) for (slot, _), found in zip(wants, texts, strict=True) for text in found]))
    written: dict[Slot, dict[Any, Any]] = {slot: {} for slot in slots}
    for (slot, side), found in zip(wants, texts, strict=True):
        written[slot][side] = [(text, next(readings)) for text in found]
    least_ratio = {kind: spec.length_ratio if kind in drafter.like else 0.0 for kind in KINDS}
    return [drafting.settled(slot, sides, written[slot], least_ratio) for slot, sides in zip(slots, sides_of, strict=True)]


def _refuse_short(
    kept: Mapping[str, Sequence[Draft]], wanted: Mapping[str, int], tried: Counter[str], dropped: Counter[str], drafter: Drafter
) -> None:
    short = [topic for topic, n in wanted.items() if len(kept[topic]) < n]
    if not short:
        return
    because = "".join(f"; the writer failed {n:,} times: {reason}" for reason, n in drafter.failures.most_common(1))
    raise Stopped(
        f"of {tried.total():,} questions tried, {sum(map(len, kept.values())):,} gave pairs, but {sum(wanted.values()):,} were wanted "
        f"({len(short)} of {len(wanted)} topics are short, {short[0]!r} first); dropped: {_card.counted(dropped)}{because}. "
        "Look at the texts in drafts/, then change the writer, the judge, the prompts or length_ratio"
    )


# -- mixing --------------------------------------------------------------------------------------------------------------------


def _mixture(spec: Spec, drafts: Mapping[str, Sequence[Draft]], n_of: Mapping[str, int], target: float) -> list[Row]:
    """Return the rows of one set, in the order of the file. Raises Stopped if a topic cannot meet the target."""
    rows: list[Row] = []
    gaps_of = {topic: _gaps(spec, drafts[topic][:n]) for topic, n in n_of.items()}
    every = {0.0: False, 1.0: True}.get(target)  # targets 0 and 1 use one kind of pair alone
    for topic, (opposed_M2, same_M2) in gaps_of.items():
        first_M = np.array([draft.prefers_first for draft in drafts[topic][: n_of[topic]]])
        opposed_M = mixing.mixed(opposed_M2, same_M2, first_M, target) if every is None else np.full(len(same_M2), every)
        if mixing.missed(opposed_M2, same_M2, opposed_M, target) > mixing.TOLERANCE:
            raise _out_of_reach(spec, gaps_of, topic, mixing.gap_of(opposed_M2, same_M2, opposed_M), target)
        rows += [Row(draft, "opposed" if opposed else "same") for draft, opposed in zip(drafts[topic], opposed_M, strict=False)]
    random.Random(f"order/{spec.seed}").shuffle(rows)
    return rows


def _gaps(spec: Spec, drafts: Sequence[Draft]) -> tuple[np.ndarray, np.ndarray]:
    """Return the gaps of the opposed and of the same-stance pairs, shape (M, 2): support direction, oppose direction.

    If the targets need one kind only, both arrays are of that kind.
    """
    opposed, same = spec.kinds()[0], spec.kinds()[-1]
    opposed_M2, same_M2 = (
        np.array([[Row(draft, kind).gap(direction, direction) for direction in _card.DIRECTIONS] for draft in drafts])
        for kind in (opposed, same)
    )
    return opposed_M2, same_M2


def _out_of_reach(
    spec: Spec, gaps_of: Mapping[str, tuple[np.ndarray, np.ndarray]], topic: str, achieved_2: np.ndarray, target: float
) -> Stopped:
    """Return why no mixture gives the target, and what to do."""
    highest, at = min((opposed_M2.mean(0).min(), name) for name, (opposed_M2, _) in gaps_of.items())
    lowest, at_lowest = max((same_M2.mean(0).max(), name) for name, (_, same_M2) in gaps_of.items())
    judged = f"as {spec.judge} reads the texts of {spec.writer}"
    if target > highest:
        return Stopped(
            f"a gap of {target:g} is out of reach: {judged}, the opposed pairs on {at!r} reach {highest:.3f} at most; "
            f"set gap to {np.floor(100 * highest + 1e-9) / 100:g} or less, or use a clearer writer or judge"
        )
    if target < lowest:
        return Stopped(
            f"a gap of {target:g} is out of reach: {judged}, the same-stance pairs on {at_lowest!r} already differ by {lowest:.3f}; "
            f"set gap to {np.ceil(100 * lowest - 1e-9) / 100:g} or more, or use other styles or another judge"
        )
    worst = achieved_2[np.abs(achieved_2 - target).argmax()]
    return Stopped(
        f"{judged}, no mixture of the {len(gaps_of[topic][0])} questions on {topic!r} comes nearer to {target:g} than {worst:.3f} "
        f"in both directions; ask for more pairs (n)"
    )
