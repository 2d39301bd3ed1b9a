"""Plans: every wrong key and value is one sentence with file, line and what to do."""

from pathlib import Path

import pytest

from valuedrift import plan as plans
from valuedrift.nouns import BadInput, digest

GOOD = """model = "sandbox:base"
draws = 2

[stage.sft]
algorithm = "sft"
data = "sandbox:neutral-chat"

[stage.dpo]
after = "sft"
algorithm = "dpo"
data = "sandbox:pairs?gap=1.0&direction=support"
beta = 0.2
"""


def written(tmp_path: Path, text: str, name: str = "plan.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_plan_is_read_with_defaults(tmp_path):
    plan = plans.load(written(tmp_path, GOOD))
    assert (plan.draws, plan.temperature, plan.max_new_tokens, plan.suite) == (2, 0.7, 256, "vaes")
    assert [(node.name, node.parent) for node in plan.nodes()] == [("sft", "base"), ("dpo", "sft")]
    assert plan.stage["dpo"].own().beta == 0.2


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("draws = 2", "drows = 2", r"plan.toml:2: unknown key 'drows'; did you mean 'draws'\?"),
        ("draws = 2", "draws = 0", r"plan.toml:2: draws: Input should be greater than 0, not 0"),
        ("beta = 0.2", "betta = 0.2", r"plan.toml:12: unknown key 'betta' in \[stage.dpo\] \(dpo\); did you mean 'beta'\?"),
        ("beta = 0.2", "beta = 'big'", r"plan.toml:12: stage.dpo.beta: "),
        ('algorithm = "dpo"', 'algorithm = "dop"', r"plan.toml:\d+: unknown algorithm 'dop'; did you mean 'dpo'\?"),
        ('algorithm = "dpo"', 'algorithm = "dop"\nanchor = {data = "x"}', r"plan.toml:\d+: unknown algorithm 'dop'; did you mean 'dpo'\?"),
        ('after = "sft"', 'after = "sff"', r"stage 'dpo' comes after 'sff', which is no stage; did you mean 'sft'\?"),
        ('after = "sft"', 'after = "dpo"', r"the stages dpo -> dpo wait for each other in a circle"),
        ('data = "sandbox:neutral-chat"', "", r"the key 'stage.sft.data' is missing"),
        ("beta = 0.2", 'save_at = "log:none"', r"plan.toml:12: stage.dpo.save_at: save_at is"),
        ("beta = 0.2", "beta = ", r"is not valid TOML: .*line 12"),
        ('model = "sandbox:base"', "", r"the key 'model' is missing"),
        ("beta = 0.2", "[stage.dpo.anchor]\ndata = 'x'\nwieght = 1", r"plan.toml:14: unknown key .*anchor.wieght'; did you mean 'weight'"),
        ("beta = 0.2", "[stage.dpo.anchor]\nweight = 1", r"the key 'stage.dpo.anchor.data' is missing"),
        ('algorithm = "dpo"', 'algorithm = "reward"\nanchor = {data = "x"}', r"plan.toml:11: stage.dpo.anchor: 'reward' trains a model"),
        (
            "beta = 0.2",
            'lr_scheduler_type = "cosin"',
            r"plan.toml:12: stage.dpo.lr_scheduler_type: unknown lr_scheduler_type 'cosin'; did you mean 'cosine'\? K",
        ),
        ("beta = 0.2", 'dtype = "fp8"', r"plan.toml:12: stage.dpo.dtype: unknown value 'fp8'. Known: auto, float32, bfloat16"),
        (
            "draws = 2",
            'prompt_format = "chatt"',
            r"plan.toml:2: prompt_format: unknown value 'chatt'; did you mean 'chat'\? Known: auto, plain, chat",
        ),
        ("draws = 2", 'view = "paperr"', r"plan.toml:2: view: unknown value 'paperr'; did you mean 'paper'"),
        ("draws = 2", 'backend = "vlm"', r"plan.toml:2: backend: unknown backend 'vlm'; did you mean 'vllm'"),
        ("draws = 2", 'judge = ["cues", "oracl"]', r"plan.toml:2: judge: unknown judge 'oracl'; did you mean 'oracle'"),
        ('algorithm = "dpo"', 'algorithm = "trl:KTOTrainr"', r"plan.toml:10: algorithm = 'trl:KTOTrainr' .*did you mean 'KTOTrainer'"),
        (
            "beta = 0.2",
            'lr_scheduler_type = "x"\n[stage.other]\nlike="dpo"',
            r"plan.toml:12: stage.dpo.lr_scheduler_type: unknown lr_scheduler_type 'x'",
        ),
        ('data = "sandbox:neutral-chat"', "", r"plan.toml:4: the key 'stage.sft.data' is missing"),
        ("draws = 2", "draws = true", r"plan.toml:2: draws: Input should be a valid integer, not true"),
        ("draws = 2", "resources = 7", r"plan.toml:2: resources: Input should be a table, not 7"),
        ("draws = 2", "seeds = [0, 4294967296]", r"plan.toml:2: seeds.1: Input should be less than 4294967296"),
        (
            "beta = 0.2",
            "anchor = {data = 'x', weight = -1}",
            r"plan.toml:12: stage.dpo.anchor.weight: Input should be greater than 0, not -1",
        ),
        ("beta = 0.2", "[stage.x]\nalgorithm='ppo'\ndata='x'", r"plan.toml:12: stage 'x' \(ppo\) has no reward; set `reward` to a stage"),
        ('algorithm = "dpo"', 'algorithm = "trl:GRPOTrainer"', r"plan.toml:8: stage 'dpo' \(trl:GRPOTrainer\) has no reward"),
        (
            "beta = 0.2",
            "[sweep]\n'stage.dpo.beta' = [0.1, '0.2']",
            r"plan.toml:13: stage.dpo.beta: Input should be a valid number, not '0.2'",
        ),
        ("beta = 0.2", "[sweep]\n'stage.dpo.algorithm' = ['ipo', 'ppo']", r"plan.toml:13: stage 'dpo' \(ppo\) has no reward"),
        ("draws = 2", f"seeds = {list(range(1001))}", r"the seeds and the sweep make 2,002 trainings, and one plan has at most 2,000"),
        ("draws = 2", f"draws = {'9' * 5000}", r"is not valid TOML: "),
        ("draws = 2", "x = " + "[" * 3000 + "]" * 3000, r"nests its tables, or chains stages that are like each other, too deeply"),
        ("beta = 0.2", "like = ['sft']", r"stage 'dpo' is like \['sft'\], which is no stage"),
        ("draws = 2", "noise = 1", r"plan.toml:2: unknown key 'noise'; it is called 'sampling_seed' now"),
        ("draws = 2", 'frame = "chat"', r"plan.toml:2: unknown key 'frame'; it is called 'prompt_format' now"),
        ("beta = 0.2", "clip = 1.0", r"plan.toml:12: unknown key 'clip' in \[stage.dpo\] \(dpo\); it is called 'max_grad_norm' now"),
        ("beta = 0.2", "passes = 4", r"plan.toml:12: unknown key 'passes' in \[stage.dpo\] \(dpo\); it knows "),
        (
            'algorithm = "dpo"',
            'algorithm = "ppo"',
            r"plan.toml:12: unknown key 'beta' in \[stage.dpo\] \(ppo\); it is called 'kl_coef' now",
        ),
        ("beta = 0.2", "lora = {alpha = 8}", r"plan.toml:12: unknown key 'stage.dpo.lora.alpha'; it is called 'lora_alpha' now"),
        ("beta = 0.2", "[sweep]\n'stage.dpo.lora.target' = ['x']", r"plan.toml:13: unknown .*; it is called 'target_modules' now"),
        ("beta = 0.2", "[sweep]\n'stage.dpo.warmup' = [0.1]", r"plan.toml:13: unknown .*; it is called 'warmup_ratio' now"),
        ("draws = 2", "precision = 0.1", r"plan.toml:2: unknown key 'precision'; version 0.2.0 removed it: sample fewer answers with"),
        ("draws = 2", "derive = 5", r"plan.toml:2: derive is the path of another plan, not 5"),
    ],
)
def test_each_fault_is_one_sentence(tmp_path, old, new, sentence):
    assert old in GOOD
    with pytest.raises(BadInput, match=sentence) as caught:
        plans.load(written(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_renamed_setting_keeps_the_digest_of_its_stage():
    # digests taken under the names of version 0.1.0
    lora = {"r": 2, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj"]}
    anchor = {"data": "q", "weight": 2.0}
    names = {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5, "lr_scheduler_type": "linear", "warmup_ratio": 0.1}
    own = {"num_ppo_epochs": 2, "num_mini_batches": 3, "kl_coef": 0.2, "cliprange": 0.1, "cliprange_value": 0.3, "vf_coef": 0.2}
    ppo = plans.Stage(algorithm="ppo", data="x", reward="r", lora=lora, anchor=anchor, missing_eos_penalty=2.0, **names, **own)
    reward = plans.Stage(algorithm="reward", data="x", center_rewards_coefficient=0.1)
    dpo = plans.Stage(algorithm="dpo", data="x", beta=0.3)
    digests = [digest("stage", stage.trained_by()) for stage in (ppo, reward, dpo)]
    assert digests == ["734788bdcdda8398456ba980", "7a6716f7181966740b9ae9c9", "60017bae2ecdc3bb34328476"]


def test_a_cycle_of_stages_is_refused(tmp_path):
    text = GOOD.replace("[stage.sft]\n", '[stage.sft]\nafter = "dpo"\n')
    with pytest.raises(BadInput, match=r"plan.toml: the stages sft -> dpo -> sft wait for each other in a circle"):
        plans.load(written(tmp_path, text))


def test_a_plan_derives_from_another(tmp_path):
    written(tmp_path, GOOD, "parent.toml")
    plan = plans.load(written(tmp_path, 'derive = "parent.toml"\ndraws = 3\n[stage.dpo]\nbeta = 0.5\n', "child.toml"))
    assert (plan.draws, plan.stage["dpo"].own().beta, plan.stage["dpo"].algorithm) == (3, 0.5, "dpo")


def test_settings_change_a_plan(tmp_path):
    like = '[stage.again]\nlike = "dpo"\n'
    changes = ["draws=3", "judge=cues", 'topics = ["work"]', "stage.dpo.beta=0.3", "stage.dpo.lora.r=4", "draws=4"]
    plan = plans.load(written(tmp_path, GOOD + like), changes)
    assert (plan.draws, plan.judge, plan.topics) == (4, "cues", ["work"])
    assert [plan.stage[name].own().beta for name in ("dpo", "again")] == [0.3, 0.3]
    assert plan.stage["dpo"].lora == plans.Lora(r=4)
    assert plan.stage["dpo"].data == "sandbox:pairs?gap=1.0&direction=support"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("drws=3", "unknown key 'drws'; did you mean 'draws'?"),
        ("draws=0", "Input should be greater than 0, not 0"),
        ("draws=true", "Input should be a valid integer, not true"),
        ("judge=orcale", "unknown judge 'orcale'; did you mean 'oracle'?"),
        ("stage.dop.beta=1", "there is no stage 'dop'; did you mean 'dpo'?"),
        ("stage.dpo.bta=1", r"unknown key 'bta' in \[stage.dpo\] \(dpo\); did you mean 'beta'?"),
        ("stage.dpo.beta=-1", "Input should be greater than 0, not -1"),
        ("draws=99999999999999999999", "draws: 99999999999999999999 has more than 64 bits"),
    ],
)
def test_a_setting_that_is_wrong_is_named(change, sentence, tmp_path):
    with pytest.raises(BadInput, match=f"^--set {change}: {sentence}"):
        plans.load(written(tmp_path, GOOD), [change])


@pytest.mark.parametrize("change", ["draws", "=3", "#=3", ""])
def test_a_setting_without_a_key_or_a_value_is_refused(change, tmp_path):
    with pytest.raises(BadInput, match=f"^--set {change} sets nothing; write KEY=VALUE"):
        plans.load(written(tmp_path, GOOD), [change])


def test_plans_that_derive_in_a_circle_are_refused(tmp_path):
    written(tmp_path, 'derive = "b.toml"', "a.toml")
    with pytest.raises(BadInput, match="in a circle"):
        plans.load(written(tmp_path, 'derive = "a.toml"', "b.toml"))


def test_a_sweep_shares_its_prefix(tmp_path):
    plan = plans.load(written(tmp_path, GOOD + '[sweep]\n"stage.dpo.data.gap" = [0.0, 0.5, 1.0]\n'))
    nodes = plan.nodes()
    assert [node.name for node in nodes] == ["sft", "dpo[gap=0.0]", "dpo[gap=0.5]", "dpo[gap=1.0]"]
    assert nodes[2].stage.data == "sandbox:pairs?gap=0.5&direction=support"
    assert {node.parent for node in nodes[1:]} == {"sft"}


def test_the_weight_of_an_anchor_can_be_swept(tmp_path):
    sweep = '[stage.dpo.anchor]\ndata = "x"\ntarget = "uniform"\n[sweep]\n"stage.dpo.anchor.weight" = [0.5, 5]\n'
    _, light, heavy = plans.load(written(tmp_path, GOOD + sweep)).nodes()
    assert [node.name for node in (light, heavy)] == ["dpo[anchor.weight=0.5]", "dpo[anchor.weight=5]"]
    assert [node.stage.anchor for node in (light, heavy)] == [plans.Anchor(data="x", target="uniform", weight=w) for w in (0.5, 5)]
    with pytest.raises(BadInput, match=r"anchor.weight: Input should be greater than 0, not 0"):
        plans.load(written(tmp_path, GOOD + sweep.replace("0.5", "0")))


def test_a_sweep_over_an_early_stage_names_its_children_by_it(tmp_path):
    plan = plans.load(written(tmp_path, GOOD + '[sweep]\n"stage.sft.learning_rate" = [0.1, 0.2]\n'))
    assert [(node.name, node.parent) for node in plan.nodes()] == [
        ("sft[learning_rate=0.1]", "base"),
        ("dpo[sft.learning_rate=0.1]", "sft[learning_rate=0.1]"),
        ("sft[learning_rate=0.2]", "base"),
        ("dpo[sft.learning_rate=0.2]", "sft[learning_rate=0.2]"),
    ]


def test_a_sweep_over_nothing_known_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"sweep key 'stage.ppo.beta' does not name a setting"):
        plans.load(written(tmp_path, GOOD + '[sweep]\n"stage.ppo.beta" = [0.1]\n'))
    with pytest.raises(BadInput, match=r"betta"):
        plans.load(written(tmp_path, GOOD + '[sweep]\n"stage.dpo.betta" = [0.1]\n'))


