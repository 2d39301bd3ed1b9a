"""The anchor: its formula by hand, its part in the loop, kills, and names and refusals."""

import math
from dataclasses import replace

import checks
import pytest
import torch
from pydantic import ValidationError

from valuedrift import testing
from valuedrift.nouns import BadInput, Example, digest
from valuedrift.plan import Stage, original_names
from valuedrift.records.stances import Anchored
from valuedrift.train import anchor
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

ANSWERS = ("It is good for the economy.", "There is a lot to be said on both sides, for the poor and the people.", "It is bad.")
THIRDS = (1 / 3,) * 3


def questions(n=10, shares=None):
    return [Anchored((("user", f"What about the {testing.THINGS[i % 8]}{' of people' * (i % 3)}?"),), ANSWERS, shares) for i in range(n)]


def stage(algorithm="dpo", anchor=None, **keys):
    small = {"steps": 6, "batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 3e-3, "save_at": "log:1"}
    anchor = None if anchor is None else {"data": "x"} | anchor
    return Stage(**{"algorithm": algorithm, "data": "x", "anchor": anchor} | small | keys)


def run(variant, root, out, progress=None):
    """Train with an anchor, saved at steps 2 and 4; an adapter has dropout, "ppo" answers in iterations of 4 steps."""
    keys = {"steps": 6, "save_at": [2, 4], "anchor": {"weight": 0.5}}
    if variant == "ppo":
        keys |= {"algorithm": "ppo", "num_ppo_epochs": 2, "num_mini_batches": 2, "max_new_tokens": 6}
    if variant == "adapter":
        keys |= {"lora": {"r": 2, "lora_dropout": 0.2}}
    return run_stage(stage(**keys), 5, str(root / "base"), testing.pairs(15), out, progress, str(root / "rewarder"), questions())


# -- the formula -----------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    # log-probs -4, -6, -9 of answers of 2, 2 and 3 tokens: -2, -3, -3 per token; at temperature 0.5: -4, -6, -6
    # q = 1, e^-2, e^-2 over 1 + 2 e^-2 = 1.270671: 0.786986, 0.106507, 0.106507
    logps_BS, n_BS = torch.tensor([[-4.0, -6, -9]] * 3), torch.tensor([[2, 2, 3]] * 3)
    target_BS = torch.tensor([[0.786986, 0.106507, 0.106507], THIRDS, (0.5, 0.5, 0)])
    loss_B, q_BS = anchor.anchor_loss(logps_BS, n_BS, target_BS, temperature=0.5)
    assert q_BS[0].tolist() == pytest.approx([0.786986, 0.106507, 0.106507], abs=1e-5)
    uniform = sum(math.log(1 / 3 / q) / 3 for q in (0.786986, 0.106507, 0.106507))  # 0.4734
    half = 0.5 * math.log(0.5 / 0.786986) + 0.5 * math.log(0.5 / 0.106507)  # 0.5464; a share of 0 adds nothing
    assert loss_B.tolist() == pytest.approx([0, uniform, half], abs=1e-5)


def test_the_gradient_raises_what_is_below_its_target():
    # dKL/d(mean log-prob) = (q - target) / temperature; with q = 1/3 each, of 4 tokens: (1/3 - 0.6) / 0.5 / 4
    logps_BS = torch.zeros(1, 3, requires_grad=True)
    loss_B, _ = anchor.anchor_loss(logps_BS, torch.full((1, 3), 4), torch.tensor([[0.6, 0.3, 0.1]]), temperature=0.5)
    loss_B.sum().backward()
    assert logps_BS.grad.tolist() == [pytest.approx([(1 / 3 - share) / 0.5 / 4 for share in (0.6, 0.3, 0.1)], abs=1e-6)]


# -- in the loop -----------------------------------------------------------------------------------------------------------


def test_curve(tmp_path):
    base = testing.save_model(tmp_path / "base", "qwen3")
    anchored = stage(anchor={"weight": 0.5, "temperature": 0.2}, warmup_ratio=0.2, weight_decay=0.1)
    run_stage(anchored, 7, base, testing.pairs(21), tmp_path / "out", anchored=questions(shares=(0.2, 0.3, 0.5)))
    checks.assert_golden(tmp_path / "out", "anchor")


def test_one_batch_or_several_of_the_same_step_give_the_same(tmp_path):
    base = testing.save_model(tmp_path / "base")
    for name, keys in (
        ("one", {"batch_size": 6, "gradient_accumulation_steps": 1}),
        ("several", {"batch_size": 2, "gradient_accumulation_steps": 3}),
    ):
        # 15 pairs: the last step has three records, and as many questions
        short = stage(anchor={}, steps=None, **keys)
        run_stage(short, 5, base, testing.pairs(15), tmp_path / name / "out", anchored=questions())
    one, several = (checks.curve(tmp_path / name / "out") for name in ("one", "several"))
    assert len(one) == 3
    for left, right in zip(one, several, strict=True):
        assert left | {"epoch": 0} == pytest.approx(right | {"epoch": 0}, rel=1e-3, abs=1e-4)


def test_a_tiny_weight_is_as_good_as_no_anchor(tmp_path):
    base = testing.save_model(tmp_path / "base")
    run_stage(stage(), 5, base, testing.pairs(15), tmp_path / "without")
    run_stage(stage(anchor={"weight": 1e-9}), 5, base, testing.pairs(15), tmp_path / "with", anchored=questions())
    for left, right in zip(checks.curve(tmp_path / "without"), checks.curve(tmp_path / "with"), strict=True):
        assert {name: right[name] for name in left} == pytest.approx(left, rel=1e-4, abs=1e-5)
        assert right["anchor_support"] + right["anchor_neutral"] + right["anchor_oppose"] == pytest.approx(1)


def test_killed(tmp_path):
    from test_ppo import folders

    folders(tmp_path)
    variants = ["adapter", "ppo"]
    checks.killed("test_anchor", "3", variants, tmp_path)
    for variant in variants:
        out, whole = tmp_path / "killed" / variant, tmp_path / "whole" / variant
        run(variant, tmp_path, out)
        run(variant, tmp_path, whole)
        assert len(checks.left(whole)) == 4  # three checkpoints and the losses
        assert checks.left(out) == checks.left(whole)
        assert checks.curve(whole)[0]["anchor_loss"] == pytest.approx(0, abs=2e-3)  # an adapter's dropout is off in the target


# -- names and refusals ----------------------------------------------------------------------------------------------------


def test_a_stage_without_an_anchor_keeps_its_name():
    # digests taken before there were anchors
    old = Stage(algorithm="dpo", data="x", beta=0.2, lora={"r": 2})
    assert digest("stage", old.trained_by()) == "fc3ba7a7c075a25df1a74ae4"
    settings = original_names(old.model_dump(exclude={"after", "max_bad_rows"}))
    assert digest("settings", settings, old.own().model_dump()) == "26b87fead5134bb746cccf1a"


def test_questions_count_by_content(tmp_path):
    base = testing.save_model(tmp_path / "base")
    short = stage(anchor={}, steps=1)
    run_stage(short, 5, base, testing.pairs(15), tmp_path / "out", anchored=questions())
    moved = short.model_copy(update={"anchor": short.anchor.model_copy(update={"data": "elsewhere"})})
    assert run_stage(moved, 5, "nowhere", testing.pairs(15), tmp_path / "out", anchored=questions()) == [1]
    heavier = short.model_copy(update={"anchor": short.anchor.model_copy(update={"weight": 2.0})})
    for changed, asked in ((short, questions(9)), (short, questions(shares=THIRDS)), (heavier, questions())):
        with pytest.raises(BadInput, match="other settings, seed or data"):
            run_stage(changed, 5, base, testing.pairs(15), tmp_path / "out", anchored=asked)


@pytest.mark.parametrize(
    ("algorithm", "sentence"), [("reward", "scores and no answers"), ("trl:DPOTrainer", "its own training loop"), ("dpo", "greater than 0")]
)
def test_what_cannot_be_anchored_is_refused(algorithm, sentence):
    if algorithm.startswith("trl:"):
        pytest.importorskip("trl")
    with pytest.raises(ValidationError, match=sentence):
        stage(algorithm, anchor={"weight": 0 if algorithm == "dpo" else 1})


@pytest.mark.parametrize(
    ("algorithm", "data", "asked", "sentence"),
    [
        ("dpo", testing.pairs(6), [], "give both or neither"),
        ("sft", [Example((), "It is good.")] * 6, questions(), "the stage's data is running text"),
        ("dpo", testing.pairs(6), [replace(questions(1)[0], answers=("a", "b", "c " * 2000))], r"question 1 of the anchor has \d+ tokens"),
    ],
)
def test_what_does_not_fit_together_is_refused(algorithm, data, asked, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        run_stage(stage(algorithm, anchor={}), 5, testing.save_model(tmp_path / "base"), data, tmp_path / "out", anchored=asked)
