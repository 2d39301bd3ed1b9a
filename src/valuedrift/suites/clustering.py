"""Embed texts, cluster the vectors, and rank the members of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..nouns import BadInput, whole_characters
from ._words import sections

Floats = NDArray[np.float64]

DIMENSIONS = 40
"""Dimensions of the offline embedding. Of 20, 30, 40, 50, 100 and 200, and of 15 and 30 neighbours, these agreed best with topics found by
keywords in PRISM prompts (docs/vprism.md).
"""
NEIGHBOURS = 30
"""UMAP's n_neighbors, at most the size of the smallest cluster, because wider neighbourhoods would join small clusters."""
REDUCED = {"n_components": 5, "min_dist": 0.0, "metric": "cosine"}
"""UMAP's other settings, as usual before a density clustering."""
MIN_SAMPLES = 5
"""HDBSCAN's min_samples: the number of neighbours that make a place dense."""
LEAST = 20
"""Rows that UMAP needs for its neighbourhoods."""
CENTRAL = 0.7
"""Weight of closeness to the middle of the cluster, against distance from the members chosen before."""
TOGETHER = 64
"""Texts per batch of an embedding model."""
N_WORDS = 6
"""Words that name a cluster."""


def offline_embedding(texts: Sequence[str], seed: int) -> Floats:
    """Return unit vectors, one row per text: TF-IDF of words and of character 4- and 5-grams, reduced by SVD.

    Character n-grams bring "religion" and "religious" together. Words of conversation (vprism.txt) do not count. A text without other words
    gets zeros.
    """
    from scipy.sparse import hstack
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    least = 3 if len(texts) >= 1000 else 1
    words = TfidfVectorizer(stop_words=_stop_words(), sublinear_tf=True, min_df=least)
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 5), sublinear_tf=True, min_df=least)
    try:
        words_NW = words.fit_transform(texts)
    except ValueError:
        raise BadInput("none of the questions contains a word about a subject; give other prompts") from None
    kept = words.build_analyzer()
    parts_NP = parts.fit_transform(" ".join(kept(text)) for text in texts)
    both = hstack([words_NW, parts_NP]).tocsr()
    return normalize(TruncatedSVD(min(DIMENSIONS, min(both.shape) - 1), random_state=seed).fit_transform(both))


def model_embedding(texts: Sequence[str], folder: str) -> Floats:
    """Return unit vectors, one row per text: the mean over tokens of an encoder's last layer (as sentence-transformers does)."""
    import torch

    from ..models.loading import load_encoder

    model, tokenizer = load_encoder(folder)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
    rows = []
    for start in range(0, len(texts), TOGETHER):
        part = [whole_characters(text) for text in texts[start : start + TOGETHER]]
        batch = tokenizer(part, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            hidden_BTD = model(**batch).last_hidden_state
        mask_BT1 = batch["attention_mask"].unsqueeze(-1)
        rows.append(((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)).double().numpy())
    vectors_ND = np.concatenate(rows)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def require(n: int, smallest: int) -> None:
    """Raise BadInput if there are too few questions for clusters of that size."""
    if n < max(2 * smallest, LEAST):
        raise BadInput(f"{n} questions are too few for clusters of {smallest}; give more prompts, or ask for fewer questions per cluster")


def cluster(vectors_ND: Floats, smallest: int, seed: int) -> list[int]:
    """Return the cluster of each row by HDBSCAN after UMAP; 0 is the largest cluster, -1 means none.

    A row of zeros belongs to no cluster. Raises BadInput if umap-learn is missing, the rows are too few, or there is no cluster.
    """
    from sklearn.cluster import HDBSCAN

    labels_N = np.full(len(vectors_ND), -1)
    known_K = np.flatnonzero(vectors_ND.any(axis=1))
    require(len(known_K), smallest)
    reduced_KR = _reduced(vectors_ND[known_K], min(NEIGHBOURS, max(smallest, MIN_SAMPLES)), seed)
    found_K = HDBSCAN(min_cluster_size=smallest, min_samples=min(MIN_SAMPLES, smallest), copy=True).fit(reduced_KR).labels_
    if found_K.max() < 0:
        raise BadInput(
            f"no {smallest} of the {len(labels_N):,} questions form a cluster; give more prompts, or ask for fewer questions per cluster"
        )
    by_size = np.argsort([-(found_K == label).sum() for label in range(found_K.max() + 1)], kind="stable")
    for number, label in enumerate(by_size):
        labels_N[known_K[found_K == label]] = number
    return labels_N.tolist()


def spread(vectors_MD: Floats) -> list[int]:
    """Return all rows, most representative first, by maximal marginal relevance (Carbonell & Goldstein 1998, eq. 1).

    Each next row has the greatest CENTRAL * cos(row, mean of all) - (1 - CENTRAL) * max cos(row, one before it).
    """
    middle_D = vectors_MD.mean(axis=0)
    near_M = vectors_MD @ middle_D / (np.linalg.norm(middle_D) or 1.0)
    closest_M = np.zeros(len(vectors_MD))
    left = np.ones(len(vectors_MD), dtype=bool)
    order: list[int] = []
    while left.any():
        gain_M = np.where(left, CENTRAL * near_M - (1 - CENTRAL) * closest_M, -np.inf)
        at = int(gain_M.argmax())
        order.append(at)
        left[at] = False
        similar_M = vectors_MD @ vectors_MD[at]
        closest_M = similar_M if len(order) == 1 else np.maximum(closest_M, similar_M)
    return order


def top_words(texts: Sequence[str], labels: Sequence[int]) -> list[list[str]]:
    """Return the words that distinguish each cluster, by class-based TF-IDF: tf(word, cluster) * log(1 + words per cluster / tf(word)).

    Of words with the same beginning ("war", "wars") only the best one is returned.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words=_stop_words(), binary=True)
    counts_NW = counter.fit_transform(texts)
    names = counter.get_feature_names_out()
    rows = [np.asarray(counts_NW[np.asarray(labels) == label].sum(axis=0)).ravel() for label in range(max(labels) + 1)]
    counts_CW = np.array(rows, dtype=float)
    per_word_W = np.maximum(counts_CW.sum(axis=0), 1)
    weight_CW = counts_CW * np.log1p(counts_CW.sum() / len(rows) / per_word_W)
    return [
        distinct_beginnings([str(names[at]) for at in np.argsort(-weight_W, kind="stable")[: 3 * N_WORDS] if weight_W[at] > 0], N_WORDS)
        for weight_W in weight_CW
    ]


def distinct_beginnings(words: list[str], n: int) -> list[str]:
    """Return the first n words, without words that begin like an earlier one."""
    kept: list[str] = []
    for word in words:
        if not any(word[:5] == other[:5] for other in kept):
            kept.append(word)
    return kept[:n]


def _stop_words() -> list[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return sorted(ENGLISH_STOP_WORDS | set(sections()["stop words"].split()))


def _reduced(vectors_ND: Floats, neighbours: int, seed: int) -> Any:
    try:
        import umap
    except ImportError as error:
        raise BadInput("clustering needs the package umap-learn; install it with: pip install 'valuedrift[vprism]'") from error
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "no parallelism with a seed": the seed is wanted
        return umap.UMAP(**REDUCED, n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(vectors_ND)
