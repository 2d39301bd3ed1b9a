"""Checkpoints as other trainers leave them: made by the real tool where it is installed, else by its documented layout."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from valuedrift.checkpoints.discover import discover
from valuedrift.models.loading import load_model, weights_digest
from valuedrift.nouns import BadInput

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


def tokenizer():
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "Question": 2, "Answer": 3, "yes": 4, "no": 5}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="[UNK]")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, eos_token_id=1, tie_word_embeddings=False, **SIZES)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def trained(base):
    """The model after some training: weights that no other checkpoint has."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.01
    return model


def norm(path):
    return load_model(path)[0].model.norm.weight.detach()


def only(found):
    (stage,) = found
    return [step for step, _ in stage.steps], stage.steps[-1][1]


def test_the_trainers_checkpoints_without_a_tokenizer_borrow_one(tmp_path, base, trained):
    trained.save_pretrained(tmp_path / "out" / "checkpoint-5")
    steps, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert steps == [0, 5]
    assert torch.equal(norm(path), trained.model.norm.weight)
    assert weights_digest(path) != weights_digest(base)
    again = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert again == (steps, path), "made once"
    with pytest.raises(BadInput, match=r"checkpoint-5 has no tokenizer, nor has .*out; name the model it was trained from with --base"):
        discover([tmp_path / "out"], None, tmp_path / "made")


def test_what_is_whole_stays_where_it_is(tmp_path, base):
    shutil.copytree(base, tmp_path / "out" / "checkpoint-5")
    assert only(discover([tmp_path / "out"], None, tmp_path / "made"))[1] == str(tmp_path / "out" / "checkpoint-5")
    assert not (tmp_path / "made").exists()


def test_accelerates_states_borrow_their_settings(tmp_path, base, trained):
    """open-instruct's step_N and epoch_N folders are these."""
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(trained)
    accelerator.save_state(str(tmp_path / "out" / "step_20"))
    assert not (tmp_path / "out" / "step_20" / "config.json").exists()
    steps, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert steps == [0, 20]
    assert torch.equal(norm(path), trained.model.norm.weight)


def test_the_final_model_around_a_state_lends_what_it_lacks(tmp_path, base, trained):
    shutil.copytree(base, tmp_path / "out")
    (tmp_path / "out" / "step_20").mkdir()
    save_file(trained.state_dict(), tmp_path / "out" / "step_20" / "model.safetensors", metadata={"format": "pt"})
    _, path = only(discover([tmp_path / "out"], None, tmp_path / "made"))
    assert torch.equal(norm(path), trained.model.norm.weight)


def test_tokenizer_files_are_borrowed_one_by_one(tmp_path, base, trained):
    folder = tmp_path / "out" / "checkpoint-5"
    trained.save_pretrained(folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    _, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert load_model(path)[1].chat_template == "{{ messages[0]['content'] }}"
    assert load_model(path)[1]("yes")["input_ids"] == [4]
    (folder / "tokenizer_config.json").unlink()
    shutil.copy(base / "tokenizer.json", folder)
    shutil.copy(base / "tokenizer_config.json", tmp_path / "out")  # as the final model has it
    (tmp_path / "out" / "config.json").write_text("{}")
    _, path = only(discover([tmp_path / "out"], None, tmp_path / "made"))
    assert load_model(path)[1].eos_token == "</s>"


def test_a_whole_model_under_fsdp_borrows_its_settings(tmp_path, base, trained):
    folder = tmp_path / "out" / "checkpoint-5"
    folder.mkdir(parents=True)
    torch.save(trained.state_dict(), folder / "pytorch_model_fsdp.bin")
    steps, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert steps == [0, 5]
    assert torch.equal(norm(path), trained.model.norm.weight)


def test_models_below_their_step_are_loaded(tmp_path, base, trained):
    trained.save_pretrained(tmp_path / "out" / "step_100" / "hf")
    shutil.copy(base / "tokenizer.json", tmp_path / "out")
    _, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert torch.equal(norm(path), trained.model.norm.weight)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="policy")
    adapted.save_pretrained(tmp_path / "named" / "checkpoint-5")
    assert only(discover([tmp_path / "named"], None, tmp_path / "made")) == ([5], str(tmp_path / "named" / "checkpoint-5" / "policy"))


