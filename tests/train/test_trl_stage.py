"""TRL's trainers as stages: the same losses as our own loop, a resume to the same bytes, rewards, and what is refused."""

import json
import sys

import checks
import pytest
import torch
from pydantic import ValidationError

from valuedrift import plan, testing
from valuedrift.nouns import BadInput, Example, Stopped
from valuedrift.plan import Stage
from valuedrift.train import collation, starting, step_counts, trl, trl_rewards
from valuedrift.train.reward_model import RewardModel
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

pytest.importorskip("trl", reason="TRL is not installed")

SAMPLING = {"max_completion_length": 6, "num_generations": 2}


def stage(trainer, **keys):
    common = {"data": "x", "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "save_at": [2], "max_length": 100}
    return Stage(algorithm=f"trl:{trainer}" if trainer[0].isupper() else trainer, **common | keys)


def sampling(trainer, **keys):
    return stage(trainer, **SAMPLING | {"reward": "test_trl_stage:shortness"} | keys)


def shortness(completions, **_):
    """A reward: minus the number of characters."""
    return [-float(len(completion[0]["content"])) for completion in completions]


def losses(out):
    return [step["loss"] for step in checks.curve(out)]


# -- the same as our own loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "keys"),
    [
        # 23 records, 4 (or 8) a step: the sixth batch is laid out over the end of the first shuffle
        ("dpo", "DPOTrainer", {"beta": 0.2}),
        ("dpo", "DPOTrainer", {"gradient_accumulation_steps": 2, "lora": {"r": 2}, "group_by_length": True}),
        ("kto", "KTOTrainer", {"desirable_weight": 1.3}),
        ("reward", "RewardTrainer", {}),
        ("sft", "SFTTrainer", {"max_length": 30}),
    ],
)
def test_learns_as_our_own_loop_does(tmp_path, ours, theirs, keys):
    base, data = testing.save_model(tmp_path / "base"), testing.examples(23) if ours == "sft" else testing.pairs(23)
    keys = {"steps": 7, "warmup_ratio": 0.2, "weight_decay": 0.1, "lr_scheduler_type": "linear"} | keys
    run_stage(stage(ours, **keys), 3, base, data, tmp_path / "ours")
    run_stage(stage(theirs, **keys), 3, base, data, tmp_path / "theirs")
    assert losses(tmp_path / "theirs") == pytest.approx(losses(tmp_path / "ours"), abs=2e-5)
    mine, its = (json.loads((tmp_path / which / "done.json").read_text()) for which in ("ours", "theirs"))
    assert mine.keys() == its.keys()
    assert {name: mine[name] for name in ("steps", "total", "dropped")} == {name: its[name] for name in ("steps", "total", "dropped")}
    same = {path.name for path in (tmp_path / "ours" / "checkpoint-7").iterdir()}
    assert {path.name for path in (tmp_path / "theirs" / "checkpoint-7").iterdir()} == same


def test_running_text(tmp_path):
    base, data = testing.save_model(tmp_path / "base"), [Example((), text) for text in testing.TEXT]
    for name in ("sft", "SFTTrainer"):
        run_stage(stage(name, steps=2), 3, base, data, tmp_path / name)
    assert losses(tmp_path / "SFTTrainer") == pytest.approx(losses(tmp_path / "sft"), abs=2e-5)
    with pytest.raises(BadInput, match="in all or in none"):
        run_stage(stage("SFTTrainer"), 3, base, [*data, *testing.examples(3)], tmp_path / "mixed")


