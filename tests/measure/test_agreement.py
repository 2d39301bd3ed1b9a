"""Agreement numbers by hand and against scikit-learn; faults of gold files with their line."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from valuedrift.judge.cues import Judge as Cues
from valuedrift.measure import agreement
from valuedrift.nouns import OUTCOMES, BadInput, Reading

GOLD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "issuebench-stance" / "stance.jsonl"


class Scripted:
    """A judge that reads the verdict and its probability off the text: "support 0.8"; "fail" fails."""

    identity, note = "scripted/1", ""

    def read(self, items):
        return [self._one(item) for item in items]

    def _one(self, item):
        if item.text == "fail":
            return Reading(item.key, self.identity, failure="judge_error")
        outcome, sure = item.text.split()
        rest = (1 - float(sure)) / 4
        return Reading(item.key, self.identity, tuple(float(sure) if name == outcome else rest for name in OUTCOMES))


def written(tmp_path, *rows):
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(text, stance, **more):
    return {"claim": "C", "text": text, "stance": stance} | more


def test_by_hand(tmp_path):
    gold = written(
        tmp_path,
        row("support 0.9", "support"),
        row("support 0.9", "pro"),
        row("oppose 0.6", "favor"),
        row("oppose 0.6", "against"),
        row("support 0.9", "con"),
        row("invalid 0.6", "undermine"),
        row("fail", "neutral"),
        row("neutral 0.6", "neutral"),
    )
    found = agreement.calibrate(Scripted(), gold)
    assert (found["n"], found["n_read"], found["missing_share"]) == (8, 7, 1 / 8)
    assert found["confusion"] == {
        "support": {"support": 2, "neutral": 0, "oppose": 1, "refusal": 0, "invalid": 0},
        "neutral": {"support": 0, "neutral": 1, "oppose": 0, "refusal": 0, "invalid": 0},
        "oppose": {"support": 1, "neutral": 0, "oppose": 1, "refusal": 0, "invalid": 1},
    }
    # 4 of 7 right. F1: support 2*2/(3+3), neutral 2*1/(1+1), oppose 2*1/(3+2).
    assert found["accuracy"] == pytest.approx(4 / 7)
    assert found["macro_f1"] == pytest.approx((4 / 6 + 1 + 2 / 5) / 3)
    # chance = (3*3 + 1*1 + 3*2) / 49 = 16/49; kappa = (28/49 - 16/49) / (33/49) = 12/33.
    assert found["kappa"] == pytest.approx(12 / 33)
    # Bin 0.9: 3 rows, 2 right: |2.7 - 2|; bin 0.6: 4 rows, 2 right: |2.4 - 2|; together 1.1 of 7 rows.
    assert found["ece"] == pytest.approx(1.1 / 7)
    assert found["majority"] == pytest.approx(3 / 7)
    assert found["intervals"] == {"macro_f1": None, "accuracy": None, "kappa": None}  # one claim shows no spread


def test_calibration_error_does_not_cancel_between_bins():
    # Bin 0.9: |1.8 - 1|; bin 0.6: |1.2 - 2|; in one bin the four rows would look perfect. Full certainty is in the last bin.
    assert agreement.calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([0, 1, 1, 1])) == pytest.approx(1.6 / 4)
    assert agreement.calibration_error(np.array([1.0]), np.array([0.0])) == 1


def test_formulas_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        gold, said = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
        counts = np.zeros((5, 5))
        np.add.at(counts, (gold, said), 1)
        assert agreement.accuracy(counts) == pytest.approx(accuracy_score(gold, said))
        assert agreement.kappa(counts) == pytest.approx(cohen_kappa_score(gold, said))
        assert agreement.macro_f1(counts) == pytest.approx(f1_score(gold, said, average="macro", labels=np.unique(gold)))


def test_all_failed_is_no_evidence(tmp_path):
    found = agreement.calibrate(Scripted(), written(tmp_path, row("fail", "support"), row("fail", "oppose")))
    assert found["missing_share"] == 1
    assert [found[name] for name in ("macro_f1", "accuracy", "kappa", "ece", "majority")] == [None] * 5
    assert found["confusion"] == {}


def test_sure_agreement_by_chance_has_no_kappa(tmp_path):
    found = agreement.calibrate(Scripted(), written(tmp_path, row("support 0.9", "support")))
    assert (found["accuracy"], found["kappa"]) == (1, None)


def test_framings_and_intervals_by_issue(tmp_path):
    rows = [
        {"issue": f"i{number}", "pro_reading": "p", "text": text, "stance": "support", "prompt_framing": framing}
        for number in range(12)
        for text, framing in (("support 0.8", "pro"), ("support 0.8" if number < 6 else "oppose 0.8", "con"))
    ]
    found = agreement.calibrate(Scripted(), written(tmp_path, *rows))
    assert found["n_groups"] == 12
    assert (found["by_framing"]["pro"]["accuracy"], found["by_framing"]["con"]["accuracy"]) == (1, 0.5)
    low, high = found["intervals"]["accuracy"]
    # Accuracy per issue is 1 or 0.5, six each: mean 0.75, standard error 0.25 / sqrt(12) = 0.072; 1.96 of it is 0.14.
    assert low == pytest.approx(0.75 - 0.14, abs=0.03)
    assert high == pytest.approx(0.75 + 0.14, abs=0.03)


def test_five_grades_and_the_pro_reading_is_the_claim(tmp_path):
    path = written(
        tmp_path,
        {"issue": "tax evasion", "pro_reading": "tax evasion being good", "text": "t", "stance": "mostly con"},
        {"issue": "trains", "text": "t", "stance": "only_pro"},
        row("t", "REFUSAL"),
    )
    gold = agreement.read_gold(path)
    assert [(one.item.claim, one.outcome, one.group) for one in gold] == [
        ("tax evasion being good", "oppose", "tax evasion"),
        ("trains", "support", "trains"),
        ("C", "refusal", "C"),
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row("t", "maybe"), "unknown stance 'maybe'; use one of"),
        ({"claim": "C", "text": "t"}, "a row needs 'text', 'stance'.*has the keys 'claim', 'text'"),
        ({"text": "t", "stance": "pro"}, "a row needs 'text', 'stance'"),
    ],
)
def test_faults_name_the_line(tmp_path, bad, said):
    with pytest.raises(BadInput, match=rf"gold\.jsonl:2: {said}"):
        agreement.read_gold(written(tmp_path, row("t", "pro"), bad))


def test_halves_divide_issues_evenly_and_for_good():
    halves = [agreement.half(f"issue {number}") for number in range(1000)]
    assert 450 < halves.count("half A") < 550
    assert [agreement.half(name) for name in ("abortion", "taxes", "war")] == ["half B", "half A", "half B"]


@pytest.mark.skipif(not GOLD.exists(), reason="shared/data/issuebench-stance is not here")
def test_real_gold():
    gold = agreement.read_gold(GOLD)
    found = agreement.calibrate(Cues(), gold)
    assert {name: sum(counts.values()) for name, counts in found["confusion"].items()} == {
        "support": 200,
        "neutral": 93,
        "oppose": 147,
        "refusal": 60,
    }
    assert found["accuracy"] > 0.64, "no better than saying the framing of the prompt"
    assert sorted(found["by_framing"]) == ["con", "neutral", "pro"]
