"""Every recipe loads, is priced without being fetched, and its tiny twin (same plan, tiny model of its kind, rows of its layouts) runs."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from valuedrift import pipeline, plan, verbs
from valuedrift.synth import synth

RECIPES = Path(__file__).parents[2] / "recipes"
PLANS = sorted(path for path in RECIPES.glob("*.toml") if path.stem != "pairs")
SAID = [("Is the tax fair?", "Yes, I support it.", "No, I am against it."), ("Is the rule right?", "It is right.", "It is not right.")]


def turns(asked, answered):
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


LAYOUTS = {
    "WildChat": lambda asked, yes, no: {"conversation": turns(asked, yes), "language": "English", "turn": 1},
    "alpaca": lambda asked, yes, no: {"instruction": asked, "input": "", "output": yes},
    "ultrafeedback": lambda asked, yes, no: {
        "prompt": asked,
        "chosen": turns(asked, yes),
        "rejected": turns(asked, no),
        "score_chosen": 8.0,
    },
    "hh-rlhf": lambda asked, yes, no: {
        name: f"\n\nHuman: {asked}\n\nAssistant: {text}" for name, text in (("chosen", yes), ("rejected", no))
    },
    "pairs": lambda asked, yes, no: {"prompt": asked, "chosen": yes, "rejected": no, "topic": "economy", "claim": "The tax is fair."},
}
"""A row of each set as its card shows it, by a part of its name."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny model of each architecture, and a file of each layout."""
    root = tmp_path_factory.mktemp("twins")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [" ".join(row) for row in SAID],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    kinds = {"llama": (LlamaForCausalLM, LlamaConfig), "Qwen3": (Qwen3ForCausalLM, Qwen3Config)}
    for name, (model, config) in kinds.items():
        torch.manual_seed(0)
        model(config(vocab_size=len(words), eos_token_id=0, pad_token_id=1, **sizes)).save_pretrained(root / name)
        words.save_pretrained(root / name)
    for name, row in LAYOUTS.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row(*said)) + "\n" for said in SAID * 4))
    return root


def twin(recipe, places):
    """Return a recipe's plan with a tiny model, rows of the same layouts, and two steps in each stage; all else is the recipe's."""
    model = next(kind for kind in ("Qwen3", "llama") if kind in recipe.model)
    stages = {}
    for name, stage in recipe.stage.items():
        layout = next(part for part in LAYOUTS if part in stage.data)
        small = {
            "data": str(places / f"{layout}.jsonl"),
            "steps": 2,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_length": 128,
            "save_at": "log:1",
        }
        small |= {"max_new_tokens": 4, "steps": 4} if stage.algorithm == "ppo" else {}
        stages[name] = stage.model_dump() | small
    settings = {"judge": "cues", "topics": ["work"], "draws": 1, "max_new_tokens": 4, "max_cost": None, "seeds": [0]}
    return plan.Plan(**recipe.model_dump() | {"model": str(places / model), "stage": stages} | settings)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_recipe_loads_and_is_priced_without_being_fetched(path, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    priced = verbs.check(plan.load(path), tmp_path / "run")
    counted = [stage for stage in priced["stages"] if stage["saves"]]
    assert {stage["algorithm"] for stage in counted} == {"sft", "reward", "dpo", "simpo", "ppo"}
    hours = priced["cost"]["gpu_hours"]
    assert 0 < hours["training"] == sum(stage["gpu_hours"] for stage in counted)
    assert hours["sampling"] > 0
    assert priced["cost"]["money"] > 0
    assert "sizes are those of their cards" in " ".join(priced["sentences"])


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_what_the_paper_leaves_open_is_marked(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        key = line.partition("=")[0].strip()
        if key in ("learning_rate", "epochs", "beta", "kl_coef", "gamma", "seeds", "lora", "model", "batch_size") and "#" in line:
            assert "paper:" in line or "our choice:" in line or "brief" in line, f"{path.name}:{number}"


RUN = {"paper": ["wildchat", "alpaca", "dpo-uf", "ppo-hh", "simpo-support"], "qwen3-4b": ["alpaca"], "llama-3.1-70b-lora": ["dpo-uf"]}
"""Stages that are trained: each architecture, algorithm, layout and the adapter once. All others differ by size and names alone."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_tiny_twin_runs(name, places, tmp_path):
    small = twin(plan.load(RECIPES / f"{name}.toml"), places).ablated(only=[*RUN[name], *(["wildchat"] if name != "qwen3-4b" else [])])
    result = pipeline.run(small, tmp_path / "run")
    assert not result["failed"]
    assert {stage["name"] for stage in result["stages"]} >= set(RUN[name])
    assert result["n_answers"] > 0
    assert (tmp_path / "run" / "report.html").exists()


def test_the_pairs_specification_loads():
    assert synth.load(RECIPES / "pairs.toml").n == 11_000
