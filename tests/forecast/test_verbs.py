"""The verbs forecast and attribute on a tiny run, from the files they read to the pages they write."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuedrift import pipeline, plan, testing
from valuedrift.forecast import attribution, predict
from valuedrift.nouns import BadInput
from valuedrift.plan import EvaluationSettings, Stage
from valuedrift.store import Store

SETTINGS = EvaluationSettings(judge="oracle", topics=["work", "religion"], draws=2, max_new_tokens=12)
PAIRS = "sandbox:pairs?n=24&seed=5"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "plan.toml").write_text(testing.PLAN.format(model=tiny_model))
    pipeline.run(plan.load(folder / "plan.toml"), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_forecast_from_own_runs_is_sealed_and_repeats(run, tiny_model, tmp_path):
    stage = predict.stage_of(None, "", PAIRS, "")
    assert stage.algorithm == "dpo"
    first = predict.forecast(stage, str(tiny_model), SETTINGS, tmp_path / "out", [run])
    assert first["no_interval"].startswith("The archive holds 1 data set")
    assert {row["direction"] for row in first["forecast"]} <= {"up", "down", "none", "no evidence"}
    assert all(row["value"] is None for row in first["forecast"])
    assert len(first["forecast"]) == 2 * 6
    assert {row["direction"] for row in first["forecast"] if row["before"] is None} <= {"no evidence"}
    again = predict.forecast(stage, str(tiny_model), SETTINGS, tmp_path / "out", [tmp_path / "out" / "archive.parquet"])
    assert again["forecast"] == first["forecast"]
    stored = Store(tmp_path / "out").read_json("forecast.json")
    assert stored["digest"] == again["digest"]
    text = (tmp_path / "out" / "forecast.json").read_text()
    (tmp_path / "out" / "forecast.json").write_text(text.replace('"before": 0.', '"before": 1.', 1))
    with pytest.raises(BadInput, match=r"forecast\.json"):
        Store(tmp_path / "out").read_json("forecast.json")


def test_a_forecast_refuses_what_its_archive_does_not_hold(run, tiny_model, tmp_path):
    with pytest.raises(BadInput, match=r"no training with 'simpo', only with dpo, sft"):
        predict.forecast(Stage(algorithm="simpo", data=PAIRS), str(tiny_model), SETTINGS, tmp_path, [run])
    pl.DataFrame({"topic": ["work"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(BadInput, match="lacks the columns"):
        predict.forecast(Stage(algorithm="dpo", data=PAIRS), str(tiny_model), SETTINGS, tmp_path, [tmp_path / "other.parquet"])
    with pytest.raises(BadInput, match="unknown rung 'gradient'; did you mean 'gradients'"):
        predict.forecast(Stage(algorithm="dpo", data=PAIRS), str(tiny_model), SETTINGS, tmp_path, [run], rung="gradient")


def test_the_shipped_archive_has_a_record(tmp_path):
    rows = pl.read_parquet(Path(predict.__file__).with_name("sandbox.parquet"))
    assert rows["data"].n_unique() >= 20
    assert rows["seed"].n_unique() == 2
    assert rows["algorithm"].n_unique() == 3


@pytest.mark.slow
def test_an_attribution_is_verified_by_training_again(run, tmp_path):
    result = attribution.attribute(run, "work", "invalid", verify=6, out=tmp_path / "out")
    assert result["n"] == 48
    assert result["left_out"] == 0
    assert result["stage"] == "dpo"
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    ranked = sorted(range(48), key=lambda at: -scores["scores"][at])
    assert [row["row"] for row in result["examples"][:3]] == [scores["places"][at] + 1 for at in ranked[:3]]
    kinds = {row["kind"]: row for row in result["verified"]}
    assert set(kinds) == {"without", "flipped"}
    assert all(row["n"] == 50 and row["k"] == 6 for row in kinds.values())
    made = next((tmp_path / "out").glob("verify-*"))
    top = (made / "flipped-top.jsonl").read_text().splitlines()
    plain = (made / "flipped-random.jsonl").read_text().splitlines()
    assert len(top) == len(plain) == 48
    assert len((made / "without-top.jsonl").read_text().splitlines()) == 42
    first = json.loads(top[scores["places"][ranked[0]]])
    last = json.loads(plain[scores["places"][ranked[-1]]])
    assert set(first) == set(last) == {"prompt", "chosen", "rejected", "topic", "claim"}
    assert "Which examples did it" in (tmp_path / "out" / "attribution.html").read_text()


def test_an_attribution_names_what_it_does_not_know(run):
    for arguments, said in (
        (("works", "support"), "unknown topic 'works'; did you mean 'work'"),
        (("work", "for"), "unknown stance 'for'"),
        (("work", "support", "dop"), "has no stage 'dop'; did you mean 'dpo'"),
        (("work", "support", "dpo", 7), "was trained with the seeds 0, not with 7"),
    ):
        with pytest.raises(BadInput, match=said):
            attribution.attribute(run, *arguments)


def test_bm25_by_hand():
    found = attribution.bm25(["border wall", "wall wall tax", "people"], "a wall", k1=1.2, b=0.75)
    idf, mean = math.log(1 + (3 - 2 + 0.5) / 2.5), 2.0
    assert found[0] == pytest.approx(idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / mean)))
    assert found[1] == pytest.approx(idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean)))
    assert found[2] == 0
    assert np.argmax(found) == 1


@pytest.mark.slow
def test_an_algorithm_that_samples_is_forecast_from_rewards(tiny_model, tmp_path):
    (tmp_path / "plan.toml").write_text(
        f'model = "{tiny_model}"\njudge = "oracle"\ntopics = ["work"]\ndraws = 1\nmax_new_tokens = 4\nfloor = false\nside_metrics = false\n'
        '[stage.rm]\nalgorithm = "reward"\ndata = "sandbox:pairs?n=16"\nsteps = 1\n'
        '[stage.sft]\nalgorithm = "sft"\ndata = "sandbox:neutral-chat?n=16"\nsteps = 1\n'
    )
    pipeline.run(plan.load(tmp_path / "plan.toml"), tmp_path / "run")
    reward = next((tmp_path / "run" / "stages").glob("reward-*/checkpoint-1"))
    asked = Stage(algorithm="ppo", data=PAIRS, reward=str(reward), kl_coef=0.1)
    result = predict.forecast(asked, str(tiny_model), SETTINGS, tmp_path / "out")
    assert 1 <= result["effective_answers"] <= 4
    assert result["record"] == {}
    assert all(row["value"] is None for row in result["forecast"])
    assert len(result["forecast"]) == 2 * 6
    assert "directions only" in (tmp_path / "out" / "forecast.html").read_text()
    with pytest.raises(BadInput, match="is no folder; train it first"):
        predict.forecast(Stage(algorithm="ppo", data=PAIRS, reward="rm"), str(tiny_model), SETTINGS, tmp_path / "out")