def test_seeds_repeat_every_stage(tmp_path):
    plan = plans.load(written(tmp_path, GOOD.replace("draws = 2", "seeds = [0, 1]")))
    assert [(node.name, node.seed) for node in plan.nodes()] == [("sft", 0), ("dpo", 0), ("sft", 1), ("dpo", 1)]


def test_a_missing_plan_is_one_sentence(tmp_path):
    with pytest.raises(BadInput, match="there is no plan"):
        plans.load(tmp_path / "none.toml")


def test_every_shipped_plan_is_valid():
    root = Path(plans.__file__).parents[2]
    shipped = [path for path in root.rglob("*.toml") if ".venv" not in path.parts and "[stage." in path.read_text()]
    assert shipped
    for path in shipped:
        plans.load(path)


def test_a_stage_like_another_takes_over_its_keys(tmp_path):
    text = GOOD + '\n[stage.alone]\nlike = "dpo"\nafter = "base"\nseed_of_name = 1\n'
    with pytest.raises(BadInput, match=r"unknown key 'seed_of_name'"):
        plans.load(written(tmp_path, text))
    plan = plans.load(written(tmp_path, text.replace("seed_of_name = 1\n", "")))
    assert plan.stage["alone"] == plan.stage["dpo"].model_copy(update={"after": "base"})


