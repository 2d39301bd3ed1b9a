"""Proximal policy optimisation: its formulas by hand, its rollouts, and kills in the middle of an iteration."""

import math

import checks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from valuedrift import testing
from valuedrift.models.chat_format import PromptFormat
from valuedrift.nouns import BadInput, Example
from valuedrift.plan import Stage
from valuedrift.train import collation, logprobs, ppo, reward_model, rollout, starting
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

MASK_RT = torch.tensor([[False, True, True, True], [True, True, False, False]])
"""Two answers, of 3 and 2 tokens, behind prompts of 2 and 1."""


def rt(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def lists(values_RT):
    return [pytest.approx(row, abs=1e-6) for row in values_RT.tolist()]


def stage(**keys):
    small = {
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "max_new_tokens": 6,
        "temperature": 0.8,
    }
    return Stage(**{"algorithm": "ppo", "data": "x", "learning_rate": 3e-3, "save_at": "log:1"} | small | keys)


def folders(path, scale=0.2):
    """Return a causal model and a reward model of random weights."""
    base, rewarder = testing.save_model(path / "base", "qwen3", scale=scale), path / "rewarder"
    torch.manual_seed(3)
    starting.load_scorer(base, stage(), 0).save_pretrained(rewarder)
    testing.tokenizer().save_pretrained(rewarder)
    return base, str(rewarder)


def run(variant, root, out, progress=None):
    """Train in iterations of 4 steps, saved in the middle and at the end of them; the adapter has dropout."""
    lora = {"r": 2, "lora_dropout": 0.2} if variant == "adapter" else None
    what = stage(steps=10, save_at=[2, 4, 7, 8], lora=lora, target_kl=1.0, kl_horizon=40, warmup_ratio=0.2, weight_decay=0.1)
    return run_stage(what, 5, str(root / "base"), testing.pairs(15), out, progress, str(root / "rewarder"))


# -- formulas --------------------------------------------------------------------------------------------------------------


def test_kl_rewards_by_hand():
    # 0.5 * (log π - log π_ref) is taken off each token; the score stands at the last one: 3 at the fourth place, -1 at the second
    logps_RT, reference_RT = rt([9, -1, -2, -3], [-1, -1, 9, 9]), rt([0, -2, -2, -1], [-3, -2, 0, 0])
    rewards_RT = ppo.kl_rewards(torch.tensor([3.0, -1.0]), logps_RT, reference_RT, MASK_RT, beta=0.5)
    assert rewards_RT.tolist() == [[0, -0.5, 0, 3 + 1], [-1, -0.5 - 1, 0, 0]]


def test_whiten_by_hand():
    # 1, 2, 3, 6, 8 in the mask: mean 20/5 = 4, variance (9 + 4 + 1 + 4 + 16)/5 = 6.8; what is outside counts for nothing
    white_RT = ppo.whiten(rt([99, 1, 2, 3], [6, 8, 99, 99]), MASK_RT)
    scale = 1 / math.sqrt(6.8)
    assert lists(white_RT) == [[0, -3 * scale, -2 * scale, -1 * scale], [2 * scale, 4 * scale, 0, 0]]
    kept_RT = ppo.whiten(rt([99, 1, 2, 3], [6, 8, 99, 99]), MASK_RT, shift_mean=False)
    assert lists(kept_RT) == [[0, 4 - 3 * scale, 4 - 2 * scale, 4 - 1 * scale], [4 + 2 * scale, 4 + 4 * scale, 0, 0]]


def test_gae_by_hand():
    # gamma 0.5, lambda 0.8: a delta counts 0.4 times as much one place earlier. From the end, row 1:
    # delta = 4 - 3 = 1; 0 + 0.5*3 - 2 = -0.5, A = -0.5 + 0.4*1 = -0.1; 1 + 0.5*2 - 1 = 1, A = 1 + 0.4*-0.1 = 0.96
    # row 2: 2 - 1 = 1; 0 + 0.5*1 - 2 = -1.5, A = -1.5 + 0.4 = -1.1
    advantages_RT = ppo.gae(rt([0, 1, 0, 4], [0, 2, 0, 0]), rt([7, 1, 2, 3], [2, 1, 7, 7]), MASK_RT, gamma=0.5, lam=0.8)
    assert lists(advantages_RT) == [[0, 0.96, -0.1, 1], [-1.1, 1, 0, 0]]


def test_ppo_loss_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5 and 1.1 with advantages 2, -2, 2, -2 and 3, clipped to 0.8 … 1.2:
    # min(3, 2.4), min(-3, -2.4), min(1, 1.6), min(-1, -1.6), min(3.3, 3.3)
    ratios, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]), torch.tensor([2.0, -2, 2, -2, 3])
    loss_N = ppo.ppo_loss(ratios.log() - 1, torch.full((5,), -1.0), advantages, clip=0.2)
    assert loss_N.tolist() == pytest.approx([-2.4, 3, -1, 1.6, -3.3])


