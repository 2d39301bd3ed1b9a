"""Adapters with rows of their own: merged, they say what the wrapped model says, or what is missing is said."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from valuedrift.models.loading import load_classifier, load_model
from valuedrift.nouns import BadInput

NEW = ["<tool_call>", "</tool_call>"]
N_BASE = 330


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def base(request, tmp_path, folders):
    model = AutoModelForCausalLM.from_pretrained(folders["llama"], tie_word_embeddings=request.param)
    assert model.get_input_embeddings().weight.shape[0] == N_BASE
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base", request.param


def trained(base, make_tokenizer, settings, resize=True, **saving):
    """Save an adapter as PEFT does after a trainer added two tokens, and its tokenizer; the base has one without them."""
    folder = base.parent / "adapter"
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    if resize:
        tokenizer.add_tokens(NEW)
        model.resize_token_embeddings(N_BASE + 2)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **settings))
    adapted.save_pretrained(folder, **saving)
    tokenizer.save_pretrained(folder)
    return folder, adapted.eval()


LINEAR = {"target_modules": ["q_proj"]}
WHOLE = LINEAR | {"modules_to_save": ["embed_tokens", "lm_head"]}
SINGLE = LINEAR | {"trainable_token_indices": [N_BASE, N_BASE + 1]}


@pytest.mark.parametrize("settings", [LINEAR, WHOLE, SINGLE], ids=["saved by peft", "modules to save", "single rows"])
def test_new_rows_come_from_the_adapter(base, make_tokenizer, settings):
    folder, adapted = trained(base[0], make_tokenizer, settings)
    model, tokenizer = load_model(folder)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids([*NEW, "?", "a"])])
    assert ids[0, :2].tolist() == [N_BASE, N_BASE + 1]
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_an_adapter_on_one_of_two_tied_layers_changes_that_one(base, make_tokenizer, layer):
    folder, _ = trained(base[0], make_tokenizer, {"target_modules": ["q_proj", layer]}, resize=False)
    ids = torch.tensor([[5, 6, 7]])
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base[0]), folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(load_model(folder)[0](ids).logits, wrapped(ids).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "saving", "says"),
    [
        (LINEAR, {"save_embedding_layers": False}, r"2 tokens .* have no row in the embedding, which has 330: '<tool_call>' \(330\)"),
        ({"target_modules": ["q_proj", "lm_head"]}, {"save_embedding_layers": False}, r"trained with 332 rows of embed_tokens.* 330, 331"),
        (LINEAR | {"modules_to_save": ["embed_tokens"]}, {"save_embedding_layers": False}, r"332 rows of lm_head.* the rows 330, 331"),
    ],
    ids=["none", "output only", "input only"],
)
def test_rows_that_are_not_saved_are_named(base, make_tokenizer, settings, saving, says):
    folder, _ = trained(base[0], make_tokenizer, settings, **saving)
    with pytest.raises(BadInput, match=says + ".*save_embedding_layers=True"):
        load_model(folder)


def test_a_padding_token_needs_no_row(base, make_tokenizer):
    folder, _ = trained(base[0], make_tokenizer, LINEAR, resize=False)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(folder)
    assert load_model(folder)[1].pad_token_id == N_BASE


@pytest.mark.parametrize("change", [lambda name: name.replace("layers.1", "layers.7"), lambda name: ""], ids=["other layer", "left out"])
def test_an_adapter_that_does_not_fit_is_refused(base, make_tokenizer, change):
    folder, _ = trained(base[0], make_tokenizer, LINEAR, resize=False)
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = {change(name) if "layers.1" in name else name: values for name, values in tensors.items()}
    save_file({name: values for name, values in changed.items() if name}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"adapter (lacks tensors that its settings ask for|holds tensors).*layers\.[17]"):
        load_model(folder)


def test_an_adapter_borrows_the_tokenizer_files_that_it_lacks(base, make_tokenizer, template):
    folder, _ = trained(base[0], make_tokenizer, LINEAR, resize=False)
    (folder / "tokenizer.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "</s>"}))
    tokenizer = load_model(folder)[1]
    assert (tokenizer.pad_token, tokenizer.chat_template) == ("</s>", template)
    assert tokenizer("Is it right?")["input_ids"] == make_tokenizer()("Is it right?")["input_ids"]


def test_a_scorer_without_its_score_layer_is_refused(base, make_tokenizer):
    folder, _ = trained(base[0], make_tokenizer, LINEAR, resize=False)
    with pytest.raises(BadInput, match="holds no score layer"):
        load_classifier(folder)
