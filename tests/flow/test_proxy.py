"""The proxy of a run: every saved checkpoint is read, nothing is computed twice, and another judge leaves it as it is."""

import polars as pl
import pytest

from valuedrift import pipeline, plan
from valuedrift.evaluate import likelihood


@pytest.mark.slow
def test_a_run_with_its_proxy(plan_file, tmp_path, monkeypatch):
    plan_file.write_text("proxy = true\ncompanions = false\nfloor = false\n" + plan_file.read_text())
    out = tmp_path / "out"
    result = pipeline.run(plan.load(plan_file), out)
    table = pl.read_parquet(out / "proxy.parquet")
    assert table.height == 2 * 2 * 3 * 3 * 3  # views x stages x steps x (two topics and all) x stances
    sums = table.group_by("view", "stage", "step", "topic").agg(pl.col("value").sum())["value"]
    assert (sums - 1).abs().max() < 1e-9
    alike = pl.read_parquet(out / "proxy_correlation.parquet").filter(view="claim")
    # a random model's answers take no stance
    assert alike.select("of", "n", "pearson").rows() == [
        ("levels", 0, None),
        ("changes", 0, None),
    ]
    assert sum(note.startswith("Proxy and judged shares") for note in result["findings"]) == 2
    assert ">Proxy<" in (out / "report.html").read_text()
    before = [(out / f"{name}.parquet").read_bytes() for name in ("proxy_scores", "proxy", "proxy_correlation")]

    def refuse(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(likelihood, "load_model", refuse)
    pipeline.run(plan.load(plan_file), out)
    pipeline.rejudge(out, {})
    assert before == [(out / f"{name}.parquet").read_bytes() for name in ("proxy_scores", "proxy", "proxy_correlation")]
