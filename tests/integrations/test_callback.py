"""The callback in real trainers: it sees what is there, and changes nothing of the training."""

import json
import random
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import valuedrift
from valuedrift import pipeline
from valuedrift.integrations import _pace
from valuedrift.integrations import callback as module
from valuedrift.integrations._pace import Pace
from valuedrift.models import decoder
from valuedrift.nouns import Checkpoint, Prompt
from valuedrift.plan import Asking

from .test_trace import SIZES, Texts, tokenizer

pytestmark = pytest.mark.slow

ASKING = {"topics": ["work"], "max_new_tokens": 6, "judge": "cues", "share": None}


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


@pytest.mark.parametrize("share", [None, 1e9])
def test_training_is_bit_for_bit_the_same_with_it(base, tmp_path, share):
    plain, without = trained(base, tmp_path / "plain")
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[1, 4], **ASKING | {"share": share})
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
    asking = watch.asking
    result = pipeline.trace_folders(asking, [base, folder], None, tmp_path / "trace")
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
        monkeypatch.setattr(module.ValueDriftCallback, "_tell", fails)
    else:
        monkeypatch.setattr(module.pipeline, "judge_of", fails)
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[1, 4], **ASKING)
    watched, with_it = trained(base, tmp_path / "watched", watch)
    assert watched == plain
    assert same(without, with_it)
    assert capsys.readouterr().err.count("valuedrift stops watching, and training goes on: RuntimeError: no room left") == 1
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


# -- its time ----------------------------------------------------------------------------------------------------------------


