"""How long the answers are: a change of length is often taken for a change of values."""

from __future__ import annotations

import polars as pl

from valuedrift.report._run import Run
from valuedrift.report._words import esc


class Panel:
    """A table of the mean answer length per checkpoint."""

    order = 35
    title = "Answer length"

    def html(self, run: Run) -> str:
        """Return one row per checkpoint: the mean number of words of its stored answers, repeats for the noise floor left out."""
        answers = run.scores.filter(~pl.col("repeat")).join(run.answers, left_on="answer", right_on="key")
        words = answers.with_columns(words=pl.col("text").str.count_matches(r"\S+"))
        means = words.group_by("stage", "step").agg(pl.col("words").mean(), n=pl.len()).sort("stage", "step")
        rows = "".join(
            f'<tr><th scope="row">{esc(stage)} step {step:,}</th><td>{mean:.1f}</td><td>{n:,}</td></tr>'
            for stage, step, mean, n in means.rows()
        )
        if not rows:
            return ""
        head = '<thead><tr><th scope="col">checkpoint</th><th scope="col">words per answer</th><th scope="col">answers</th></tr></thead>'
        return f"<table>{head}<tbody>{rows}</tbody></table>"
