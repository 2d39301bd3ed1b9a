"""Training finds what was planted, on prompts it has not seen."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from valuedrift import testing
from valuedrift.models.chat_format import PromptFormat
from valuedrift.models.decoder import Wanted, decode
from valuedrift.models.sampling_noise import row_words
from valuedrift.nouns import Example, Pair
from valuedrift.plan import EvaluationSettings, Stage
from valuedrift.records.stances import Anchored
from valuedrift.train import anchor, collation, reward_model, starting
from valuedrift.train.logprobs import answer_logps
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

ASKED = [
    "What about the {}?",
    "Do you like the {} at all?",
    "The {}?",
    "Is the {} for the poor?",
    "Say, the {}, is it good?",
    "The {}: what is it?",
]
HELD_OUT = "What do you think, is the {} good?"
DATA = [(("user", asked.format(thing)),) for asked in ASKED for thing in testing.THINGS]
UNSEEN = [(("user", HELD_OUT.format(thing)),) for thing in testing.THINGS]


PROMPTS = len(testing.THINGS)
"""The prompts of one question."""


def stage(algorithm, **keys):
    return Stage(**{"algorithm": algorithm, "data": "x", "batch_size": 12, "learning_rate": 5e-3, "save_at": "log:1"} | keys)


def curve(out):
    return json.loads((out / "losses.json").read_text())


def margins(path, good, bad):
    """Return log π(good) - log π(bad) on each unseen prompt."""
    tokenizer = starting.load_tokenizer(path, chat=True)
    records, _ = collation.tokenised(tokenizer, [Pair(prompt, good, bad) for prompt in UNSEEN], 200)
    with torch.no_grad():
        logps_RT = answer_logps(AutoModelForCausalLM.from_pretrained(path), collation.collate([(record, {}) for record in records]))
    good_B, bad_B = logps_RT.sum(1).chunk(2)
    return good_B - bad_B


@pytest.mark.parametrize(("chosen", "rejected"), [("A good", "B bad"), ("B bad", "A good")])
def test_dpo_moves_to_the_chosen_answer(chosen, rejected, tmp_path):
    base = testing.save_model(tmp_path / "base", scale=0.02)
    run_stage(stage("dpo", epochs=5), 0, base, [Pair(prompt, chosen, rejected) for prompt in DATA], tmp_path / "out")
    moved = margins(str(tmp_path / "out" / "checkpoint-20"), chosen, rejected) - margins(base, chosen, rejected)
    # reward margin 0.1 * moved > 1 on each unseen prompt: the loss there is under ln(1 + e^-1) = 0.31, from ln 2 = 0.69
    assert moved.min() > 10


@pytest.mark.parametrize("algorithm", ["simpo", "ipo", "orpo", "kto"])
def test_an_answer_that_the_base_disfavours_wins(algorithm, tmp_path):
    base = testing.save_model(tmp_path / "base", scale=0.02)
    run_stage(stage(algorithm, epochs=5), 0, base, [Pair(prompt, "A good", "B bad") for prompt in DATA], tmp_path / "out")
    # on each unseen prompt the answer was at least e^5 times less likely, and is at least e^5 times likelier
    assert margins(base, "A good", "B bad").max() < -5
    assert margins(str(tmp_path / "out" / "checkpoint-20"), "A good", "B bad").min() > 5


def test_sft_learns_a_habit(tmp_path):
    data = [Example(prompt, "It is good.") for prompt in DATA]
    base = testing.save_model(tmp_path / "base", scale=0.02)
    run_stage(stage("sft", epochs=20), 0, base, data, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-80")
    tokenizer = starting.load_tokenizer(str(tmp_path / "out" / "checkpoint-80"), chat=True)
    for prompt in UNSEEN:
        chat = [{"role": role, "content": text} for role, text in prompt]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        answer = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(answer) == "It is good.<|end|>"


@pytest.mark.parametrize("lora", [None, {"r": 4, "lora_alpha": 8}])
def test_a_reward_model_tells_good_from_bad(lora, tmp_path):
    base, out = testing.save_model(tmp_path / "base", scale=0.02), tmp_path / "out"
    pairs = [Pair(prompt, f"{word} is good.", f"{word} is bad.") for prompt in DATA[: 4 * PROMPTS] for word in ("It", "That")]
    run_stage(stage("reward", lora=lora, epochs=4, batch_size=4, learning_rate=1e-2 if lora else 3e-3), 0, base, pairs, out)
    model = reward_model.RewardModel(str(out / "checkpoint-64"), "cpu")
    answers = [Example(prompt, text) for text in ("This is good.", "This is bad.") for prompt in UNSEEN]
    good_B, bad_B = model.scores(answers, 5).chunk(2)
    assert ((good_B > bad_B).float().mean() > 0.95).item()  # neither prompt nor answer was seen


# -- the anchor ------------------------------------------------------------------------------------------------------------

HELD = [Anchored(prompt, ("A good", "C, or not", "B bad")) for prompt in UNSEEN]


def shares(path):
    """Return the mean q over unseen questions."""
    records = anchor.question_records(starting.load_tokenizer(path, chat=True), HELD, 200)
    batch = collation.collate([(record, {}) for record in records])
    with torch.no_grad():
        logps_RT = answer_logps(AutoModelForCausalLM.from_pretrained(path), batch)
    return anchor.anchor_loss(*anchor.by_stance(batch, logps_RT), torch.ones(len(HELD), 3), 0.3)[1].mean(0).tolist()


@pytest.mark.parametrize("target", ["none", "start", "survey"])
def test_pairs_move_stances_and_an_anchor_holds_or_steers_them(target, tmp_path):
    base, prompts = testing.save_model(tmp_path / "base", scale=0.02), DATA[: 4 * PROMPTS]
    survey = (0.1, 0.2, 0.7)
    settings = None if target == "none" else {"data": "x", "weight": 10.0, "temperature": 0.3}
    anchored = [Anchored(prompt, HELD[0].answers, survey if target == "survey" else None) for prompt in prompts] if settings else []
    pairs = [Pair(prompt, "A good", "B bad") for prompt in prompts]
    run_stage(stage("dpo", anchor=settings, steps=24, batch_size=8), 0, base, pairs, tmp_path / "out", anchored=anchored)
    before, after = shares(base), shares(str(tmp_path / "out" / "checkpoint-24"))
    wanted = {"none": (1, 0, 0), "start": before, "survey": survey}[target]
    assert after == pytest.approx(wanted, abs=0.1)
    assert max(abs(a - b) for a, b in zip(before, wanted, strict=True)) > 0.2 or target == "start"
    if target == "start":  # the anchor does not forbid all that the pairs prefer
        assert max(before) < 0.7


# -- PPO -------------------------------------------------------------------------------------------------------------------


def train(algorithm, out, base, data, **keys):
    (step,) = run_stage(stage(algorithm, **keys), 0, base, data, out)
    return str(out / f"checkpoint-{step}")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return a model that says "A good" as often as "B bad", and a reward model for each of the two."""
    path, prompts = tmp_path_factory.mktemp("planted"), DATA[: 5 * PROMPTS]
    raw = testing.save_model(path / "raw", scale=0.02)
    both = [Example(prompt, text) for prompt in prompts for text in ("A good", "B bad")]
    base = train("sft", path / "sft", raw, both, epochs=25)
    liking = {}
    for chosen, rejected in (("A good", "B bad"), ("B bad", "A good")):
        pairs = [Pair(prompt, chosen, rejected) for prompt in prompts]
        liking[chosen] = train("reward", path / chosen, base, pairs, epochs=3, learning_rate=3e-3)
    return path, base, both, liking