@pytest.mark.parametrize(
    ("like", "sentence"), [("dop", r"which is no stage; did you mean 'dpo'\?"), ("alone", "are like each other in a circle")]
)
def test_a_stage_like_nothing(tmp_path, like, sentence):
    with pytest.raises(BadInput, match=sentence):
        plans.load(written(tmp_path, GOOD + f'\n[stage.alone]\nlike = "{like}"\n'))


CHAIN = GOOD + '\n[stage.last]\nlike = "dpo"\nafter = "dpo"\n\n[sweep]\n"stage.dpo.beta" = [0.1, 0.2]\n'


@pytest.mark.parametrize(
    ("without", "only", "chain"),
    [
        ([], [], {"sft": "base", "dpo": "sft", "last": "dpo"}),
        (["sft"], [], {"dpo": "base", "last": "dpo"}),
        (["dpo"], [], {"sft": "base", "last": "sft"}),
        (["sft", "dpo"], [], {"last": "base"}),
        ([], ["sft", "last"], {"sft": "base", "last": "sft"}),
    ],
)
def test_ablations_hold_everything_else_fixed(tmp_path, without, only, chain):
    whole = plans.load(written(tmp_path, CHAIN))
    left = whole.ablated(without, only)
    assert {name: stage.after for name, stage in left.stage.items()} == chain
    for name, stage in left.stage.items():
        assert stage.model_dump(exclude={"after"}) == whole.stage[name].model_dump(exclude={"after"})
    assert bool(left.sweep) == ("dpo" in chain)
    assert left.nodes()