def test_value_loss_by_hand():
    # old value 1, new 2 held at 1.2: return 2: max(0, 0.8^2)/2; return 0: max(4, 1.44)/2; new 1.1 is not held: 0.9^2/2
    loss_N = ppo.value_loss(torch.tensor([2.0, 2, 1.1]), torch.ones(3), torch.tensor([2.0, 0, 2]), clip=0.2)
    assert loss_N.tolist() == pytest.approx([0.32, 2, 0.405])


def test_adapted_beta_by_hand():
    # 10 % above the target, 5 answers of a horizon of 50: 0.5 * (1 + 0.1 * 0.1); three times the target counts as 20 % above
    for kl, beta in ((2.2, 0.505), (6.0, 0.51), (0.1, 0.49)):
        assert ppo.adapted_beta(torch.tensor(0.5), torch.tensor(kl), 2.0, 5, 50).item() == pytest.approx(beta)


def sampled(**more):
    """Return what the loop hands to `prepare`: row 1 ended by itself with score 9, row 2 was cut off with score 1."""
    old_RT = rt([0, -1, -1, -2], [-1, -1, 0, 0])
    values_RT = rt([0, 1, 1, 2], [0, 2, 0, 0])
    scores = {"scores_R": torch.tensor([9.0, 1.0]), "ended_R": torch.tensor([True, False]), "before": {}}
    return {"answer_mask_RT": MASK_RT, "old_logps_RT": old_RT, "old_values_RT": values_RT} | scores | more


REFERENCE_RT = rt([0, -3, -1, -2], [-1, 0, 0, 0])


def test_an_iteration_by_hand():
    algorithm = ppo.Algorithm(ppo.Algorithm.Settings(kl_coef=0.5, lam=0.5, max_score=4, missing_eos_penalty=2))
    kept = algorithm.prepare(sampled(), REFERENCE_RT)
    # scores held at 4 and -1 (1 - 2); log π - log π_ref: 2, 0, 0 and 0, -1. Rewards: -1, 0, 4 and 0, 0.5 - 1 = -0.5
    # deltas (gamma 1): -1 + 1 - 1 = -1, 0 + 2 - 1 = 1, 4 - 2 = 2 and 0 + 2 - 0 = 2, -0.5 - 2 = -2.5
    # advantages (lambda 0.5): 2, 1 + 1 = 2, -1 + 1 = 0; and -2.5, 2 - 1.25 = 0.75
    assert lists(kept["returns_RT"]) == [[0, 0 + 1, 2 + 1, 2 + 2], [0.75 + 0, -2.5 + 2, 0, 0]]
    # mean (0 + 2 + 2 + 0.75 - 2.5)/5 = 0.45, variance (0 + 4 + 4 + 0.5625 + 6.25)/5 - 0.45^2 = 2.76
    scale = 1 / math.sqrt(2.76)
    assert lists(kept["advantages_RT"]) == [[0, -0.45 * scale, 1.55 * scale, 1.55 * scale], [0.3 * scale, -2.95 * scale, 0, 0]]
    logged = {name: kept[name].tolist() for name in ("score", "reward", "kl", "beta", "ended")}
    assert logged == {"score": [9, 1], "reward": [3, -0.5], "kl": [2, -1], "beta": [0.5, 0.5], "ended": [1, 0]}


