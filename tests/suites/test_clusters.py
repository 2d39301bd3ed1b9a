"""Planted topics are found again; the rest of the arithmetic is done by hand."""

import math

import numpy as np
import pytest
from five_topics import questions
from sklearn.metrics import adjusted_rand_score

from valuedrift.nouns import BadInput
from valuedrift.suites import clustering

pytestmark = pytest.mark.slow


def test_planted_topics_are_found_offline():
    pytest.importorskip("umap")
    found = questions(40)
    religion = [row for row in found if row[0] == "religion"]
    topics, texts = zip(*[row for row in found if row not in religion[25:]], strict=True)  # 25 on religion, 40 on the others
    vectors_ND = clustering.offline_embedding([*texts, "Should I want this?"], seed=0)
    assert not vectors_ND[-1].any()  # words of conversation alone
    labels = clustering.cluster(vectors_ND, 20, seed=0)
    assert labels == clustering.cluster(vectors_ND, 20, seed=0)
    assert labels[-1] == -1
    assert adjusted_rand_score(topics, labels[:-1]) > 0.9
    sizes = [labels.count(number) for number in range(max(labels) + 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    words = clustering.top_words(texts, labels[:-1])
    assert {word for found in words for word in found} >= {"climate", "police", "parents", "immigrants", "religion"}


def test_too_few_texts_are_refused():
    with pytest.raises(BadInput, match="30 questions are too few for clusters of 20"):
        clustering.cluster(np.eye(30), 20, seed=0)
    with pytest.raises(BadInput, match="none of the questions contains a word"):
        clustering.offline_embedding(["should i", "do you think"], seed=0)


def test_spread_weighs_the_middle_against_what_was_taken():
    # Rows a = (1, 0), b = (1, 0), c = (0, 1): the mean (2/3, 1/3) has the length sqrt(5)/3, so that cos(a, mean) = 2/sqrt(5) = 0.894
    # and cos(c, mean) = 1/sqrt(5) = 0.447. First a (0.7 * 0.894). Then b: 0.7 * 0.894 - 0.3 * 1 = 0.326; c: 0.7 * 0.447 - 0 = 0.313.
    assert clustering.spread(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) == [0, 1, 2]
    # With c = (0.6, 0.8): the mean (2.6, 0.8)/3, length 0.9068; cos(a) = 0.9557, cos(c) = 0.8087.
    # b: 0.7 * 0.9557 - 0.3 = 0.369; c: 0.7 * 0.8087 - 0.3 * 0.6 = 0.386: c comes before the copy of a.
    assert clustering.spread(np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])) == [0, 2, 1]


def test_spread_remembers_all_that_was_taken():
    # Mean of (1, 0) twice, (0.6, 0.8), (0, 1): (2.6, 1.8)/4, cosines with it 0.822, 0.822, 0.949, 0.569; so (0.6, 0.8) comes first.
    # Next a copy of (1, 0): 0.7 * 0.822 - 0.3 * 0.6 = 0.396, against (0, 1): 0.7 * 0.569 - 0.3 * 0.8 = 0.158.
    # Last: the other (1, 0) has been taken, 0.7 * 0.822 - 0.3 * 1 = 0.276; (0, 1) is still 0.8 from the first: 0.158, and not 0.399.
    assert clustering.spread(np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])) == [2, 0, 1, 3]


def test_top_words_set_a_cluster_apart():
    texts = ["coal coal forest", "coal smoke", "church smoke", "church forest", "noise church"]
    # Cluster 0 holds coal 2, smoke 1, forest 1; cluster 1 church 2, smoke 1, forest 1 (a text counts once, -1 not at all); 4 words per
    # cluster. coal: 2 log(1 + 4/2) = 2.20; smoke and forest: 1 log(1 + 4/2) = 1.10, in the order of the alphabet.
    assert math.isclose(2 * math.log(3), 2.197, abs_tol=1e-3)
    assert clustering.top_words(texts, [0, 0, 1, 1, -1]) == [["coal", "forest", "smoke"], ["church", "forest", "smoke"]]


def test_a_word_of_every_cluster_sets_none_apart():
    texts = ["winter coal", "winter coal", "winter", "winter church", "winter church", "winter"]
    # winter stands 3 times in each, coal twice in one; 5 words per cluster. winter: 3 log(1 + 5/6) = 1.82; coal: 2 log(1 + 5/2) = 2.51.
    assert clustering.top_words(texts, [0, 0, 0, 1, 1, 1]) == [["coal", "winter"], ["church", "winter"]]


def test_words_that_begin_alike_are_named_once():
    assert clustering.distinct_beginnings(["israel", "israeli", "war", "warden", "israelis", "gaza"], 3) == ["israel", "war", "warden"]


def test_a_models_vector_is_the_mean_over_the_tokens_of_the_text(encoder):
    import torch
    from transformers import BertModel

    texts = ["should bread be free and good and free", "bread good"]
    vectors_ND = clustering.model_embedding(texts, str(encoder))
    with torch.no_grad():
        hidden_1TD = BertModel.from_pretrained(encoder).eval()(torch.tensor([[3, 7]])).last_hidden_state  # alone, without padding
    mean_D = hidden_1TD[0].mean(0).double().numpy()
    assert np.allclose(vectors_ND[1], mean_D / np.linalg.norm(mean_D), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors_ND, axis=1), 1)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be loaded as an embedding model"):
        clustering.model_embedding(["bread good"], str(tmp_path))
