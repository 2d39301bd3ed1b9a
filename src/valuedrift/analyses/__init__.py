"""Analyses: one file per question about a run, with its measurement, its findings and its panel.

Each file defines `class Analysis`, derived from the class below. The pipeline runs analyses in increasing `order`, and the report shows
their panels in the same order. Adding one changes no other file.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from .. import progress, registry
from ..evaluate.visit import Evaluation, Visit
from ..models.files import reason_of
from ..nouns import BadInput
from ..report.run import Run
from ..stats.cells import measured_in

Measured = Mapping[str, pl.DataFrame | None]
"""Tables by name, in every view; None (or no entry) if this run has no such table."""


@dataclass
class Tables:
    """The tables of a run while it is measured: those that were read off the answers, and those of the analyses before."""

    evaluation: Evaluation
    answers: pl.DataFrame
    """The text of every answer: columns key (`answer` of the scores) and text."""
    known: dict[str, pl.DataFrame | None] = field(default_factory=dict)

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """The stages, in the order of training."""
        return self.evaluation.stages

    def __getitem__(self, name: str) -> pl.DataFrame:
        """Return a table that every run has."""
        table = self.known[name]
        assert table is not None
        return table

    def get(self, name: str) -> pl.DataFrame | None:
        """Return a table, or None if this run has no such table."""
        return self.known.get(name)

    @property
    def views(self) -> tuple[str, ...]:
        """The views to measure in: claim, axis, and the plan's if it is another."""
        return measured_in(self.evaluation.settings.view)


class Analysis:
    """One question about a run. Every method has a default."""

    title = ""
    """Heading of the panel, and its entry in the page's navigation."""
    order = 0
    """Place among the analyses. An analysis sees the tables of those before it."""
    required = False
    """Whether the run is useless without it. The failure of another one is reported, and the run goes on."""

    def collect(self, visit: Visit) -> None:
        """Add to `visit.numbers` what this analysis needs from a checkpoint's model (`visit.models`)."""

    def measure(self, tables: Tables) -> Measured:
        """Return the tables of this analysis by name; None for one that this run does not have. Loads no model."""
        return {}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return its findings, one sentence each: the page, the command line and `--json` print the same ones."""
        return []

    def panel(self, run: Run) -> str:
        """Return its HTML, every stored text escaped; "" if it has nothing to show. Computes no statistic."""
        return ""


def collect(visit: Visit) -> list[str]:
    """Have every analysis collect its numbers; return a sentence for each that could not, for example because two models did not fit."""
    failed = []
    for analysis in registry.in_order("analysis"):
        try:
            analysis.collect(visit)
        except (BadInput, RuntimeError, OSError) as error:
            failed.append(f"{analysis.title} could not be measured: {reason_of(error)}.")
    return failed


def measure(tables: Tables) -> list[str]:
    """Add the tables of every analysis to `tables`; return a sentence for each optional analysis that failed."""
    failed = []
    for analysis in registry.in_order("analysis"):
        try:
            tables.known |= analysis.measure(tables)
        except Exception as error:
            if analysis.required:
                raise
            progress.say("".join(traceback.format_exception(error)).rstrip())
            failed.append(f"{analysis.title} is missing: its analysis failed ({type(error).__name__}: {error}).")
    return failed


def findings(tables: Measured, view: str) -> list[str]:
    """Return the findings of all analyses."""
    return [sentence for analysis in registry.in_order("analysis") for sentence in analysis.findings(tables, view)]


def filled(table: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return a table, or None if it has no rows."""
    return table if table is not None and table.height else None