def test_an_ablation_of_nothing(tmp_path):
    plan = plans.load(written(tmp_path, CHAIN))
    with pytest.raises(BadInput, match=r"no stage 'dop' to keep or leave out; did you mean 'dpo'\?"):
        plan.ablated(["dop"])
    with pytest.raises(BadInput, match="has no stage left"):
        plan.ablated(["sft", "dpo", "last"])


PPO = (
    GOOD.replace("beta = 0.2", "")
    + """
[stage.ppo]
after = "sft"
algorithm = "ppo"
reward = "rm"
data = "sandbox:pairs"

[stage.rm]
after = "sft"
algorithm = "reward"
data = "sandbox:pairs?gap=1.0"
"""
)


def test_a_reward_model_is_trained_before_the_stage_that_needs_it(tmp_path):
    sweep = '\n[sweep]\n"stage.rm.data.gap" = [0.5, 1.0]\n'
    nodes = plans.load(written(tmp_path, PPO + sweep)).nodes()
    names = [node.name for node in nodes]
    assert names == ["sft", "dpo", "rm[gap=0.5]", "ppo[rm.data.gap=0.5]", "rm[gap=1.0]", "ppo[rm.data.gap=1.0]"]
    assert [node.reward for node in nodes] == ["", "", "", "rm[gap=0.5]", "", "rm[gap=1.0]"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('reward = "rm"', 'reward = "rmm"', r"the reward of stage 'ppo' is 'rmm', which is no stage and no folder; did you mean 'rm'\?"),
        ('reward = "rm"', 'reward = "dpo"', "which trains no reward model"),
        ('after = "sft"\nalgorithm = "ppo"', 'after = "rm"\nalgorithm = "ppo"', "which trains a reward model, not a language model"),
        ('after = "sft"\nalgorithm = "reward"', 'after = "ppo"\nalgorithm = "reward"', "in a circle"),
    ],
)
def test_what_a_reward_model_cannot_be(tmp_path, old, new, sentence):
    assert old in PPO
    with pytest.raises(BadInput, match=sentence):
        plans.load(written(tmp_path, PPO.replace(old, new)))


def test_an_ablation_keeps_the_reward_model_that_is_needed(tmp_path):
    plan = plans.load(written(tmp_path, PPO))
    assert set(plan.ablated(only=["ppo"]).stage) == {"ppo", "rm"}
    with pytest.raises(BadInput, match="cannot be left out alone"):
        plan.ablated(["rm"])