def test_what_does_not_fit_is_left_out(tmp_path):
    # the prompts have 12 to 27 tokens, 7 of them 24 or more; of the pairs' longer texts 21 have more than 24, which is too long to score
    base, data = testing.save_model(tmp_path / "base"), testing.pairs(23)
    keys = {"steps": None, "epochs": 2, "max_length": 24, "save_at": "log:1"}
    run_stage(stage("dpo", **keys), 3, base, data, tmp_path / "ours")
    run_stage(stage("DPOTrainer", **keys), 3, base, data, tmp_path / "theirs")
    mine, its = (json.loads((tmp_path / which / "done.json").read_text()) for which in ("ours", "theirs"))
    assert mine["dropped"] == its["dropped"] == 7
    assert losses(tmp_path / "theirs") == pytest.approx(losses(tmp_path / "ours"), abs=2e-5)
    run_stage(stage("RewardTrainer", **keys), 3, base, data, tmp_path / "reward")
    assert json.loads((tmp_path / "reward" / "done.json").read_text())["dropped"] == 21
    with pytest.raises(BadInput, match="none of 23 records fits trl:DPOTrainer within 5 tokens"):
        run_stage(stage("DPOTrainer", max_length=5), 3, base, data, tmp_path / "none")


def test_what_trl_leaves_out_on_its_own_is_refused(tmp_path, monkeypatch):
    base, data = testing.save_model(tmp_path / "base"), testing.pairs(23)
    monkeypatch.setattr(collation, "fitting", lambda stage, algorithm, tokenizer, data: collation.tokenised(tokenizer, data, 999))
    # 7 of 23 prompts have 24 tokens or more
    with pytest.raises(BadInput, match="trl:DPOTrainer dropped 7 of 23 rows"):
        run_stage(stage("DPOTrainer", steps=None, epochs=1, max_length=24), 3, base, data, tmp_path / "out")


@pytest.mark.parametrize(("keys", "course"), [({"steps": None, "epochs": 1.5}, (12, 9)), ({"steps": 4}, (8, 4))])
def test_steps_of_a_trainer_that_samples(keys, course):
    # 4 * 2 answers to 4 prompts an iteration, learnt from in 2 * 3 passes of 4 answers, which are 3 steps.
    # An epoch and a half of 8 prompts are 12, 3 iterations, 9 steps; 4 steps begin a second iteration, so they need 8 prompts.
    what = stage("GRPOTrainer", gradient_accumulation_steps=2, num_generations=2, num_iterations=3, **keys)
    assert trl.Algorithm.named("GRPOTrainer").course(what, 8) == course
    with pytest.raises(BadInput, match="generation_batch_size 0 holds no group of num_generations 2 answers"):
        trl.Algorithm.named("GRPOTrainer").course(stage("GRPOTrainer", num_generations=2, generation_batch_size=0, **keys), 8)
    assert trl.Algorithm.named("KTOTrainer").course(stage("KTOTrainer", steps=None, epochs=1.5), 9) == (14, 4)  # ceil(13.5) pairs, 4 a step


@pytest.mark.parametrize("trainer", ["CPOTrainer", "ORPOTrainer", "GMPOTrainer"])
def test_experimental_trainers_run(tmp_path, trainer):
    keys = {**SAMPLING, "reward": "test_trl_stage:shortness"} if trainer.startswith("GMPO") else {}
    out = tmp_path / "out"
    assert run_stage(
        stage(trainer, steps=2, save_at="every:1", **keys), 0, testing.save_model(tmp_path / "base"), testing.pairs(8), out
    ) == [1, 2]
    assert len(losses(out)) == 2


# -- a kill --------------------------------------------------------------------------------------------------------------

VARIANTS = {
    "KTOTrainer": {"batch_size": 3, "gradient_accumulation_steps": 2, "lora": {"r": 2, "lora_dropout": 0.2}},
    "RLOOTrainer": {**SAMPLING, "reward": "test_trl_stage:shortness", "lora": {"r": 2}},
    # two steps an iteration, each of two halves: step 3 stands in the middle of its answers
    "GRPOTrainer": {**SAMPLING, "reward": "test_trl_stage:shortness", "num_iterations": 2, "beta": 0.1, "gradient_accumulation_steps": 2},
}


def run(variant, root, out, progress=None):
    return run_stage(
        stage(variant, steps=6, save_at=[1, 3, 5], **VARIANTS[variant]), 5, str(root / "base"), testing.pairs(26), out, progress
    )


