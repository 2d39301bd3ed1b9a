"""Effects: what a choice of the pipeline changes, as the difference between two stages' ends that differ in that choice alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from .contrast import SCHEMA as CONTRAST
from .contrast import contrast

SCHEMA = {"kind": pl.String(), "first": pl.String(), "second": pl.String()} | CONTRAST
Stage = Mapping[str, Any]


class Comparison(NamedTuple):
    """Two stages to compare at their last steps. `kind` says what they differ in."""

    kind: str
    first: str
    second: str


def comparisons(stages: Sequence[Stage]) -> list[Comparison]:
    """Return the comparisons that a stage graph allows, each with everything else held fixed.

    "stage": from one and the same start, one stage in place of another (its algorithm, its data, a swept setting): each against the first
    of its siblings. "start": one stage (equal `settings`: all but where it starts) from different starts, which is what leaving out or
    swapping a stage before it makes. "order": the same stages one after the other in another order.
    """
    by_name = {stage["name"]: stage for stage in stages}
    chains = {name: _chain(by_name, name) for name in by_name}
    found = []
    for first, second in itertools.combinations(by_name.values(), 2):
        names = first["name"], second["name"]
        same = first.get("settings") is not None and first.get("settings") == second.get("settings")
        alike = [[str(by_name[name].get("settings")) for name in chains[of]] for of in names]
        if first["after"] == second["after"]:
            siblings = [name for name, stage in by_name.items() if stage["after"] == first["after"]]
            found += [Comparison("stage", *names)] if first["name"] == siblings[0] else []
        elif len(alike[0]) > 1 and "None" not in alike[0] and alike[0] != alike[1] and sorted(alike[0]) == sorted(alike[1]):
            found.append(Comparison("order", *names))
        elif same:
            found.append(Comparison("start", *names))
    return found


def effects(scores: pl.DataFrame, stages: Sequence[Stage], *views: str) -> pl.DataFrame:
    """Return one row per comparison x view x topic x outcome: share at the second's end less share at the first's.

    Paired by prompt and seed; seeds that one of the two lacks are left out. Columns as in `contrast`; p is corrected by Holm within a
    comparison.
    """
    rows = scores.filter(~pl.col("repeat"))
    tables = [pl.DataFrame(schema=SCHEMA)]
    for comparison in comparisons(stages):
        first, second = (_end(rows, stages, name) for name in comparison[1:])
        if first.height and second.height:
            named = {name: pl.lit(value) for name, value in zip(("kind", "first", "second"), comparison, strict=True)}
            tables.append(contrast(first, second, *views).select(**named, **{name: pl.col(name) for name in CONTRAST}))
    return pl.concat(tables)


def _chain(by_name: Mapping[str, Stage], name: str) -> list[str]:
    """Return the stages from the base to this one."""
    chain: list[str] = []
    while name in by_name and name not in chain:
        chain.insert(0, name)
        name = by_name[name]["after"]
    return chain


def _end(scores: pl.DataFrame, stages: Sequence[Stage], name: str) -> pl.DataFrame:
    last = max((stage["steps"][-1] for stage in stages if stage["name"] == name), default=0)
    return scores.filter((pl.col("stage") == name) & (pl.col("step") == last))
