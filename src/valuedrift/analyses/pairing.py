"""What common random numbers save: the standard errors beside those of independent sampling."""

from __future__ import annotations

from ..stats.pairing import pairing, pairing_findings
from . import Analysis as Base
from . import Measured, Tables, filled


class Analysis(Base):
    """The ratio of paired to unpaired standard errors; the findings say it."""

    title = "Common random numbers"
    order = 21

    def measure(self, tables: Tables) -> Measured:
        """Return the standard errors between checkpoints, paired and not."""
        return {"pairing": filled(pairing(tables["scores"], tables.stages))}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return one sentence per stage: how much smaller standard errors are than those of independent sampling."""
        table = tables.get("pairing")
        return [] if table is None else pairing_findings(table)
