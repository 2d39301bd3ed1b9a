"""Which drifts survive another judge: what each member of a panel says on its own."""

from __future__ import annotations

from ..nouns import STANCES
from ..report.run import ALL, Row, Run
from ..report.words import count, esc, estimate, listed, outcome, table
from ..stats.drift import by_judge, drifts
from . import Analysis as Base
from . import Measured, Tables

SAYS = {
    "confirms": "confirms it",
    "contradicts": "contradicts it",
    "undecided": "does not resolve it",
    "alone": "resolves it alone",
    "none": "",
}


class Analysis(Base):
    """A table of the drifts that the panel or one of its members resolves."""

    order = 25
    title = "Other judges"

    def measure(self, tables: Tables) -> Measured:
        """Return what each member of a panel says of every drift."""
        scores = tables.get("scores_by_judge")
        members = {} if scores is None else {str(judge): rows for (judge,), rows in scores.group_by("judge", maintain_order=True)}
        return {
            "judges": by_judge(tables["drifts"], {judge: drifts(rows, tables.stages, *tables.views) for judge, rows in members.items()})
        }

    def panel(self, run: Run) -> str:
        """Return the table and a sentence on how many drifts survive; "" for a single judge."""
        judges = run.table("judges")
        if judges is None:
            return ""
        names = judges["judge"].unique(maintain_order=True).to_list()
        rows = [row for row in judges.iter_rows(named=True) if row["stance"] in STANCES]
        drifts: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in rows:
            drifts.setdefault((row["stage"], row["topic"], row["stance"]), {})[row["judge"]] = row
        shown = {key: found for key, found in drifts.items() if any(row["says"] != "none" for row in found.values())}
        body = "".join(_line(key, found, names) for key, found in shown.items())
        heads = ("stage", "topic", "stance", "panel", *map(esc, names))
        told = table("Drifts by judge", heads, body, tall=True) if shown else ""
        return f"<p>{_sentence(list(drifts.values()), names)}</p>{told}"


def _sentence(drifts: list[dict[str, Row]], names: list[str]) -> str:
    resolved = [found for found in drifts if _first(found)["panel_resolved"] and _first(found)["topic"] != ALL]
    survive = [found for found in resolved if all(row["says"] == "confirms" for row in found.values())]
    against = sum(any(row["says"] == "contradicts" for row in found.values()) for found in resolved)
    alone = sum(any(row["says"] == "alone" for row in found.values()) for found in drifts if _first(found)["topic"] != ALL)
    return (
        f"The verdict is the mean of {listed(esc(name) for name in names)}. "
        f"The panel resolves {count(len(resolved), 'topic drift')}: {len(survive)} confirmed by every judge alone, {against} contradicted "
        f"by at least one. {count(alone, 'topic drift')} resolved by a judge alone, not by the panel."
    )


def _first(found: dict[str, Row]) -> Row:
    return next(iter(found.values()))


def _line(key: tuple[str, str, str], found: dict[str, Row], names: list[str]) -> str:
    stage, topic, stance = key
    first = _first(found)
    panel = estimate({"value": first["panel"], "low": first["panel_low"], "high": first["panel_high"]}, sign=True)
    cells = "".join(
        f'<td class="nums">{esc(estimate(found[name], sign=True))}<br><small>{SAYS[found[name]["says"]]}</small></td>' for name in names
    )
    mark = " (resolved)" if first["panel_resolved"] else ""
    drift = f'<td>{esc(stage)}</td><th scope="row">{esc(topic)}</th><td>{outcome(stance)}</td>'
    return f'<tr>{drift}<td class="nums">{esc(panel)}{mark}</td>{cells}</tr>'
