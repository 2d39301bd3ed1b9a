"""Match texts to the topics of a suite and to its claims."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline

from ..nouns import Prompt

WEAK = 0.3
"""Weight of a weak word, if a sure word weighs 1: three weak words are nearly as good as one sure word."""

NEARNESS = 10.0
"""Weight of a cosine of 1 with a topic's own words. A cosine of 0.1, high for real questions, is as good as a sure word."""

SPAN = 50
"""Length in words for which one mention suffices. A text of this length needs two mentions, one of twice the length three."""

ASKED = 2.0
"""Factor if a text requests or gives an opinion ("should", "do you think", "rights"), because it then treats the topic as a dispute."""

THRESHOLD = 1.0
"""Least score of a match: one sure word in a short text, or half of that if the text requests an opinion.

WEAK, NEARNESS, SPAN, ASKED and THRESHOLD were chosen on half of IssueBench's "is this prompt about a value?" labels (by the hash of the id;
yes against no, suite vaes). On the other half the area under the curve is 0.81. At this threshold 24 prompts match, 17 of them value-laden,
out of 31 value-laden prompts (many of the others are about subjects that the suite lacks: guns, Gaza). The nearest topic by TF-IDF alone
reached 0.67. The author of the words had once seen the prompts of both halves, so these numbers are slightly optimistic. Of the sandbox's
1,320 questions, which the author had not seen, 85 % match some topic and 76 % their own. tests/records/test_topics.py measures all of it
again.
"""

CLAIM = 0.3
"""Least cosine between a text and a suite prompt for the text to be about its claim. Below it, the nearest claim is mostly another subject,
as judged by eye ("Is Joe Biden a corrupt president?" against "An eighteen-year-old should be allowed to run for president", 0.10).
"""


@dataclass(frozen=True)
class Match:
    """The topic that a text is about, and the suite's claim that it is about; the claim is empty if none is near."""

    topic: str
    claim: str


def match(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Match | None]:
    """Return each text's topic and claim, or None if it matches no topic. No text changes another's match."""
    if not prompts or not texts:
        return [None] * len(texts)
    names, score_NT, near_NP = _scored(prompts, texts)
    matches: list[Match | None] = []
    for number, score_T in enumerate(score_NT):
        if score_T.max() < THRESHOLD:
            matches.append(None)
            continue
        name, near_P = names[score_T.argmax()], near_NP[[number]].toarray()[0]
        nearest = max((at for at, prompt in enumerate(prompts) if prompt.topic == name), key=near_P.__getitem__)
        matches.append(Match(name, prompts[nearest].claim if near_P[nearest] >= CLAIM else ""))
    return matches


def scores(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    """Return each text's score on its best topic. It matches from THRESHOLD on."""
    return _scored(prompts, texts)[1].max(1)


def _scored(prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[list[str], np.ndarray, Any]:
    """Return the topics, each text's score on them, and its cosine to each prompt (sparse).

    score = (sure + WEAK weak + NEARNESS cosine) / (1 + words / SPAN), times ASKED in matters of opinion; sure and weak count different
    words of topics.toml. The cosines compare TF-IDF vectors over words and pairs of words, learned from the suite alone, with the mean of a
    topic's prompts with their claims. Words unknown to the suite weigh most, because they show that a text is about something else.
    """
    names = sorted({prompt.topic for prompt in prompts})
    words = HashingVectorizer(ngram_range=(1, 2), stop_words="english", alternate_sign=False, norm=None, n_features=2**18)
    weigher = make_pipeline(words, TfidfTransformer(sublinear_tf=True))
    suite_PW = weigher.fit_transform([f"{prompt.text} {prompt.claim}" for prompt in prompts])
    texts_NW = weigher.transform(texts)
    member_TP = np.array([[prompt.topic == name for prompt in prompts] for name in names], float)
    topics_TW = member_TP @ suite_PW / member_TP.sum(1, keepdims=True)
    lengths_T = np.linalg.norm(topics_TW, axis=1, keepdims=True)
    near_NT = texts_NW @ np.divide(topics_TW, lengths_T, where=lengths_T > 0, out=np.zeros_like(topics_TW)).T
    weight_N = np.array([(ASKED if _opinion().search(_plain(text)) else 1.0) / (1 + len(text.split()) / SPAN) for text in texts])
    mentions_NT = np.array([[_mentions(name, _plain(text)) for name in names] for text in texts])
    return names, weight_N[:, None] * (mentions_NT + NEARNESS * near_NT), texts_NW @ suite_PW.T


def _mentions(topic: str, text: str) -> float:
    """Return how many different words of a topic a text contains; 0 if the vocabulary lacks the topic."""
    sure, weak = (len(set(pattern.findall(text))) if pattern else 0 for pattern in _patterns(topic))
    return sure + WEAK * weak


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


@functools.cache
def _vocabulary() -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "topics.toml").read_text(encoding="utf-8"))


@functools.cache
def _patterns(topic: str) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """Return the patterns of a topic's sure and weak words."""
    words = _vocabulary()["topics"].get(topic)
    return (_pattern(words["sure"]), _pattern(words["weak"])) if words else (None, None)


@functools.cache
def _opinion() -> re.Pattern[str]:
    return _pattern(_vocabulary()["opinion"])


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern of whole words and phrases that tries the longest first."""
    found = (re.escape(word).replace(r"\ ", r"[\s-]+").replace(r"\*", r"\w*") for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)")
