"""What a choice of the pipeline changes: a stage in place of another, another start, another order."""

from __future__ import annotations

from ..nouns import STANCES
from ..report.run import ALL, Row, Run
from ..report.words import count, esc, estimate, outcome, table
from ..stats.contrast import effects as measured
from ..stats.contrast import speaks_for
from . import Analysis as Base
from . import Measured, Tables, filled

SAID = {
    "stage": "{second} instead of {first}, from the same start",
    "start": "{second} instead of {first}: the same stage from a different start",
    "order": "{second} instead of {first}: the same stages in a different order",
}


class Analysis(Base):
    """One table per comparison: the mean over topics, and the topics on which it is resolved."""

    order = 23
    title = "Effects"

    def measure(self, tables: Tables) -> Measured:
        """Return the differences between stages that differ in one choice alone."""
        return {"effects": filled(measured(tables["scores"], tables.stages, *tables.views))}

    def panel(self, run: Run) -> str:
        """Return the comparisons; "" if no two stages differ in exactly one choice."""
        effects = run.table("effects", every_view=True)
        if effects is None:
            return ""
        hint = (
            '<p class="hint">Share at the end of the second stage minus share at the end of the first, paired by prompt and seed, '
            "with 95 % intervals. A difference is resolved if Holm’s p within the comparison and over both views is below 0.05.</p>"
        )
        groups: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in effects.iter_rows(named=True):
            groups.setdefault((row["kind"], row["first"], row["second"], row["view"]), []).append(row)
        told = {key: esc(f"{SAID[key[0]].format(first=key[1], second=key[2])}; view {key[3]}") for key in groups}
        return hint + "".join(f"<h3>{told[key]}</h3>{differences(told[key], rows)}" for key, rows in groups.items())


def differences(told: str, rows: list[Row]) -> str:
    """Return the table of one comparison (rows with the columns of `effects`), and how many of its differences are resolved."""
    rows = [row for row in rows if row["outcome"] in STANCES]
    resolved = [row for row in rows if row["resolved"] and row["topic"] != ALL]
    body = "".join(_line(row) for row in rows if row["topic"] == ALL) + "".join(_line(row) for row in resolved)
    heads = ("topic", "stance", "difference [95 %]", "resolved", "prompts")
    n = count(sum(row["topic"] != ALL for row in rows), "topic–stance pair")
    covers = speaks_for(rows)
    return f"<p>{len(resolved)} of {n} resolved. {covers}</p>{table(told, heads, body)}"


def _line(row: Row) -> str:
    mark = "yes" if row["resolved"] else ""
    topic = "all topics" if row["topic"] == ALL else row["topic"]
    numbers = f'<td class="nums">{esc(estimate(row, sign=True))}</td><td>{mark}</td><td class="nums">{row["n"]:,}</td>'
    return f'<tr><th scope="row">{esc(topic)}</th><td>{outcome(row["outcome"])}</td>{numbers}</tr>'
