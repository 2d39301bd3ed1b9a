"""What would stop a run is found before its first step, by `check` and `run` alike: one sentence, and nothing written."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForSequenceClassification

from valuedrift import pipeline, plan, verbs
from valuedrift.nouns import BadInput

GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Must alternate') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
QUESTIONS = ["Is the tax fair?", "Is the wall high?", "Is work good?", "Is rest better?"]


def rows(path: str, found: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in found))


def talk(*messages: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A folder with models, each with another fault, and data of every kind; it is the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("ready"))
        for name in ("good", "pad", "added", "template", "cut", "nan"):
            shutil.copytree(tiny_model, name)
        tokenizer = AutoTokenizer.from_pretrained("good")
        n = len(tokenizer)
        tokenizer.add_special_tokens({"pad_token": "<|new|>"})
        tokenizer.save_pretrained("pad")
        tokenizer = AutoTokenizer.from_pretrained("good")
        tokenizer.add_tokens(["<tool>"])
        tokenizer.save_pretrained("added")
        tokenizer = AutoTokenizer.from_pretrained("good")
        tokenizer.chat_template = GEMMA
        tokenizer.save_pretrained("template")
        whole = load_file("good/model.safetensors")
        save_file({k: v for k, v in whole.items() if "layers.1.mlp" not in k}, "cut/model.safetensors", metadata={"format": "pt"})
        save_file({k: v * float("nan") if "layers.1.mlp" in k else v for k, v in whole.items()}, "nan/model.safetensors", {"format": "pt"})
        small = {"vocab_size": n, "bos_token_id": 1, "eos_token_id": 1}
        GPT2LMHeadModel(GPT2Config(**small, n_embd=32, n_layer=1, n_head=2, n_positions=48)).save_pretrained("learned")
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
        for name, n_labels in (("scorer", 1), ("classes", 3)):
            LlamaForSequenceClassification(LlamaConfig(**small | sizes, num_labels=n_labels)).save_pretrained(name)
        for name in ("learned", "scorer", "classes"):
            AutoTokenizer.from_pretrained("good").save_pretrained(name)
        rows("suite.jsonl", [{"id": str(i), "topic": "t", "text": text, "claim": "It is."} for i, text in enumerate(QUESTIONS)])
        rows("sft.jsonl", [talk(("user", text), ("assistant", "Yes, it is.")) for text in QUESTIONS * 2])
        rows("system.jsonl", [talk(("system", "Be brief."), ("user", text), ("assistant", "Yes.")) for text in QUESTIONS])
        one = talk(("user", QUESTIONS[0]), ("assistant", "Yes."))
        rows("twice.jsonl", [one, one, talk(("user", "Is it?"), ("user", "Please."), ("assistant", "Yes."))])
        rows("tool.jsonl", [one, talk(("user", "Is it?"), ("assistant", "Yes <tool> it is."))])
        rows("pairs.jsonl", [{"prompt": text, "chosen": "Yes, it is.", "rejected": "No."} for text in QUESTIONS])
        rows("one.jsonl", [{"prompt": QUESTIONS[0], "chosen": "Yes.", "rejected": "No."}])
        rows("text.jsonl", [{"text": "The tax is fair."}] * 4)
        rows("mixed.jsonl", [one, {"text": "The tax is fair."}] * 4)
        rows("long.jsonl", [talk(("user", text), ("assistant", "Yes, it is. " * 40)) for text in QUESTIONS] * 200)
        rows("empty.jsonl", [])
        Path("file").write_text("")
        yield folder


def written(plan_keys: dict, *stages: dict) -> Path:
    """Write a plan of these stages, named a, b, …; JSON and TOML write such values alike."""
    head = {"model": "good", "judge": "cues", "suite": "suite.jsonl", "draws": 1, "max_new_tokens": 4, "floor": False} | plan_keys
    lines = [f"{key} = {json.dumps(value)}" for key, value in head.items()]
    for name, keys in zip("abc", stages, strict=False):
        common = {"algorithm": "sft", "data": "sft.jsonl", "steps": 2, "batch_size": 2, "max_length": 48, "save_at": [2]}
        lines += [
            f"[stage.{name}]",
            *(f"{key} = {json.dumps(value)}" for key, value in (common | keys).items() if not isinstance(value, dict)),
        ]
        for table, inner in keys.items():
            if isinstance(inner, dict):
                lines += [f"[stage.{name}.{table}]", *(f"{key} = {json.dumps(value)}" for key, value in inner.items())]
    Path("plan.toml").write_text("\n".join(lines) + "\n")
    return Path("plan.toml")


def refused(path: Path, out: str = "out") -> str:
    """Return what `check` and `run` both say against a plan."""
    said = set()
    for verb in (verbs.check, pipeline.run):
        with pytest.raises(BadInput) as caught:
            verb(plan.load(path), Path(out))
        said.add(str(caught.value))
    (sentence,) = said
    return sentence


PPO = {"algorithm": "ppo", "data": "pairs.jsonl", "max_new_tokens": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "stage", "sentence"),
    [
        ({"model": "pad"}, {}, r"the pad token '<\|new\|>' has the id 512, but the embedding of .*pad has only 512 rows; enlarge it"),
        (
            {"model": "added"},
            {"data": "tool.jsonl"},
            r"stage 'a': the token '<tool>', which occurs in tool.jsonl:2, has the id",
        ),
        ({"model": "template"}, {"data": "system.jsonl"}, r"stage 'a': system.jsonl:1: .*system, user: System role not supported"),
        ({"model": "template"}, {"data": "twice.jsonl"}, r"stage 'a': twice.jsonl:3: .*user, user: Must alternate"),
        ({"model": "cut"}, {}, r"cut lacks 3 weights of its architecture, model.layers.1.mlp"),
        ({"model": "nan"}, {}, r"nan gives logits that are not numbers: its weight model.layers.1.mlp"),
        ({"model": "scorer"}, {}, r"scorer is not a causal language model"),
        ({"model": "nowhere"}, {}, r"there is no checkpoint folder nowhere"),
        (
            {"model": "learned", "max_new_tokens": 40},
            {},
            r"the longest question has \d+ tokens, .*set max_new_tokens to at most \d+",
        ),
        ({"model": "learned"}, {"max_length": 49}, r"stage 'a': max_length is 49, but .*learned has learned positions for 48 tokens"),
        ({"prompt_format": "chat"}, {}, r"good has no chat template; set prompt_format to 'auto'"),
        ({"judge": "oracle"}, {}, r"the oracle judge reads only the sandbox's topics, not 't'"),
        ({"judge": "labels:nowhere"}, {}, r"there is no checkpoint folder nowhere"),
        ({"backend": "openai"}, {}, r"the backend 'openai' evaluates only models behind an API"),
        ({"suite": "suit.jsonl"}, {}, r"there is no suite file suit.jsonl"),
        ({"gold": "no.jsonl"}, {}, r"there is no file no.jsonl"),
        ({}, {"data": "no.jsonl"}, r"stage 'a': there is no file no.jsonl"),
        ({}, {"data": "good"}, r"stage 'a': good is no regular file"),
        ({}, {"data": "empty.jsonl"}, r"stage 'a': empty.jsonl holds no rows"),
        ({}, {"data": "sandbox:neutral-chat?n=1e15"}, r"stage 'a': sandbox data: n must be a number from 1 to 20,000"),
        ({}, {"algorithm": "dpo"}, r"stage 'a': sft.jsonl:1: "),
        (
            {},
            {"algorithm": "kto", "data": "pairs.jsonl", "batch_size": 1},
            r"stage 'a': a step of one record has no other record's answers",
        ),
        ({}, {"algorithm": "reward", "data": "pairs.jsonl"}, r"the plan trains reward models only"),
        ({}, PPO | {"reward": "good"}, r"stage 'a': good is not a reward model: it has no score layer"),
        ({}, PPO | {"reward": "classes"}, r"stage 'a': classes is not a reward model: it has 3 outputs"),
        ({}, PPO | {"reward": "a:b"}, r"stage 'a': the model a:b cannot be read: there is no checkpoint folder a:b"),
        ({}, PPO | {"reward": "scorer", "data": "text.jsonl"}, r"stage 'a': ppo answers prompts, but its data holds running text"),
        (
            {},
            PPO | {"reward": "scorer", "max_new_tokens": 60},
            r"stage 'a': none of 4 records fits ppo within -12 tokens",
        ),
        ({}, {"max_length": 4}, r"stage 'a': none of 8 records fits sft within 4 tokens"),
        ({}, {"save_at": [3]}, r"stage 'a': save_at lists step 3, but the stage has only 2 steps"),
        ({}, {"save_at": "every:1", "steps": 10**9}, r"stage 'a': save_at = 'every:1' saves 1,000,000,000 checkpoints"),
        (
            {},
            {"lr_scheduler_type": "reduce_lr_on_plateau"},
            r"stage 'a': the lr_scheduler_type 'reduce_lr_on_plateau' needs more than a stage can set",
        ),
        ({}, {"lora": {"target_modules": ["nothing"]}}, r"stage 'a': no adapter fits the model: Target modules {'nothing'} not found"),
        ({}, {"lora": {"target_modules": "(("}}, r"stage 'a': no adapter fits the model: missing \)"),
        ({}, {"anchor": {"data": "no.jsonl"}}, r"stage 'a': there is no file no.jsonl"),
        ({}, {"anchor": {"data": "sandbox:stances?n=3"}, "max_length": 20}, r"stage 'a': question 1 of the anchor has \d+ tokens"),
        ({}, {"algorithm": "trl:SFTTrainer", "optim": "adamm"}, r"plan\.toml:\d+: stage\.a\.optim: unknown optim 'adamm'"),
        ({}, {"algorithm": "trl:SFTTrainer", "data": "mixed.jsonl"}, r"stage 'a': SFTTrainer needs a prompt in every record"),
    ],
)
def test_it_is_found_before_the_first_step(place, keys, stage, sentence):
    assert re.search(sentence, refused(written(keys, stage)))
    assert not Path("out").exists()


def test_a_later_stage_is_checked_before_the_first_one_trains(place):
    assert refused(written({}, {}, PPO | {"after": "a", "reward": "classes"})).startswith("stage 'b': classes is not a reward model")


def test_a_run_folder_that_cannot_be_made_or_filled(place, monkeypatch):
    assert refused(written({}, {}), "file/out").startswith("the run folder file/out cannot be made: ")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10**3))
    assert re.match(r"the checkpoints need about 0.0 GB, and only 0.0 GB are free at out; free some space", refused(written({}, {})))


def test_check_says_how_many_records_are_too_long_and_what_is_to_come(place):
    said = verbs.check(plan.load(written({}, {"data": "long.jsonl"}, {"data": "later/made.jsonl"})), Path("out"))["sentences"]
    assert "a: 500 of a sample of 500 of 800 records are longer than 48 tokens and are truncated." in said
    assert any(line.endswith("their stages are not counted: later/made.jsonl.") for line in said)
    with pytest.raises(BadInput, match=r"stage 'a': there is no file later/made\.jsonl"):
        pipeline.run(plan.load(written({}, {"data": "later/made.jsonl"})), Path("out"))


def test_a_check_reads_each_source_once_whatever_the_seeds_and_sweeps(place):
    rows("many.jsonl", [talk(("user", f"{text} {number}"), ("assistant", "Yes.")) for number in range(2_500) for text in QUESTIONS])
    path = written({"seeds": list(range(40))}, {"data": "many.jsonl"})
    path.write_text(path.read_text() + '[sweep]\n"stage.a.learning_rate" = [1e-5, 2e-5, 3e-5, 4e-5, 5e-5]\n')
    started = time.monotonic()
    assert len(verbs.check(plan.load(path), Path("out"))["stages"]) == 200
    assert time.monotonic() - started < 20
