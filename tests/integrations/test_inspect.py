"""Inspect's own readers and its own run of our task; without the package, what is said."""

import importlib.util
import subprocess
import sys

import polars as pl
import pytest

from valuedrift import pipeline
from valuedrift.nouns import OUTCOMES, BadInput, Prompt
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

from .test_trace import SIZES, tokenizer

installed = importlib.util.find_spec("inspect_ai") is not None
real = pytest.mark.skipif(not installed, reason="inspect-ai is not installed")


@pytest.mark.skipif(installed, reason="inspect-ai is installed")
def test_the_missing_package_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "valuedrift", "export", str(tmp_path / "run"), "--out", str(tmp_path / "logs")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'valuedrift[inspect]'" in done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("inspect")
    for step in (1, 2):
        torch.manual_seed(step)
        LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=0)).save_pretrained(root / "out" / f"checkpoint-{step}")
        tokenizer().save_pretrained(root / "out" / f"checkpoint-{step}")
    settings = EvaluationSettings(topics=["work"], draws=2, max_new_tokens=6, side_metrics=False)
    pipeline.trace_folders(settings, [root / "out"], None, root / "run")
    return root / "run"


@real
def test_logs_hold_what_the_run_holds(run, tmp_path):
    from inspect_ai.log import read_eval_log

    from valuedrift.integrations.inspect import export

    paths = export(run, tmp_path / "logs")
    assert [path.rpartition("/")[2] for path in paths] == ["out-seed0-step1.eval", "out-seed0-step2.eval"]
    log = read_eval_log(paths[1])
    scores = pl.read_parquet(run / "scores.parquet").filter(~pl.col("repeat") & (pl.col("step") == 2))
    texts = dict(Store(run).answers().select("key", "text").iter_rows())
    assert (log.status, log.eval.dataset.samples, log.eval.config.epochs, len(log.samples)) == ("success", 50, 2, 100)
    expected = {(row["prompt"], row["draw"] + 1): row for row in scores.to_dicts()}
    for sample in log.samples:
        row = expected[sample.id, sample.epoch]
        assert sample.output.completion == texts[row["answer"]]
        assert sample.scores["stance"].value == pytest.approx({outcome: row[outcome] for outcome in OUTCOMES})
        assert sample.metadata["claim"]


@real
def test_what_has_no_verdict_has_no_score(run, tmp_path):
    from valuedrift.integrations.inspect import eval_sample

    prompt = Prompt("p", "work", "?", "c")
    failed = dict.fromkeys(OUTCOMES) | {"failure": "unparsed", "draw": 0}
    assert eval_sample(failed, prompt, "words", "m").scores == {}


@real
def test_a_run_that_is_not_finished_is_refused(tmp_path):
    from valuedrift.integrations.inspect import export

    (tmp_path / "run").mkdir()
    with pytest.raises(BadInput, match="is not a finished run"):
        export(tmp_path / "run", tmp_path / "logs")


@real
def test_inspect_runs_the_suite(tmp_path, monkeypatch):
    from inspect_ai import eval
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.model._providers.mockllm import MockLLM

    from valuedrift.integrations.inspect import vaes

    async def counted(self, text):  # its own way fetches a tokenizer
        return len(text)

    monkeypatch.setattr(MockLLM, "count_text_tokens", counted)
    said = [ModelOutput.from_content("mockllm/model", text) for text in ("I agree and I support it.", "I am against it, I oppose it.") * 50]
    (log,) = eval(
        vaes(topics="work", draws=2),
        model=get_model("mockllm/model", custom_outputs=said),
        log_dir=str(tmp_path),
        display="none",
        max_samples=1,
    )
    assert log.status == "success", log.error
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert set(means) == set(OUTCOMES)
    assert sum(means.values()) == pytest.approx(1)
    assert means["support"] == pytest.approx(means["oppose"], abs=0.2)
    assert means["support"] > 0.2
