"""The length of the answers: a change of length is easily mistaken for a change of values."""

from __future__ import annotations

import polars as pl

from valuedrift import analyses
from valuedrift.analyses import Measured, Tables
from valuedrift.report.run import Run
from valuedrift.report.words import esc


class Analysis(analyses.Analysis):
    """Report the mean answer length per checkpoint in a table, a sentence and a panel."""

    order = 35
    title = "Answer length"

    def measure(self, tables: Tables) -> Measured:
        """Return the mean number of words of each checkpoint's answers, without the repeats for the noise floor."""
        answers = tables["scores"].filter(~pl.col("repeat")).join(tables.answers, left_on="answer", right_on="key")
        words = answers.with_columns(words=pl.col("text").str.count_matches(r"\S+"))
        return {"answer_length": words.group_by("stage", "step").agg(pl.col("words").mean(), n=pl.len()).sort("stage", "step")}

    def findings(self, tables: Measured, view: str) -> list[str]:
        """Return the longest and the shortest mean."""
        table = tables.get("answer_length")
        if table is None or table.is_empty():
            return []
        return [f"Answers have {table['words'].min():.1f} to {table['words'].max():.1f} words on average, by checkpoint."]

    def panel(self, run: Run) -> str:
        """Return one row per checkpoint."""
        table = run.table("answer_length")
        if table is None or table.is_empty():
            return ""
        rows = "".join(
            f'<tr><th scope="row">{esc(stage)} step {step:,}</th><td>{mean:.1f}</td><td>{n:,}</td></tr>'
            for stage, step, mean, n in table.rows()
        )
        head = '<thead><tr><th scope="col">checkpoint</th><th scope="col">words per answer</th><th scope="col">answers</th></tr></thead>'
        return f"<table>{head}<tbody>{rows}</tbody></table>"
