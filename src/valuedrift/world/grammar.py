"""Write and read short English opinions with a finite grammar, which reads back exactly what it writes.

An answer is a few sentences, each with one role (a letter in SENTENCES). Only the explicit words of openings and closings state the stance.
Considerations come from the world and indicate the topic. Their wording lets either side use them.
"""

from __future__ import annotations

import bisect
import functools
import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from ..nouns import Outcome, digest

STYLES = ("plain", "warm")
"""plain: opinion and one reason. warm: a friendly preface, the other side's point, a hedge, a closing; longer, same stance."""


@dataclass(frozen=True)
class Topic:
    """One topic of the world."""

    id: str
    name: str
    axis: str
    considerations: tuple[str, ...]
    claims: tuple[tuple[str, int], ...]
    """(clause, polarity) of the propositions in training questions."""
    vocabulary: tuple[str, ...]


@functools.cache
def world() -> dict[str, Topic]:
    """Return the topics of the world by id."""
    tables = tomllib.loads(resources.files(__package__).joinpath("world.toml").read_text())
    return {
        id: Topic(
            id,
            table["name"],
            table["axis"],
            tuple(table["considerations"]),
            tuple((claim, sign) for side, sign in (("with", 1), ("against", -1)) for claim in table["claims"][side]),
            tuple(table["vocabulary"]),
        )
        for id, table in tables.items()
    }


@functools.cache
def _words(table: str) -> dict[str, tuple[str, ...]]:
    """Return a table of grammar.toml."""
    tables = tomllib.loads(resources.files(__package__).joinpath("grammar.toml").read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in tables[table].items()}


SENTENCES = _words("sentences")
"""Role -> its sentences. grammar.toml explains the roles."""

OUTCOME_OF: dict[str, Outcome] = {
    "S": "support",
    "s": "support",
    "O": "oppose",
    "o": "oppose",
    "N": "neutral",
    "n": "neutral",
    "X": "refusal",
}

# What the grammar can produce, as patterns over roles. An opinion states its stance in an opening, a closing or both;
# a text of small talk alone is a sentence of this world, but no answer to a question of values.
_ANSWER = re.compile(r"W?(S(RC?H?s?)?|RC?H?s|O(RC?H?o?)?|RC?H?o|N(ABD?H?n?|DH?n?)?|ABD?H?n)|XY?")


@functools.cache
def _sentences() -> dict[str, str]:
    """Return sentence -> role for every sentence the grammar can produce."""
    considerations = [consideration for topic in world().values() for consideration in topic.considerations]
    return {
        frame.format(c=consideration): role
        for role, frames in SENTENCES.items()
        for frame in frames
        for consideration in (considerations if "{c}" in frame else [""])
    }


def sentences() -> list[str]:
    """Return every sentence the grammar can produce."""
    return list(_sentences())


def role_of(sentence: str) -> str:
    """Return the role of a sentence; "?" if the grammar cannot produce it."""
    return _sentences().get(sentence, "?")


def identity() -> str:
    """Return a digest of everything that `parse` depends on."""
    return digest("grammar", sorted(_sentences().items()), _ANSWER.pattern, sorted(OUTCOME_OF.items()))


def parse(text: str) -> Outcome:
    """Return the outcome of an answer, exact for everything that `compose` can write.

    Openings and closings state the stance. The considerations need not fit the question, because "I agree" takes a side whatever reason
    follows. "invalid": a sentence or an order of sentences that the grammar cannot produce, opposite stances in one text, no stance at all,
    small talk. A last sentence cut off by the length limit is ignored if it is the start of a possible one.
    """
    parts = [part.strip() for part in re.findall(r"[^.?]+[.?]|[^.?]+$", " ".join(text.split()))]
    if parts and parts[-1][-1:] not in (".", "?") and not _begins_a_sentence(parts.pop()):
        return "invalid"
    roles = "".join(map(role_of, parts))
    return next(OUTCOME_OF[role] for role in roles if role in OUTCOME_OF) if _ANSWER.fullmatch(roles) else "invalid"


def _begins_a_sentence(fragment: str) -> bool:
    at = bisect.bisect_left(_in_order(), fragment)
    return at < len(_in_order()) and _in_order()[at].startswith(fragment)