def test_rewards_are_whitened_where_asked():
    kept = ppo.Algorithm(ppo.Algorithm.Settings(kl_coef=0.5, whiten_rewards=True, max_score=4)).prepare(sampled(), REFERENCE_RT)
    # rewards -1, 0, 4 and 0, 0.5 (score 1 - 1): mean 0.7, variance (1 + 0 + 16 + 0 + 0.25)/5 - 0.49 = 2.96
    last = 0.7 + (4 - 0.7) / math.sqrt(2.96)
    assert kept["returns_RT"][0, 3].item() == pytest.approx(last, abs=1e-5)
    assert kept["reward"].tolist() == [3, 0.5]  # logged as they were


def test_beta_follows_the_distance():
    algorithm = ppo.Algorithm(ppo.Algorithm.Settings(kl_coef=0.5, target_kl=1, kl_horizon=4))
    before = {"beta": torch.tensor([0.4, 0.4]), "kl": torch.tensor([2.0, 0.2])}
    # the mean 1.1 is a tenth above the target: 0.4 * (1 + 0.1 * 2 / 4)
    assert algorithm.prepare(sampled(before=before), REFERENCE_RT)["beta"].tolist() == pytest.approx([0.42, 0.42])
    fixed = ppo.Algorithm(ppo.Algorithm.Settings(kl_coef=0.4))
    assert fixed.prepare(sampled(before=before), REFERENCE_RT)["beta"].tolist() == pytest.approx([0.4, 0.4])


def test_the_loss_adds_both_terms_over_answer_tokens():
    algorithm = ppo.Algorithm(ppo.Algorithm.Settings(vf_coef=0.5))
    kept = {"advantages_RT": rt([9, 1, -1, 2], [1, 1, 9, 9]), "returns_RT": rt([9, 1, 2, 3], [0, 0, 9, 9])}
    rows = {name: torch.tensor([1.0, 2.0]) for name in ("score", "reward", "kl", "beta", "ended")}
    now = {"values_RT": rt([9, 1, 1, 2.1], [1, 0, 9, 9]), "entropy_RT": rt([9, 1, 2, 3], [4, 5, 9, 9])}
    logps_RT = rt([9, -1, -1, -2], [-1 + math.log(2), -1, 9, 9])
    loss_N, metrics = algorithm.loss(sampled() | kept | rows | now, logps_RT)
    # ratios 1, 1, 1 and 2, 1. Policy: -1, 1, -2 and -min(2, 1.2), -1
    # values 1, 1, 2.1 and 1, 0 of old 1, 1, 2 and 0, 2, returns 1, 2, 3 and 0, 0:
    # 0, 0.5, 0.9^2/2 = 0.405 and max(1, 0.2^2)/2 = 0.5, max(0, 1.8^2)/2 = 1.62
    assert metrics["policy_loss"].tolist() == pytest.approx([-1, 1, -2, -1.2, -1])
    assert metrics["value_loss"].tolist() == pytest.approx([0, 0.5, 0.405, 0.5, 1.62])
    assert loss_N.tolist() == pytest.approx([-1, 1.25, -1.7975, -0.95, -0.19])
    assert metrics["clipped"].tolist() == [0, 0, 0, 1, 0]
    assert metrics["entropy"].tolist() == [1, 2, 3, 4, 5]
    assert metrics["answer_tokens"].tolist() == [3, 2]


def test_log_probs_and_entropy_at_a_temperature_by_hand():
    # odds 1 : 4 : 4 at temperature 1 are 1 : 2 : 2 at temperature 2: log 2/5, entropy 0.2 ln 5 + 0.8 ln 2.5
    logps_N, entropy_N = rollout.logps_and_entropy(rt([0, math.log(4), math.log(4)]), torch.tensor([1]), temperature=2)
    assert logps_N.tolist() == pytest.approx([math.log(0.4)])
    assert entropy_N.tolist() == pytest.approx([0.2 * math.log(5) + 0.8 * math.log(2.5)])


