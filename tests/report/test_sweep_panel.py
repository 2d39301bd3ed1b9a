"""The panel of sweep responses, read as text."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from valuedrift.analyses.sweep import Analysis
from valuedrift.report.run import read
from valuedrift.stats.sweep import sweep_response

TESTS = Path(__file__).resolve().parent.parent


def loaded(path):
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made, planted = loaded(TESTS / "report" / "made.py"), loaded(TESTS / "stats" / "planted_sweeps.py")
HINGE = planted.hinge


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read(made.make_run(tmp_path_factory.mktemp("run")))


def shown(run, curves, values, **settings):
    stages = planted.swept(values, seeds=(0, 1, 2), **settings)
    response, curve = sweep_response(planted.scores_of(stages, curves), stages)
    html = Analysis().panel(dataclasses.replace(run, tables={"sweep_response": response, "sweep_curve": curve}))
    assert "nan" not in html.lower()
    return html, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_run_without_a_sweep_shows_nothing(run):
    assert Analysis().panel(run) == ""


def test_the_chart_stands_beside_what_responds(run):
    html, text = shown(run, {"<b>ent": HINGE(0.7, 0.5), "flat": np.zeros(5)}, [0, 0.25, 0.5, 0.75, 1.0])
    assert "dpo: gap from 0 to 1" in text
    assert "2 of 6 topic–stance pairs resolved." in text
    assert "&lt;b&gt;ent" in html
    assert re.search(r"ent ▲ support \+0\.\d{3} \[[^\]]+\] (0\.\d+|&lt; 0\.001)", text)
    assert ">flat<" not in html
    assert html.count('<svg class="chart"') == 1
    assert ">0.25<" in html


def test_powers_of_ten_are_drawn_as_such(run):
    html, text = shown(run, {"work": np.array([0, 0.2, 0.4])}, [1e-5, 1e-4, 1e-3], setting="learning_rate", name="simpo<i>")
    assert "simpo&lt;i&gt;: learning_rate from 1e-05 to 0.001" in html
    assert "1e-5" in text


def test_without_evidence_it_says_so(run):
    stages = planted.swept([0, 0.5, 1])
    scores = planted.scores_of(stages, {"work": np.zeros(3)}).with_columns(
        support=None, neutral=None, oppose=None, refusal=None, invalid=None
    )
    response, curve = sweep_response(scores, stages)
    html = Analysis().panel(dataclasses.replace(run, tables={"sweep_response": response, "sweep_curve": curve}))
    assert "no evidence" in html
    assert ">None<" not in html
