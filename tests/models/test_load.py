import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from valuedrift.evaluate.transformers import Backend
from valuedrift.models import checks
from valuedrift.models.loading import chat_template, check_causal, likeness, load_model, weights_digest
from valuedrift.nouns import BadInput, Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings

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


def test_digest_is_the_same_whether_the_tokenizer_was_saved_offline(folder):
    digests = set()
    for offline in (False, True):
        edited(folder / "tokenizer_config.json", local_files_only=offline)
        digests.add(weights_digest(folder))
    assert len(digests) == 1


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


def test_likeness_names_everything_but_the_weights(folder, folders):
    like = likeness(folders["llama"])
    changed_weights(folder)
    assert likeness(folder) == like != likeness(folders["qwen3"])
    edited(folder / "config.json", rms_norm_eps=1e-3)
    assert likeness(folder) != like


def test_changed_weights_answer_differently_under_the_same_name(folder):
    backend, prompt = Backend(EvaluationSettings(max_new_tokens=8)), Prompt("p", "work", "Is it right?", "it is right")
    pairs = [(prompt, draw) for draw in range(4)]

    def answers():
        return [answer for _, answer in backend.sample(Checkpoint("sft", 1, str(folder), weights_digest(folder)), pairs, 0)]

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


def test_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    """They lead to files that are named by their digest alone."""
    ids, before = torch.tensor([[5, 6, 7]]), weights_digest(folder)
    logits = load_model(folder)[0](ids).logits
    (folder / WEIGHTS).rename(tmp_path / "0123abcd")
    (folder / WEIGHTS).symlink_to(tmp_path / "0123abcd")
    assert weights_digest(folder) == before
    assert torch.equal(load_model(folder)[0](ids).logits, logits)
    checks.folders([Checkpoint("s", 0, str(folder), before)], [Prompt("p", "work", "Is it right?", "")], "auto")


# -- faults ----------------------------------------------------------------------------------------------------------------


def as_bin(make=lambda tensors: tensors, **options):
    def change(folder):
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        torch.save(make(tensors), folder / "pytorch_model.bin", **options)

    return change


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return (print, ("run",))


def folder_in_place_of(name):
    return lambda folder: ((folder / name).unlink(missing_ok=True), (folder / name).mkdir())


def pointer(name):
    return lambda folder: (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def cut(n_bytes):
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:n_bytes])


def cut_bin(folder):
    as_bin()(folder)
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-2000])


def without_layer(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, folder / WEIGHTS, metadata={"format": "pt"})


def wider(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"model.norm.weight": torch.ones(33)}, folder / WEIGHTS, metadata={"format": "pt"})


def setting(**entries):
    return lambda folder: edited(folder / "config.json", **entries)


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
        (pointer(WEIGHTS), "is a Git LFS pointer"),
        (without_layer, "lacks 9 weights of its architecture, model.layers.1"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "has no tokenizer"),
        (folder_in_place_of(WEIGHTS), r"model.safetensors is a folder and not a file"),
        (folder_in_place_of("config.json"), r"config.json is a folder"),
        (folder_in_place_of("chat_template.jinja"), r"chat_template.jinja is a folder"),
        (pointer("config.json"), "config.json is a Git LFS pointer .* run 'git lfs pull'"),
        (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
        (
            lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("/nowhere/blob")),
            "a link to /nowhere/blob, which is not",
        ),
        (lambda folder: (folder / WEIGHTS).write_bytes((16).to_bytes(8, "little") + b'{"a": {"b": 1 }}xx'), "is damaged"),
        (lambda folder: (sharded(folder), (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": [1]}')), "lists no weight files"),
        (
            as_bin(lambda tensors: tensors | {"code": Code()}),
            r"Weights only load failed\. .*Unsupported global: GLOBAL print.*; it is",
        ),
        (as_bin(lambda tensors: {"model": tensors}), "cannot be read as weights: .*no attribute 'shape'"),
        (cut_bin, "failed finding central directory"),
        (setting(model_type="no-such"), r"config.json cannot be used: .* type `no-such` but .* not recognize .*pip install.*; correct it"),
        (setting(hidden_size="big"), "expected int, got str .*'big'"),
        (setting(hidden_act="no-such"), "KeyError: 'no-such'"),
        (setting(num_hidden_layers=1), r"9 weights, model.layers.1.* have no place in the model that config.json describes"),
        (setting(auto_map={"AutoConfig": "own.C"}, model_type="own"), "contains custom code"),
        (wider, r"1 weights do not have the shape .* model.norm.weight first \(\(33,\) in the file, \(32,\) by config.json\)"),
        (lambda folder: edited(folder / "generation_config.json", eos_token_id="x"), "eos_token_id is 'x'"),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'),
            "the tokenizer of .* cannot be loaded .*; copy the",
        ),
        (lambda folder: edited(folder / "tokenizer_config.json", chat_template=[{"nme": "x"}]), "its chat_template is no list"),
    ],
)
def test_faults_of_files_are_one_sentence_with_the_whole_reason(folder, spoil, says):
    spoil(folder)
    for read in (load_model, lambda folder: (weights_digest(folder), check_causal(folder), chat_template(folder), load_model(folder))):
        with pytest.raises(BadInput, match=says) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
