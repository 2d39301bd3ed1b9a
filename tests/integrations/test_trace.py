"""The main job on real input: checkpoints that plain transformers and peft wrote, traced through the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
)

pytestmark = pytest.mark.slow

TEXTS = ["I agree that the tax is fair.", "No, I am against that rule.", "There are two sides to this question.", "I can't help with that."]
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


class Texts(Dataset):
    def __init__(self, tokenizer):
        self.rows = [tokenizer(text + tokenizer.eos_token)["input_ids"][:12] for text in TEXTS]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = (self.rows[index] * 12)[:12]
        return {"input_ids": torch.tensor(row), "labels": torch.tensor(row)}


def tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")


def trained(root: Path, model) -> tuple[Path, Path]:
    """Return (base folder, output folder of a plain Trainer with checkpoint-1 and checkpoint-2)."""
    words = tokenizer()
    model.save_pretrained(root / "base")
    words.save_pretrained(root / "base")
    args = TrainingArguments(
        str(root / "out"),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(model=model, args=args, train_dataset=Texts(words), processing_class=words).train()
    return root / "base", root / "out"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    torch.manual_seed(0)
    return trained(tmp_path_factory.mktemp("qwen"), Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, eos_token_id=0, bos_token_id=None)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    return trained(tmp_path_factory.mktemp("llama"), LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=0, bos_token_id=None)))


def valuedrift(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from valuedrift.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def traced(*arguments) -> dict:
    done = valuedrift("trace", *arguments, "--topics", "work", "--draws", 2, "--max-new-tokens", 8, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_checkpoints_of_a_plain_trainer_are_traced(qwen, tmp_path):
    base, out = qwen
    result = traced(out, "--base", base, "--out", tmp_path / "run")
    assert [(c["stage"], c["step"]) for c in result["checkpoints"]] == [("out", 0), ("out", 1), ("out", 2)]
    assert len({c["weights"] for c in result["checkpoints"]}) == 3
    assert result["n_generated"] == 50 * 2 * (3 + 1)
    assert {drift["topic"] for drift in result["drifts"]} == {"work", "all"}
    assert "weak" in (tmp_path / "run" / "report.html").read_text()
    again = traced(out, "--base", base, "--out", tmp_path / "run")
    assert (again["n_generated"], again["n_judged"]) == (0, 0)
    assert again["drifts"] == result["drifts"]


def test_changed_weights_under_the_same_name_never_hit_the_cache(llama, tmp_path):
    _, out = llama
    folder = tmp_path / "checkpoint-1"
    model = AutoModelForCausalLM.from_pretrained(out / "checkpoint-1")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    first = traced(folder, "--out", tmp_path / "run", "--no-floor")
    with torch.no_grad():
        model.lm_head.weight.add_(0.5 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    second = traced(folder, "--out", tmp_path / "run", "--no-floor")
    assert second["n_generated"] == first["n_generated"] == 100
    assert second["checkpoints"][0]["weights"] != first["checkpoints"][0]["weights"]


def test_lora_adapter_folders_are_traced_on_their_base(qwen, tmp_path):
    base, _ = qwen
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for step, size in ((1, 0.0), (2, 0.8)):
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.fill_(size)
        adapted.save_pretrained(tmp_path / "lora" / f"checkpoint-{step}")
    result = traced(tmp_path / "lora", "--base", base, "--out", tmp_path / "run", "--no-floor")
    assert [c["step"] for c in result["checkpoints"]] == [0, 1, 2]
    assert len({c["weights"] for c in result["checkpoints"]}) == 3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda f: None, "there is no folder"),
        (lambda f: f.mkdir(), "holds no model (config.json) and no numbered folders"),
        (lambda f: (f.mkdir(), (f / "config.json").write_text("{}")), "weights"),
    ],
)
def test_folders_without_a_model_are_one_sentence(make, sentence, tmp_path):
    make(tmp_path / "model")
    done = valuedrift("trace", tmp_path / "model", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("valuedrift: ")
    assert done.stderr.count("\n") == 1


def test_a_reward_model_is_refused_before_anything_is_sampled(llama, tmp_path):
    base, _ = llama
    LlamaForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(tmp_path / "rm" / "checkpoint-1")
    tokenizer().save_pretrained(tmp_path / "rm" / "checkpoint-1")
    done = valuedrift("trace", tmp_path / "rm", "--base", base, "--out", tmp_path / "run", "--topics", "work")
    assert done.returncode == 2
    assert "checkpoint-1 is not a causal language model: its config.json names LlamaForSequenceClassification" in done.stderr
    assert not (tmp_path / "run" / "answers").exists()


def test_what_is_left_out_is_named_in_output_and_report(llama, tmp_path):
    base, out = llama
    shutil.copytree(out / "checkpoint-1", tmp_path / "out" / "checkpoint-1")
    shutil.copytree(base, tmp_path / "out" / "best")
    result = traced(tmp_path / "out", "--out", tmp_path / "run", "--no-floor", "--no-side-metrics")
    assert "Left out of out: best (nothing states its step)." in result["notes"]
    assert "best (nothing states its step)" in (tmp_path / "run" / "report.html").read_text()


def test_a_truncated_file_is_named_and_finished_parts_stay(llama, tmp_path):
    _, out = llama
    for step in (1, 2):
        model = AutoModelForCausalLM.from_pretrained(out / f"checkpoint-{step}")
        model.save_pretrained(tmp_path / "models" / f"checkpoint-{step}")
        tokenizer().save_pretrained(tmp_path / "models" / f"checkpoint-{step}")
    first = traced(tmp_path / "models" / "checkpoint-1", "--out", tmp_path / "run", "--no-floor")
    broken = tmp_path / "models" / "checkpoint-2" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1000])
    done = valuedrift("trace", tmp_path / "models", "--out", tmp_path / "run", "--topics", "work")
    assert done.returncode == 2
    assert "checkpoint-2/model.safetensors" in done.stderr
    assert "\n" not in done.stderr.strip()
    assert first["n_generated"] == 100
    again = traced(tmp_path / "models" / "checkpoint-1", "--out", tmp_path / "run", "--no-floor")
    assert again["n_generated"] == 0