def test_the_first_prompts_lie_evenly_over_the_topics():
    prompts = [Prompt(f"{topic}{n}", topic, "?", "") for topic in "abc" for n in range(10)]
    ordered = module.evenly(prompts)
    assert sorted(ordered, key=lambda one: one.id) == sorted(prompts, key=lambda one: one.id)
    for n in (3, 6, 15):
        assert {topic: sum(one.topic == topic for one in ordered[:n]) for topic in "abc"} == dict.fromkeys("abc", n // 3)
    assert [one.id for one in ordered[:3]] != ["a0", "b0", "c0"], "by digest, not by number"


class State:
    def __init__(self, step, steps):
        self.global_step, self.max_steps, self.step = step, steps, step


def watching(folder, scheduled, spent, first_step=10.0):
    """A callback amid a training of 100 steps of 10 s, which asked 110 prompts before the first.

    Answers have ten tokens at most, 64 go at a time, and a prompt took 0.1 s, all of it sampling: 6.4 s for 64 of the longest answers. The
    seconds spent include 4.3 that figures and report will take at the end: 1 and 0.3 for each topic. Each look adds 0.11 to these.
    """
    watch = valuedrift.ValueDriftCallback(out=folder, max_new_tokens=10)
    watch._prompts = module.evenly([Prompt(f"{topic}{n}", topic, "?", "") for topic in "abcdefghijk" for n in range(50)])
    watch._scheduled, watch._counts, watch._checkpoints, watch._n = scheduled, [110], [State(0, 100)], 0
    watch._pace = Pace(watch.asking, 22, each=0.1, sampling=0.1, one_pass=0.64, passes=1)
    watch._steps, watch._lasts, watch._n_topics, watch.spent = [first_step], 300.0, 11, spent - 4.3
    return watch


def looked(watch, longer=1.0, course=None):
    """Go through the steps; a prompt takes 0.1 s x `longer`, or each look the seconds and passes of `course`.

    Return the steps after which it looked, and the prompts asked.
    """
    seen, asked = [], []
    for step in range(1, 101):
        watch._steps += [10.0] * (step > 1)
        if step in watch._scheduled and (n := watch._due(State(step, 100), False)):
            seen.append(step)
            asked.append(n)
            seconds, passes = next(course) if course else (0.1 * n * longer, round(0.1 * n * longer / 0.64))
            watch.spent += seconds
            watch._pace.learn(seconds, seconds, passes, n)
            watch._counts.append(n)
            watch._checkpoints.append(State(step, 100))
    return seen, asked


@pytest.mark.parametrize(
    ("spent", "longer", "n", "looks"),
    [
        (-900.0, 1.0, 110, [10, 20, 40, 80, 100]),  # 110 prompts take 11 s
        (13.1, 1.0, 64, [10, 20, 40, 80, 100]),  # 36.8 s left; of 73 prompts two looks could take 12.8 s each, and there were three looks
        (13.1, 1.25, 64, [10, 20, 80, 100]),  # 8 s each: after two looks 20.6 s are left, and after three 12.5
        (35.0, 1.0, 37, [20, 100]),
        (46.05, 1.0, 38, [100]),
        (60.0, 1.0, 22, []),
    ],
)
def test_looks_get_what_the_share_of_time_allows(tmp_path, monkeypatch, spent, longer, n, looks):
    monkeypatch.setattr(_pace, "SLACK", 1.0)
    watch = watching(tmp_path, [10, 20, 40, 80, 100], spent)
    assert looked(watch, longer) == (looks, [n] * len(looks))
    assert not looks or watch.spent + 4.3 <= 0.05 * 1000 + 1e-6


def test_the_last_look_asks_fewer_prompts_where_answers_became_much_longer(tmp_path):
    watch = watching(tmp_path, [10, 20, 40, 80, 100], 13.1)
    # 64 prompts take 22.4 s at step 10; 14.28 s are left, for 40 prompts
    assert looked(watch, 3.5) == ([10, 100], [64, 40])


def test_a_slow_first_step_buys_no_look(tmp_path):
    """Told from it, training would take 100,000 s; the lower bound holds until three more steps are timed."""
    assert looked(watching(tmp_path, [1, 100], 46.05, first_step=1000.0)) == ([100], [30])


def test_what_stood_in_the_store_tells_nothing_of_time(tmp_path):
    watch = watching(tmp_path, [10, 20, 40, 80, 100], 13.1)
    known = watch._pace.each
    watch._pace.learn(0.01, 0.0, 0, 0)
    assert watch._pace.each == known
    watch._pace.each = 0.0  # nothing is known: the last look alone
    assert looked(watch) == ([100], [22])


def test_no_look_costs_the_last_one_whatever_the_answers_lengths(tmp_path):
    """Looks take up to ten passes, at random; the more, the longer each: 0.64 s, and a fifth more where no row ends."""
    for seed in range(200):
        chance = random.Random(seed)
        watch = watching(tmp_path, [10, 20, 40, 80, 90, 100], 50.0 - chance.uniform(13.0, 40.0))
        watch._counts = [22]
        lengths = iter([chance.randint(1, 10) for _ in range(6)])
        seen, _ = looked(watch, course=((n * (0.64 + 0.0128 * n), n) for n in lengths))
        assert seen[-1] == 100
        assert watch.spent + 4.3 + 0.11 * len(watch._counts[:-1]) <= 50.0 + 1e-6


def test_more_time_never_means_fewer_answers(monkeypatch):
    """64 answers of the longest take 6.4 s; more than 64 prompts take two of those."""
    monkeypatch.setattr(_pace, "SLACK", 1.0)
    pace, before = Pace(Asking(max_new_tokens=10, batch_rows=64, draws=1), 22, each=0.02, sampling=0.02, one_pass=0.64), 0
    for seconds in range(-5, 200):
        n = pace.prompts(88, seconds, 8)
        answers = n * pace.looks(n, seconds, 8)
        assert answers >= before
        before = answers
    assert before == 8 * 88


def test_what_a_look_takes_at_worst():
    pace = Pace(Asking(max_new_tokens=10, batch_rows=4, draws=6), 22)
    pace.learn(seconds=9.0, sampling=6.0, passes=12, generated=18)  # three prompts
    assert (pace.each, pace.sampling, pace.one_pass) == (3.0, 2.0, 0.5)
    assert pace.at_worst(3) == 1.25 * (3 * 1.0 + 5 * 10 * 0.5)  # five batches of four rows
    pace.learn(seconds=3.0, sampling=3.0, passes=3, generated=18)
    assert pace.one_pass == 0.5, "fewer passes per answer do not make a pass longer"
    pace.learn(seconds=9.0, sampling=9.0, passes=15, generated=18)
    assert pace.one_pass == 0.6


@pytest.mark.parametrize("plainly", [False, True])
def test_passes_one_after_the_other_are_counted(base, monkeypatch, plainly):
    monkeypatch.setattr(decoder, "why_not", lambda model: "it is to" if plainly else "")
    model, words = AutoModelForCausalLM.from_pretrained(base), tokenizer()
    for texts, rows, passes in (["Is work good?"], 3, 4), (["Is work good?"] * 3, 3, 4), (["Is work good?"] * 3, 1, 12):
        live = module.Live(Asking(max_new_tokens=4, batch_rows=rows, frame="plain"), model, words)
        asked = [(Prompt(str(n), "work", text, ""), n) for n, text in enumerate(texts)]
        answers = [answer for _, answer in live.sample(Checkpoint("a", 0, "", "w", "f"), asked, 0)]
        assert {answer.n_tokens for answer in answers} == {4}, "none ended by itself"
        seconds, n = live.taken()
        assert (n, seconds > 0) == (passes, True)
        assert live.taken() == (0.0, 0)


@pytest.mark.parametrize("share", [None, 1e9])
def test_a_training_that_stops_early_is_looked_at_where_it_ends(base, tmp_path, share):
    class Stop(module.TrainerCallback):
        def on_evaluate(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2], **ASKING | {"share": share})
    trained(base, tmp_path / "out", watch, Stop(), steps=8, eval_strategy="steps", eval_steps=4, eval_dataset=Texts(tokenizer()))
    assert watch.looks == [0, 2, 4]
    (stage,) = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert (stage["steps"], stage["total_steps"]) == ([0, 2, 4], 4)
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["plan"]["model"] == str(base)