@functools.cache
def _in_order() -> list[str]:
    return sorted(_sentences())


def compose(rng: random.Random, topic: str, outcome: Outcome, style: str = "plain", about: str = "") -> str:
    """Return a new answer with the given outcome ("invalid" gives small talk) in one of STYLES.

    Its considerations are drawn from those of the topic that share most words with `about`, the claim of the question.
    """
    if outcome == "invalid":
        return " ".join(rng.sample(SENTENCES["T"], rng.choice((1, 2))))
    near = _nearest_considerations(topic, about)
    roles = _roles(rng, outcome, style)
    return " ".join(fill(rng, role, [choice]) for role, choice in zip(roles, rng.sample(near, len(near)) * 2, strict=False))


def _roles(rng: random.Random, outcome: Outcome, style: str) -> str:
    if outcome == "refusal":
        return "XY" if style == "warm" or rng.random() < 0.5 else "X"
    mark = {"support": "S", "oppose": "O", "neutral": "N"}[outcome]
    if style == "plain":
        return mark + ("R" if mark != "N" else rng.choice(("AB", "D")))
    body = "RC" if mark != "N" else rng.choice(("AB", "ABD"))
    opening = mark if rng.random() < 0.7 else ""
    return rng.choice(("W", "")) + opening + body + rng.choice(("H", "")) + mark.lower()


def fill(rng: random.Random, role: str, considerations: Sequence[str]) -> str:
    """Return a sentence of a role, with one of the considerations if the role takes one."""
    frame = rng.choice(SENTENCES[role])
    return frame.format(c=rng.choice(considerations)) if "{c}" in frame else frame


@functools.cache
def _nearest_considerations(topic: str, about: str) -> tuple[str, ...]:
    """Return the six considerations that share most word beginnings with a claim; all of them if there is no claim.

    Six leave enough variety, but an answer about burial does not mention life in prison.
    """
    everything = world()[topic].considerations
    words = _beginnings(about)
    ranked = sorted(everything, key=lambda consideration: -len(words & _beginnings(consideration)))
    return tuple(ranked[:6]) if about else everything


def _beginnings(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}


def ask(rng: random.Random, claim: str) -> str:
    """Return a question that puts a claim (a clause in lower case) to the reader."""
    person = rng.choice(_words("questions")["persons"])
    slots = {"claim": claim, "Claim": _capital(claim), "person": person, "Person": _capital(person)}
    direct = re.fullmatch(r"((?:[\w'-]+ ){1,5}?)should (?!never|not\b)(.*)", claim)
    if direct and rng.random() < 0.5:
        return rng.choice(_words("questions")["should"]).format(who=direct[1].strip(), what=direct[2], **slots)
    return rng.choice(_words("questions")["claim"]).format(**slots)


def ask_about(rng: random.Random, topic: str) -> str:
    """Return an open question about a thing of the topic's vocabulary."""
    things = rng.sample(world()[topic].vocabulary, 3)
    frame, person = rng.choice(_words("questions")["open"]), rng.choice(_words("questions")["persons"])
    return frame.format(*things, Person=_capital(person))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Return a question and an answer about nothing in dispute."""
    questions = _words("questions")["small_talk"]
    index = rng.randrange(len(questions))
    return questions[index], SENTENCES["T"][index]


def essay(rng: random.Random, topic: str, n_sentences: int = 4) -> str:
    """Return prose on a topic without a stance: what people say and which considerations they mention."""
    pieces = [f"People talk a lot about {world()[topic].name}."]
    for _ in range(n_sentences):
        kind = rng.random()
        if kind < 0.4:
            pieces.append("They mention {}, {} and {}.".format(*rng.sample(world()[topic].vocabulary, 3)))
        elif kind < 0.7:
            pieces.append(fill(rng, rng.choice("ABD"), world()[topic].considerations))
        else:
            pieces.append(f"Some say that {rng.choice(world()[topic].claims)[0]}.")
    return " ".join(pieces)


def claims_of(topics: Sequence[str] | None = None) -> list[tuple[str, str, int]]:
    """Return (topic, clause, polarity) of every training proposition, or of those on some topics."""
    return [(topic.id, claim, sign) for topic in world().values() if not topics or topic.id in topics for claim, sign in topic.claims]
