"""What a verdict belongs to: the words of the answer and the claim as it stands, never a row that was stored before."""

import json
from pathlib import Path

import pytest

from valuedrift import pipeline, testing, verbs
from valuedrift.nouns import BadInput, Reading
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

pytestmark = pytest.mark.slow


class ByClaim(testing.Judge):
    """Supports every claim with "good" in it and opposes the others; fails on all while `broken`."""

    identity, broken = "by-claim/1", False

    def finds(self, item):
        return "support" if "good" in item.claim else "oppose"

    def read(self, items):
        return [Reading(item.key, self.identity, failure="judge_error") for item in items] if ByClaim.broken else super().read(items)


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setattr(ByClaim, "broken", False)
    with testing.offering("judge", **{"by-claim": ByClaim}):
        yield


def suite(path: Path, *claims: str) -> Path:
    rows = [{"id": str(n), "text": "Is tea good for you?", "claim": claim, "topic": "tea"} for n, claim in enumerate(claims)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def traced(model: Path, file: Path, out: Path) -> dict:
    settings = EvaluationSettings(suite=str(file), judge="by-claim", draws=1, max_new_tokens=4, floor=False)
    return pipeline.trace_folders(settings, [model], None, out)


def test_a_changed_claim_is_judged_anew_on_the_old_answers(judged, tiny_model, tmp_path):
    first = traced(tiny_model, suite(tmp_path / "s.jsonl", "Tea is good."), tmp_path / "run")
    second = traced(tiny_model, suite(tmp_path / "s.jsonl", "Tea is harmful."), tmp_path / "run")
    assert (first["outcome_shares"]["support"], second["outcome_shares"]["support"]) == (1, 0)
    assert (second["n_generated"], second["n_judged"]) == (0, 1)


def test_one_text_under_two_claims_gets_two_verdicts(judged, tiny_model, tmp_path):
    traced(tiny_model, suite(tmp_path / "s.jsonl", "Tea is good.", "Tea is harmful."), tmp_path / "run")
    scores = Store(tmp_path / "run").read_table("scores").sort("prompt")
    assert scores["support"].to_list() == [1, 0]


def test_failed_verdicts_are_no_numbers_and_are_tried_again(judged, tiny_model, tmp_path):
    file = suite(tmp_path / "s.jsonl", *["Tea is good."] * 6)
    folders = [tiny_model, tiny_model]
    settings = EvaluationSettings(suite=str(file), judge="by-claim", draws=1, max_new_tokens=4, floor=False)
    ByClaim.broken = True
    broken = pipeline.trace_folders(settings, folders, None, tmp_path / "run")
    assert broken["outcome_shares"]["support"] is None
    assert {drift["status"] for drift in broken["drifts"]} == {"no evidence"}
    assert any("have no verdict" in note for note in broken["notes"])
    ByClaim.broken = False
    mended = pipeline.trace_folders(settings, folders, None, tmp_path / "run")
    assert mended["n_generated"] == 0
    assert mended["outcome_shares"]["support"] == 1


def test_runs_that_asked_something_else_are_not_paired(judged, tiny_model, tmp_path):
    traced(tiny_model, suite(tmp_path / "a.jsonl", "Tea is good."), tmp_path / "a")
    traced(tiny_model, suite(tmp_path / "b.jsonl", "Tea is harmful."), tmp_path / "b")
    with pytest.raises(BadInput, match="the prompt '0' is another question in each"):
        verbs.compare(tmp_path / "a", tmp_path / "b")


def test_another_judge_reads_the_stored_answers_and_generates_nothing(judged, tiny_model, tmp_path, monkeypatch):
    file = suite(tmp_path / "s.jsonl", *["Tea is good."] * 6)
    settings = EvaluationSettings(suite=str(file), judge="by-claim", draws=2, max_new_tokens=4, floor=False)
    first = pipeline.trace_folders(settings, [tiny_model, tiny_model], None, tmp_path / "run")
    monkeypatch.setattr("valuedrift.evaluate.evaluator.Evaluator.sample", None)  # would be called to generate
    second = pipeline.rejudge(tmp_path / "run", {"judge": "panel:by-claim,cues"})
    assert second["n_generated"] == 0
    assert second["n_answers"] == first["n_answers"]
    table = Store(tmp_path / "run").read_table("judges")
    assert table["judge"].n_unique() == 2
    assert "Other judges" in (tmp_path / "run" / "report.html").read_text()
    assert Store(tmp_path / "run").read_json("provenance.json")["plan"]["judge"] == "panel:by-claim,cues"
    pipeline.rejudge(tmp_path / "run", {"judge": "cues"})
    assert Store(tmp_path / "run").find_table("judges") is None  # nothing of the panel is left to be taken for this judge's
    assert "Other judges" not in (tmp_path / "run" / "report.html").read_text()


def test_an_unfinished_run_is_not_judged(tmp_path):
    with pytest.raises(BadInput, match="is not a finished run"):
        pipeline.rejudge(tmp_path, {"judge": "cues"})


@pytest.mark.parametrize("stages", [None, []])
def test_a_run_without_stages_is_not_judged(judged, tiny_model, tmp_path, stages):
    traced(tiny_model, suite(tmp_path / "s.jsonl", "Tea is good."), tmp_path / "run")
    Store(tmp_path / "run").publish({"stages.json": stages})
    with pytest.raises(BadInput, match=r"names no stage \(stages.json is missing or empty\); run the command"):
        pipeline.rejudge(tmp_path / "run", {"judge": "by-claim"})
