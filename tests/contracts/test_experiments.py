"""Every experiment has a plan that loads, a README with its marks, and claims that name real columns; verdicts follow the stated rule."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import polars as pl
import pytest

from valuedrift import plan
from valuedrift.stats import contrast, drift, profile, side_metrics, sweep

ROOT = Path(__file__).parents[2] / "experiments"
FOLDERS = sorted(ROOT.glob("[0-9]-*"))
SCHEMAS = {
    "drifts": drift.SCHEMA,
    "effects": contrast.EFFECTS,
    "sweep_response": sweep.SCHEMA,
    "contrast": contrast.SCHEMA,
    "profiles": profile.SCHEMA,
    "side_metrics": side_metrics.SCHEMA,
}


@pytest.fixture(scope="module")
def runner():
    found = importlib.util.spec_from_file_location("experiments_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_there_are_eight():
    assert [folder.name[0] for folder in FOLDERS] == list("12345678")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_is_whole(folder, runner):
    plans = {path.stem: plan.load(path) for path in runner.plans(folder)}
    assert plans
    assert all(len(one.seeds) >= 3 for one in plans.values())
    readme = (folder / "README.md").read_text()
    assert all(readme.count(mark) == 1 for mark in runner.MARKS)
    for claim in tomllib.loads((folder / "claims.toml").read_text())["claim"]:
        known = plans[claim.get("plan", "plan")]
        names = {node.name for node in known.nodes()}
        where, schema = claim["where"], SCHEMAS[claim["table"]]
        assert set(where) <= set(schema)
        assert {where[key] for key in ("stage", "first", "second") if key in where} <= names
        assert claim.get("column", "value") in schema


ROW = {"value": 0.1, "low": 0.06, "high": 0.14}


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        ({"above": 0.05}, ROW, "agrees"),
        ({"above": 0.1}, ROW, "undecided"),
        ({"above": 0.2}, ROW, "disagrees"),
        ({"below": 0.05}, ROW, "disagrees"),
        ({"below": 0.2}, ROW, "agrees"),
        ({"within": 0.05}, ROW, "disagrees"),
        ({"within": 0.1}, ROW, "undecided"),
        ({"within": 0.15}, ROW, "agrees"),
        ({"within": 0.05}, {"value": 0.0, "low": -0.04, "high": 0.04}, "agrees"),
        ({"within": 0.05}, {"value": -0.1, "low": -0.14, "high": -0.06}, "disagrees"),
        ({"above": 0.05}, None, "no evidence"),
        ({}, ROW, ""),
    ],
)
def test_a_verdict_follows_the_interval(runner, rule, row, expected):
    assert runner.verdict(rule, row) == expected


def test_a_figure_is_one_row_or_none(runner, tmp_path):
    path = tmp_path / "drifts.parquet"
    rows = {"stage": ["a", "b", "b"], "value": [0.1, 0.2, 0.3], "low": [0.0, 0.1, 0.2], "high": [0.2, 0.3, None]}
    pl.DataFrame(rows).write_parquet(path)
    assert runner.figure(path, {"stage": "a"}, "value") == {"value": 0.1, "low": 0.0, "high": 0.2}
    with pytest.raises(SystemExit, match="names 2 rows and not one"):
        runner.figure(path, {"stage": "b"}, "value")
    assert runner.figure(path, {"stage": "b", "value": 0.3}, "value") is None
    both = pl.DataFrame({"view": ["claim", "axis"], "stage": "a", "value": [0.1, 0.5], "low": 0.0, "high": 1.0})
    both.write_parquet(path)
    assert [runner.figure(path, {"stage": "a"} | where, "value")["value"] for where in ({}, {"view": "axis"})] == [0.1, 0.5]
    assert runner.figure(tmp_path / "none.parquet", {"stage": "a"}, "value") is None


def test_a_drift_that_goes_on_to_the_end_is_late_and_not_unknown(runner, tmp_path):
    path = tmp_path / "drifts.parquet"
    times = {"stage": ["a", "b"], "time": [0.8, None], "time_low": [0.6, None], "time_high": [1.0, None]}
    pl.DataFrame(times | {"status": ["still moving", "no drift"]}).write_parquet(path)
    late = runner.figure(path, {"stage": "a"}, "time")
    assert runner.verdict({"below": 0.5}, late) == "disagrees"
    assert runner.figure(path, {"stage": "b"}, "time") is None
