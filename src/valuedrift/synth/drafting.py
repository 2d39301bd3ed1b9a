"""Write and match drafts of preference pairs. Each question gives an opposed pair in one style and a same-stance pair in two styles."""

from __future__ import annotations

import itertools
import math
import random
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import progress
from ..models.writer import CachedWriter, Writer
from ..nouns import OUTCOMES, STANCES, BadInput, Item, Messages, Outcome, Prompt, Reading, digest
from ..registry import among
from ..stats import text_style
from ..store import Store
from ..world import grammar

WORDS = Path(__file__).with_name("synth.toml")
KINDS = ("opposed", "same")
REFUSAL = OUTCOMES.index("refusal")


@dataclass(frozen=True)
class Slot:
    """A question for which pairs are written."""

    topic: str
    claim: str
    question: str
    turn: int
    """How many earlier slots have this question."""
    style: str
    """Style of both sides of the opposed pair."""
    stance: Outcome
    """Stance of both sides of the same-stance pair."""

    def sides(self, kind: str, styles: Sequence[str]) -> tuple[Side, Side]:
        """Return the intended stance and style of both answers of a pair: the supporting answer first, or the one in the first style."""
        if kind == "opposed":
            return ("support", self.style), ("oppose", self.style)
        return (self.stance, styles[0]), (self.stance, styles[1])


Side = tuple[Outcome, str]
"""The intended stance and style of an answer."""
Want = tuple[Slot, Side]


@dataclass(frozen=True)
class Text:
    """An answer and the judge's reading of it."""

    words: str
    probs: tuple[float, ...]


@dataclass(frozen=True)
class Draft:
    """The pairs of one question by kind: the supporting answer first, or the one in the first style."""

    slot: Slot
    pairs: Mapping[str, tuple[Text, Text]]
    prefers_first: bool = True
    """Whether the same-stance pair prefers the first style."""

    def contents(self) -> set[tuple[str, ...]]:
        """Return the content of each pair, to find duplicates."""
        return {(kind, self.slot.question, *(text.words for text in pair)) for kind, pair in self.pairs.items()}


# -- questions -----------------------------------------------------------------------------------------------------------------


class Questions:
    """An endless supply of questions by topic. Those of a file repeat; those of the sandbox are always new.

    Stances and styles rotate, so that all of them occur equally often.
    """

    def __init__(self, prompts: Sequence[Prompt], topics: Sequence[str], seed: int, styles: Sequence[str]):
        self.styles, self.taken = styles, Counter[tuple[str, str]]()
        known = list(dict.fromkeys(prompt.topic for prompt in prompts)) or list(grammar.world())
        for topic in topics:
            if topic not in known:
                raise BadInput(f"there is no prompt on the topic {topic!r}{among(topic, known)}")
        self.topics = list(topics) or known
        self._turning = {
            topic: zip(_asked(prompts, topic, seed), itertools.cycle(itertools.product(styles, STANCES)), strict=False)
            for topic in self.topics
        }

    def take(self, topic: str, n: int) -> list[Slot]:
        """Return the next n slots of a topic."""
        slots = []
        for (question, claim), (style, stance) in itertools.islice(self._turning[topic], n):
            slots.append(Slot(topic, claim, question, self.taken[question, claim], style, stance))
            self.taken[question, claim] += 1
        return slots


