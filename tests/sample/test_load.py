import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from valuedrift.nouns import BadInput, Checkpoint, Prompt
from valuedrift.plan import Asking
from valuedrift.sample._load import chat_template, load_model, weights_digest
from valuedrift.sample.transformers import Backend

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path, folders):
    return shutil.copytree(folders["llama"], tmp_path / "model")


def changed_weights(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edited(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_digest_names_content_not_place(folder, folders):
    assert weights_digest(folder) == weights_digest(str(folders["llama"]))
    edited(folder / "config.json", transformers_version="9", dtype="bfloat16", _name_or_path="elsewhere")
    for leftover in ("optimizer.pt", "trainer_state.json", "training_args.bin"):
        (folder / leftover).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert weights_digest(folder) == weights_digest(folders["llama"]), "notes, optimiser and template are not weights"


@pytest.mark.parametrize(
    "change",
    [
        changed_weights,
        lambda folder: edited(folder / "config.json", rms_norm_eps=1e-3),
        lambda folder: edited(folder / "generation_config.json", eos_token_id=[1, 5]),
        lambda folder: (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("tax", "fee")),
    ],
    ids=["weights", "architecture", "end token", "tokenizer"],
)
def test_digest_changes_under_the_same_folder_name(folder, change):
    before = weights_digest(folder)
    change(folder)
    assert weights_digest(folder) != before


def test_changed_weights_answer_differently_under_the_same_name(folder):
    backend, prompt = Backend(Asking(max_new_tokens=8)), Prompt("p", "work", "Is it right?", "it is right")
    pairs = [(prompt, draw) for draw in range(4)]

    def answers():
        return [answer for _, answer in backend.sample(Checkpoint("sft", 1, str(folder), weights_digest(folder)), pairs, 0, [None] * 4)]

    first = answers()
    changed_weights(folder)
    second = answers()
    assert not {answer.key for answer in first} & {answer.key for answer in second}
    assert [answer.text for answer in first] != [answer.text for answer in second]


def sharded(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / WEIGHTS).unlink()
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_are_read_and_missed(folder):
    shards = sharded(folder)
    assert len(shards) > 1
    before = weights_digest(folder)
    assert load_model(folder)[0].num_parameters() > 0
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert weights_digest(folder) != before
    shards[-1].unlink()
    with pytest.raises(BadInput, match=rf"lacks {shards[-1].name}"):
        weights_digest(folder)


# -- faults ----------------------------------------------------------------------------------------------------------------


def cut(n_bytes):
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:n_bytes])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "there is no checkpoint folder"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "is empty"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no weights"),
        (cut(-1), "is damaged"),
        (cut(100), "is damaged"),
        (cut(3), "is damaged"),
        (cut(0), "is damaged"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1 oid"), "is a Git LFS pointer"),
    ],
    ids=[
        "missing",
        "empty",
        "no config",
        "broken config",
        "no weights",
        "one byte short",
        "cut header",
        "cut length",
        "no bytes",
        "pointer",
    ],
)
def test_faults_are_one_sentence_each(folder, spoil, says):
    spoil(folder)
    for read in (weights_digest, load_model):
        with pytest.raises(BadInput, match=says) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_architecture(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks 9 weights of its architecture, model.layers.1"):
        load_model(folder)


def test_unknown_architecture_and_missing_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match="has no tokenizer"):
        load_model(folder)
    edited(folder / "config.json", model_type="no-such-model")
    with pytest.raises(BadInput):
        load_model(folder)


# -- adapters ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path, folder):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_adapter_answers_as_the_wrapped_model(folder, adapter):
    from peft import PeftModel

    model, tokenizer = load_model(adapter)
    ids = torch.tensor([tokenizer("Is it right?")["input_ids"]])
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(adapter)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, wrapped(ids).logits, atol=1e-3, rtol=1e-3)
        assert (model(ids).logits - load_model(folder)[0](ids).logits).abs().max() > 0.1
    at = Checkpoint("dpo", 1, str(adapter), weights_digest(adapter))
    pairs = [(Prompt("p", "work", "Is it right?", "it is right"), draw) for draw in (0, 1)]
    answers = Backend(Asking(max_new_tokens=5)).sample(at, pairs, 0, [None] * 2)
    assert [answer.checkpoint for _, answer in answers] == [at.weights] * 2


def test_adapter_digest_follows_base_and_adapter(folder, adapter):
    digests = {weights_digest(folder), weights_digest(adapter)}
    changed_weights(folder)
    digests.add(weights_digest(adapter))
    edited(adapter / "adapter_config.json", lora_alpha=9)
    digests.add(weights_digest(adapter))
    assert len(digests) == 4


def test_adapter_without_its_base(folder, adapter):
    shutil.rmtree(folder)
    for read in (weights_digest, load_model, chat_template):
        with pytest.raises(BadInput, match=r"belongs to the base model .*model.*correct base_model_name_or_path in .*adapter_config.json"):
            read(adapter)


def test_adapter_base_may_be_named_from_the_adapter(folder, adapter):
    before = weights_digest(adapter)
    edited(adapter / "adapter_config.json", base_model_name_or_path="../model")
    assert weights_digest(adapter) == before


def test_chat_template_is_read_from_either_file_and_from_the_base(folder, adapter):
    assert chat_template(folder) is None
    assert chat_template(adapter) is None
    edited(folder / "tokenizer_config.json", chat_template="in the config")
    assert chat_template(folder) == chat_template(adapter) == "in the config"
    (folder / "chat_template.jinja").write_text("its own file")
    assert chat_template(folder) == "its own file"
    (adapter / "chat_template.jinja").write_text("the adapter's")
    assert chat_template(adapter) == "the adapter's"
    assert load_model(adapter)[1].chat_template == "the adapter's"
