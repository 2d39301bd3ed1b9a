"""Checkpoints as other trainers leave them: made by the real tool where it is installed, else by its documented layout."""

import json
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from valuedrift.checkpoints.discover import discover
from valuedrift.models.loading import load_model, weights_digest
from valuedrift.nouns import BadInput


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
    with pytest.raises(BadInput, match="cannot be merged"):
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
    with pytest.raises(BadInput, match=r"optimiser with the model .*convert_to_hf.py"):
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
    shutil.copy(base / "tokenizer.json", tmp_path / "sft" / "checkpoint-5")
    shutil.copy(base / "tokenizer_config.json", tmp_path / "sft" / "checkpoint-5")
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
        BadInput, match=r"trained on /nowhere/merged, which does not exist, and the stage before it is an adapter on /nowhere/base"
    ):
        discover([tmp_path / "sft", tmp_path / "dpo"], str(base), tmp_path / "made")
