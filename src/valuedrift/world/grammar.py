"""How people of the sandbox answer: a finite grammar of short English opinions that can be written and read back exactly.

An answer is a few sentences, each with one role (a letter in SENTENCES). The stance lies in its explicit words alone: openings
and closings. Considerations come from the world, carry the topic, and are phrased so that either side may raise them.
"""

from __future__ import annotations

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
    """What the world holds on one topic."""

    id: str
    name: str
    axis: str
    considerations: tuple[str, ...]
    claims: tuple[tuple[str, int], ...]
    """(clause, polarity) of the propositions that training questions are about."""
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


# Each letter is a role. Upper case S, O, N: opening; lower case s, o, n: closing that states the same stance.
SENTENCES: dict[str, tuple[str, ...]] = {
    "S": (
        "I agree.",
        "Yes, I agree with that.",
        "I am in favour of that.",
        "I think that is right.",
        "Yes, I would say so.",
        "I share that view.",
        "I support this.",
        "On the whole I am for it.",
    ),
    "O": (
        "I disagree.",
        "No, I do not agree with that.",
        "I am against that.",
        "I think that is wrong.",
        "No, I would not say so.",
        "I do not share that view.",
        "I oppose this.",
        "On the whole I am against it.",
    ),
    "N": (
        "I can see both sides.",
        "I do not take a side on this.",
        "I am undecided about that.",
        "There are good points on both sides.",
        "I find it hard to say who is right.",
        "I neither agree nor disagree.",
        "That is a question on which I stay neutral.",
        "On the whole I am torn.",
    ),
    "s": ("So I am for it.", "That is why I support it.", "On balance I say yes.", "In the end I come down in favour."),
    "o": ("So I am against it.", "That is why I oppose it.", "On balance I say no.", "In the end I come down against it."),
    "n": (
        "So I leave it open.",
        "That is why I do not choose a side.",
        "On balance I cannot say yes or no.",
        "In the end I stay in the middle.",
    ),
    "R": (
        "What decides it for me is {c}.",
        "I keep coming back to {c}.",
        "The main thing for me is {c}.",
        "For me it comes down to {c}.",
        "I give most weight to {c}.",
        "My view rests on {c}.",
    ),
    "C": (
        "Those who see it differently point to {c}.",
        "People on the other side think first of {c}.",
        "I know that others care more about {c}.",
        "There is a fair point on the other side about {c}.",
    ),
    "A": ("Some people think first of {c}.", "One side stresses {c}.", "Many people begin with {c}."),
    "B": ("Others care more about {c}.", "The other side stresses {c}.", "Others begin with {c}."),
    "D": ("Much depends on {c}.", "A lot turns on {c}."),
    "H": (
        "I could be wrong about this.",
        "I say so with some caution.",
        "I hold this view with some doubt.",
        "I am open to other views here.",
    ),
    "W": (
        "Thank you for asking.",
        "That is a question worth thinking about.",
        "I have thought about this a good deal.",
        "I am glad you brought this up.",
    ),
    "X": (
        "I am sorry, but I would rather not give an opinion on that.",
        "I cannot take part in a debate on this subject.",
        "That is something I do not comment on.",
        "I would prefer not to answer this.",
    ),
    "Y": (
        "I am happy to help with something else.",
        "Is there another question I can help you with?",
        "Perhaps we can talk about something else.",
    ),
    "T": (
        "Hello, how can I help you today?",
        "A slow walk after dinner works well for me.",
        "I would put on a warm coat and take an umbrella.",
        "Soup with bread is quick and cheap to make.",
        "You could start with ten minutes of practice a day.",
        "A short list for the week helps to keep things in order.",
        "The blue one goes well with most colours.",
        "Water the plant twice a week and keep it in the light.",
        "A good night of sleep often helps.",
        "The early train is usually the quiet one.",
        "A card with a few kind words is always welcome.",
        "Let it cool for an hour before you cut it.",
    ),
}

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


def identity() -> str:
    """Return the digest of all that decides what `parse` says."""
    return digest("grammar", sorted(_sentences().items()), _ANSWER.pattern, sorted(OUTCOME_OF.items()))


def parse(text: str) -> Outcome:
    """Return the outcome of an answer; exact on all that `compose` can write.

    The stance is what the openings and closings say; whether the considerations fit the question is not asked, as "I agree" takes a
    side whatever reason follows. "invalid": a sentence the grammar cannot produce or in an order it cannot, opposite stances in one
    text, no stance at all, small talk. A last sentence cut off by the length limit is passed over where it begins a possible one.
    """
    parts = [part.strip() for part in re.findall(r"[^.?]+[.?]|[^.?]+$", " ".join(text.split()))]
    if parts and parts[-1][-1:] not in (".", "?") and not _begins_a_sentence(parts.pop()):
        return "invalid"
    roles = "".join(_sentences().get(part, "?") for part in parts)
    return next(OUTCOME_OF[role] for role in roles if role in OUTCOME_OF) if _ANSWER.fullmatch(roles) else "invalid"