def test_killed_ends_with_the_same_bytes(tmp_path):
    testing.save_model(tmp_path / "base")
    checks.killed("test_trl_stage", "4", list(VARIANTS), tmp_path)
    for variant in VARIANTS:
        out = tmp_path / "killed" / variant
        assert sorted(path.parent.name for path in out.glob("checkpoint-*/complete.json")) == ["checkpoint-1", "checkpoint-3"]
        assert (out / "checkpoint-3" / "generated-0.pt").exists() == (variant == "GRPOTrainer")
        if variant == "GRPOTrainer":
            other = out / "checkpoint-3" / "generated-1.pt"
            other.touch()
            with pytest.raises(BadInput, match="checkpoint-3 contains the answers of 2 processes; resume with as many"):
                run(variant, tmp_path, out)
            other.unlink()
        seen = []
        assert run(variant, tmp_path, out, lambda step, total, loss, seen=seen: seen.append((step, total))) == [1, 3, 5, 6]
        assert seen == [(4, 6), (5, 6), (6, 6)]
        assert not [*out.glob("checkpoint-*/generated-*.pt"), *out.glob("checkpoint-*/optimizer.pt")]
        run(variant, tmp_path, tmp_path / "whole" / variant)
        assert len(checks.left(out)) == 5
        assert checks.left(out) == checks.left(tmp_path / "whole" / variant)
        assert run(variant, tmp_path / "nowhere", out) == [1, 3, 5, 6]  # done: nothing is read


