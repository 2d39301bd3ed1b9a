"""Adaptive effort in a whole trace: what is asked, what is said of it, and that a kill and another judge change nothing of it."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from valuedrift import pipeline, testing
from valuedrift.nouns import BadInput
from valuedrift.plan import Asking
from valuedrift.stats.effort import too_wide
from valuedrift.store import Store

N_PROMPTS = 8
STEPS = range(6)
N_DRIFTS = 6
"""Of three stances, on one topic and over all."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model):
    """Six checkpoints: the weights stay for three steps, then change with every one."""
    root = tmp_path_factory.mktemp("steps")
    for step in STEPS:
        shutil.copytree(tiny_model, root / f"checkpoint-{step}")
        torch.manual_seed(0)
        tensors = safetensors.torch.load_file(root / f"checkpoint-{step}" / "model.safetensors")
        tensors = {name: tensor + max(0, step - 2) * 0.02 * torch.randn_like(tensor) for name, tensor in tensors.items()}
        tensors["model.norm.weight"][0] += 1e-6 * step  # other weights at every step
        safetensors.torch.save_file(tensors, root / f"checkpoint-{step}" / "model.safetensors", metadata={"format": "pt"})
    return root


class Halves(testing.Judge):
    """Supports if more than half of an answer's characters are letters up to m."""

    identity = "halves/1"

    def finds(self, item):
        early = sum("a" <= letter <= "m" for letter in item.text.lower()) * 2 > len(item.text)
        return "support" if early else "oppose"


@pytest.fixture(autouse=True)
def judge():
    with testing.offering("judge", halves=Halves):
        yield


def traced(folders, tmp_path, name, **changed):
    suite = tmp_path / "s.jsonl"
    rows = [{"id": str(n), "text": f"Is tea good{'?' * n}", "claim": "Tea is good.", "topic": "tea"} for n in range(N_PROMPTS)]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"draws": 5, "max_new_tokens": 6, "floor": False, "companions": False, "judge": "halves", "batch_rows": 10} | changed
    return pipeline.trace_folders(Asking(suite=str(suite), **settings), [folders], None, tmp_path / name)


def test_everything_is_asked_without_a_target(folders, tmp_path):
    result = traced(folders, tmp_path, "run")
    assert result["effort"] is None
    assert not (tmp_path / "run" / "effort.json").exists()
    assert "weight" not in Store(tmp_path / "run").read_table("scores").columns
    assert result["n_answers"] == len(STEPS) * N_PROMPTS * 5


def test_a_wide_target_takes_the_pilot_at_both_ends_and_the_middle(folders, tmp_path):
    result = traced(folders, tmp_path, "run", precision=0.99)
    assert result["effort"] == {
        "precision": 0.99,
        "budget": None,
        "checkpoints": 3,
        "of_checkpoints": 6,
        "answers": 3 * N_PROMPTS * 2,
        "of_answers": 6 * N_PROMPTS * 5,
        "too_wide": 0,
        "intervals": 6,
        "budget_ended_it": False,
    }
    assert any("3 of 6 checkpoints were asked, and 48 answers instead of 240" in note for note in result["notes"])
    scores = Store(tmp_path / "run").read_table("scores")
    assert sorted(scores["step"].unique()) == [0, 3, 5]
    assert scores["weight"].is_null().all()


def test_a_narrow_target_takes_all_draws_and_says_what_is_missing(folders, tmp_path):
    result = traced(folders, tmp_path, "run", precision=0.001)
    assert result["effort"]["too_wide"] > 0
    assert any("are not known to ±0.001. All draws were asked there" in note for note in result["notes"])
    whole = traced(folders, tmp_path, "whole")
    assert result["effort"]["answers"] == result["effort"]["checkpoints"] * N_PROMPTS * 5
    for mine in result["drifts"]:
        (other,) = [row for row in whole["drifts"] if all(row[name] == mine[name] for name in ("view", "topic", "stance"))]
        assert (mine["value"], mine["low"]) == pytest.approx((other["value"], other["low"]), nan_ok=True)


def test_a_budget_is_kept(folders, tmp_path):
    result = traced(folders, tmp_path, "run", budget=70)
    assert result["effort"]["answers"] <= 70
    assert result["effort"]["budget_ended_it"]
    assert Store(tmp_path / "run").answers().height <= 70
    assert result["effort"]["too_wide"] is None
    with pytest.raises(BadInput, match="allow 32 or more"):
        traced(folders, tmp_path, "small", budget=31)


