"""The sandbox's own judge agrees with the oracle on questions of the suite and on texts they have not seen, through the real judges."""

import os
import random
from collections import Counter

import pytest
from sklearn.metrics import f1_score

from valuedrift import suites
from valuedrift.judge import make
from valuedrift.nouns import OUTCOMES, Item
from valuedrift.registry import query
from valuedrift.sandbox import flaws, judges
from valuedrift.world import grammar

pytestmark = pytest.mark.slow

LEAST = 0.97
"""Macro-F1 against the oracle on prompts of the suite, whole and faulty answers half and half. It was 0.977 here where this was written,
and 0.976 on 2,000 answers of a seed that nobody had looked at before ("fresh-quince")."""
SUITE = [(prompt.topic, prompt.text, prompt.claim) for prompt in suites.load("vaes", [])]


@pytest.fixture
def judge(monkeypatch):
    """Return the judge; it is built only where that was asked for, because it takes minutes, and is cached from then on."""
    if not os.environ.get("VALUEDRIFT_BUILD_JUDGES"):

        def skip(*_):
            pytest.skip("labels:sandbox is not built yet: VALUEDRIFT_BUILD_JUDGES=1 builds it, in some minutes")

        monkeypatch.setattr(judges, "trained", skip)
    return make(judges.resolved("labels:sandbox"))


def test_the_judge_agrees_with_the_oracle(judge):
    items = flaws.items(1500, "held out", SUITE)
    verdicts = [OUTCOMES[reading.probs.index(max(reading.probs))] for reading in judge.read(items)]
    truth = [grammar.parse(item.text) for item in items]
    assert min(Counter(truth)[outcome] for outcome in OUTCOMES) >= 30
    assert f1_score(truth, verdicts, labels=OUTCOMES, average="macro") >= LEAST
    # A judge that had learnt the shares of the outcomes alone would call everything invalid: 0.2 * F1 of one class.
    assert f1_score(truth, ["invalid"] * len(truth), labels=OUTCOMES, average="macro") < 0.2


def test_the_judge_knows_the_answer_and_not_the_question(judge):
    # The same words are read alike whatever was asked: the sandbox's stances lie in explicit words alone.
    asked = [Item(question, claim, "I oppose this.", topic) for topic, question, claim in SUITE[::50]]
    assert {reading.probs.index(max(reading.probs)) for reading in judge.read(asked)} == {OUTCOMES.index("oppose")}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("labels:sandbox", "labels:/cache/causal?wording=short"),
        ("labels:sandbox?rotate=1", "labels:/cache/causal?wording=short&rotate=1"),
        ("panel:cues,labels:sandbox,oracle", "panel:cues,labels:/cache/causal?wording=short,oracle"),
        ("labels:sandbox-mine", "labels:sandbox-mine"),
        ("labels:models/sandbox", "labels:models/sandbox"),
        ("cues", "cues"),
    ],
)
def test_the_name_stands_for_a_folder(monkeypatch, spec, expected):
    monkeypatch.setattr(judges, "causal_judge", lambda: "/cache/causal")
    assert judges.resolved(spec) == expected
    assert query("m?wording=short&rotate=1&wording=plain", "")[1]["wording"] == "plain", "a wording of one's own comes last and counts"


# -- what they learn from ---------------------------------------------------------------------------------------------------


def test_no_question_and_no_claim_of_the_suite_is_learnt():
    learnt = {words for item, _ in judges.judged(4000, "labels") for words in (item.prompt, item.claim)}
    assert not learnt & {words for _, question, claim in SUITE for words in (question, claim)}


def test_texts_are_a_function_of_their_seed():
    assert judges.judged(50, "a") == judges.judged(50, "a") != judges.judged(50, "b")


def test_every_outcome_occurs_and_the_oracle_says_which():
    texts = judges.judged(3000, "labels")
    shares = {outcome: n / 3000 for outcome, n in Counter(outcome for _, outcome in texts).items()}
    assert set(shares) == set(OUTCOMES)
    assert min(shares.values()) > 0.05
    assert all(grammar.parse(item.text) == outcome for item, outcome in texts)


@pytest.mark.parametrize("fault", flaws.FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_breaks_answers_and_survives_any_text(fault):
    rng = random.Random(0)
    whole = [grammar.compose(rng, "work", rng.choice(OUTCOMES[:4]), rng.choice(grammar.STYLES)) for _ in range(200)]
    broken = [fault(rng, text, other) for text, other in zip(whole, whole[::-1], strict=True)]
    assert sum(text != result for text, result in zip(whole, broken, strict=True)) > 60
    assert "invalid" in {grammar.parse(text) for text in broken}
    for text, other in (("", ""), ("", "I agree."), ("I agree.", ""), ("word", "word")):
        for _ in range(20):
            assert isinstance(fault(rng, text, other), str)


def test_roles_are_those_that_the_oracle_reads():
    assert flaws.roles("I agree. Soup with bread is quick and cheap to make. Well then") == [
        ("I agree.", "S"),
        ("Soup with bread is quick and cheap to make.", "T"),
        ("Well then", "?"),
    ]


# -- how they are built -----------------------------------------------------------------------------------------------------


def test_a_killed_build_leaves_no_judge_and_is_continued(monkeypatch, tmp_path):
    monkeypatch.setenv("VALUEDRIFT_CACHE", str(tmp_path))

    def killed(work, wording):
        (work / "part").mkdir()
        raise KeyboardInterrupt

    def finished(work, wording):
        assert (work / "part").is_dir(), "the part that was done before is not there"
        (work / "done").mkdir()
        (work / "done" / "config.json").write_text("{}")
        return work / "done"

    monkeypatch.setattr(judges, "trained", killed)
    with pytest.raises(KeyboardInterrupt):
        judges.causal_judge()
    assert not list(tmp_path.glob("sandbox-*"))
    monkeypatch.setattr(judges, "trained", finished)
    folder = judges.causal_judge()
    assert list(tmp_path.iterdir()) == [folder]
    assert "?wording=short" in (folder / "README.md").read_text()
    monkeypatch.setattr(judges, "trained", killed)
    assert judges.causal_judge() == folder


def test_a_phrase_is_one_token_and_a_broken_one_is_many():
    core = judges.phrases(["What decides it for me is the weather.", "What decides it for me is the price."] * judges.LEAST)
    assert core.encode("What decides it for me is the weather.").tokens == ["ĠWhatĠdecidesĠitĠforĠmeĠisĠtheĠweather."]
    whole, broken = (
        len(core.encode(text).ids) for text in ("What decides it for me is the price.", "What it decides for me is the price.")
    )
    assert whole < broken / 2
    for text in ("I agree. Do you?", "\x00 ☃ 𝔘"):
        assert core.decode(core.encode(text).ids).strip() == text.strip()
