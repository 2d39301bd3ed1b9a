"""Which texts touch the topics of a suite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline

from ..nouns import Prompt

THRESHOLD = 0.05
"""Least cosine of a text to a topic. A stray text blurs a topic's numbers while a missed one only costs evidence, so precision goes first.

Chosen with all of IssueBench's "is this prompt about a value?" labels in view (346 PRISM and HH prompts, yes against no, suite vaes), so
these numbers flatter it: of 36 prompts from here on 22 are value-laden, which is 22 of the 67 that there are; many of the missed ones are
about topics that the suite lacks. Area under the curve: 0.67.
"""


def match(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Prompt | None]:
    """Return, for each text, the prompt of the suite it is nearest to, or None where it touches none of the topics.

    Words and pairs of words are weighted by TF-IDF learned from the suite alone (so that one text never changes another's match); a
    topic is the mean of its prompts with their claims. The nearest topic counts from THRESHOLD on; within it, the nearest prompt.
    Words unknown to the suite weigh most: they are what shows that a text is about something else.
    """
    if not prompts or not texts:
        return [None] * len(texts)
    words = HashingVectorizer(ngram_range=(1, 2), stop_words="english", alternate_sign=False, norm=None, n_features=2**18)
    weigher = make_pipeline(words, TfidfTransformer(sublinear_tf=True))
    suite_PW = weigher.fit_transform([f"{prompt.text} {prompt.claim}" for prompt in prompts])
    texts_NW = weigher.transform(texts)
    names = sorted({prompt.topic for prompt in prompts})
    member_TP = np.array([[prompt.topic == name for prompt in prompts] for name in names], float)
    topics_TW = member_TP @ suite_PW / member_TP.sum(1, keepdims=True)
    lengths_T = np.linalg.norm(topics_TW, axis=1, keepdims=True)
    near_NT = texts_NW @ np.divide(topics_TW, lengths_T, where=lengths_T > 0, out=np.zeros_like(topics_TW)).T
    near_NP = (texts_NW @ suite_PW.T).toarray()
    topic_N = near_NT.argmax(1)
    prompt_N = np.where(member_TP[topic_N] > 0, near_NP, -1.0).argmax(1)
    return [prompts[at] if near >= THRESHOLD else None for at, near in zip(prompt_N, near_NT.max(1), strict=True)]