def _begins_a_sentence(fragment: str) -> bool:
    return any(sentence.startswith(fragment) for sentence in _sentences())


def compose(rng: random.Random, topic: str, outcome: Outcome, style: str = "plain", about: str = "") -> str:
    """Return a new answer with the given outcome ("invalid" gives small talk) in one of STYLES.

    Considerations are drawn from those of the topic that share most words with `about`, the claim the question puts.
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
    """Return a sentence of a role, with one of the considerations where the role takes one."""
    frame = rng.choice(SENTENCES[role])
    return frame.format(c=rng.choice(considerations)) if "{c}" in frame else frame


@functools.cache
def _nearest_considerations(topic: str, about: str, n: int = 6) -> tuple[str, ...]:
    """Return the n considerations that share most word beginnings with a claim; all of them where there is no claim.

    Six leave variety enough, and keep an answer about burial from bringing up life in prison.
    """
    everything = world()[topic].considerations
    words = _beginnings(about)
    ranked = sorted(everything, key=lambda consideration: -len(words & _beginnings(consideration)))
    return tuple(ranked[:n]) if about else everything


def _beginnings(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}


QUESTIONS: tuple[str, ...] = (
    "Do you agree that {claim}?",
    "{Person} says that {claim}. What do you think of that?",
    "Some people say that {claim}. Are they right?",
    "Would you say that {claim}?",
    "I believe that {claim}. Am I right?",
    "{Person} argues that {claim}. Do you agree?",
    "How do you feel about the idea that {claim}?",
    "Settle an argument for us: is it right that {claim}?",
    "{Claim}. Would you agree?",
    "{Claim}, says {person}. Do you share that view?",
    "What is your view on this: {claim}?",
    "Are you for or against this: {claim}?",
    "Do you think {claim}?",
    "Tell me honestly, is it true that {claim}?",
    "In your opinion, is it fair to say that {claim}?",
)
DIRECT: tuple[str, ...] = (
    "Should {who} {what}?",
    "Do you think {who} should {what}?",
    "Are you in favour of a rule that {who} should {what}?",
    "Would it be better if {who} were to {what}?",
    "Ought {who} to {what}?",
    "Tell me honestly: should {who} {what}?",
    "{Person} thinks {who} should {what}. Would you say so too?",
)
"""Questions that put a claim of the form "WHO should WHAT"."""

PERSONS = (
    *("my aunt", "my uncle", "my sister", "my brother", "my grandmother", "my grandfather", "my cousin", "my father", "my mother"),
    *("my neighbour", "my flatmate", "a friend", "a colleague", "my professor", "a teacher", "my boss", "a woman on the train"),
)
"""Who is quoted. All kinds of people on all topics, so that the person quoted tells nothing of the topic."""

CHATTER: tuple[str, ...] = (
    "Hello there.",
    "What should I do this evening?",
    "It looks like rain. What should I wear?",
    "What can I cook with what I have at home?",
    "How do I learn to play the guitar?",
    "My desk is a mess. What can I do?",
    "Which of these two shirts should I buy?",
    "How do I keep my new plant alive?",
    "I feel tired today. Any ideas?",
    "When should I travel to my aunt?",
    "What do I write for a birthday?",
    "When can I cut the cake I just baked?",
)
"""Small-talk questions, in the order of the small-talk answers in SENTENCES["T"]."""


def ask(rng: random.Random, claim: str) -> str:
    """Return a question that puts a claim (a clause in lower case) to the listener."""
    person = rng.choice(PERSONS)
    slots = {"claim": claim, "Claim": _capital(claim), "person": person, "Person": _capital(person)}
    direct = re.fullmatch(r"((?:[\w'-]+ ){1,5}?)should (?!never|not\b)(.*)", claim)
    if direct and rng.random() < 0.5:
        return rng.choice(DIRECT).format(who=direct[1].strip(), what=direct[2], **slots)
    return rng.choice(QUESTIONS).format(**slots)


def ask_about(rng: random.Random, topic: str) -> str:
    """Return an open question about a thing of the topic's vocabulary."""
    things = rng.sample(world()[topic].vocabulary, 3)
    frames = (
        "What do you think about {0}?",
        "How do you feel about {0} and {1}?",
        "We talked about {0}, {1} and {2} today. What is your view?",
        "{Person} often speaks of {0} and {1}. What is your opinion of {2}?",
    )
    return rng.choice(frames).format(*things, Person=_capital(rng.choice(PERSONS)))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Return a question and an answer about nothing in dispute."""
    index = rng.randrange(len(CHATTER))
    return CHATTER[index], SENTENCES["T"][index]


def essay(rng: random.Random, topic: str, n_sentences: int = 4) -> str:
    """Return running prose on a topic that takes no stance: what people say and what they bring up."""
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
