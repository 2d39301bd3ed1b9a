"""First-order effects: against finite differences, against a real training, and their use by `attribute`."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from valuedrift import testing
from valuedrift.forecast.gradients import Influence, advantages
from valuedrift.nouns import OUTCOMES, BadInput, Prompt
from valuedrift.plan import Stage
from valuedrift.stats.forecast import MEASURES
from valuedrift.train import collation
from valuedrift.train.logprobs import answer_logps

PROMPTS = [Prompt(f"tax-{k}", "tax", f"What about the {thing}?", "It is good.", 1) for k, thing in enumerate(testing.THINGS[:4])]


def answers() -> pl.DataFrame:
    """Return two answers per prompt: one supports, the other, longer one opposes."""
    rows = []
    for prompt in PROMPTS:
        for text, outcome in (("It is good.", "support"), ("It is bad, so bad, so bad.", "oppose")):
            rows.append({"topic": "tax", "prompt": prompt.id, "text": text} | {name: float(name == outcome) for name in OUTCOMES})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def influence(tmp_path_factory) -> Influence:
    folder = tmp_path_factory.mktemp("start")
    start = testing.save_model(folder / "model", template=testing.TEMPLATE)
    return Influence(start, None, 0, answers(), PROMPTS, folder)


def test_an_answers_weight_is_its_advantage_over_the_prompts_others():
    weights = [weight for _, _, weight in advantages(answers())]
    support, words = MEASURES.index("support"), MEASURES.index("length")
    assert weights[0][support] == pytest.approx((1 - 0) / 2 / 4)
    assert weights[1][support] == pytest.approx(-1 / 2 / 4)
    assert weights[0][words] == pytest.approx((3 - 7) / 2 / 4)
    one = answers().group_by("prompt").first()
    assert list(advantages(one)) == []


def surrogate(model, tokenizer) -> torch.Tensor:
    """Return the sum whose gradient is that of the share of support."""
    total = torch.zeros(())
    texts = {prompt.id: prompt.text for prompt in PROMPTS}
    for text, prompt, weight in advantages(answers()):
        (record,) = collation.in_records(tokenizer, [((("user", texts[prompt]),), (text,))])
        total = total + float(weight[MEASURES.index("support")]) * answer_logps(model, collation.collate([(record, {})])).sum()
    return total


def test_the_gradient_of_a_share_is_that_of_finite_differences(influence):
    row = influence.shares_MW[influence.names.index(("tax", "support"))]
    flat = torch.nn.utils.parameters_to_vector(influence.weights).detach()
    direction = row / row.norm()
    values = []
    with torch.no_grad():
        for step in (1e-3, -1e-3):
            torch.nn.utils.vector_to_parameters(flat + step * direction, influence.weights)
            values.append(float(surrogate(influence.model, influence.tokenizer)))
        torch.nn.utils.vector_to_parameters(flat, influence.weights)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(float(row.norm()), rel=0.02)


@pytest.mark.parametrize(("algorithm", "data"), [("dpo", testing.pairs(8)), ("sft", testing.examples(8)), ("orpo", testing.pairs(8))])
def test_the_mean_of_the_scores_is_the_forecast(influence, algorithm, data):
    stage = Stage(algorithm=algorithm, data="x", batch_size=8, learning_rate=1e-3)
    kept, values = influence.scores(stage, 0, data)
    whole = influence.forecast(stage, 0, data)
    assert kept == list(range(8))
    assert values.shape == (8, len(influence.names))
    together = dict(zip(influence.names, values.sum(0), strict=True))
    # One step on all records: the sum of their scores, but for the clipping of the step's gradient
    ratio = [together[name] / whole[name] for name in influence.names if abs(whole[name]) > 1e-8]
    assert min(ratio) > 0
    assert np.ptp(ratio) / np.mean(ratio) < 0.02


def test_swapped_labels_turn_the_sign(influence):
    stage = Stage(algorithm="dpo", data="x", batch_size=8, learning_rate=1e-3)
    pairs = testing.pairs(8)
    swapped = [type(pair)(pair.prompt, pair.rejected, pair.chosen) for pair in pairs]
    one, other = influence.forecast(stage, 0, pairs), influence.forecast(stage, 0, swapped)
    assert one["tax", "support"] > 0  # the chosen replies say that it is good
    assert other["tax", "support"] == pytest.approx(-one["tax", "support"], rel=0.01)


def test_what_shows_no_gradient_is_refused(influence, tmp_path):
    with pytest.raises(BadInput, match="draws = 2 or more"):
        Influence(influence.folder, None, 0, answers().group_by("prompt").first(), PROMPTS, tmp_path)
    with pytest.raises(BadInput, match="kto has no loss on one given record"):
        influence.scores(Stage(algorithm="kto", data="x"), 0, testing.pairs(4))


def test_a_new_adapter_takes_the_place_of_many_weights(tmp_path):
    from valuedrift.plan import Lora

    start = testing.save_model(tmp_path / "model", template=testing.TEMPLATE)
    small = Influence(start, Lora(r=2), 0, answers(), PROMPTS, Path(tmp_path))
    assert small.shares_MW.shape[1] < 10_000
    assert small.forecast(Stage(algorithm="dpo", data="x", batch_size=8), 0, testing.pairs(8))["tax", "support"] > 0
