"""The tables of a run: what was read of the answers, and what is derived from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from .nouns import Checkpoint
from .stats.cells import measured_in
from .stats.companions import companions as companions_of
from .stats.correct import corrected_drifts, corrected_profiles
from .stats.dose import dose_response
from .stats.drift import drifts as drifts_of
from .stats.effects import effects as effects_of
from .stats.judges import by_judge as by_judge_of
from .stats.matched import matched as matched_of
from .stats.pairing import pairing
from .stats.profile import profiles as profiles_of
from .stats.proxy import correlation
from .stats.proxy import proxy as proxy_of
from .store import Store

SAMPLED = ("companion_scores", "proxy_scores", "capability")
"""Tables that need the weights: another judge and another view leave them as they are."""
Tables = dict[str, Any]
"""A table by name, or None if this run has no such table."""


def read(store: Store, name: str) -> pl.DataFrame | None:
    """Return a stored table, or None if this run has no such table."""
    return store.read_table(name) if store.has_table(name) else None


def files(tables: Mapping[str, pl.DataFrame | None]) -> dict[str, pl.DataFrame | None]:
    """Return tables by the names of their files."""
    return {f"{name}.parquet": table for name, table in tables.items()}


def derived(given: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], checkpoints: Sequence[Checkpoint], view: str) -> Tables:
    """Return every table that is derived from scores, scores_by_judge, labels and those of SAMPLED.

    They are measured in the views claim and axis, and in `view` if it is another.
    """
    scores, told, likely, labels = (given[name] for name in ("scores", "companion_scores", "proxy_scores", "labels"))
    views, by_judge = measured_in(view), given["scores_by_judge"]
    profiles, drifts = profiles_of(scores, *views), drifts_of(scores, stages, *views)
    frames = {(checkpoint.stage, checkpoint.step): checkpoint.frame for checkpoint in checkpoints}
    shares = None if likely is None else proxy_of(likely, *views)
    dose, curve = (pl.concat(each) for each in zip(*(dose_response(scores, stages, one) for one in views), strict=True))
    members = {} if by_judge is None else {str(judge): rows for (judge,), rows in by_judge.group_by("judge", maintain_order=True)}
    return {
        "profiles": profiles,
        "drifts": drifts,
        "effects": _filled(effects_of(scores, stages, *views)),
        "companions": None if told is None else _filled(companions_of(told, profiles.filter(view="claim"))),
        "matched": None if told is None else _filled(pl.concat([matched_of(scores, told, stages, one, frames) for one in views])),
        "proxy": _filled(shares),
        "proxy_correlation": None if shares is None else _filled(correlation(shares, profiles)),
        "dose": _filled(dose),
        "dose_curve": _filled(curve),
        "pairing": _filled(pairing(scores, stages)),
        "corrected_profiles": None if labels is None else pl.concat([corrected_profiles(scores, labels, one) for one in views]),
        "corrected_drifts": None if labels is None else pl.concat([corrected_drifts(scores, stages, labels, one) for one in views]),
        "judges": by_judge_of(drifts, {judge: drifts_of(rows, stages, *views) for judge, rows in members.items()}),
    }


def _filled(table: pl.DataFrame | None) -> pl.DataFrame | None:
    return table if table is not None and table.height else None
