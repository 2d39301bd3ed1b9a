"""Drifts corrected by human labels of sampled answers, next to the judge's own."""

from __future__ import annotations

import polars as pl

from ..nouns import STANCES
from ..report.run import Row, Run
from ..report.words import NO_EVIDENCE, esc, estimate, number, outcome, table
from ..stats.correct import corrected_drifts, corrected_profiles
from . import Analysis as Base
from . import Measured, Tables


class Analysis(Base):
    """A table of corrected drifts, next to the judge's own."""

    order = 22
    title = "Corrected by human labels"

    def measure(self, tables: Tables) -> Measured:
        """Return profiles and drifts corrected by human labels."""
        scores, labels, views = tables["scores"], tables.get("labels"), tables.views
        if labels is None:
            return {"corrected_profiles": None, "corrected_drifts": None}
        profiles = pl.concat([corrected_profiles(scores, labels, view) for view in views])
        return {
            "corrected_profiles": profiles,
            "corrected_drifts": pl.concat([corrected_drifts(scores, tables.stages, labels, view) for view in views]),
        }

    def panel(self, run: Run) -> str:
        """Return the table; "" if no answer of this run is labelled."""
        drifts = run.table("corrected_drifts")
        if drifts is None:
            return ""
        rows = [row for row in drifts.iter_rows(named=True) if row["stance"] in STANCES]
        known = [row for row in rows if row["value"] is not None]
        hint = (
            '<p class="hint">Prediction-powered: human labels of a random sample of the answers correct the judge. The better the judge '
            "agrees with them, the larger its weight. The other numbers on this page are uncorrected.</p>"
        )
        if not known:
            return f"{hint}<p>There are too few labels to correct a drift: {NO_EVIDENCE}.</p>"
        columns = ("stage", "topic", "stance", "corrected [95 %]", "judge alone", "labels", "judge’s weight")
        return hint + table("Corrected drifts", columns, "".join(map(_line, known)), tall=True)


def _line(row: Row) -> str:
    cells = (estimate(row, sign=True), number(row["uncorrected"], sign=True), f"{row['n_labels']:,}", number(row["judge_weight"]))
    numbers = "".join(f'<td class="nums">{esc(cell)}</td>' for cell in cells)
    return f'<tr><td>{esc(row["stage"])}</td><th scope="row">{esc(row["topic"])}</th><td>{outcome(row["stance"])}</td>{numbers}</tr>'
