"""Human labels in a run: the judge's validity decides what is headlined, and labels of the run's own answers correct its figures."""

import json

import pytest

from valuedrift import pipeline
from valuedrift.nouns import BadInput
from valuedrift.plan import EvaluationSettings
from valuedrift.stats import gold
from valuedrift.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def traced(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("gold") / "run"
    settings = EvaluationSettings(judge="cues", topics=["work"], draws=2, max_new_tokens=8, floor=False)
    other = tmp_path_factory.mktemp("other")
    for file in tiny_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))  # another model, near enough
    return out, pipeline.trace_folders(settings, [tiny_model, other], None, out)


def labelled(out, path, stances):
    rows = gold.sample_for_labels(Store(out), 80)
    gold.write_sample([row | {"stance": stances[n % len(stances)]} for n, row in enumerate(rows)], path)
    return str(path)


def test_a_weak_judge_is_reported_and_not_headlined(traced):
    out, result = traced
    assert not result["judge"]["headlined"]  # the agreement of `cues` that is stored with it lies under 0.7
    assert result["findings"] == [result["judge"]["why"]]
    page = (out / "report.html").read_text()
    assert "reported but not headlined" in page
    assert "drifted beyond chance" not in page
    lenient = pipeline.rejudge(out, {"min_agreement": 0.5})
    assert lenient["judge"]["headlined"]
    assert lenient["n_judged"] == 0


def test_labels_of_the_run_correct_its_figures(traced, tmp_path):
    out, _ = traced
    path = labelled(out, tmp_path / "gold.jsonl", ["support", "oppose", "neutral"])
    result = pipeline.rejudge(out, {"gold": path})
    assert result["judge"]["agreement"]["n"] > 20
    drifts = Store(out).read_table("corrected_drifts")
    known = drifts.drop_nulls("value")
    assert known.height
    assert known["n_labels"].min() > 20
    assert "Corrected by human labels" in (out / "report.html").read_text()
    pipeline.rejudge(out, {"gold": ""})
    assert Store(out).find_table("corrected_drifts") is None


def test_a_file_without_a_label_is_refused_before_anything_is_done(traced, tmp_path):
    out, _ = traced
    path = labelled(out, tmp_path / "gold.jsonl", [None])
    with pytest.raises(BadInput, match="no label"):
        pipeline.rejudge(out, {"gold": path})


def test_a_judgement_that_stops_leaves_the_run_as_it_was(traced, tmp_path):
    out, _ = traced
    before = {name: (out / name).read_bytes() for name in ("scores.parquet", "drifts.parquet", "provenance.json", "report.html")}
    with pytest.raises(BadInput, match=r"missing\.jsonl"):
        pipeline.rejudge(out, {"judge": "oracle", "gold": str(tmp_path / "missing.jsonl")})
    assert {name: (out / name).read_bytes() for name in before} == before
