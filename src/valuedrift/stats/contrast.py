"""Contrasts: differences between checkpoints of different runs or stages, paired by prompt, and the contrasts that a run allows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from ..nouns import OUTCOMES, BadInput
from .cells import Cells, cells
from .drift import ALPHA, families, planned
from .intervals import Sample, difference
from .profile import by_topic, frame

SCHEMA = (
    {"view": pl.String(), "topic": pl.String(), "outcome": pl.String()}
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "n_seeds": pl.Int64(), "seed_share": pl.Float64(), "p": pl.Float64(), "p_adjusted": pl.Float64()}
    | {"resolved": pl.Boolean(), "n_left_out": pl.Int64()}
)
EFFECTS = {"kind": pl.String(), "first": pl.String(), "second": pl.String()} | SCHEMA
BY_SEEDS = 0.5
"""Part of the squared standard error from which on an interval rests mostly on seeds."""
LEAST_COVERED = 87
"""The least coverage in % of intervals that rest mostly on seeds, over the cells of benchmarks/coverage.py."""


def contrast(scores_a: pl.DataFrame, scores_b: pl.DataFrame, *views: str) -> pl.DataFrame:
    """Return one row per view (default: claim) x topic x outcome: share in b - share in a over the prompts in both, with p by `families`.

    Each side must be the rows of ONE checkpoint (any number of seeds). Seeds that both sides have are paired;
    if they have none in common, they are paired in order. `n_left_out` counts the topic's prompts with evidence on one side only. Raises
    BadInput for several checkpoints.
    """
    compared = {view: _compared(scores_a, scores_b, view) for view in views or ("claim",)}
    changes = {(view, topic): change for view, (of, _) in compared.items() for topic, change in of.items()}
    results = {key: difference(change) for key, change in changes.items()}
    known = planned(results)
    adjusted, _ = families({key: result.p for key, result in results.items()})
    rows = []
    for (view, topic), result in results.items():
        change, seed_share = changes[view, topic], known[view, topic].seed_share
        for o, outcome in enumerate(OUTCOMES):
            row: dict[str, Any] = {"view": view, "topic": topic, "outcome": outcome, "seed_share": seed_share[o]}
            row |= {"n": change.n[o], "n_seeds": change.n_seeds[o], "n_left_out": compared[view][1][topic]}
            row |= {name: getattr(result, name)[o] for name in ("value", "low", "high", "p")}
            corrected = adjusted[view, topic, outcome]
            rows.append(row | {"p_adjusted": corrected, "resolved": bool(corrected < ALPHA)})
    return frame(rows, SCHEMA)


def _compared(scores_a: pl.DataFrame, scores_b: pl.DataFrame, view: str) -> tuple[dict[str, Sample], dict[str, int]]:
    """Return by topic the difference, and the number of prompts with evidence on one side only."""
    a, b = _one_checkpoint(scores_a, view), _one_checkpoint(scores_b, view)
    prompts = sorted({*a.prompts, *b.prompts})
    a, b = (cells(scores, view, prompts=prompts) for scores in (scores_a, scores_b))
    seeds = [(s, s) for s in a.seeds if s in b.seeds] or list(zip(a.seeds, b.seeds, strict=False))
    at_a, at_b = ([table.seeds.index(pair[side]) for pair in seeds] for side, table in ((0, a), (1, b)))
    read_a, read_b = a.read_CSP[:, at_a], b.read_CSP[:, at_b]
    both = (read_a & read_b)[..., None]
    shares_a = by_topic(a.num_CSPO[:, at_a] * both, a.den_CSPO[:, at_a] * both, a.topics)
    shares_b = by_topic(b.num_CSPO[:, at_b] * both, b.den_CSPO[:, at_b] * both, a.topics)
    changes = {topic: shares_b[topic] - shares_a[topic] for topic in shares_a}
    alone = {topic: change[0] for topic, change in changes.items()}
    one_side = (read_a | read_b).any((0, 1)) & ~both[..., 0].any((0, 1))
    return alone, {topic: int(one_side[a.topics.get(topic, slice(None))].sum()) for topic in alone}


def speaks_for(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on what a comparison's intervals cover, given the number of training runs on each side."""
    n_seeds = max(row["n_seeds"] for row in rows)
    if n_seeds == 1:
        return (
            "1 seed: each side is one training run (n = 1). The intervals cover other prompts, not another training run: "
            "two runs of one recipe also differ, and such differences count as resolved."
        )
    return f"{n_seeds} seeds: the intervals cover other prompts and other training runs. {seeds_note(rows)}".rstrip()


def seeds_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence if intervals rest on few training runs and so cover less than 95 %, else "".

    benchmarks/coverage.py measures the coverage.
    """
    known = [row for row in rows if row["value"] is not None and row["n_seeds"] > 1]
    few = [row for row in known if row["seed_share"] is not None and row["seed_share"] > BY_SEEDS]
    if not few:
        return ""
    runs = " or ".join(str(n) for n in sorted({row["n_seeds"] for row in few}))
    return (
        f"{len(few):,} of {len(known):,} intervals rest mostly on how {runs} training runs differ. So few runs do not show a skewed "
        f"spread: these intervals may cover as little as {LEAST_COVERED} % instead of 95 %."
    )


def _one_checkpoint(scores: pl.DataFrame, view: str) -> Cells:
    table = cells(scores, view)
    if len(table.checkpoints) != 1:
        raise BadInput(
            f"a contrast compares one checkpoint with one other, not {len(table.checkpoints)}; filter the scores by stage and step"
        )
    return table


class Comparison(NamedTuple):
    """Two stages to compare at their last steps. `kind` names the difference between them."""

    kind: str
    first: str
    second: str


def comparisons(stages: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Return the comparisons of stages that differ in one choice alone.

    "stage": different stages (another algorithm, other data, another value of a swept setting) from the same start; each is compared with
    the first of its siblings. "start": the same stage (equal `settings`) from different starts, for example because an earlier stage was
    left out. "order": the same stages in a different order.
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


def effects(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], *views: str) -> pl.DataFrame:
    """Return one row per comparison x view x topic x outcome: share at the second's end minus share at the first's.

    Paired by prompt and seed; seeds that only one of the two has are left out. Columns as in `contrast`; p is corrected by Holm within a
    comparison.
    """
    rows = scores.filter(~pl.col("repeat"))
    tables = [pl.DataFrame(schema=EFFECTS)]
    for comparison in comparisons(stages):
        first, second = (_end(rows, stages, name) for name in comparison[1:])
        if first.height and second.height:
            named = {name: pl.lit(value) for name, value in zip(("kind", "first", "second"), comparison, strict=True)}
            tables.append(contrast(first, second, *views).select(**named, **{name: pl.col(name) for name in SCHEMA}))
    return pl.concat(tables)


def _chain(by_name: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """Return the stages from the base to this one."""
    chain: list[str] = []
    while name in by_name and name not in chain:
        chain.insert(0, name)
        name = by_name[name]["after"]
    return chain


def _end(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], name: str) -> pl.DataFrame:
    last = max((stage["steps"][-1] for stage in stages if stage["name"] == name), default=0)
    return scores.filter((pl.col("stage") == name) & (pl.col("step") == last))
