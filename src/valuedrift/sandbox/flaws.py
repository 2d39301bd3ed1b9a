"""Make sandbox answers with the faults of real models, to train and test judges.

Nothing here labels an answer. The grammar reads the finished text, whatever its author intended.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from ..nouns import OUTCOMES, Item
from ..world import grammar

WHOLE = 0.55
"""Share of answers without a fault. Some of the faulty ones stay readable."""
TWICE = 0.2
"""Share of faulty answers that get a second fault."""


def items(n: int, seed: int | str, asked: list[tuple[str, str, str]]) -> list[Item]:
    """Return n answers of every outcome, with and without faults, to questions drawn from `asked`: (topic, question, claim)."""
    rng = random.Random(f"flaws/{seed}")
    found = []
    for _ in range(n):
        topic, question, claim = rng.choice(asked)
        found.append(Item(question, claim, _text(rng, topic, claim, question), topic))
    return found


def training_questions(n: int, seed: int | str) -> list[tuple[str, str, str]]:
    """Return n (topic, question, claim) of the training propositions, none of them from a suite."""
    rng = random.Random(f"questions/{seed}")
    drawn = [rng.choice(grammar.claims_of()) for _ in range(n)]
    return [(topic, grammar.ask(rng, clause), clause[0].upper() + clause[1:] + ".") for topic, clause, _ in drawn]


def _text(rng: random.Random, topic: str, claim: str, question: str) -> str:
    text = _answer(rng, topic, claim)
    if rng.random() < WHOLE:
        return text
    for _ in range(2 if rng.random() < TWICE else 1):
        fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        text = fault(rng, text, _answer(rng, rng.choice((topic, rng.choice(list(grammar.world())))), claim))
    return text if rng.random() > 0.02 else rng.choice(("", " ", question, grammar.essay(rng, topic, rng.randint(1, 4))))


def _answer(rng: random.Random, topic: str, claim: str) -> str:
    """Return a composed answer. One in five has its sentences in a free order, which the grammar may not allow."""
    if rng.random() < 0.2:
        roles = "".join(rng.choice(part) for part in ("W.", "SON.....AX", "RRADDB.", "CCB..", "H..", "sonsonsonY."))
        return " ".join(grammar.fill(rng, role, grammar.world()[topic].considerations) for role in roles.replace(".", ""))
    outcome = rng.choices(OUTCOMES, (3, 3, 3, 2, 1))[0]
    # Half use any consideration of the topic, because some considerations are near no claim and would hardly occur.
    return grammar.compose(rng, topic, outcome, rng.choice(grammar.STYLES), rng.choice((claim, "")))


# -- faults: each takes an answer and another one, and returns a text ---------------------------------------------------------


def joined(rng: random.Random, text: str, other: str) -> str:
    """Return the first sentences of one answer and the last of the other, like a model that changes its mind."""
    mine, theirs = _sentences(text), _sentences(other)
    return " ".join([*mine[: rng.randint(1, max(1, len(mine)))], *theirs[rng.randint(0, max(0, len(theirs) - 1)) :]])


def crossed(rng: random.Random, text: str, other: str) -> str:
    """Return an answer that turns into another one at a shared word, as small models do when they lose the thread."""
    mine, theirs = text.split(), other.split()
    shared = sorted(set(mine[:-1]) & set(theirs[:-1]))
    if not shared:
        return joined(rng, text, other)
    word = rng.choice(shared)
    return " ".join(mine[: _place(rng, mine, word)] + theirs[_place(rng, theirs, word) :])


def spliced(rng: random.Random, text: str, other: str) -> str:
    """Return an answer with a few of its words replaced by words of the other one."""
    mine, theirs = text.split(), other.split()
    start, n = rng.randrange(len(mine) + 1), rng.randint(0, 4)
    at = rng.randrange(len(theirs) + 1)
    return " ".join(mine[:start] + theirs[at : at + rng.randint(1, 5)] + mine[start + n :])


def dropped(rng: random.Random, text: str, other: str) -> str:
    """Return the text without one to three of its words."""
    words = text.split()
    at = rng.randrange(len(words) + 1)
    return " ".join(words[:at] + words[at + rng.randint(1, 3) :])


def doubled(rng: random.Random, text: str, other: str) -> str:
    """Return the text with one or a few words repeated."""
    words = text.split()
    at, n = rng.randrange(len(words) + 1), rng.randint(1, 6)
    return " ".join(words[: at + n] + words[at:])


def swapped(rng: random.Random, text: str, other: str) -> str:
    """Return the text with two neighbouring words in the wrong order."""
    words = text.split()
    at = rng.randrange(max(1, len(words) - 1))
    return " ".join([*words[:at], *words[at : at + 2][::-1], *words[at + 2 :]])


def misspelt(rng: random.Random, text: str, other: str) -> str:
    """Return the text without one of its characters; a lost space joins two words."""
    at = rng.randrange(max(1, len(text)))
    return text[:at] + text[at + 1 :]


def cut(rng: random.Random, text: str, other: str) -> str:
    """Return the text cut at any character, as the length limit cuts it."""
    return text[: rng.randint(1, max(1, len(text)))]


def repeated(rng: random.Random, text: str, other: str) -> str:
    """Return the text with one sentence repeated, at once or at the end."""
    parts = _sentences(text)
    at = rng.randrange(len(parts))
    return " ".join([*parts[: at + 1], parts[at], *parts[at + 1 :]] if rng.random() < 0.5 else [*parts, parts[at]])


def left_out(rng: random.Random, text: str, other: str) -> str:
    """Return the text without one of its sentences. Often it is still an answer."""
    parts = _sentences(text)
    at = rng.randrange(len(parts))
    return " ".join(parts[:at] + parts[at + 1 :])


def shuffled(rng: random.Random, text: str, other: str) -> str:
    """Return the sentences of the text in another order."""
    parts = _sentences(text)
    return " ".join(rng.sample(parts, len(parts)))


FAULTS: dict[Callable[[random.Random, str, str], str], int] = {
    joined: 5,
    crossed: 5,
    spliced: 2,
    dropped: 2,
    doubled: 1,
    swapped: 1,
    misspelt: 1,
    cut: 2,
    repeated: 1,
    left_out: 2,
    shuffled: 1,
}
"""Fault -> weight. Most faults of sampled answers are of the first two kinds: they turn into another answer."""


def strange(rng: random.Random, text: str) -> str:
    """Return a text with about half of its words ending like another word, as in a question of unknown words."""
    words = text.split()
    return " ".join(word[: len(word) // 2 + 1] + rng.choice(words)[1:] if rng.random() < 0.5 else word for word in words)


def roles(text: str) -> list[tuple[str, str]]:
    """Return the sentences of a text with their roles, "?" for a sentence that the grammar cannot produce."""
    return [(sentence, grammar.role_of(sentence)) for sentence in _sentences(text)]


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"[^.?]+[.?]|[^.?]+$", text)] or [""]


def _place(rng: random.Random, words: list[str], word: str) -> int:
    return rng.choice([index for index, each in enumerate(words) if each == word])