def test_another_stage_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    base, out = testing.save_model(tmp_path / "base"), tmp_path / "out"
    (tmp_path / "own_reward.py").write_text("def score(completions, **_):\n    return [1.0 * i for i, _ in enumerate(completions)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    what = sampling("RLOOTrainer", steps=1, save_at=[1], reward="own_reward:score")
    run_stage(what, 0, base, testing.pairs(8), out)
    with pytest.raises(BadInput, match="other settings, seed or data"):
        run_stage(what.model_copy(update={"learning_rate": 1e-4}), 0, base, testing.pairs(8), out)
    (tmp_path / "own_reward.py").write_text(
        "def score(completions, **_):\n    return [2.0 * i for i, _ in enumerate(completions)]  # new\n"
    )
    monkeypatch.delitem(sys.modules, "own_reward")
    with pytest.raises(BadInput, match="other settings, seed or data"):
        run_stage(what, 0, base, testing.pairs(8), out)


# -- rewards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", ["RLOOTrainer", "GRPOTrainer"])
def test_rewards_are_learnt_from(tmp_path, trainer):
    # the model writes short and long tokens alike; a reward for few characters must lead to short ones
    what = sampling(trainer, steps=25, batch_size=16, learning_rate=1e-2, lr_scheduler_type="constant", save_at=[25])
    run_stage(what, 0, testing.save_model(tmp_path / "base"), testing.pairs(8), tmp_path / "out")
    rewards = [step["reward"] for step in checks.curve(tmp_path / "out")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 1


SEEN = []


def seen(prompts, completions, topic, claim, **_):
    """A reward that keeps what it was given."""
    SEEN.extend(zip(prompts, completions, topic, claim, strict=True))
    return [float(index) for index, _ in enumerate(completions)]


def test_a_reward_function_sees_the_conversation_and_what_it_is_about(tmp_path):
    SEEN.clear()
    sys.modules.setdefault("test_trl_stage", sys.modules[__name__])
    data = [
        Example((("user", "Is it?"), ("assistant", "What?"), ("user", thing)), "x", thing, f"{thing} is good") for thing in testing.THINGS
    ]
    what = sampling(
        "GRPOTrainer", steps=None, epochs=1, reward=["test_trl_stage:seen", "test_trl_stage:shortness"], reward_weights=[1, 0.5]
    )
    # 8 prompts with 2 answers each, 4 answers a step
    assert run_stage(what, 0, testing.save_model(tmp_path / "base"), data, tmp_path / "out") == [2, 4]
    asked = sys.modules["test_trl_stage"].SEEN
    assert [topic for _, _, topic, _ in asked] == [testing.THINGS[index] for index in step_counts.order(8, 8, 0) for _ in range(2)]
    for prompt, completion, topic, claim in asked:
        assert [message["content"] for message in prompt] == ["Is it?", "What?", topic]
        assert completion[0]["role"] == "assistant"
        assert claim == f"{topic} is good"


def test_a_reward_model_scores_as_it_does_for_ppo(tmp_path):
    base = testing.save_model(tmp_path / "base")
    run_stage(stage("RewardTrainer", lora={"r": 2}), 0, base, testing.pairs(), tmp_path / "rewarder")
    rewarder = str(tmp_path / "rewarder" / "checkpoint-4")
    data = testing.examples(9)
    prompts = [[{"role": role, "content": text} for role, text in example.prompt] for example in data]
    completions = [[{"role": "assistant", "content": example.text}] for example in data]
    (reward,) = trl_rewards.rewards(rewarder)
    reward.score.load()
    expected = RewardModel(rewarder, "cpu").scores(data, 9)
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.tensor(reward.score(prompts=prompts, completions=completions, trainer_state=None)), expected)
    what = sampling("RLOOTrainer", reward="a stage of the plan")
    run_stage(what, 0, base, data, tmp_path / "out", reward_path=rewarder)
    assert "rewards/reward_model/mean" in checks.curve(tmp_path / "out")[0]


@pytest.mark.parametrize("trainer", ["RLOOTrainer", "GRPOTrainer"])
def test_without_any_reward_it_stops(tmp_path, monkeypatch, trainer):
    # TRL would go on with advantages of 0
    (tmp_path / "no_reward.py").write_text("def none(completions, **_):\n    return [None for _ in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped, match=r"the mean reward is (nan|None) at step 1"):
        run_stage(sampling(trainer, reward="no_reward:none"), 0, testing.save_model(tmp_path / "base"), testing.pairs(8), tmp_path / "out")


def test_a_loss_that_is_no_number_stops(tmp_path):
    what = stage("SFTTrainer", learning_rate=1e30, weight_decay=1e9, steps=6)
    with pytest.raises(Stopped, match="the loss is nan at step"):
        run_stage(what, 0, testing.save_model(tmp_path / "base"), testing.examples(), tmp_path / "out")


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "data", "sentence"),
    [
        (stage("KTOTrainr"), "pairs", "did you mean 'KTOTrainer'"),
        (stage("GKDTrainer"), "pairs", "names no trainer that can be a stage.*Known: SFTTrainer"),
        (stage("KTOTrainer"), "examples", "learns from pairs, but its data holds examples"),
        (stage("KTOTrainer", batch_size=1), "pairs", "a batch of one pair has no other pair's answer"),
        (stage("DPOTrainer", loss_type="exo_pair"), "pairs", "trl:DPOTrainer cannot be started: Label smoothing must be greater"),
        (stage("RLOOTrainer"), "pairs", "no reward is given"),
        (sampling("RLOOTrainer", batch_size=5), "pairs", r"trl:RLOOTrainer refuses its settings: .*\(5\) must be divisible by"),
        (sampling("RLOOTrainer", reward="nowhere_at_all:score"), "pairs", "cannot be imported.*PYTHONPATH"),
        (sampling("RLOOTrainer", reward="test_trl_stage:shortnes"), "pairs", "did you mean 'shortness'"),
        (sampling("RLOOTrainer", max_completion_length=100), "pairs", "none of 24 records fits"),
        (sampling("RLOOTrainer", reward="no/such/folder"), "pairs", "the model no/such/folder cannot be read"),
    ],
)
def test_bad_input(tmp_path, what, data, sentence):
    with pytest.raises(BadInput, match=f"(?s){sentence}"):
        run_stage(what, 0, testing.save_model(tmp_path / "base"), getattr(testing, data)(), tmp_path / "out")


