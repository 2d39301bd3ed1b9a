"""Common random numbers: by hand, and with the truth planted."""

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES
from valuedrift.stats.pairing import pairing, pairing_findings

STAGES = [{"name": "dpo", "steps": [0, 5, 9], "total_steps": 9, "seed": 0}]


def scores(supports_TPD, steps=(0, 5, 9), topics=1):
    """Return scores of draws that support (1) or oppose (0)."""
    rows = [
        {"stage": "dpo", "step": step, "seed": 0, "repeat": False, "topic": f"t{prompt % topics}", "prompt": str(prompt), "draw": draw}
        | {"polarity": 1, "failure": None, **dict.fromkeys(OUTCOMES, 0.0), ("support" if up else "oppose"): 1.0}
        for step, of_step in zip(steps, supports_TPD, strict=False)
        for prompt, of_prompt in enumerate(of_step)
        for draw, up in enumerate(of_prompt)
    ]
    return pl.DataFrame(rows, schema_overrides={"failure": pl.String})


def test_by_hand():
    """Six prompts, two draws, support or oppose alone: x is support - 1/2 at step 0, where half support, and support - 7/12 at step 5.

    Step 0: 10 on all. Step 5: 11 on the first, where one draw changed. The prompts change by 1/2 and five times 0, all less 1/12: SE^2 is
    the sum of squares 5/24, / 5 / 6. V: the first prompt changes by 0, 1, variance 1/2: / 2 / 36. W: 6 x 1/2 at step 0 and 5 x 1/2 at
    step 5, / 2 / 36.
    """
    before = [[1, 0]] * 6
    table = pairing(scores([before, [[1, 1], *before[1:]]]), STAGES).filter((pl.col("stance") == "support") & (pl.col("topic") == "t0"))
    assert table.height == 1
    row = table.to_dicts()[0]
    square, paired, alone = 5 / 24 / 5 / 6, 0.5 / 2 / 36, 5.5 / 2 / 36
    assert (row["from_step"], row["to_step"], row["n"]) == (0, 5, 6)
    assert row["se"] == pytest.approx(square**0.5)
    assert row["draws_ratio"] == pytest.approx((paired / alone) ** 0.5)
    assert row["ratio"] == pytest.approx((square / (square - paired + alone)) ** 0.5)


def planted(rng, change, n=400, draws=5):
    """Return supports at two steps of prompts whose chance of support moves by `change`, with common and with other numbers."""
    chance_P1 = rng.uniform(0.2, 0.8 - abs(change), n)[:, None]
    u_PD, v_PD = rng.random((2, n, draws))
    return [u_PD < chance_P1, u_PD < chance_P1 + change], [u_PD < chance_P1, v_PD < chance_P1 + change]


@pytest.mark.parametrize("change", [0.02, 0.1, 0.3])
def test_the_ratio_is_that_of_both_ways_of_sampling(change):
    """The prediction from paired answers alone, against the spread of drifts really sampled either way."""
    rng = np.random.default_rng(2)
    drifts = np.array([[np.mean(b) - np.mean(a) for a, b in planted(rng, change)] for _ in range(600)])
    truth = drifts[:, 0].std() / drifts[:, 1].std()
    row = (
        pairing(scores(planted(rng, change)[0]), STAGES).filter((pl.col("stance") == "support") & (pl.col("topic") == "all")).to_dicts()[0]
    )
    assert row["ratio"] == pytest.approx(truth, abs=0.07)
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]


def test_equal_checkpoints_and_independent_ones():
    rng = np.random.default_rng(4)
    one = rng.random((200, 5)) < 0.5
    same, apart = (
        pairing(scores(steps), STAGES).filter((pl.col("stance") == "support") & (pl.col("topic") == "t0"))["ratio"][0]
        for steps in ([one, one], rng.random((2, 200, 5)) < 0.5)
    )
    assert same == 0
    assert apart == pytest.approx(1, abs=0.15)


def test_neighbours_and_ends_of_every_topic_and_a_sentence():
    rng = np.random.default_rng(5)
    table = pairing(scores(rng.random((3, 40, 3)) < 0.4, topics=2), STAGES)
    assert table.select("from_step", "to_step").unique().sort("from_step", "to_step").rows() == [(0, 5), (0, 9), (5, 9)]
    assert set(table["topic"]) == {"t0", "t1", "all"}
    (sentence,) = pairing_findings(table)
    assert sentence.startswith("dpo: common random numbers make standard errors ")


def test_no_evidence():
    few = pairing(scores(np.ones((2, 4, 5))), STAGES)
    assert few["ratio"].is_null().all()
    single = pairing(scores(np.random.default_rng(0).random((2, 40, 1)) < 0.5), STAGES)
    assert single["ratio"].is_null().all()
    agreed = pairing(scores(np.ones((2, 40, 5))), STAGES)
    assert agreed["ratio"].is_null().all()
    assert pairing_findings(few) == []
