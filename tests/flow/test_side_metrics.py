"""Side metrics of a run: two preference stages and a reward model on a tiny model; what is stored is not computed again."""

import polars as pl
import pytest

from valuedrift import pipeline, plan, testing, verbs
from valuedrift.evaluate.visit import Models

pytestmark = pytest.mark.slow

STAGES = """
[stage.rm]
after = "sft"
algorithm = "reward"
data = "sandbox:pairs?n=24"
save_at = [3]

[stage.ipo]
after = "sft"
algorithm = "ipo"
data = "sandbox:pairs?n=48"
batch_size = 8
learning_rate = 3e-3
save_at = [3, 6]
"""
TABLES = ("side_metric_scores", "side_metrics")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):

    folder = tmp_path_factory.mktemp("side_metrics")
    (folder / "plan.toml").write_text(testing.PLAN.format(model=tiny_model) + STAGES)
    pipeline.run(plan.load(folder / "plan.toml"), folder / "out")
    return folder


def held(out):
    return {file.name: file.read_bytes() for file in sorted([*out.glob("numbers/*"), *(out / f"{name}.parquet" for name in TABLES)])}


def test_every_checkpoint_has_its_side_metrics(finished):
    table = pl.read_parquet(finished / "out" / "side_metrics.parquet")
    for stage, steps in (("sft", [0, 2, 6]), ("dpo", [0, 3, 6]), ("ipo", [0, 3, 6])):
        for metric in ("kl", "reward:rm", "length", "refusal", "invalid"):
            rows = table.filter((pl.col("stage") == stage) & (pl.col("metric") == metric)).sort("step")
            assert rows["step"].to_list() == steps, (stage, metric)
            assert rows["n"].to_list() == [100] * 3
        kl = table.filter((pl.col("stage") == stage) & (pl.col("metric") == "kl")).sort("step")
        assert kl["value"][0] == 0
        assert min(kl["low"][1:]) > 0
        assert set(kl["reference"]) == {"start" if stage == "sft" else "sft"}


def test_the_same_command_again_computes_nothing(finished, monkeypatch):
    before = held(finished / "out")

    monkeypatch.setattr(Models, "get", None)
    pipeline.run(plan.load(finished / "plan.toml"), finished / "out")
    pipeline.rejudge(finished / "out", {})
    verbs.report(finished / "out", "claim")
    assert held(finished / "out") == before


def test_what_was_cut_off_is_finished_alike(finished):
    """Losing one part is what a kill between two checkpoints leaves."""
    out, before = finished / "out", held(finished / "out")
    min(out.glob("numbers/*")).unlink()
    pipeline.run(plan.load(finished / "plan.toml"), out)
    assert held(out) == before


def test_they_can_be_left_out(finished):
    path = finished / "without.toml"
    path.write_text("side_metrics = false\n" + (finished / "plan.toml").read_text())
    pipeline.run(plan.load(path), finished / "out")
    assert not any((finished / "out" / f"{name}.parquet").exists() for name in TABLES)