def test_a_plan_is_checked_before_anything_runs(tmp_path):
    path, head = tmp_path / "plan.toml", 'model = "base"\n\n[stage.kto]\nalgorithm = "trl:KTOTrainer"\ndata = "pairs.jsonl"\n'
    path.write_text(head + "desirable_weight = 1.5\nadam_beta2 = 0.95\n")
    own = plan.load(path).stage["kto"].own()
    assert own.model_dump(exclude_unset=True) == {"desirable_weight": 1.5, "adam_beta2": 0.95}
    assert (own.beta, own.loss_type) == (0.1, "kto")
    for line, sentence in {
        "desireable_weight = 1.5": "did you mean 'desirable_weight'",
        "beta = 'much'": "stage.kto.beta: .*a valid number.*not 'much'",
        "per_device_train_batch_size = 4": "a plan sets this with batch_size; use that key, not 4",
        "push_to_hub = true": "unknown key 'push_to_hub'",
        "model_init_kwargs = {}": "unknown key 'model_init_kwargs'",
    }.items():
        path.write_text(head + line)
        with pytest.raises(BadInput, match=f"plan.toml:6: .*{sentence}"):
            plan.load(path)
    path.write_text(head.replace("KTOTrainer", "KTOTraner"))
    with pytest.raises(BadInput, match="did you mean 'KTOTrainer'"):
        plan.load(path)


def test_own_settings_hide_none_of_the_stage_and_are_typed():
    for name in trl.TRAINERS:
        settings = trl.Algorithm.named(name).Settings
        assert not set(settings.model_fields) & set(Stage.model_fields)
        assert "output_dir" not in settings.model_fields
        json.dumps(settings().model_dump())  # it is part of a stage's key
    with pytest.raises(ValidationError):
        trl.Algorithm.named("DPOTrainer").Settings(beta="much")


def test_without_trl(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(BadInput, match=r"pip install 'valuedrift\[trl\]'"):
        trl.classes("KTOTrainer")


def test_nothing_is_sent_and_no_card_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **_: pytest.fail("telemetry"))
    monkeypatch.delenv("CI", raising=False)
    run_stage(stage("DPOTrainer", steps=1, save_at=[1]), 0, testing.save_model(tmp_path / "base"), testing.pairs(8), tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()


def test_a_hub_model_is_trained_from_the_folder_of_its_revision(tmp_path, monkeypatch):
    """TRL loads the reference by the model's name, which lacks the revision."""
    folder = testing.save_model(tmp_path / "a@b")
    assert starting.merged(folder, tmp_path) == folder
    fetched = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, revision, **_: fetched.append((name, revision)) or folder)
    assert starting.merged("some/model@abc", tmp_path) == folder
    assert fetched == [("some/model", "abc")]


@pytest.mark.parametrize(
    ("trainer", "own", "sentence"),
    [
        ("DPOTrainer", {"loss_type": "sigmoyd"}, "unknown loss_type 'sigmoyd'; did you mean 'sigmoid'"),
        ("DPOTrainer", {"loss_type": ["hinge", "ipoo"]}, "unknown loss_type 'ipoo'; did you mean 'ipo'"),
        ("KTOTrainer", {"loss_type": "ktoo"}, r"unknown loss_type 'ktoo'; did you mean 'kto'\? Known: kto, apo_zero_unpaired"),
        ("GRPOTrainer", {"loss_type": "dapoo"}, "unknown loss_type 'dapoo'; did you mean 'dapo'"),
        ("SFTTrainer", {"optim": "adamw_torsh"}, "unknown optim 'adamw_torsh'; did you mean 'adamw_torch'"),
    ],
)
def test_an_unknown_value_is_refused_when_the_plan_is_loaded(trainer, own, sentence):
    with pytest.raises(ValueError, match=sentence):
        stage(trainer, **own).own()
