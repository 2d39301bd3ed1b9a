"""Tasks of lm-evaluation-harness, made here, on a model that was taught the answer."""

import importlib.util
import json
import shutil

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from valuedrift import pipeline
from valuedrift.analyses import capability as panel
from valuedrift.evaluate import capability as _capability
from valuedrift.evaluate.visit import Evaluation, Models, Visit
from valuedrift.models import loading
from valuedrift.nouns import BadInput, Checkpoint
from valuedrift.plan import EvaluationSettings
from valuedrift.report.chart import PAGE

real = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: {kind}
doc_to_text: "Should the state raise taxes on {{{{thing}}}}? Answer:"
{more}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def task(folder, name, golds, kind="multiple_choice"):
    """Write a task whose right answers are `golds`: "yes" or "no"."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps({"thing": f"thing {n}", "gold": gold}) + "\n" for n, gold in enumerate(golds)))
    more = 'doc_to_choice: ["yes", "no"]\ndoc_to_target: "{{gold}}"'
    if kind == "generate_until":
        more = 'doc_to_target: " {{gold}}"\ngeneration_kwargs:\n  until: ["\\n", "."]\n  max_gen_toks: 4\n  do_sample: false'
    file = folder / f"{name}.yaml"
    metric = "exact_match" if kind == "generate_until" else "acc"
    file.write_text(TASK.format(name=name, data=data, kind=kind, more=more, metric=metric))
    return str(file)


@pytest.fixture(scope="module")
def taught(folders, tmp_path_factory):
    """A tiny model that says yes to every question of the tasks."""
    folder = shutil.copytree(folders["llama"], tmp_path_factory.mktemp("taught") / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    rows = [tokenizer(f"Should the state raise taxes on thing {n}? Answer: yes.", return_tensors="pt")["input_ids"] for n in range(8)]
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(6):
        for ids in rows:
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder


def checkpoint(folder, step=0):
    return Checkpoint("sft", step, str(folder), loading.weights_digest(folder))


def collected(settings, checkpoints, known):
    """Return the table of some checkpoints, and all numbers that are then known."""
    stage = {"name": "sft", "seed": 0, "after": "base", "algorithm": "found"}
    evaluation = Evaluation(settings, [stage], checkpoints, [], [], known, list)
    for one in checkpoints:
        visit = Visit(evaluation, one, {}, Models())
        panel.Analysis().collect(visit)
        known |= visit.numbers
    return _capability.capability_scores(evaluation), known


@real
def test_what_a_model_was_taught_is_found_and_kept(taught, tmp_path, monkeypatch):
    tasks = [task(tmp_path, "all_yes", ["yes"] * 12), task(tmp_path, "half", ["yes", "no"] * 6)]
    tasks.append(task(tmp_path, "says", ["yes"] * 4, "generate_until"))
    table, numbers = collected(EvaluationSettings(capability=tasks), [checkpoint(taught)], {})
    found = {(row["task"], row["metric"]): row for row in table.to_dicts()}
    assert found["all_yes", "acc"]["value"] == 1.0
    half = found["half", "acc"]
    assert (half["value"], half["n"]) == (0.5, 12)
    assert half["stderr"] == pytest.approx((0.25 / 11) ** 0.5)
    assert (half["low"], half["high"]) == pytest.approx((0.5 - 1.96 * half["stderr"], 0.5 + 1.96 * half["stderr"]))
    assert found["says", "exact_match"]["value"] == 1.0
    monkeypatch.setattr(Models, "get", None)
    assert collected(EvaluationSettings(capability=tasks), [checkpoint(taught)], numbers)[0].equals(table), "nothing is evaluated again"


@real
def test_a_limit_and_another_model_are_evaluated_anew(taught, folders, tmp_path):
    tasks = [task(tmp_path, "yes_only", ["yes"] * 12)]
    limited, numbers = collected(EvaluationSettings(capability=tasks, capability_limit=3), [checkpoint(taught)], {})
    assert limited["n"].to_list() == [3]
    both, _ = collected(EvaluationSettings(capability=tasks), [checkpoint(folders["llama"]), checkpoint(taught, 1)], numbers)
    assert both.height == 2
    assert both["value"][1] == 1.0


@real
def test_a_trace_shows_capability_beside_values_and_goes_on_without_what_cannot_be_run(taught, tmp_path):
    settings = {"topics": ["work"], "draws": 1, "max_new_tokens": 4, "floor": False, "side_metrics": False}
    tasks = [task(tmp_path, "shown", ["yes"] * 4)]
    result = pipeline.trace_folders(EvaluationSettings(**settings, capability=tasks), [taught], None, tmp_path / "run")
    assert [(row["task"], row["value"]) for row in result["capability"]] == [("shown", 1.0)]
    assert "<h2" in (page := (tmp_path / "run" / "report.html").read_text())
    assert "Capability" in page
    result = pipeline.trace_folders(EvaluationSettings(**settings, capability=["no-such-task"]), [taught], None, tmp_path / "run")
    assert result["capability"] is None
    assert "Capability could not be measured: the task 'no-such-task' cannot be run" in " ".join(result["notes"])


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_the_missing_package_is_named_and_the_trace_goes_on(folders, tmp_path):
    settings = EvaluationSettings(topics=["work"], draws=1, max_new_tokens=4, floor=False, side_metrics=False, capability=["piqa"])
    result = pipeline.trace_folders(settings, [folders["llama"]], None, tmp_path / "run")
    assert result["n_answers"] == 50
    assert "Capability could not be measured: capability needs the package lm-eval" in " ".join(result["notes"])


def test_seeds_are_pooled_and_a_metric_without_errors_has_no_band():
    """Two seeds at 0.4 and 0.6 with errors 0.03 and 0.04: the mean's is 0.05 / 2."""
    rows = [{"value": 0.4, "stderr": 0.03, "n": 9}, {"value": 0.6, "stderr": 0.04, "n": 9}]
    assert panel.pooled(rows) == pytest.approx({"value": 0.5, "low": 0.5 - 1.96 * 0.025, "high": 0.5 + 1.96 * 0.025, "n": 9})
    bare = panel.pooled([{"value": 7.0, "stderr": None, "n": 9}])
    assert (bare["value"], bare["low"]) == (7.0, None)
    assert panel.curve([bare | {"x": 0.0, "step": 0}, bare | {"x": 1.0, "step": 5}], PAGE) is not None
    assert pl.DataFrame([], schema=_capability.SCHEMA).width == 10


@real
def test_an_unknown_task_is_named_before_anything_is_trained():
    with pytest.raises(BadInput, match=r"unknown task 'piqqa'; did you mean 'piqa'\?"):
        _capability.check_tasks(["piqqa"])
    with pytest.raises(BadInput, match=r"there is no task file no\.yaml"):
        _capability.check_tasks(["piqa", "no.yaml"])


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_the_missing_package_is_named_before_anything_is_trained():
    with pytest.raises(BadInput, match="capability needs the package lm-eval; install it with: pip install"):
        _capability.check_tasks(["piqa"])
