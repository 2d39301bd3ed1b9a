"""Score tables written by hand."""

import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES

SCHEMA = (
    {"stage": pl.String, "step": pl.Int64, "seed": pl.Int64, "repeat": pl.Boolean, "topic": pl.String, "prompt": pl.String}
    | {"polarity": pl.Int64, "draw": pl.Int64}
    | dict.fromkeys(OUTCOMES, pl.Float64)
    | {"failure": pl.String}
)
LETTERS = {letter: [float(letter == other) for other in "SNORI"] for letter in "SNORI"}


@pytest.fixture(scope="session")
def scores():
    """Return a function from {prompt: draws} to score rows.

    A draw is a letter (S, N, O, R refusal, I invalid, x the judge failed) or five probabilities.
    """

    def build(answers, topic="work", stage="sft", step=0, seed=0, repeat=False, polarity=None):
        rows = []
        for prompt, draws in answers.items():
            for draw, said in enumerate(draws):
                probs = [None] * 5 if said == "x" else LETTERS.get(said, said) if isinstance(said, str) else said
                failure = "unparsed" if said == "x" else None
                rows.append((stage, step, seed, repeat, topic, f"{topic}/{prompt}", (polarity or {}).get(prompt, 1), draw, *probs, failure))
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    return build


@pytest.fixture(scope="session")
def row():
    """Return a function that picks the one row of a table with the given column values, as a dict."""

    def pick(table, **where):
        found = table.filter(**where)
        assert found.height == 1, f"{found.height} rows match {where}"
        return found.row(0, named=True)

    return pick
