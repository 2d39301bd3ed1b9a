"""What the report reads of a run folder, as one frozen record."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from ..nouns import OUTCOMES, STANCES, BadInput, Checkpoint, Prompt
from ..stats.cells import in_view
from ..store import Store

ALL = "all"
"""The topic of rows that hold the mean over topics."""
COLUMNS = {
    "profiles": ("stage", "step", "view", "topic", "outcome", "value", "low", "high", "n", "n_answers", "n_failed"),
    "drifts": (
        *("stage", "view", "topic", "stance", "from_step", "to_step", "value", "low", "high", "n", "p", "p_adjusted", "resolved"),
        *("floor", "detectable", "time", "time_low", "time_high", "status"),
    ),
    "scores": ("stage", "step", "seed", "repeat", "topic", "prompt", "draw", "answer", *OUTCOMES, "failure"),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The tables of one run: `profiles` in `view`, `drifts` in every view, and all others through `table`.

    `stages` has one entry per name, with its seeds under `seeds`.
    """

    name: str
    view: str
    stages: list[Row]
    profiles: pl.DataFrame
    drifts: pl.DataFrame
    scores: pl.DataFrame
    answers: pl.DataFrame
    prompts: list[Prompt]
    checkpoints: list[Checkpoint]
    provenance: Row
    tables: Mapping[str, pl.DataFrame]
    """Every table of the run, in every view."""

    def table(self, name: str, every_view: bool = False) -> pl.DataFrame | None:
        """Return a table, in `view` if it has views; None if this run has no such table."""
        table = self.tables.get(name)
        return table if table is None or every_view or "view" not in table.columns else table.filter(view=self.view)

    @cached_property
    def topics(self) -> list[str]:
        """The topics in the order of the prompts; those that only the profiles know come last."""
        stored = self.profiles["topic"].unique(maintain_order=True).to_list()
        return [topic for topic in dict.fromkeys([*(prompt.topic for prompt in self.prompts), *stored]) if topic != ALL]

    @cached_property
    def chains(self) -> list[list[Row]]:
        """Every path from the base to a stage that no other follows: base -> sft -> dpo is [sft, dpo]."""
        by_name = {stage["name"]: stage for stage in self.stages}
        chains = []
        for leaf in self.stages:
            if any(other["after"] == leaf["name"] for other in self.stages):
                continue
            chain = [leaf]
            while (parent := by_name.get(chain[0]["after"])) is not None:
                chain.insert(0, parent)
            chains.append(chain)
        return chains

    @cached_property
    def plan(self) -> Row:
        """The plan as a table; empty if the provenance has none."""
        plan = self.provenance.get("plan") or {}
        return tomllib.loads(plan) if isinstance(plan, str) else plan

    def side_metric_rows(self, stage: str, metric: str) -> list[Row]:
        """Return the stored rows of a side metric along a stage, step by step; [] if there are none."""
        side_metrics = self.table("side_metrics")
        if side_metrics is None:
            return []
        return side_metrics.filter((pl.col("stage") == stage) & (pl.col("metric") == metric)).sort("step").to_dicts()

    @cached_property
    def _profile_rows(self) -> dict[tuple[str, str, int], dict[str, Row]]:
        rows: dict[tuple[str, str, int], dict[str, Row]] = {}
        for row in self.profiles.iter_rows(named=True):
            rows.setdefault((row["topic"], row["stage"], row["step"]), {})[row["outcome"]] = row
        return rows

    def shares(self, topic: str, stage: str, step: int) -> dict[str, Row]:
        """Return the profile rows of a checkpoint on a topic, by outcome; empty if there are none."""
        return self._profile_rows.get((topic, stage, step), {})

    @cached_property
    def views(self) -> list[str]:
        """The views of the drifts, beginning with `view`."""
        return list(dict.fromkeys([self.view, *self.drifts["view"].unique(maintain_order=True)]))

    def drifts_of(self, stage: str, view: str) -> list[Row]:
        """Return the stored drifts of a stage's stances in a view, in the stored order."""
        return self.drifts.filter(pl.col("stance").is_in(STANCES), stage=stage, view=view).to_dicts()


def read(store: Store, view: str = "") -> Run:
    """Return the run in a folder, in `view` (default: that of its plan). Raises BadInput if a file or a column is missing."""
    provenance = store.provenance()
    view = view or provenance["view"]
    tables = {name: store.read_table(name) for name in store.tables()} | {name: _table(store, name) for name in COLUMNS}
    profiles = in_view(tables["profiles"], view, f"{store.root}/profiles.parquet")
    return Run(
        name=store.root.resolve().name,
        view=view,
        stages=_gathered(store.stages(), profiles),
        profiles=profiles,
        drifts=tables["drifts"],
        scores=tables["scores"],
        answers=store.texts(),
        prompts=store.prompts(),
        checkpoints=store.checkpoints(),
        provenance=provenance,
        tables=tables,
    )


def _table(store: Store, name: str) -> pl.DataFrame:
    table = store.read_table(name)
    missing = [column for column in COLUMNS[name] if column not in table.columns]
    if missing:
        raise BadInput(f"{store.root / name}.parquet lacks the columns {', '.join(missing)}; run the command that made it again")
    return table


def _gathered(stages: list[Row], profiles: pl.DataFrame) -> list[Row]:
    """Return one entry per stage name with its seeds, and the steps that have profiles (what can be drawn)."""
    gathered: dict[str, Row] = {}
    for stage in stages:
        entry = gathered.setdefault(stage["name"], stage | {"after": stage.get("after") or "base", "seeds": []})
        entry["seeds"].append(stage.get("seed", 0))
    for name, entry in gathered.items():
        steps = profiles.filter(pl.col("stage") == name)["step"].unique().sort().to_list()
        entry["steps"] = steps or sorted(stage_steps(entry))
    return list(gathered.values())


def path_of(chain: list[Row]) -> str:
    """Return "base → sft → dpo"."""
    return " → ".join(["base", *(stage["name"] for stage in chain)])


def stage_steps(stage: Row) -> list[int]:
    """Return the measured steps of a stage; [0] if there are none."""
    return list(stage.get("steps") or [0])


def places(stage: Row, margin: float = 0.045) -> list[float]:
    """Return the position of each measured step of a stage on an axis from 0 to 1.

    The axis is logarithmic, log(1 + step), if the first step after 0 is in the first twentieth of the stage (log-spaced checkpoints would
    crowd on a linear one), else linear.
    """
    steps = stage_steps(stage)
    first = steps[0]
    last = max(steps[-1], stage.get("total_steps") or 0)
    if last == first:
        return [0.5] * len(steps)
    scaled = math.log1p if len(steps) > 2 and (steps[1] - first) * 20 <= last - first else float
    return [margin + (1 - 2 * margin) * scaled(step - first) / scaled(last - first) for step in steps]
