"""Survival of drifts: what every member of a panel says of what the panel resolves."""

import polars as pl

from valuedrift.stats.judges import by_judge


def table(*rows):
    return pl.DataFrame(
        [
            {
                "stage": "sft",
                "view": "claim",
                "topic": topic,
                "stance": "support",
                "value": value,
                "low": None,
                "high": None,
                "resolved": resolved,
            }
            for topic, value, resolved in rows
        ],
        schema_overrides={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
    )


def test_every_case():
    panel = table(("a", 0.3, True), ("b", 0.3, True), ("c", 0.3, True), ("d", 0.1, False), ("e", 0.0, False), ("f", 0.3, True))
    member = table(("a", 0.2, True), ("b", -0.2, True), ("c", 0.1, False), ("d", 0.2, True), ("e", 0.0, False), ("f", None, False))
    found = by_judge(panel, {"other": member})
    assert dict(found.select("topic", "says").iter_rows()) == {
        "a": "confirms",
        "b": "contradicts",
        "c": "undecided",
        "d": "alone",
        "e": "none",
        "f": "undecided",
    }
    assert found["judge"].unique().to_list() == ["other"]


def test_one_judge_is_no_panel():
    assert by_judge(table(("a", 0.3, True)), {}) is None
