"""Agreement numbers by hand and against scikit-learn; faults of gold files with their line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from valuedrift.judge import Judge
from valuedrift.judge.cues import Judge as Cues
from valuedrift.nouns import OUTCOMES, BadInput, Item, Reading
from valuedrift.records.gold import Gold, read_gold
from valuedrift.stats import agreement
from valuedrift.stats.agreement import Verdicts

GOLD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "issuebench-stance" / "stance.jsonl"


class Scripted(Judge):
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
    """Write the rows under prompts of their own: equal texts are then no repetition."""
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row | {"prompt": row.get("prompt", f"P{number}")}) + "\n" for number, row in enumerate(rows)))
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
    # With the failure as a wrong verdict: neutral 2*1/(2+1).
    assert found["macro_f1_all"] == pytest.approx((4 / 6 + 2 / 3 + 2 / 5) / 3)
    assert found["intervals"] == dict.fromkeys(("macro_f1", "accuracy", "kappa", "ece", "macro_f1_all"))  # one claim shows no spread
    assert (found["framing_only"], found["n_unlabelled"]) == (None, 0)
    assert "position_bias" not in found


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
    assert [found[name] for name in ("macro_f1", "macro_f1_all", "accuracy", "kappa", "ece", "majority")] == [None] * 6
    assert found["intervals"]["macro_f1_all"] is None
    assert agreement.headlined(found, 0.7) == (
        False,
        "This judge read none of 2 human-labelled texts; its findings are reported but not headlined.",
    )
    assert found["confusion"] == {}


def test_what_a_judge_cannot_read_is_not_headlined(tmp_path):
    """Right on all it reads, and it reads 90 of 600: 3 of 20 on each of 30 claims."""
    rows = [row(f"{said} 0.9" if n < 3 else "fail", said, claim=f"c{k}") for k in range(30) for n in range(20) for said in [WORDS[k % 3]]]
    found = agreement.calibrate(Scripted(), written(tmp_path, *rows))
    assert (found["macro_f1"], found["n_read"], found["intervals"]["macro_f1"]) == (1, 90, [1, 1])
    # Each outcome: 2*30 / (200 + 30); all claims are alike.
    assert found["macro_f1_all"] == pytest.approx(60 / 230)
    assert found["intervals"]["macro_f1_all"] == pytest.approx([60 / 230] * 2, abs=1e-9)
    allowed, sentence = agreement.headlined(found, 0.7)
    assert not allowed
    assert sentence.startswith(
        "This judge read 90 of 600 human-labelled texts; with the rest counted as wrong, its macro-F1 is 0.26 [0.26, 0.26], below"
    )


WORDS = ("support", "neutral", "oppose")


def test_sure_agreement_by_chance_has_no_kappa(tmp_path):
    found = agreement.calibrate(Scripted(), written(tmp_path, row("support 0.9", "support")))
    assert (found["accuracy"], found["kappa"]) == (1, None)


def two_framings():
    return [
        {"issue": f"i{number}", "pro_reading": "p", "text": text, "stance": "support", "prompt_framing": framing}
        for number in range(16)
        for text, framing in (("support 0.8", "pro"), ("support 0.8" if number < 8 else "oppose 0.8", "con"))
    ]


def test_framings_and_intervals_by_issue(tmp_path):
    found = agreement.calibrate(Scripted(), written(tmp_path, *two_framings()))
    assert found["n_groups"] == 16
    assert (found["by_framing"]["pro"]["accuracy"], found["by_framing"]["con"]["accuracy"]) == (1, 0.5)
    low, high = found["intervals"]["accuracy"]
    # Accuracy per issue is 1 or 0.5, eight each: mean 0.75, standard error 0.25 / sqrt(16) = 0.0625; 1.96 of it is 0.12.
    assert low == pytest.approx(0.75 - 0.12, abs=0.03)
    assert high == pytest.approx(0.75 + 0.12, abs=0.03)


@pytest.mark.parametrize(("n_groups", "known"), [(9, False), (10, True)])
def test_few_issues_show_no_interval(tmp_path, n_groups, known):
    rows = [row(text, "support", claim=f"c{number}") for number in range(n_groups) for text in ("support 0.8", "oppose 0.8", "fail")]
    found = agreement.calibrate(Scripted(), written(tmp_path, *rows))
    assert {name: interval is not None for name, interval in found["intervals"].items()} == dict.fromkeys(
        (*agreement.SCORES, "ece", "macro_f1_all"), known
    )
    assert [found["n_groups"], found["accuracy"]] == [n_groups, 0.5]


def test_tails_of_few_issues_lie_further_out():
    # t of 9 degrees of freedom 2.2622, by sqrt(10 / 9) 2.3845; the normal's tail beyond that is .00855 (plain percentiles: .025).
    ten = Verdicts.of(
        [(Gold(Item("q", "c", "t"), "support", f"c{group}", ""), Reading("k", "j", failure="judge_error")) for group in range(10)]
    )
    assert ten.quantiles(np.linspace(0, 1, 100_001)) == pytest.approx((0.00855, 1 - 0.00855), abs=1e-5)


def test_intervals_hold_the_truth_from_the_fewest_issues_on():
    """10 issues x 20 texts, each issue with its own accuracy from Beta(4, 2): 2/3 on the whole."""
    rng = np.random.default_rng(7)
    held = []
    for _ in range(200):
        right = rng.random((agreement.MIN_GROUPS, 20)) < rng.beta(4, 2, (agreement.MIN_GROUPS, 1))
        read = [
            (
                Gold(Item("q", "c", "t"), "support", f"c{group}", ""),
                Reading("k", "j", (float(one), 0.0, float(not one), 0.0, 0.0)),
            )
            for group, texts in enumerate(right)
            for one in texts
        ]
        low, high = Verdicts.of(read).intervals()["accuracy"]
        held.append(low <= 2 / 3 <= high)
    assert 0.91 <= np.mean(held) <= 0.99  # plain percentiles: .88


def test_parts_by_framing_have_intervals_of_their_own(tmp_path):
    found = agreement.calibrate(Scripted(), written(tmp_path, *two_framings()))
    assert found["by_framing"]["pro"]["intervals"]["accuracy"] == [1, 1]
    low, high = found["by_framing"]["con"]["intervals"]["accuracy"]
    # Right on 8 of 16 issues: standard error .5 / sqrt(16) = .125; 1.96 of it is .245.
    assert (low, high) == (pytest.approx(0.5 - 0.245, abs=0.06), pytest.approx(0.5 + 0.245, abs=0.06))
    assert found["by_framing"]["con"]["intervals"]["kappa"] is not None
    # Every text supports: a judge that only says so agrees by chance for sure.
    assert found["by_framing"]["pro"]["intervals"]["kappa"] is None


def test_saying_the_framing(tmp_path):
    rows = [
        row("support 0.9", stance, prompt_framing=framing)
        for stance, framing in zip(("pro", "pro", "con", "refusal"), FRAMINGS, strict=True)
    ]
    # pro as pro, pro as con, con as con, refusal as neutral: 2 of 4. The fifth has no framing, that of the sixth names no stance.
    rows += [row("support 0.9", "con"), row("support 0.9", "pro", prompt_framing="formal")]
    assert agreement.calibrate(Scripted(), written(tmp_path, *rows))["framing_only"] == 2 / 4


FRAMINGS = ("pro", "con", "con", "neutral")


def test_the_interval_of_ece_allows_for_its_bias():
    # A judge that says .8 and is right in 80 %: the true error is 0. A sample finds more; its interval reaches down to 0 nearly always.
    rng = np.random.default_rng(4)
    reaching = []
    for _ in range(40):
        texts = [f"{'support' if right else 'oppose'} 0.8" for right in rng.random(60) < 0.8]
        gold = [Gold(Item(f"c{number % 20}", "c", text), "support", f"c{number % 20}", "") for number, text in enumerate(texts)]
        found = agreement.calibrate(Scripted(), gold)
        low, high = found["intervals"]["ece"]
        assert low <= found["ece"] <= high + 1e-12 or found["ece"] < 0.02
        reaching.append(low == 0)
    assert np.mean(reaching) >= 0.9


def test_texts_without_a_label_are_counted_and_not_judged(tmp_path):
    rows = [row("support 0.9", "support"), row("nobody may judge this", None), row("nor this", " ")]
    found = agreement.calibrate(Scripted(), written(tmp_path, *rows))
    assert (found["n"], found["n_unlabelled"], found["accuracy"]) == (1, 2, 1)
    with pytest.raises(BadInput, match=r"gold\.jsonl holds 2 texts and no label; fill in 'stance'"):
        agreement.calibrate(Scripted(), written(tmp_path, *rows[1:]))


def test_the_position_bias_of_a_judge_is_shown_if_it_is_asked_for(tmp_path):
    class Ordered(Scripted):
        def position_bias(self, items):
            return {"flipped": len(items)}

    path = written(tmp_path, row("support 0.9", "support"), row("oppose 0.9", "oppose"))
    assert agreement.calibrate(Ordered(), path, position_bias=True)["position_bias"] == {"flipped": 2}
    many = written(tmp_path, *(row("support 0.9", "support", claim=f"c{number}") for number in range(250)))
    assert agreement.calibrate(Ordered(), many, position_bias=True)["position_bias"] == {"flipped": 50}, "every fifth text"


class Worded(Scripted):
    """Takes "oppose" for "support" where it is asked plainly; notes every time it is asked."""

    asked = ()

    def __init__(self, name):
        self.name = name

    def read(self, items):
        type(self).asked += (self.name,)
        said = [dataclasses.replace(item, text=item.text.replace("oppose", "support")) if self.name == "plain" else item for item in items]
        return super().read(said)


def test_wordings_differ_by_the_texts_they_read_differently(tmp_path):
    gold = written(
        tmp_path, *(row(f"{said} 0.8", said, claim=f"c{number}") for number in range(16) for said in ("support", "oppose", "oppose"))
    )
    plain, full = agreement.wordings(Worded, ["plain", "full"], gold)
    assert Worded.asked == ("plain", "full"), "each wording reads once: verdicts may cost something"
    assert (plain["wording"], plain["accuracy"], full["accuracy"]) == ("plain", pytest.approx(1 / 3), 1)
    assert plain["difference"]["accuracy"] == {"value": 0, "low": 0, "high": 0}
    # All 16 claims are alike: 1 - 1/3, without spread. Macro-F1 of plain: support 2*16/(16+48) = 1/2, oppose 0.
    assert full["difference"]["accuracy"] == {name: pytest.approx(2 / 3) for name in ("value", "low", "high")}
    assert full["difference"]["macro_f1"]["value"] == pytest.approx(1 - 1 / 4)


def test_differences_of_wordings_are_paired(tmp_path):
    # Both wordings fail on the same half of the claims; only the difference on one claim in sixteen remains.
    class Paired(Scripted):
        def __init__(self, name):
            self.name = name

        def read(self, items):
            return super().read(
                [dataclasses.replace(item, text="oppose 0.8") if self.name in item.text.split("|") else self._bare(item) for item in items]
            )

        @staticmethod
        def _bare(item):
            return dataclasses.replace(item, text=item.text.split("|")[-1])

    texts = ["a|b|support 0.8"] * 8 + ["support 0.8"] * 7 + ["a|support 0.8"]
    gold = written(tmp_path, *(row(text, "support", claim=f"c{number}") for number, text in enumerate(texts)))
    first, second = agreement.wordings(Paired, ["a", "b"], gold)
    found = second["difference"]["accuracy"]
    assert found["value"] == pytest.approx(1 / 16)
    assert (found["low"], found["high"]) == (0, pytest.approx(3 / 16))
    wide = first["intervals"]["accuracy"]
    assert wide[1] - wide[0] > 0.4


def measured(value, interval=None):
    return {"macro_f1": value, "n": 500, "n_read": 500, "intervals": {"macro_f1": interval}}


def partly(value, interval=None):
    return measured(0.99) | {"n_read": 400, "macro_f1_all": value, "intervals": {"macro_f1": [0.98, 1], "macro_f1_all": interval}}


@pytest.mark.parametrize(
    ("agreement_", "may", "said"),
    [
        (measured(0.86, [0.82, 0.89]), True, "500 labels at a macro-F1 of 0.86 [0.82, 0.89]."),
        (measured(0.73, [0.69, 0.77]), True, "0.73 [0.69, 0.77]; the required 0.70 lies inside the interval"),
        (measured(0.69, [0.63, 0.75]), False, "0.69 [0.63, 0.75], below the required 0.70"),
        (measured(0.7), True, "macro-F1 of 0.70; too few issues for an interval"),
        (measured(None) | {"n_read": 0}, False, "read none of 500 human-labelled texts"),
        (
            partly(0.69, [0.63, 0.75]),
            False,
            "read 400 of 500 human-labelled texts; with the rest counted as wrong, its macro-F1 is 0.69 [0.63,",
        ),
        (partly(0.75, [0.68, 0.8]), True, "0.75 [0.68, 0.80]; the required 0.70 lies inside the interval"),
        (partly(0.8), True, "its macro-F1 is 0.80; too few issues for an interval"),
        (None, True, "never compared with people"),
    ],
)
def test_what_may_be_headlined(agreement_, may, said):
    allowed, sentence = agreement.headlined(agreement_, 0.7)
    assert allowed is may
    assert said in sentence


def test_five_grades_and_the_pro_reading_is_the_claim(tmp_path):
    path = written(
        tmp_path,
        {"issue": "tax evasion", "pro_reading": "tax evasion being good", "text": "t", "stance": "mostly con"},
        {"issue": "trains", "text": "t", "stance": "only_pro"},
        row("t", "REFUSAL"),
    )
    gold = read_gold(path)
    assert [(one.item.claim, one.outcome, one.group) for one in gold] == [
        ("tax evasion being good", "oppose", "tax evasion"),
        ("trains", "support", "trains"),
        ("C", "refusal", "C"),
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row("t", "maybe"), "unknown stance 'maybe'; use one of"),
        ({"claim": "C", "text": "t"}, "a row needs 'text', 'stance'.*has the keys 'claim', 'text', 'prompt'"),
        ({"text": "t", "stance": "pro"}, "a row needs 'text', 'stance'"),
    ],
)
def test_faults_name_the_line(tmp_path, bad, said):
    with pytest.raises(BadInput, match=rf"gold\.jsonl:2: {said}"):
        read_gold(written(tmp_path, row("t", "pro"), bad))


@pytest.mark.skipif(not GOLD.exists(), reason="shared/data/issuebench-stance is not here")
def test_real_gold():
    gold = read_gold(GOLD)
    found = agreement.calibrate(Cues(), gold)
    assert {name: sum(counts.values()) for name, counts in found["confusion"].items()} == {
        "support": 200,
        "neutral": 93,
        "oppose": 147,
        "refusal": 60,
    }
    # The file's README: guessing the stance from the framing alone is right on 64 % of all rows.
    assert found["framing_only"] == pytest.approx(0.638)
    assert found["accuracy"] > found["framing_only"], "no better than saying the framing of the prompt"
    assert sorted(found["by_framing"]) == ["con", "neutral", "pro"]
