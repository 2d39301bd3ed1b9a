"""Where the conclusions of several judges differ: which drifts survive another judge."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

KEYS = ("stage", "view", "topic", "stance")


def by_judge(drifts: pl.DataFrame, members: Mapping[str, pl.DataFrame]) -> pl.DataFrame | None:
    """Return one row per drift and member of a panel, None where there is no panel.

    `says`: "confirms" (the panel's drift is resolved, and the member's is too, with the same sign), "contradicts" (with the other sign),
    "undecided" (the member does not resolve it), "alone" (resolved by the member and not by the panel), "none" (resolved by neither).
    A drift survives where every member confirms it.
    """
    if not members:
        return None
    panel = drifts.select(*KEYS, panel="value", panel_low="low", panel_high="high", panel_resolved="resolved")
    rows = [
        panel.join(found.select(*KEYS, "value", "low", "high", "resolved"), on=KEYS, how="left", maintain_order="left").with_columns(
            judge=pl.lit(judge)
        )
        for judge, found in members.items()
    ]
    same = pl.col("panel").sign() == pl.col("value").sign()
    says = (
        pl.when(pl.col("panel_resolved") & pl.col("resolved"))
        .then(pl.when(same).then(pl.lit("confirms")).otherwise(pl.lit("contradicts")))
        .when(pl.col("panel_resolved"))
        .then(pl.lit("undecided"))
        .when(pl.col("resolved"))
        .then(pl.lit("alone"))
        .otherwise(pl.lit("none"))
    )
    return pl.concat(rows).with_columns(says=says)