def _asked(prompts: Sequence[Prompt], topic: str, seed: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(f"synth/{seed}/{topic}")
    own = [(prompt.text, prompt.claim) for prompt in prompts if prompt.topic == topic]
    if own:
        rng.shuffle(own)
        yield from itertools.cycle(own)
    while True:
        claim = rng.choice(grammar.claims_of([topic]))[1]
        yield grammar.ask(rng, claim), claim


# -- writers -------------------------------------------------------------------------------------------------------------------


class Grammar:
    """Writes with the sandbox's grammar. Its warm style is longer than its plain one, so only opposed pairs can be matched in length."""

    like = frozenset({"opposed"})
    """The kinds of pairs whose sides can have the same length."""
    spent = 0.0

    def __init__(self, seed: int, candidates: int, styles: Sequence[str], topics: Sequence[str]):
        for style in styles:
            if style not in grammar.STYLES:
                raise BadInput(f"the sandbox's grammar has no style {style!r}{among(style, grammar.STYLES)}")
        for topic in topics:
            if topic not in grammar.world():
                raise BadInput(f"the sandbox's grammar writes on its own topics only, not on {topic!r}; name another writer")
        self.seed, self.candidates, self.failures = seed, candidates, Counter[str]()
        self.identity = f"sandbox/{grammar.identity()}"

    def write(self, wants: Sequence[Want], store: Store) -> list[list[str]]:
        """Return the candidates for each want."""
        return [[self._text(slot, side, number) for number in range(self.candidates)] for slot, side in wants]

    def _text(self, slot: Slot, side: Side, number: int) -> str:
        rng = random.Random(f"draft/{self.seed}/{slot.topic}/{slot.question}/{slot.turn}/{side}/{number}")
        return grammar.compose(rng, slot.topic, *side, slot.claim)


class Instructed:
    """Writes with a language model that is prompted with the stance and the style. The store caches its texts."""

    like = frozenset(KINDS)

    def __init__(self, writer: Writer, words: Mapping[str, Any], n_words: int, seed: int, candidates: int):
        self.writer, self.words, self.n_words, self.seed, self.candidates = writer, words, n_words, seed, candidates
        self.identity, self.failures = writer.identity, writer.failures

    @property
    def spent(self) -> float:
        return self.writer.spent

    def write(self, wants: Sequence[Want], store: Store) -> list[list[str]]:
        """Return the candidates for each want, fewer if the writer fails. Raises Stopped if it stops; the store keeps its texts."""
        kept = CachedWriter(self.writer, store, "drafts")
        texts: list[list[str]] = [[] for _ in wants]
        turns = sorted({slot.turn for slot, _ in wants})
        with progress.task(f"write with {self.identity.split('/')[0]}", len(wants) * self.candidates, "texts") as advance:
            for turn, number in itertools.product(turns, range(self.candidates)):
                rows = [row for row, (slot, _) in enumerate(wants) if slot.turn == turn]
                seed = int(digest("candidate", self.seed, turn, number)[:8], 16)
                written = kept.write([self.messages(*wants[row]) for row in rows], seed, advance)
                for row, text in zip(rows, written, strict=True):
                    texts[row] += [text] if text else []
        return texts

    def messages(self, slot: Slot, side: Side) -> Messages:
        """Return the messages to the writer."""
        stance, style = self.words["stance"][side[0]], self.words["style"][side[1]]
        about = {"question": slot.question, "claim": slot.claim, "words": self.n_words, "stance": stance, "style": style}
        return (("system", self.words["system"].strip()), ("user", self.words["request"].strip().format(**about)))


Drafter = Grammar | Instructed


def words_of(path: str, styles: Sequence[str]) -> dict[str, Any]:
    """Return the instructions of a words file (the shipped one if the path is empty). Raises BadInput with the name of a missing text."""
    file = Path(path) if path else WORDS
    try:
        words = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"the words file {file} cannot be read: {error}; give a TOML file like {WORDS.name}") from error
    needed = {"stance": STANCES, "style": tuple(styles)}
    for table, names in needed.items():
        for name in names:
            if not isinstance(words.get(table), dict) or not isinstance(words[table].get(name), str):
                known = list(words[table]) if isinstance(words.get(table), dict) else []
                raise BadInput(f"{file}: [{table}] has no text {name!r}{among(name, known)}")
    try:
        words["system"].strip()
        words["request"].format(question="", claim="", words=0, stance="", style="")
    except (KeyError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(
            f"{file}: 'system' and 'request' must be texts, with no other fields in braces than question, claim, words, stance, style "
            f"({type(error).__name__}: {error}); correct the file"
        ) from error
    return words


# -- what was written ----------------------------------------------------------------------------------------------------------


def item(slot: Slot, text: str) -> Item:
    """Return an answer as the item that the judge reads."""
    return Item(slot.question, slot.claim, text, slot.topic)


def settled(
    slot: Slot,
    sides_of: Mapping[str, Sequence[Side]],
    written: Mapping[Side, Sequence[tuple[str, Reading]]],
    least_ratio: Mapping[str, float],
) -> Draft | str:
    """Return the pairs of a slot by kind, from the candidates read as intended that match best; or why there are none."""
    pairs: dict[str, tuple[Text, Text]] = {}
    for kind, wanted in sides_of.items():
        first, second = (_as_meant(written[side], side[0]) for side in wanted)
        if isinstance(first, str) or isinstance(second, str):
            return first if isinstance(first, str) else str(second)
        possible = [(one, other) for one, other in itertools.product(first, second) if one.words != other.words]
        possible = [pair for pair in possible if _length_ratio(*pair) >= least_ratio[kind]]
        if not possible:
            return "no answers of matched length"
        pairs[kind] = min(possible, key=lambda pair: _unlike(*pair))
    return Draft(slot, pairs)


def _as_meant(candidates: Sequence[tuple[str, Reading]], stance: Outcome) -> list[Text] | str:
    """Return the candidates that the judge reads as intended, or why there are none."""
    read = [Text(text, reading.probs) for text, reading in candidates if reading.probs is not None]
    meant = [text for text in read if text.probs[STANCES.index(stance)] > 0.5]
    if meant:
        return meant
    if not candidates:
        return "the writer failed"
    if not read:
        return "no verdict"
    return "refusal" if sum(text.probs[REFUSAL] for text in read) > len(read) / 2 else "stance not read as intended"


def _length_ratio(one: Text, other: Text) -> float:
    """Return the length of the shorter text in words, divided by that of the longer one."""
    shorter, longer = sorted(text_style.length(text.words) for text in (one, other))
    return shorter / max(1, longer)


def _unlike(one: Text, other: Text) -> float:
    """Return how far two texts differ in length and style. A doubled length, ten hedges in 100 words, and a list against prose count 1
    each.
    """
    first, second = one.words, other.words
    length = abs(math.log2(max(1, text_style.length(first)) / max(1, text_style.length(second))))
    return (
        length
        + abs(text_style.hedging(first) - text_style.hedging(second)) / 10
        + abs(text_style.has_list(first) - text_style.has_list(second))
    )


def preferring(drafts: Mapping[str, Sequence[Draft]], share: float) -> dict[str, list[Draft]]:
    """Return the drafts of each topic, with the first style preferred in a share of the same-stance pairs.

    The preference is spread evenly: any run of a topic's drafts has the share up to one pair. Topics start at different points, so that
    rounding up on one topic is offset by rounding down on another.
    """
    turned = {}
    for index, (topic, own) in enumerate(drafts.items()):
        preferred = [math.floor(number * share + index / len(drafts)) for number in range(len(own) + 1)]
        grows = [before < after for before, after in itertools.pairwise(preferred)]
        turned[topic] = [replace(draft, prefers_first=first) for draft, first in zip(own, grows, strict=True)]
    return turned