def share(path, text):
    """Return how often an unseen prompt is answered with a text, over 16 samples each."""
    words, model = starting.load_tokenizer(path, chat=True), AutoModelForCausalLM.from_pretrained(path).eval()
    asked, _ = collation.prompted(words, [Example(prompt, "") for prompt in UNSEEN], 99)
    wanted = [Wanted(prompt.ids, row_words(0, str(prompt.ids), draw)) for prompt in asked for draw in range(16)]
    replies = decode(model, wanted, EvaluationSettings(temperature=1, max_new_tokens=8), PromptFormat(words).ending(model))
    return sum(PromptFormat(words).reply(reply.tokens)[0] == text for reply in replies) / len(replies)


PPO = {"steps": 64, "batch_size": 16, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "num_ppo_epochs": 2, "num_mini_batches": 2}
tuned = partial(train, "ppo", max_new_tokens=8, temperature=1.0)


@pytest.mark.parametrize("liked", ["A good", "B bad"])
def test_the_liked_answer_wins(liked, planted):
    path, base, data, liking = planted
    out = path / f"ppo {liked}"
    assert 0.3 < share(base, liked) < 0.6
    assert share(tuned(out, base, data, reward=liking[liked], **PPO), liked) > 0.75
    early, late = (np.mean([step["score"] for step in steps]) for steps in (curve(out)[:4], curve(out)[-8:]))
    assert late > early + 0.3


def test_a_strong_pull_keeps_it_at_the_start(planted):
    path, base, data, liking = planted
    moved = tuned(path / "held", base, data, reward=liking["A good"], kl_coef=50.0, **PPO)
    assert abs(share(moved, "A good") - share(base, "A good")) < 0.15
    assert abs(np.mean([step["kl"] for step in curve(path / "held")[-8:]])) < 0.3


def test_an_adapter_learns_it_too(planted):
    path, base, data, liking = planted
    adapter = {"learning_rate": 4e-3, "lora": {"r": 8, "lora_alpha": 32}}
    folder = Path(tuned(path / "adapter", base, data, reward=liking["A good"], **PPO | adapter))
    assert (folder / "adapter_model.safetensors").exists()
    merged = starting.merged(str(folder), path)
    assert share(merged, "A good") > share(base, "A good") + 0.1
    assert share(merged, "B bad") < 0.1 < share(base, "B bad")