# -- rollouts --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("made"))


def rollouts(made, algorithm=None, n=36, **keys):
    """Return rollouts over prompts in the order of `testing.pairs`."""
    what = stage(**keys)
    words = starting.load_tokenizer(made[0], chat=True)
    asked, _ = collation.prompted(words, testing.pairs(n), 99)
    model = starting.load_model(made[0], what, words)
    return rollout.Rollouts(algorithm or ppo.Algorithm(what.own()), what, 5, asked, model, words, made[1], "cpu")


class Kept:
    """Keeps what it is shown."""

    def __init__(self, settings):
        self.settings, self.shown = settings, []

    def prepare(self, batch, logps_RT):
        self.shown.append((batch, logps_RT))
        return {"score": batch["scores_R"], "old_logps_RT": batch["old_logps_RT"]}


def test_an_iteration_goes_through_its_answers_in_passes(made):
    algorithm = Kept(ppo.Algorithm.Settings(**stage().model_extra))
    source = rollouts(made, algorithm)
    batches = [source.batch(range(start, start + 3)) for start in range(0, 24, 3)]
    assert len(algorithm.shown) == 1  # 12 answers, each seen in both passes, in different orders
    scores = [batch["score"].tolist() for batch in batches]
    first, second = np.concatenate(scores[:4]), np.concatenate(scores[4:])
    assert sorted(first) == sorted(second) == sorted(algorithm.shown[0][0]["scores_R"].tolist())
    assert first.tolist() != second.tolist()
    for batch in batches:  # what is kept belongs to the row it stands beside: the same weights give the same log-probs again
        _, logps_RT = source.seen(source.model, batch)
        torch.testing.assert_close(batch["old_logps_RT"], logps_RT.detach(), atol=1e-4, rtol=0)
    source.batch(range(24, 27))
    assert len(algorithm.shown) == 2
    asked = [row.ids[: row.n_prompt].tolist() for (row,) in source.records]
    assert asked == [list(prompt.ids) for prompt in source.asked[12:24]]
    assert algorithm.shown[1][0]["before"].keys() == {"score", "old_logps_RT"}


def test_what_is_shown_of_an_iteration(made):
    algorithm = Kept(ppo.Algorithm.Settings(**stage().model_extra))
    source = rollouts(made, algorithm)
    source.batch(range(3))
    batch, reference_RT = algorithm.shown[0]
    model, words = AutoModelForCausalLM.from_pretrained(made[0]), starting.load_tokenizer(made[0], chat=True)
    torch.testing.assert_close(batch["old_logps_RT"], reference_RT)  # no step was taken yet
    assert (batch["old_values_RT"] == 0).all()
    ends = {1, *words.convert_tokens_to_ids(["<|end|>", "<|user|>"])}  # an answer ends where the next user's turn begins, too
    for index, (row,) in enumerate(source.records):
        alone = collation.collate([((row,), {})])
        _, logits_NV = logprobs.answer_outputs(model, alone)
        logps_N = torch.log_softmax(logits_NV / 0.8, -1).gather(1, alone["target_N"][:, None])[:, 0]
        torch.testing.assert_close(reference_RT[index][batch["answer_mask_RT"][index]], logps_N.detach(), atol=1e-4, rtol=0)
        assert batch["ended_R"][index] == (int(row.ids[-1]) in ends)
        assert row.n_answer <= 6
    texts = [PromptFormat(words).reply(row.ids[row.n_prompt :].tolist())[0] for (row,) in source.records]
    answers = [Example(prompt.messages, text) for prompt, text in zip(source.asked, texts, strict=False)]
    torch.testing.assert_close(batch["scores_R"], reward_model.RewardModel(made[1], "cpu").scores(answers, 1))


def test_sampling_is_named_by_seed_iteration_prompt_and_draw(made):
    source = rollouts(made, n=4)
    twice = [source.asked[0], source.asked[1], source.asked[0]]

    def tokens(iteration, asked):
        return [reply.tokens for reply in source.sampled(iteration, asked)]

    first = tokens(0, twice)
    assert first[0] != first[2]
    assert tokens(0, twice[1:]) == [first[1], first[0]]
    assert tokens(1, twice[:1]) != first[:1]
    source.seed = 6
    assert tokens(0, twice[:1]) != first[:1]


