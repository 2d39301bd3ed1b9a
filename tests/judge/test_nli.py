"""The entailment judge: probabilities by hand and by transformers' own pipeline, label orders, batches, long texts, faults."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast, pipeline

from valuedrift.judge import classifier, make, nli
from valuedrift.nouns import OUTCOMES, BadInput, Item

CLAIM = "Trains are worth their price."
LABELS = ("contradiction", "neutral", "entailment")
LONGEST = 48
TEXTS = (
    "Yes, I agree.",
    "No.",
    "I would rather not say.",
    "Trains trains " * 12,
    "Both sides have a point.",
    "It is, and it is not: who knows?",
)
ITEMS = [Item("Are they?", CLAIM, text) for text in TEXTS]


def save(folder: Path, labels=LABELS, seed=0, **config) -> Path:
    """Save a random BERT with a head for `labels`, in the order given, and a tokenizer of words."""
    words = " ".join([CLAIM, *TEXTS, nli.WORDS.read_text()])
    known = sorted({word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(words)})
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known])}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=LONGEST
    )
    torch.manual_seed(seed)
    numbers = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes, **numbers, **config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("nli") / "three")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def probs_of(judge, items=ITEMS):
    return [reading.probs for reading in judge.read(items)]


# -- the verdict ----------------------------------------------------------------------------------------------------------


def test_the_verdict_by_hand():
    # 0.6 + 0.2 + 0.05 + 0.1 + 0.05 = 1, so that nothing is scaled and nothing missing.
    assert classifier.verdict([0.6, 0.2, 0.05, 0.1, 0.05]) == (pytest.approx((0.6, 0.2, 0.05, 0.1, 0.05)), 0.0)
    # 0.3 + 0.1 + 0 + 0 + 0 = 0.4: scaled by 1 / 0.4 to 0.75 and 0.25, with 0.6 on none of the outcomes.
    assert classifier.verdict([0.3, 0.1, 0.0, 0.0, 0.0]) == (pytest.approx((0.75, 0.25, 0, 0, 0)), 0.6)
    # 0.9 + 0.9 + 0 + 0 + 0 = 1.8: a model that finds two of them to follow leaves nothing missing.
    assert classifier.verdict([0.9, 0.9, 0.0, 0.0, 0.0]) == (pytest.approx((0.5, 0.5, 0, 0, 0)), 0.0)
    # Thirds have endless digits: 0.3333 three times, scaled to 1 again.
    assert classifier.verdict([0.2, 0.2, 0.2, 0.0, 0.0]) == (pytest.approx((1 / 3, 1 / 3, 1 / 3, 0, 0)), 0.4)


def test_what_the_judge_says_is_what_the_model_says(folder):
    judge = make(f"nli:{folder}?batch=4")
    model, tokenizer, _ = classifier.load(str(folder), "float32")
    for item, reading in zip(ITEMS, judge.read(ITEMS), strict=True):
        rows = nli.wordings()["answer"].rows(item)
        assert rows[0] == (f"Question: Are they?\nAnswer: {item.text}", f"The answer agrees with this statement: {CLAIM}")
        logits_OL = [model(**tokenizer(*row, return_tensors="pt", truncation="only_first", max_length=LONGEST)).logits[0] for row in rows]
        # The third label is entailment: e = exp(z_2) / (exp(z_0) + exp(z_1) + exp(z_2)), and p = e / sum of e.
        exps = [[math.exp(z) for z in logits_L.tolist()] for logits_L in logits_OL]
        entailed = [e[2] / sum(e) for e in exps]
        assert reading.probs == pytest.approx([e / sum(entailed) for e in entailed], abs=2e-4)
        assert reading.missing == pytest.approx(max(0, 1 - sum(entailed)), abs=2e-4)
        assert sum(reading.probs) == pytest.approx(1, abs=1e-9)
    assert len({max(probs) for probs in probs_of(judge)}) > 1


def test_it_agrees_with_transformers_own_pipeline(tmp_path):
    # With two labels the pipeline's independent score of a hypothesis (softmax of entailment against the other label) is e itself.
    folder = save(tmp_path / "two", ("entailment", "not_entailment"), seed=3)
    judge = make(f"nli:{folder}?wording=text")
    pipe = pipeline("zero-shot-classification", model=str(folder))
    for item, reading in zip(ITEMS[:3], judge.read(ITEMS[:3]), strict=True):
        hypotheses = [hypothesis for _, hypothesis in nli.wordings()["text"].rows(item)]
        found = pipe(item.text, hypotheses, hypothesis_template="{}", multi_label=True)
        scores = dict(zip(found["labels"], found["scores"], strict=True))
        total = sum(scores.values())
        assert reading.probs == pytest.approx([scores[hypothesis] / total for hypothesis in hypotheses], abs=2e-4)


def test_labels_are_found_by_name_whatever_their_order(folder, copy):
    # The same model under the names of another order: what was called contradiction is now the entailment, and so all verdicts change.
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "id2label": {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
        "label2id": {"ENTAILMENT": 0, "NEUTRAL": 1, "CONTRADICTION": 2},
    }
    (copy / "config.json").write_text(json.dumps(config))
    assert make(f"nli:{folder}").entailment == 2
    assert make(f"nli:{copy}").entailment == 0
    assert probs_of(make(f"nli:{copy}")) != probs_of(make(f"nli:{folder}"))


@pytest.mark.parametrize("size", [1, 3])
def test_batches_change_nothing(folder, size):
    expected = probs_of(make(f"nli:{folder}"))
    judge = make(f"nli:{folder}?batch={size}")
    assert probs_of(judge) == [pytest.approx(probs, abs=2e-4) for probs in expected]
    assert judge.identity == make(f"nli:{folder}").identity


# -- texts ----------------------------------------------------------------------------------------------------------------


def test_long_texts_lose_their_end_and_never_the_hypothesis(folder):
    judge = make(f"nli:{folder}")
    start = "Yes, I agree. " * 20
    long, longer = (Item("Are they?", CLAIM, start + end) for end in ("No.", "Both sides have a point. " * 5000))
    assert probs_of(judge, [long]) == probs_of(judge, [longer])
    # 30 words and those round them leave less room for the premise than they take themselves; the last of them still counts.
    claims = ["Trains " * 30, "Trains " * 29 + "price "]
    one, other = (probs_of(judge, [Item("Q", claim, start)]) for claim in claims)
    assert one != other


def test_a_claim_that_fills_the_model_is_a_failure_of_its_own(folder):
    readings = make(f"nli:{folder}").read([ITEMS[0], Item("Q", "Trains are worth it " * 30, "Yes."), ITEMS[1]])
    assert [reading.failure for reading in readings] == [None, "unparsed", None]
    assert "48 tokens" in readings[1].reason


# -- identity, settings, faults ---------------------------------------------------------------------------------------------


def test_the_identity_names_weights_and_wording(folder, copy):
    first = make(f"nli:{folder}").identity
    assert first.startswith("nli/")
    assert make(f"nli:{copy}").identity == first, "the folder's name is no part of it"
    assert make(f"nli:{folder}?wording=text").identity != first
    save(copy, seed=1)
    assert make(f"nli:{copy}").identity != first


def test_the_identity_names_the_dtype(folder):
    here, single, half = (make(f"nli:{folder}{chosen}") for chosen in ("", "?dtype=float32", "?dtype=bfloat16"))
    assert here.identity == single.identity != half.identity
    pairs = list(zip(probs_of(half), probs_of(single), strict=True))
    assert all(a == pytest.approx(b, abs=0.05) for a, b in pairs)
    assert any(a != b for a, b in pairs)


def test_wordings_share_a_model(folder):
    judge = make(f"nli:{folder}?wording=text")
    names = judge.wordings()
    assert names == ["answer", "text", "short"]
    others = [judge.reworded(name) for name in names]
    assert [other.identity for other in others] == [make(f"nli:{folder}?wording={name}").identity for name in names]
    assert all(f"wording {name!r}" in other.note for name, other in zip(names, others, strict=True))
    assert len({tuple(probs_of(other)) for other in others}) == len(names)
    with pytest.raises(BadInput, match="unknown wording 'txt'; did you mean 'text'"):
        judge.reworded("txt")


def test_every_wording_names_its_outcomes_and_nothing_else():
    assert next(iter(nli.wordings())) == "answer"
    for wording in nli.wordings().values():
        rows = wording.rows(Item("QUESTION", "CLAIM", "TEXT"))
        assert len({hypothesis for _, hypothesis in rows}) == len(OUTCOMES)
        assert "TEXT" in rows[0][0]
        assert not any(brace in "".join(map("".join, rows)) for brace in "{}")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("", r"needs a model; write nli:FOLDER or nli:ORG/NAME@REVISION"),
        ("{folder}?wordin=text", r"unknown setting 'wordin'; did you mean 'wording'\? Known: wording, batch"),
        ("{folder}?wording=txt", r"unknown wording 'txt'; did you mean 'text'\? Known: answer, text, short"),
        ("{folder}?batch=0", "batch='0' is no whole number above 0"),
        ("{folder}/no-such-folder", "there is no checkpoint folder"),
    ],
)
def test_wrong_arguments_are_one_sentence(folder, argument, says):
    with pytest.raises(BadInput, match=says):
        make("nli:" + argument.format(folder=folder))


def test_models_that_cannot_judge_are_refused(folder, copy, tmp_path):
    other = save(tmp_path / "other", ("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(BadInput, match=r"none of its labels is 'entailment' \(they are LABEL_0, LABEL_1, LABEL_2\)"):
        make(f"nli:{other}")
    (copy / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds no weights"):
        make(f"nli:{copy}")
    BertModel.from_pretrained(folder).save_pretrained(copy)  # keeps the labels in its config, and no classifier
    with pytest.raises(BadInput, match=r"lacks 2 weights of its architecture, classifier.bias first"):
        make(f"nli:{copy}").read(ITEMS)
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match="has no tokenizer"):
        make(f"nli:{copy}").read(ITEMS)
