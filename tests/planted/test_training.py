"""Training finds what was planted, on prompts it has not seen."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from valuedrift import testing
from valuedrift.nouns import Example, Pair
from valuedrift.plan import Stage
from valuedrift.train import collation, starting
from valuedrift.train.logprobs import answer_logps
from valuedrift.train.stage import run_stage

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


def stage(algorithm, **keys):
    return Stage(algorithm=algorithm, data="x", batch_size=12, learning_rate=5e-3, save_at="log:1", **keys)


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


@pytest.mark.slow
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