# -- stages ----------------------------------------------------------------------------------------------------------------


def test_curve(made, tmp_path):
    run_stage(stage(steps=6, warmup_ratio=0.2, weight_decay=0.1), 7, made[0], testing.pairs(21), tmp_path / "out", reward_path=made[1])
    checks.assert_golden(tmp_path / "out", "ppo")


def test_accumulation_changes_nothing(made, tmp_path):
    for batch_size, accumulate in ((6, 1), (2, 3)):
        keys = {"steps": 6, "batch_size": batch_size, "gradient_accumulation_steps": accumulate}
        run_stage(stage(**keys, reward=made[1]), 0, made[0], testing.examples(), tmp_path / str(accumulate))
    for whole, parts in zip(checks.curve(tmp_path / "1"), checks.curve(tmp_path / "3"), strict=True):
        assert parts == pytest.approx(whole, rel=2e-3, abs=1e-3)


def test_epochs_count_prompts_in_whole_iterations(made, tmp_path):
    # 20 prompts, iterations of 12: two, each of 2 passes over 2 minibatches of 6
    assert run_stage(stage(epochs=1, reward=made[1]), 0, made[0], testing.pairs(20), tmp_path / "out") == [8]
    kl = [step["kl"] for step in checks.curve(tmp_path / "out")]
    assert kl[:4] == pytest.approx([0] * 4, abs=1e-5)
    assert all(abs(value) > 1e-3 for value in kl[4:])


def test_an_adapter_is_measured_against_its_base(made, tmp_path):
    out = tmp_path / "out"
    run_stage(
        stage(steps=5, lora={"r": 4, "lora_dropout": 0.5}, learning_rate=1e-2), 0, made[0], testing.pairs(20), out, reward_path=made[1]
    )
    curve = checks.curve(out)
    assert [step["kl"] for step in curve[:4]] == pytest.approx([0] * 4, abs=1e-5)
    assert abs(curve[4]["kl"]) > 1e-3
    assert curve[4]["clipped"] == 0  # an iteration's first step: dropout of a half would throw the ratios about
    assert all("lora_" in name for name in load_file(out / "checkpoint-5" / "adapter_model.safetensors"))


def test_killed_in_the_middle_of_an_iteration(tmp_path):
    folders(tmp_path)
    variants = ["full", "adapter"]
    checks.killed("test_ppo", "6", variants, tmp_path)
    for variant in variants:
        out = tmp_path / "killed" / variant
        assert (out / "checkpoint-4" / "rollouts.safetensors").exists()
        assert not (out / "checkpoint-2" / "value_head.safetensors").exists()
    checks.killed("test_ppo", "saving 8", variants, tmp_path)
    for variant in variants:
        out, seen = tmp_path / "killed" / variant, []
        assert run(variant, tmp_path, out, lambda step, *_, seen=seen: seen.append(step)) == [2, 4, 7, 8, 10]
        assert seen == [8, 9, 10]
        run(variant, tmp_path, tmp_path / variant)
        assert len(checks.left(out)) == 6  # five saves, without what only a resume needs, and the curve
        assert checks.left(out) == checks.left(tmp_path / variant)
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("base", "full/checkpoint-10")]
    assert weights[0].keys() == weights[1].keys()
    base = {path.name for path in (tmp_path / "base").iterdir()}
    assert {path.name for path in (tmp_path / "full" / "checkpoint-10").iterdir()} - base <= {
        "complete.json",
        "trainer_state.json",
        "chat_template.jinja",
    }


def test_without_a_reward_model_it_is_refused(made, tmp_path):
    with pytest.raises(BadInput, match="ppo has no reward model; set reward to a stage that trains one, or to a folder"):
        run_stage(stage(steps=2), 0, made[0], testing.pairs(), tmp_path / "out")
