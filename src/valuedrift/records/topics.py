"""Which texts touch the topics of a suite, and which of its claims they are about."""

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
"""What a weak word counts, where a sure word counts 1: three together are nearly as good as one."""

NEARNESS = 10.0
"""What a cosine of 1 with a topic's own words counts: 0.1, high for real questions, is as good as a sure word."""

SPAN = 50
"""Words over which one mention is thought to be about the text; a text of as many needs two, of twice as many three."""

ASKED = 2.0
"""Factor where a text asks for or gives an opinion ("should", "do you think", "rights"): the topic is touched as a matter of dispute."""

THRESHOLD = 1.0
"""Least score at which a text touches a topic: one sure word in a short text, or half of that where an opinion is asked for.

WEAK, NEARNESS, SPAN, ASKED and THRESHOLD were chosen on half of IssueBench's "is this prompt about a value?" labels (by the hash of the
id; yes against no, suite vaes). On the other half the area under the curve is 0.81, and of 24 prompts from here on 17 are value-laden,
which is 17 of the 31 that there are (many of the others are about what the suite lacks: guns, Gaza). The nearest topic by TF-IDF alone
reached 0.67. The words were written with the prompts of both halves once in view, so these numbers flatter a little; of the sandbox's
1,320 questions, which were not in view, 85 % touch some topic and 76 % their own. tests/records/test_topics.py measures all of it again.
"""

CLAIM = 0.3
"""Least cosine to a prompt of the suite for its claim to be what the text is about. Below it the nearest claim is, by eye, mostly another
matter ("Is Joe Biden a corrupt president?" against "An eighteen-year-old should be allowed to run for president", 0.10)."""


@dataclass(frozen=True)
class Match:
    """The topic that a text touches, and the suite's claim that it is about; the claim is empty if none is near."""

    topic: str
    claim: str


def match(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Match | None]:
    """Return, for each text, its topic and claim, or None if it touches none of the topics. No text changes another's match."""
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
    """Return, for each text, its score on the topic that it touches most; it counts as touched from THRESHOLD on."""
    return _scored(prompts, texts)[1].max(1)


def _scored(prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[list[str], np.ndarray, Any]:
    """Return the topics, each text's score on them, and its cosine to each prompt (sparse).

    score = (sure + WEAK weak + NEARNESS cosine) / (1 + words / SPAN), times ASKED in matters of opinion; sure and weak count different
    words of topics.toml. The cosines are by TF-IDF over words and pairs of words, learned from the suite alone, to the mean of a topic's
    prompts with their claims. Words unknown to the suite weigh most there: they are what shows that a text is about something else.
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
    """Return how many different words of a topic a text holds; 0 for a topic that the vocabulary lacks."""
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
    """Return a pattern of whole words and phrases; the longest is tried first."""
    found = (re.escape(word).replace(r"\ ", r"[\s-]+").replace(r"\*", r"\w*") for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)")