def test_a_budget_covers_the_noise_floor_and_what_it_leaves_goes_to_the_middle(folders, tmp_path):
    """Two draws at both ends and once more at the last: 6 x 8 answers; one prompt with all its draws takes 54 more, the middle 16."""
    with pytest.raises(BadInput, match=r"a second time .*allow 48 or more"):
        traced(folders, tmp_path, "small", budget=47, floor=True)
    result = traced(folders, tmp_path, "run", budget=66, floor=True, draws=20)
    assert result["effort"]["answers"] == Store(tmp_path / "run").answers().height == 64
    assert result["effort"]["checkpoints"] == 3
    assert "The budget ended it." in result["notes"][0]


def test_what_else_is_measured_copes_with_checkpoints_that_were_not_asked(folders, tmp_path):
    result = traced(folders, tmp_path, "run", precision=0.99, floor=True, companions=True, proxy=True)
    store = Store(tmp_path / "run")
    assert sorted(store.read_table("companion_scores")["step"].unique()) == sorted(store.read_table("scores")["step"].unique()) == [0, 3, 5]
    assert sorted(store.read_table("proxy_scores")["step"].unique()) == list(STEPS)
    assert [row["floor"] is not None for row in result["drifts"] if (row["view"], row["topic"]) == ("claim", "all")] == [True] * 5
    assert not [note for note in result["notes"] if "missing" in note]
    assert result["effort"]["answers"] == 4 * N_PROMPTS * 2


@pytest.mark.slow
def test_a_trace_that_was_killed_decides_the_same(folders, tmp_path):
    settings = {"precision": 0.35}
    traced(folders, tmp_path, "whole", **settings)
    traced(folders, tmp_path, "cut", **settings)
    for path in sorted((tmp_path / "cut").rglob("*.parquet"))[::2]:
        path.unlink()
    (tmp_path / "cut" / "effort.json").unlink()
    traced(folders, tmp_path, "cut", **settings)
    for name in ("effort.json", "scores.parquet", "profiles.parquet", "drifts.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for kind in ("answers", "readings"):
        assert {path.name for path in (tmp_path / "cut" / kind).iterdir()} == {path.name for path in (tmp_path / "whole" / kind).iterdir()}


def test_another_judge_reads_what_was_asked(folders, tmp_path):
    first = traced(folders, tmp_path, "run", precision=0.35)
    second = pipeline.rejudge(tmp_path / "run", {"judge": "cues"})
    assert second["n_generated"] == 0
    assert second["n_answers"] == first["n_answers"]
    asked = first["effort"].keys() - {"too_wide"}
    assert {name: second["effort"][name] for name in asked} == {name: first["effort"][name] for name in asked}
    wide = too_wide(Store(tmp_path / "run").read_table("drifts").filter(view="claim"), 0.35).height
    assert second["effort"]["too_wide"] == wide == N_DRIFTS  # this judge reads nothing of it: no drift has an interval


def test_a_time_reaches_back_to_what_was_not_asked(folders, tmp_path):
    """All of the change lies between steps 2 and 5 of 6: it may have come at step 3 or 4, which were not asked."""
    from valuedrift.stats.drift import drifts

    rows = []
    for step, share in ((0, 0.0), (2, 0.0), (5, 1.0)):
        for prompt in range(24):
            verdict = {"support": share, "neutral": 0.0, "oppose": 1 - share, "refusal": 0.0, "invalid": 0.0}
            at = {"stage": "s", "step": step, "seed": 0, "repeat": False, "topic": "tea", "prompt": str(prompt), "draw": 0}
            rows.append(at | verdict | {"polarity": 1, "failure": None})
    import polars as pl

    scores = pl.DataFrame(rows, schema_overrides={"failure": pl.String})
    scores = pl.concat([scores, scores.filter(pl.col("step") == 5).with_columns(step=pl.lit(6, pl.Int64))])
    row = {row["stance"]: row for row in drifts(scores, [{"name": "s", "steps": list(range(7)), "total_steps": 6}]).to_dicts()}["support"]
    assert (row["time"], row["time_low"], row["time_high"]) == pytest.approx(((2 + 0.8 * 3) / 6, 2 / 6, 5 / 6))
