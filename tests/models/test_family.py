"""A note warns if the judge reads with a model of the traced model's family."""

import json

import pytest
from peft import LoraConfig

from valuedrift import judge, plan, testing, verbs
from valuedrift.models.family import family_notes, family_of


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai:gemma-3-4b-it", "gemma"),
        ("openai:meta-llama/Llama-3.1-8B", "llama"),
        ("openai:gpt-5-mini", "gpt"),
        ("google/gemma-3-4b-it@main", "gemma"),
        ("Qwen/Qwen3-0.6B@main", "qwen"),
        ("no/such/folder", "folder"),
    ],
)
def test_a_name_tells_the_family_by_its_first_word(name, family):
    assert family_of(name) == family


def test_a_folder_tells_it_by_its_model_type_and_an_adapter_by_that_of_its_base(folders, tmp_path):
    assert {kind: family_of(str(folder)) for kind, folder in folders.items()} == {"llama": "llama", "qwen3": "qwen", "gemma3": "gemma"}
    adapter = tmp_path / "adapter"
    LoraConfig(base_model_name_or_path=str(folders["gemma3"])).save_pretrained(adapter)
    assert family_of(str(adapter)) == "gemma"
    for model_type, family in (("gpt_neox", "gpt_neox"), ("qwen2_moe", "qwen"), ("deepseek_v3", "deepseek")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert family_of(str(tmp_path)) == family


def test_one_note_per_model_of_the_judge_that_is_of_the_family(folders):
    gemma, qwen = str(folders["gemma3"]), str(folders["qwen3"])
    assert family_notes([qwen], [gemma, gemma]) == []
    (note,) = family_notes(["openai:gemma-3-27b-it", qwen], [gemma, gemma])
    assert note.startswith(f"The judge reads with openai:gemma-3-27b-it, and {gemma} wrote the answers")
    assert "the family 'gemma'" in note


@pytest.mark.parametrize("spec", ["labels:{0}", "panel:cues,labels:{0}"])
def test_check_gives_the_note(folders, tmp_path, spec):
    model = testing.save_sandbox_model(tmp_path / "model")
    made = tmp_path / "plan.toml"
    made.write_text(testing.PLAN.format(model=model))
    for kind, n in (("llama", 1), ("qwen3", 0)):
        named = spec.format(folders[kind])
        assert judge.make(named).models == (str(folders[kind]),) or named.startswith("panel")
        said = verbs.check(plan.load(made, (f'judge = "{named}"',)), tmp_path / "run")["sentences"]
        assert sum("are of the family 'llama'" in sentence for sentence in said) == n
