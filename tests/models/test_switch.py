"""Weights switched in place are those of a fresh load, bit for bit."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from valuedrift.evaluate.transformers import Backend
from valuedrift.models import switch as _switch
from valuedrift.models.loading import likeness, load_model, weights_digest
from valuedrift.models.switch import switch
from valuedrift.nouns import BadInput, Checkpoint, Prompt
from valuedrift.plan import Asking

IDS = torch.arange(3, 60)[None]


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def other(folder, target, dtype=torch.float32, size="5GB", only=""):
    """Save a model like that of `folder` with other weights (or with other ones where `only` is in their names)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    shutil.copytree(folder, target)
    (target / "model.safetensors").unlink()
    model.to(dtype).save_pretrained(target, max_shard_size=size)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("saved", [{}, {"size": "100KB"}, {"dtype": torch.bfloat16}], ids=["whole", "sharded", "bfloat16"])
def test_switched_weights_are_those_of_a_fresh_load(folders, tmp_path, kind, saved):
    target = other(folders[kind], tmp_path / "other", **saved)
    assert (likeness(target) == likeness(folders[kind])) == ("dtype" not in saved), "off a CPU each keeps its own type"
    model, _ = load_model(folders[kind])
    assert switch(model, target) > 10
    fresh = load_model(target)[0]
    assert torch.equal(logits(model), logits(fresh))
    for (name, mine), theirs in zip(model.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert switch(model, folders[kind]) > 10
    assert torch.equal(logits(model), logits(load_model(folders[kind])[0]))


def test_only_what_changed_is_copied(folders, tmp_path):
    target = other(folders["llama"], tmp_path / "other", only="layers.1.mlp.down_proj")
    model, _ = load_model(folders["llama"])
    assert switch(model, target) == 1
    assert torch.equal(logits(model), logits(load_model(target)[0]))
    assert switch(model, target) == 0


def test_tied_weights_stay_tied(folders, tmp_path):
    tied = tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(folders["llama"])
    config = model.config
    config.tie_word_embeddings = True
    shutil.copytree(folders["llama"], tied)
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    assert "lm_head.weight" not in safetensors.torch.load_file(tied / "model.safetensors")
    target = other(tied, tmp_path / "other")
    model, _ = load_model(tied)
    assert switch(model, target) is not None
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(logits(model), logits(load_model(target)[0]))


def test_what_must_be_shared(folders, tmp_path):
    like = likeness(folders["llama"])
    assert like
    assert likeness(folders["qwen3"]) != like
    config = shutil.copytree(folders["llama"], tmp_path / "config") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-3}))
    assert likeness(config.parent) != like
    template = shutil.copytree(folders["llama"], tmp_path / "template") / "chat_template.jinja"
    template.write_text("{{ messages }}")
    assert likeness(template.parent) != like


def test_names_that_do_not_match_are_loaded_by_transformers(folders, tmp_path):
    target = other(folders["llama"], tmp_path / "other")
    tensors = safetensors.torch.load_file(target / "model.safetensors")
    safetensors.torch.save_file({f"old.{name}": tensor for name, tensor in tensors.items()}, target / "model.safetensors")
    assert switch(load_model(folders["llama"])[0], target) is None


def test_a_switch_that_reaches_nothing_is_found_out(folders, tmp_path, monkeypatch):
    """A model whose forward pass uses copies of its weights: its outputs stay where they were."""
    target = other(folders["llama"], tmp_path / "other")
    model, _ = load_model(folders["llama"])
    stuck = _switch._outputs(model)
    monkeypatch.setattr(_switch, "_outputs", lambda one, read=_switch._outputs: stuck if one is model else read(one))
    with pytest.raises(BadInput, match="did not move"):
        switch(model, target)


def test_the_backend_keeps_its_model_and_says_what_a_fresh_one_says(folders, tmp_path, monkeypatch):
    target = other(folders["llama"], tmp_path / "other")
    loads = []
    monkeypatch.setattr("valuedrift.evaluate.transformers.load_model", lambda path: loads.append(str(path)) or load_model(path))
    pairs, backend = [(Prompt("p", "work", "Is it right?", "it is right"), draw) for draw in range(8)], Backend(Asking(max_new_tokens=16))
    ats = [Checkpoint("sft", step, str(folder), weights_digest(folder)) for step, folder in enumerate([folders["llama"], target])]
    for at, loaded in ((ats[0], [str(folders["llama"])]), (ats[1], []), (ats[0], [])):
        backend.expect(at)
        fresh = dict(Backend(Asking(max_new_tokens=16)).sample(at, pairs, 0))
        loads.clear()
        assert dict(backend.sample(at, pairs, 0)) == fresh
        assert loads == loaded
    backend.expect(Checkpoint("sft", 9, str(tmp_path / "nowhere"), "w"))
