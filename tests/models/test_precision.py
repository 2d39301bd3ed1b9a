"""The precision of models: what `auto` chooses, what an adapter keeps of its change, and that it is part of every key and of the report."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from valuedrift import pipeline, testing
from valuedrift.evaluate import answer_key
from valuedrift.models import precision
from valuedrift.models.loading import load_model
from valuedrift.nouns import BadInput, Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store
from valuedrift.training import describe


@pytest.fixture
def fast(monkeypatch):
    """A processor that multiplies bfloat16 fast, to which every model but the smallest is large."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "LARGE", 1e4)


def adapter(base, folder):
    """Save a LoRA adapter whose change of each weight is about a thousandth of it, as a short training leaves."""
    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.copy_(torch.randn_like(weights) * 0.005)
    adapted.save_pretrained(folder)
    testing.tokenizer().save_pretrained(folder)
    return folder


def test_auto_is_bfloat16_for_a_large_model_on_a_processor_that_multiplies_it_fast(folders, fast, monkeypatch):
    n = sum(weights.numel() for weights in load_model(folders["qwen3"])[0].parameters())
    assert precision.n_parameters(folders["qwen3"]) == n > precision.LARGE
    assert precision.dtype_of(folders["qwen3"]) == "bfloat16"
    assert precision.dtype_of(folders["qwen3"], "float32") == "float32"
    assert precision.autocasts(folders["qwen3"])
    monkeypatch.setattr(precision, "LARGE", n)
    assert precision.dtype_of(folders["qwen3"]) == "float32"
    assert not precision.autocasts(folders["qwen3"])
    monkeypatch.setattr(precision, "LARGE", 1e4)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    assert precision.dtype_of(folders["qwen3"]) == "float32"


def test_an_adapter_on_a_base_of_16_bits_is_loaded_in_float32(folders, fast, tmp_path):
    base = load_model(folders["qwen3"])[0].bfloat16()
    base.save_pretrained(tmp_path / "base")
    testing.tokenizer().save_pretrained(tmp_path / "base")
    folder = adapter(tmp_path / "base", tmp_path / "adapter")
    assert precision.dtype_of(folder) == "float32"
    assert precision.dtype_of(folder, merges=False) == "bfloat16"
    before, after, rounded = (
        load_model(path, dtype=dtype)[0].model.layers[0].self_attn.q_proj.weight.float()
        for path, dtype in ((tmp_path / "base", "float32"), (folder, "float32"), (folder, "bfloat16"))
    )
    assert (after != before).double().mean() > 0.99
    assert (rounded != before).double().mean() < 0.2, "most of the change is lost in 16 bits"


def test_an_adapter_is_merged_before_its_weights_are_rounded(folders, fast, tmp_path):
    folder = adapter(folders["qwen3"], tmp_path / "adapter")
    assert precision.dtype_of(folder) == "bfloat16"
    single, half = load_model(folder)[0], load_model(folder, dtype="bfloat16")[0]
    assert half.dtype == torch.bfloat16
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(single.parameters(), half.parameters(), strict=True))
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32


def test_keys_name_any_precision_but_float32():
    prompt, settings = Prompt("a", "t", "Is it?", "It is.", 1), EvaluationSettings()
    checkpoints = [Checkpoint("base", 0, "p", "w", dtype=dtype) for dtype in ("float32", "bfloat16", "float16", "")]
    keys = [answer_key(checkpoint, prompt, 0, settings, 0) for checkpoint in checkpoints]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3], "what a server computes in is not known"


def test_a_trace_says_in_what_it_computed(folders, tmp_path, fast):
    settings = EvaluationSettings(topics=["abortion"], draws=1, max_new_tokens=4, batch_rows=64, floor=False)
    answers = {}
    for dtype in ("auto", "float32"):
        pipeline.trace_folders(settings.model_copy(update={"dtype": dtype}), [folders["qwen3"]], None, tmp_path / dtype)
        answers[dtype] = {row["key"] for row in Store(tmp_path / dtype).answers().to_dicts()}
    assert [one["dtype"] for one in json.loads((tmp_path / "auto" / "checkpoints.json").read_text())] == ["bfloat16"]
    assert "<td>bfloat16</td>" in (tmp_path / "auto" / "report.html").read_text()
    assert not answers["auto"] & answers["float32"]


def test_a_server_has_its_own_precision():
    with pytest.raises(BadInput, match=r"server's precision; remove dtype"):
        describe("openai:some-model", "served", 0, EvaluationSettings(dtype="bfloat16"))
