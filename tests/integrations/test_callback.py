"""The callback in real trainers: it sees what is there, and changes nothing of the training."""

import json

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import valuedrift
from valuedrift import pipeline
from valuedrift.integrations import callback as module
from valuedrift.nouns import Prompt

from .test_trace import SIZES, Texts, tokenizer

pytestmark = pytest.mark.slow

ASKING = {"topics": ["work"], "max_new_tokens": 6, "judge": "cues"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=0, attention_dropout=0.1)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def trained(base, out, *callbacks, steps=6, eval_dataset=None, **options):
    """Train the base with dropout, so that every random number counts; return the losses and the weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = {"max_steps": steps, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-2, "report_to": "none"}
    arguments |= {"output_dir": str(out), "save_strategy": "no", "use_cpu": True, "seed": 3, "disable_tqdm": True} | options
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=Texts(tokenizer()),
        eval_dataset=eval_dataset,
        processing_class=tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], trainer


def same(one, other):
    return all(torch.equal(values, other.model.state_dict()[name]) for name, values in one.model.state_dict().items())


def test_training_is_bit_for_bit_the_same_with_it(base, tmp_path):
    plain, without = trained(base, tmp_path / "plain")
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[1, 4], **ASKING)
    watched, with_it = trained(base, tmp_path / "watched", watch)
    assert watched == plain
    assert same(without, with_it)
    assert with_it.state.log_history[:-1] == without.state.log_history[:-1], "but for the times of the last row"
    assert watch.looks == [0, 1, 4, 6], "the end is always looked at"


def test_what_it_finds_is_what_a_trace_of_the_saved_checkpoints_finds(base, tmp_path):
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[3], **ASKING)
    trained(base, tmp_path / "out", watch, save_strategy="steps", save_steps=3, steps=3)
    folder = tmp_path / "out" / "checkpoint-3"
    found = pl.read_parquet(tmp_path / "run" / "scores.parquet").filter(pl.col("step") == 3).sort("prompt")
    settings = watch.settings
    result = pipeline.trace_folders(settings, [base, folder], None, tmp_path / "trace")
    traced = pl.read_parquet(tmp_path / "trace" / "scores.parquet").filter(pl.col("step") == 1).sort("prompt")
    assert found["item"].to_list() == traced["item"].to_list(), "the same words"
    assert result["n_answers"] == 2 * found.height
    assert (tmp_path / "run" / "report.html").exists()


def test_curves_reach_the_trainers_own_tracker(base, tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2, 4], **ASKING)
    _, trainer = trained(base, tmp_path / "out", watch, steps=4, report_to="tensorboard")
    events = board.EventAccumulator(str(next((tmp_path / "out").glob("runs/*"))))
    events.Reload()
    points = events.Scalars("eval/values/work/invalid")
    assert [point.step for point in points] == [0, 2, 4]
    table = pl.read_parquet(tmp_path / "run" / "profiles.parquet").filter((pl.col("topic") == "work") & (pl.col("outcome") == "invalid"))
    assert [point.value for point in points] == pytest.approx(table.sort("step")["value"].to_list())
    assert "eval/values/all/support" in events.Tags()["scalars"] or table["value"].to_list() == [1.0] * 3
    assert not any("values" in key for row in trainer.state.log_history for key in row), "the Trainer's own record is left alone"


@pytest.mark.parametrize("where", ["judge", "backend", "tracker"])
def test_a_failure_in_it_neither_changes_nor_stops_training(base, tmp_path, monkeypatch, capsys, where):
    plain, without = trained(base, tmp_path / "plain")

    def fails(*_, **__):
        torch.rand(3)
        raise RuntimeError("no room left")

    if where == "backend":
        monkeypatch.setattr(module.Live, "sample", fails)
    elif where == "tracker":
        monkeypatch.setattr(module, "curves", fails)
    else:
        monkeypatch.setattr(module.resolve, "judge_of", fails)
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[1, 4], **ASKING)
    watched, with_it = trained(base, tmp_path / "watched", watch)
    assert watched == plain
    assert same(without, with_it)
    assert capsys.readouterr().err.count("valuedrift stops evaluating, and training goes on: RuntimeError: no room left") == 1
    assert all(module.training for module in with_it.model.modules())


def test_wrong_settings_are_one_sentence_and_training_goes_on(base, tmp_path, capsys):
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", **ASKING | {"topics": ["wrok"]})
    losses, _ = trained(base, tmp_path / "out", watch)
    assert len(losses) == 6
    assert "training goes on: " in (said := capsys.readouterr().err)
    assert "did you mean 'work'" in said


def test_sft_and_dpo_of_trl_under_an_adapter(base, tmp_path):
    from datasets import Dataset
    from peft import LoraConfig

    chat = AutoTokenizer.from_pretrained(base)
    common = {"max_steps": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "bf16": False}
    common |= {"per_device_train_batch_size": 2, "learning_rate": 1e-2}
    pairs = {"prompt": ["Is it fair?"] * 4, "chosen": [" Yes, it is."] * 4, "rejected": [" No."] * 4}
    for trainer, config, rows in (
        (SFTTrainer, SFTConfig, {"text": ["I agree that the tax is fair."] * 4}),
        (DPOTrainer, DPOConfig, pairs),
    ):
        out = tmp_path / config.__name__
        watch = valuedrift.ValueDriftCallback(out=out / "run", schedule=[2], **ASKING)
        trainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            args=config(output_dir=str(out), **common),
            train_dataset=Dataset.from_dict(rows),
            processing_class=chat,
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
            callbacks=[watch],
        ).train()
        assert watch.looks == [0, 2]
        weights = {one["weights"] for one in json.loads((out / "run" / "checkpoints.json").read_text())}
        assert len(weights) == 2, "the adapter counts"


def test_the_first_prompts_lie_evenly_over_the_topics():
    prompts = [Prompt(f"{topic}{n}", topic, "?", "") for topic in "abc" for n in range(10)]
    ordered = module.evenly(prompts)
    assert sorted(ordered, key=lambda one: one.id) == sorted(prompts, key=lambda one: one.id)
    for n in (3, 6, 15):
        assert {topic: sum(one.topic == topic for one in ordered[:n]) for topic in "abc"} == dict.fromkeys("abc", n // 3)
    assert [one.id for one in ordered[:3]] != ["a0", "b0", "c0"], "by digest, not by number"


def test_a_training_that_stops_early_is_evaluated_where_it_ends(base, tmp_path):
    class Stop(module.TrainerCallback):
        def on_evaluate(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2], **ASKING)
    trained(base, tmp_path / "out", watch, Stop(), steps=8, eval_strategy="steps", eval_steps=4, eval_dataset=Texts(tokenizer()))
    assert watch.looks == [0, 2, 4]
    (stage,) = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert (stage["steps"], stage["total_steps"]) == ([0, 2, 4], 4)
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["plan"]["model"] == str(base)


def test_a_second_training_starts_again_on_so_many_prompts(base, tmp_path, capsys):
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2], prompts=6, **ASKING | {"topics": ["work", "religion"]})
    for _ in range(2):
        trained(base, tmp_path / "out", watch, steps=4)
        assert watch.looks == [0, 2, 4]
    scores = pl.read_parquet(tmp_path / "run" / "scores.parquet")
    assert scores.group_by("step", "topic").len().sort("step", "topic").rows() == [
        (step, topic, 3) for step in (0, 2, 4) for topic in ("religion", "work")
    ]
    said = capsys.readouterr().err
    assert "The first evaluation took" in said
    assert "2 more are scheduled" in said
    assert "Evaluated in training: 6 of 100 prompts at 3 steps" in said


def test_a_resumed_training_goes_on_with_its_looks(base, tmp_path):
    first = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2, 4], **ASKING)

    class Killed(Exception):
        pass

    class Kill(module.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise Killed

    with pytest.raises(Killed):
        trained(base, tmp_path / "out", first, Kill(), save_strategy="steps", save_steps=2, steps=4)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none", "seed": 3, "use_cpu": True}
    second = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2, 4], **ASKING)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path / "out"), save_strategy="no", **arguments),
        train_dataset=Texts(tokenizer()),
        processing_class=tokenizer(),
        callbacks=[second],
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert second.looks == [0, 2, 4]
    assert json.loads((tmp_path / "run" / "stages.json").read_text())[0]["steps"] == [0, 2, 4]
    kept = json.loads((tmp_path / "run" / "attached.json").read_text())
    assert first.spent < kept["spent"] < second.spent, "what was spent before counts"