def test_a_second_training_begins_anew(base, tmp_path):
    watch = valuedrift.ValueDriftCallback(out=tmp_path / "run", schedule=[2], **ASKING | {"share": 1e9})
    spent = []
    for _ in range(2):
        trained(base, tmp_path / "out", watch, steps=4)
        assert watch.looks == [0, 2, 4]
        spent.append(watch.spent)
    kept = json.loads((tmp_path / "run" / "attached.json").read_text())
    assert 0 < kept["spent"] < min(spent)
    assert kept["pace"]["each"] > 0, "known from the first, for the second sampled nothing"


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


@pytest.mark.parametrize(("at_least", "share", "n"), [(0.0, 0.05, 6), (1e9, 0.05, 24), (42.0, 0.05, 12), (1e9, 1e-12, 6), (0.0, None, 30)])
def test_the_first_look_gets_the_share_of_what_training_lasts_at_least(tmp_path, monkeypatch, at_least, share, n):
    watch = valuedrift.ValueDriftCallback(out=tmp_path, share=share, first_seconds=0.4)
    watch._pace, watch._lasts, watch._n_topics, watch._counts = Pace(watch.asking, 6), at_least, 3, []
    watch._prompts = module.evenly([Prompt(f"{topic}{n}", topic, "?", "") for topic in "abc" for n in range(10)])
    asked, clock = [], [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def look(args, state, n):
        asked.append(n)
        clock[0] += 0.09

    monkeypatch.setattr(watch, "_look", look)
    watch._first(None, State(0, 100))
    assert asked[-1] == n  # 6, 12, 24 and so on, until half of the time is gone; of 0.05 x 42 s, 1.9 are kept back for the end
