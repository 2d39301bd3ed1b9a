"""Checkpoints of LLaMA-Factory and axolotl, made by their own commands if they are installed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from valuedrift.checkpoints.discover import discover
from valuedrift.models.loading import weights_digest

from .test_layouts import differing, only

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