def test_pickles_of_tensors_are_read(folder, folders, options):
    as_bin(**options)(folder)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(load_model(folder)[0](ids).logits, load_model(folders["llama"])[0](ids).logits)


def test_tokens_without_a_row_are_named_if_they_are_needed(folder, make_tokenizer, template):
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    assert load_model(folder)[1].convert_tokens_to_ids("<new>") == 330, "the model cannot write it, nor does the template"
    tokenizer.chat_template = template.replace("<|user|>", "<new>").replace("<|", "<new><|")
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match=r"1 tokens of the tokenizer have no row in the embedding, which has 330: '<new>' \(330\)"):
        load_model(folder)


# -- what writes no text -----------------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = LlamaConfig(**SMALL, tie_word_embeddings=True, num_labels=1, pad_token_id=0)
T5 = transformers.T5Config(vocab_size=400, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2)


@pytest.mark.parametrize(
    ("model", "config", "settings", "says"),
    [
        ("LlamaForSequenceClassification", LLAMA, {}, "its config.json names LlamaForSequenceClassification"),
        ("LlamaForSequenceClassification", LLAMA, {"architectures": ["LlamaForCausalLM"]}, "its weights hold the layer 'score'"),
        ("LlamaModel", LLAMA, {}, "its config.json names LlamaModel"),
        ("BertForMaskedLM", transformers.BertConfig(**SMALL), {}, "its config.json names BertForMaskedLM"),
        ("BertForMaskedLM", transformers.BertConfig(**SMALL), {"architectures": None}, "depends on the tokens after it"),
        ("BertLMHeadModel", transformers.BertConfig(**SMALL), {}, "depends on the tokens after it, as in an encoder"),
        ("T5ForConditionalGeneration", T5, {}, "its config.json names T5ForConditionalGeneration"),
    ],
)
def test_what_writes_no_text_is_refused(tmp_path, make_tokenizer, model, config, settings, says):
    torch.manual_seed(0)
    getattr(transformers, model)(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    edited(tmp_path / "config.json", **settings)
    with pytest.raises(BadInput, match=f"is not a causal language model: .*{says}"):
        load_model(tmp_path)


@pytest.mark.parametrize("settings", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["score"]}], ids=["task", "score layer"])
def test_adapters_of_reward_models_are_refused(tmp_path, folder, settings):
    from peft import LoraConfig, get_peft_model

    scorer = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    get_peft_model(scorer, LoraConfig(r=2, target_modules=["q_proj"], **settings)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInput, match=r"adapter is not a causal language model: .*(the task SEQ_CLS|the layer 'score')"):
        check_causal(tmp_path / "adapter")


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
    answers = Backend(EvaluationSettings(max_new_tokens=5)).sample(at, pairs, 0)
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