def test_verls_shards_name_the_command(tmp_path, base):
    actor = tmp_path / "out" / "global_step_5" / "actor"
    shutil.copytree(base, actor / "huggingface", ignore=shutil.ignore_patterns("model*"))
    (actor / "model_world_size_1_rank_0.pt").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"verl.model_merger merge --backend fsdp --local_dir .*actor --target_dir .*actor/huggingface'"):
        discover([tmp_path / "out"], None, tmp_path / "made")


def sharded(trained, folder):
    folder.mkdir(parents=True)
    dcp.save({"model": trained.state_dict()}, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)


def test_fsdp_shards_are_put_together(tmp_path, base, trained):
    sharded(trained, tmp_path / "out" / "checkpoint-5" / "pytorch_model_fsdp_0")
    _, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    model, _ = load_model(path)
    assert all(torch.equal(values, model.state_dict()[name]) for name, values in trained.state_dict().items())


def test_broken_shards_and_those_of_an_adapter_are_refused(tmp_path, base, trained):
    place = tmp_path / "out" / "checkpoint-5" / "pytorch_model_fsdp_0"
    sharded(trained, place)
    part = next(place.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(BadInput, match="cannot be put together"):
        discover([tmp_path / "out"], str(base), tmp_path / "made")
    assert not [path for path in (tmp_path / "made").iterdir() if not path.name.startswith(".tmp")]
    shutil.rmtree(place)
    sharded(get_peft_model(trained, LoraConfig(r=2, target_modules=["q_proj"])), place)
    with pytest.raises(BadInput, match=r"shards of an adapter .*FULL_STATE_DICT"):
        discover([tmp_path / "out"], str(base), tmp_path / "made")


def test_torchtitans_checkpoints_name_their_converter(tmp_path, base, trained):
    folder = tmp_path / "checkpoint" / "step-10"
    folder.mkdir(parents=True)
    state = trained.state_dict() | {"optimizer": {"state": torch.zeros(2)}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    with pytest.raises(BadInput, match=r"optimiser beside the model .*convert_to_hf.py"):
        discover([tmp_path / "checkpoint"], str(base), tmp_path / "made")


def test_deepspeeds_shards_name_the_command(tmp_path, base):
    """As ZeRO-3 leaves them without stage3_gather_16bit_weights_on_model_save: settings, but no weights."""
    folder = tmp_path / "out" / "checkpoint-5"
    (folder / "global_step5").mkdir(parents=True)
    (folder / "global_step5" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    (folder / "latest").write_text("global_step5")
    (folder / "zero_to_fp32.py").write_text("")
    shutil.copy(base / "config.json", folder)
    with pytest.raises(BadInput, match=r"zero_to_fp32.py .*checkpoint-5 .*checkpoint-5 --safe_serialization'"):
        discover([tmp_path / "out"], str(base), tmp_path / "made")


# -- adapters ----------------------------------------------------------------------------------------------------------------


def adapter(model, folder):
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


def test_an_adapter_whose_base_has_moved_belongs_to_the_base_that_is_named(tmp_path, base):
    merged = adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out" / "checkpoint-5")
    file = tmp_path / "out" / "checkpoint-5" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(BadInput, match=r"belongs to the base model '/nowhere/base', which is not there.*--base"):
        discover([tmp_path / "out"], None, tmp_path / "made")
    _, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    loaded = load_model(path)[0].model.layers[0].self_attn.q_proj.weight
    assert torch.equal(loaded, merged.model.layers[0].self_attn.q_proj.weight)


def torchtunes(folder, base, trained, shift=0.0):
    """Write a checkpoint as torchtune 0.6's FullModelHFCheckpointer does after training an adapter: merged weights and the adapter."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("model*"))
    weights = {name: values + shift for name, values in trained.state_dict().items()}
    save_file(weights, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "peft_type": "LORA"}))
    parts = {"a": torch.ones(2, 32), "b": torch.ones(32, 2)}
    where = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    named = {where.format(layer, part.upper()): values.clone() for layer in (0, 1) for part, values in parts.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def test_torchtunes_merged_weights_are_not_adapted_twice(tmp_path, base, trained):
    for epoch in (0, 1):
        torchtunes(tmp_path / "out" / f"epoch_{epoch}", base, trained, epoch * 0.5)
    steps, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert steps == [0, 1, 2], "an epoch is over when it is saved"
    loaded = load_model(path)[0].state_dict()
    assert all(torch.equal(loaded[name], values + 0.5) for name, values in trained.state_dict().items())


def test_torchtunes_adapters_alone_belong_to_the_base_that_is_named(tmp_path, base, trained):
    folder = tmp_path / "out" / "epoch_0"
    torchtunes(folder, base, trained)
    for weights in folder.glob("model*"):
        weights.unlink()
    _, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    loaded, plain = (load_model(place)[0].model.layers[0].self_attn.q_proj.weight for place in (path, base))
    torch.testing.assert_close(loaded - plain, torch.full((32, 32), 4.0))  # alpha / r * B A = 4 / 2 * 2


def test_torchtunes_own_checkpoints(tmp_path, base):
    torchtune = pytest.importorskip("torchtune.training", reason="torchtune is not installed")
    checkpointer = torchtune.FullModelHFCheckpointer(
        checkpoint_dir=str(base), checkpoint_files=["model.safetensors"], model_type="LLAMA3", output_dir=str(tmp_path / "out")
    )
    state = checkpointer.load_checkpoint()
    state["model"] = {name: values + 1 for name, values in state["model"].items()}
    checkpointer.save_checkpoint(state, epoch=0)
    steps, path = only(discover([tmp_path / "out"], str(base), tmp_path / "made"))
    assert steps == [0, 1]
    torch.testing.assert_close(norm(path), norm(base) + 1)


# -- axolotl and LLaMA-Factory -----------------------------------------------------------------------------------------------


def differing(path, other):
    ours, theirs = (load_model(place)[0].state_dict() for place in (path, other))
    return max(float((values - theirs[name]).abs().max()) for name, values in ours.items())


def unmerged(folder, base):
    """Write a final model as axolotl 0.19 does after a DPO of an adapter: the adapter, and a model whose names keep it apart."""
    merged = adapter(AutoModelForCausalLM.from_pretrained(base), folder)
    shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model*"))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    save_file(adapted.base_model.model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return merged


@pytest.mark.parametrize("indexed", [False, True])
def test_an_adapter_that_its_model_keeps_apart_is_what_counts(tmp_path, base, indexed):
    folder = tmp_path / "dpo"
    merged = unmerged(folder, base)
    if indexed:  # as what is too large for one file
        names = dict.fromkeys(load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    _, path = only(discover([folder], str(base), tmp_path / "made"))
    loaded = load_model(path)[0].state_dict()
    assert all(torch.equal(loaded[name], values) for name, values in merged.state_dict().items())
    assert weights_digest(path) != weights_digest(base)


def test_a_later_stages_adapter_whose_base_has_moved_belongs_to_the_model_before(tmp_path, base, trained):
    trained.save_pretrained(tmp_path / "sft" / "checkpoint-5")
    tokenizer().save_pretrained(tmp_path / "sft" / "checkpoint-5")
    merged = adapter(trained, tmp_path / "dpo" / "checkpoint-3")
    file = tmp_path / "dpo" / "checkpoint-3" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/nowhere/sft"}))
    for given in (str(base), None):
        _, dpo = discover([tmp_path / "sft", tmp_path / "dpo"], given, tmp_path / "made")
        loaded = load_model(dpo.steps[-1][1])[0].state_dict()
        assert all(torch.equal(loaded[name], values) for name, values in merged.state_dict().items())


def test_adapters_that_go_on_over_two_stages_belong_to_the_base_that_is_named(tmp_path, base):
    for stage in ("sft", "dpo"):
        adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / stage / "checkpoint-3")
        file = tmp_path / stage / "checkpoint-3" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/nowhere/base"}))
    sft, dpo = discover([tmp_path / "sft", tmp_path / "dpo"], str(base), tmp_path / "made")
    assert differing(sft.steps[-1][1], dpo.steps[-1][1]) == 0.0
    assert differing(sft.steps[-1][1], base) > 0.0
    # the second was trained on something else, which the first may have been merged into
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/nowhere/merged"}))
    with pytest.raises(
        BadInput, match=r"trained on /nowhere/merged, which is not there, and the stage before it is an adapter on /nowhere/base"
    ):
        discover([tmp_path / "sft", tmp_path / "dpo"], str(base), tmp_path / "made")


TEMPLATE = "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
SETTINGS = {"max_steps": 3, "save_steps": 2, "learning_rate": 0.1, "report_to": "none"}


@pytest.fixture(scope="module")
def talker(base, tmp_path_factory):
    """A folder with a model that has a chat template, and with dialogues and pairs as both tools read them."""
    folder = tmp_path_factory.mktemp("talker")
    shutil.copytree(base, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(TEMPLATE)
    asked, good, bad = (
        {"role": role, "content": text} for role, text in (("user", "Question"), ("assistant", "Answer yes"), ("assistant", "Answer no"))
    )
    for name, record in {"sft": {"messages": [asked, good]}, "dpo": {"messages": [asked], "chosen": good, "rejected": bad}}.items():
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(record)}\n" * 8)
    return folder


def command(tool, verb, settings, file):
    """Run a tool's own command on settings; JSON is YAML too."""
    file.write_text(json.dumps(settings))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(file.parent / "hub"), "AXOLOTL_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    after = ["--launcher", "python"] if (tool, verb) == ("axolotl", "train") else []
    line = [str(Path(sys.executable).with_name(tool)), verb, str(file), *after]
    done = subprocess.run(line, env=os.environ | offline, cwd=file.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


class LlamaFactory:
    """`llamafactory-cli train` and `export`."""

    tool = "llamafactory-cli"

    def __init__(self, talker, place):
        self.talker, self.place = talker, place
        turns = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        kind = {"formatting": "sharegpt", "tags": turns}
        pairs = kind | {"ranking": True, "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}}
        listed = {"sft": kind | {"columns": {"messages": "messages"}}, "dpo": pairs}
        named = {name: entry | {"file_name": str(talker / f"{name}.jsonl")} for name, entry in listed.items()}
        (place / "dataset_info.json").write_text(json.dumps(named))

    def train(self, name, model, stage, lora, **more):
        data = {"dataset": stage, "dataset_dir": str(self.place), "template": "empty", "cutoff_len": 32, "overwrite_cache": True}
        kind = {"stage": stage, "do_train": True, "finetuning_type": "lora" if lora else "full"}
        settings = {"model_name_or_path": str(model), "output_dir": str(self.place / name), **SETTINGS, **data, **kind, **more}
        command(self.tool, "train", settings, self.place / f"{name}.yaml")
        return self.place / name

    def merged(self, model, *adapters):
        out = self.place / f"{adapters[-1].name}-merged"
        settings = {"model_name_or_path": str(model), "adapter_name_or_path": ",".join(map(str, adapters)), "template": "empty"}
        command(self.tool, "export", settings | {"export_dir": str(out), "infer_dtype": "float32"}, self.place / "export.yaml")
        return out


class Axolotl:
    """`axolotl train` and `merge-lora`."""

    tool = "axolotl"

    def __init__(self, talker, place):
        self.talker, self.place = talker, place

    def settings(self, name, model, stage, lora):
        data = {"path": str(self.talker / f"{stage}.jsonl"), "ds_type": "json", "split": "train"}
        kind = {"rl": "dpo"} if stage == "dpo" else {}
        data["type"] = "chat_template.default" if kind else "chat_template"
        kernels = {f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o", "embedding")}  # they need a GPU
        adapter = {"adapter": "lora", "lora_r": 2, "lora_alpha": 4, "lora_target_linear": True, **kernels} if lora else {}
        trainer = {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "sequence_len": 32, "bf16": False, "tf32": False}
        trainer |= {"optimizer": "adamw_torch", "lr_scheduler": "constant", "val_set_size": 0, "special_tokens": {"pad_token": "</s>"}}
        places = {"base_model": str(model), "output_dir": str(self.place / name), "dataset_prepared_path": str(self.place / "prepared")}
        return {**places, "datasets": [data], **SETTINGS, **kind, **adapter, **trainer}

    def train(self, name, model, stage, lora, **more):
        command(self.tool, "train", self.settings(name, model, stage, lora) | more, self.place / f"{name}.yaml")
        return self.place / name

    def merged(self, model, folder):
        command(self.tool, "merge-lora", self.settings(folder.name, model, "sft", True), self.place / "merge.yaml")
        return folder / "merged"


@pytest.fixture
def trainer(request, talker, tmp_path):
    package = {LlamaFactory: "llamafactory", Axolotl: "axolotl"}[request.param]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return request.param(talker, tmp_path)


both = pytest.mark.parametrize("trainer", [LlamaFactory, Axolotl], indirect=True)


@both
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_their_own_checkpoints(tmp_path, trainer, stage):
    base = trainer.talker / "base"
    out = trainer.train(stage, base, stage, lora=False)
    (found,) = discover([out], str(base), tmp_path / "made")
    assert (found.name, [step for step, _ in found.steps]) == (stage, [0, 2, 3])
    assert len({weights_digest(path) for _, path in found.steps}) == 3
    assert differing(found.steps[-1][1], out) == 0.0, "the last checkpoint is the final model"


@both
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_their_own_adapters(tmp_path, trainer, stage):
    base = trainer.talker / "base"
    out = trainer.train(stage, base, stage, lora=True)
    merged = trainer.merged(base, out)
    (found,) = discover([out], str(base), tmp_path / "made")
    assert (found.name, [step for step, _ in found.steps]) == (stage, [0, 2, 3])
    assert differing(found.steps[-1][1], merged) < 1e-6
    assert differing(found.steps[-1][1], base) > 1e-3
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    steps, path = only(discover([out], str(base), tmp_path / "made"))
    assert steps == [0, 1], "the final model alone"
    assert differing(path, merged) < 1e-6


@both
def test_their_adapters_on_a_whole_model_that_has_moved(tmp_path, trainer):
    base = trainer.talker / "base"
    sft = trainer.train("sft", base, "sft", lora=False)
    dpo = trainer.train("dpo", sft, "dpo", lora=True)
    merged = trainer.merged(sft, dpo)
    sft = sft.rename(tmp_path / "elsewhere")
    first, second = discover([sft, dpo], str(base), tmp_path / "made")
    assert [(stage.name, [step for step, _ in stage.steps]) for stage in (first, second)] == [("elsewhere", [0, 2, 3]), ("dpo", [0, 2, 3])]
    assert differing(second.steps[-1][1], merged) < 1e-6


@pytest.mark.parametrize("trainer", [LlamaFactory], indirect=True)
def test_an_adapter_on_top_of_another_has_to_be_told_its_base(tmp_path, trainer):
    base = trainer.talker / "base"
    sft = trainer.train("sft", base, "sft", lora=True)
    dpo = trainer.train("dpo", base, "dpo", lora=True, adapter_name_or_path=str(sft), create_new_adapter=True)
    truth = trainer.merged(base, sft, dpo)
    _, path = only(discover([dpo], str(base), tmp_path / "made"))
    assert differing(path, truth) > 1e-3, "nothing in its folder tells of the first one"
    file = dpo / "checkpoint-3" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(trainer.merged(base, sft))}))
    _, path = only(discover([dpo], str(base), tmp_path / "made"))
    assert differing(path, truth) < 1e-6


# -- hub ---------------------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as its client needs to list revisions and to fetch the files of one."""

    repos: dict  # name -> revision -> folder

    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revisions = "/".join(parts[2:4]), self.repos["/".join(parts[2:4])]
            if parts[4:] == ["refs"]:
                refs = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": sha(one)} for one in revisions]
                return self.answer(json.dumps({"branches": refs, "converts": [], "tags": []}).encode(), Content_Type="application/json")
            revision, folder = self.found(revisions, parts[5])
            found: object = {"id": name, "sha": sha(revision), "private": False, "tags": [], "downloads": 0}
            if parts[4] == "tree":
                files = sorted(folder.iterdir())
                found = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": sha(path.name)} for path in files]
            return self.answer(json.dumps(found).encode(), Content_Type="application/json")
        if parts[0] == "api":  # the client asks for more than it needs
            return self.send_error(404)
        revision, folder = self.found(self.repos["/".join(parts[:2])], parts[3])
        body = (folder / parts[4]).read_bytes()
        return self.answer(body, ETag=f'"{sha(revision + parts[4])}"', X_Repo_Commit=sha(revision))

    do_HEAD = do_GET

    def found(self, revisions, wanted):
        return next((one, folder) for one, folder in revisions.items() if wanted in (one, sha(one)))

    def log_message(self, *_):
        pass


def sha(text):
    import hashlib

    return hashlib.sha1(text.encode()).hexdigest()


@pytest.fixture
def hub(tmp_path, base, trained):
    """Return the environment in which the hub is a server on this machine; it holds a model with three revisions of two steps."""
    revisions = {}
    for place, name in enumerate(["step1000", "step20", "main"]):
        folder = shutil.copytree(base, tmp_path / "hub" / name)
        weights = {key: values + place for key, values in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        revisions[name] = folder
    staged = {f"stage{n}-step{step}-tokens{step}B": base for n in (1, 2) for step in (5, 10)}
    beside = {f"stage2-ingredient{n}-step5": base for n in (1, 2)}
    handler = type("Handler", (Hub,), {"repos": {"people/model": revisions, "people/staged": staged, "people/beside": beside}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    server.shutdown()


SCRIPT = """
import json, sys
from valuedrift.checkpoints.discover import discover
from valuedrift.nouns import BadInput
from valuedrift.models.loading import weights_digest
try:
    found = discover(sys.argv[1:])
    print(json.dumps([[stage.name, [[step, path, weights_digest(path)] for step, path in stage.steps]] for stage in found]))
except BadInput as error:
    print(json.dumps(str(error)))
"""


def test_revisions_of_a_hub_id_are_a_stage(hub):
    def found(*targets):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *targets], env=hub, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    ((name, steps),) = found("people/model@step*")
    assert (name, [(step, path) for step, path, _ in steps]) == ("model", [(20, "people/model@step20"), (1000, "people/model@step1000")])
    assert len({weights for _, _, weights in steps}) == 2
    assert [step for step, _, _ in found("people/model@step20,main")[0][1]] == [20, 21]
    staged = found("people/staged@stage*")
    assert [(name, [step for step, _, _ in steps]) for name, steps in staged] == [("staged-stage1", [5, 10]), ("staged-stage2", [0, 5, 10])]
    assert "lie beside each other" in found("people/beside@*")
    assert "has no revision like 'epoch*'; it has step1000, step20, main" in found("people/model@epoch*")
