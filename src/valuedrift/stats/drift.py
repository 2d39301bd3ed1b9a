"""Drifts: how far and how soon each share moved within a stage, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, BadInput
from .cells import ALL, Cells, cells
from .intervals import FLAT, Difference, Sample, Spread, difference, holm
from .power import detectable, noise_floor
from .profile import by_topic, frame

ALPHA = 0.05
ARRIVED = 0.8
"""Share of its change after which a drift has arrived. At 0.9, with 50 prompts, the interval of a curve that is flat from early on would
span half of the stage, because the remaining change is too small to be detected."""
LAST = 2 / 3
"""Where the last third of a stage begins."""
SCHEMA = (
    dict.fromkeys(("stage", "view", "topic", "stance"), pl.String())
    | dict.fromkeys(("from_step", "to_step"), pl.Int64())
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "n_seeds": pl.Int64(), "seed_share": pl.Float64()}
    | {"p": pl.Float64(), "p_adjusted": pl.Float64(), "resolved": pl.Boolean()}
    | dict.fromkeys(("floor", "detectable", "time", "time_low", "time_high", "paper_time"), pl.Float64())
    | {"status": pl.String()}
)


def drifts(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], *views: str) -> pl.DataFrame:
    """Return one row per stage x view (default: claim) x topic x outcome: the change from step 0 to the last step, when
    it happened, and the smallest drift that would be detected.

    value: v_T - v_0, signed, paired by prompt over the prompts with evidence at both ends, seeds pooled; 95 % interval, p and Holm's
    p_adjusted. seed_share: the part of the squared standard error that comes from runs that differ (`planned`). resolved: p_adjusted <
    0.05, in two families within a stage, each over all views and outcomes: the topics, and "all". floor: `noise_floor`. detectable:
    `power.detectable` at 0.05 / size of the family. time, time_low, time_high, status: `course`; paper_time: `paper_arrival`; all as
    fractions of the stage's steps. Times are empty with "no drift" if the change is unresolved (a value that went and came back has not
    drifted between the ends), and with "no evidence" if an end has no value or fewer than 5 prompts. A stage with one checkpoint has no
    rows. Raises BadInput if `stages` does not know a stage of the scores.
    """
    tables = {view: cells(scores, view) for view in views or ("claim",)}
    known = list(dict.fromkeys(entry["name"] for entry in stages))
    stages_of = [stage for stage, _ in next(iter(tables.values())).checkpoints]
    strange = sorted({stage for stage in stages_of if stages_of.count(stage) > 1} - set(known))
    if strange:
        raise BadInput(f"the scores follow the stage {strange[0]!r}, which is not among the stages of the run; trace the run again")
    floors = {
        (row["stage"], view, row["topic"], row["stance"]): row["floor"]
        for view in tables
        for row in noise_floor(scores, view).iter_rows(named=True)
    }
    rows: list[dict[str, Any]] = []
    for name in known:
        places = [c for c, stage in enumerate(stages_of) if stage == name]
        if len(places) > 1:
            total_steps = max(int(entry["total_steps"]) for entry in stages if entry["name"] == name)
            rows += _stage_rows({view: _path(table, places, total_steps) for view, table in tables.items()}, floors)
    return frame(rows, SCHEMA)


@dataclass(frozen=True)
class _Path:
    """One stage: its steps T, and per-prompt sums T, S, P, O at each step and at step 0, over the prompts with evidence at both."""

    stage: str
    steps: list[int]
    total_steps: int
    topics: dict[str, slice]
    now: tuple[np.ndarray, np.ndarray]
    start: tuple[np.ndarray, np.ndarray]


def _path(table: Cells, places: list[int], total_steps: int) -> _Path:
    seeds = table.read_CSP[places].any((0, 2))
    seeds = seeds if seeds.any() else ~seeds  # nothing is read: no evidence under any seed
    num, den, read = (x[places][:, seeds] for x in (table.num_CSPO, table.den_CSPO, table.read_CSP))
    both = (read & read[:1])[..., None]
    steps = [table.checkpoints[c][1] for c in places]
    now, start = (num * both, den * both), (num[:1] * both, den[:1] * both)
    return _Path(table.checkpoints[places[0]][0], steps, max(total_steps, steps[-1]), table.topics, now, start)


def _stage_rows(paths: Mapping[str, _Path], floors: Mapping[tuple[str, str, str, str], float | None]) -> list[dict[str, Any]]:
    changes = {(view, topic): change for view, path in paths.items() for topic, change in _changes(path).items()}
    results = {key: difference(change) for key, change in changes.items()}
    known = planned(results)
    adjusted, n_tests = families({key: result.p[-1] for key, result in results.items()})
    path = next(iter(paths.values()))
    at_T = np.array(path.steps) / path.total_steps
    rows = []
    for (view, topic), result in results.items():
        for o, outcome in enumerate(OUTCOMES):
            value, low, high, p = (float(x[-1, o]) for x in (result.value, result.low, result.high, result.p))
            corrected = adjusted[view, topic, outcome]
            resolved = bool(corrected < ALPHA)
            least = detectable(known[view, topic], changes[view, topic].n, max(n_tests[topic == ALL], 1), ALPHA)[-1, o]
            row: dict[str, Any] = {"stage": path.stage, "view": view, "topic": topic, "stance": outcome}
            row |= {"from_step": path.steps[0], "to_step": path.steps[-1], "value": value, "low": low, "high": high}
            row |= {"n": changes[view, topic].n[-1, o], "n_seeds": changes[view, topic].n_seeds[-1, o], "p": p, "p_adjusted": corrected}
            row |= {"seed_share": known[view, topic].seed_share[-1, o]}
            row |= {"resolved": resolved, "floor": floors.get((path.stage, view, ALL if topic == ALL else "", outcome))}
            row |= {"detectable": None if np.isnan(p) else least}
            rows.append(row | _when(changes[view, topic][:, o], resolved, at_T))
    return rows


def planned(results: Mapping[tuple[str, str], Difference]) -> dict[tuple[str, str], Spread]:
    """Return the spread to plan with, by (view, topic): the seeds' part and its noise are means over a view's topics, "all" has its own.

    With few seeds, one topic's estimate is unreliable: seeds that agree by chance would seem to have no effect.
    """
    found = {}
    for view, topic in results:
        alike = [result.known for (other, name), result in results.items() if other == view and (name == ALL) == (topic == ALL)]
        means = {part: np.asarray(np.mean([getattr(known, part) for known in alike], 0)) for part in ("by_seed", "noise")}
        found[view, topic] = replace(results[view, topic].known, **means)
    return found


def _changes(path: _Path) -> dict[str, Sample]:
    """Return v_t - v_0 by topic; leading axes T, O."""
    now, start = by_topic(*path.now, path.topics), by_topic(*path.start, path.topics)
    return {topic: now[topic] - start[topic] for topic in now}


def families(p_values: Mapping[tuple[str, str], np.ndarray]) -> tuple[dict[tuple[str, str, str], float], dict[bool, int]]:
    """Return Holm's p values by (view, topic, outcome), and the number of tests of the two families, from a p per outcome by (view, topic).

    The topics are one family and "all" is the other, each over the given views and all outcomes. If nothing changed (11 topics of 20 or
    50 prompts, 5 answers each, views claim and axis), anything at all is resolved in 4.1 to 5.5 % of runs (1,500 each, standard error
    0.6). With further families for each view, and for stances apart from refusal and invalid, it was 14 to 17 %.
    """
    adjusted: dict[tuple[str, str, str], float] = {}
    n_tests: dict[bool, int] = {}
    for overall in (False, True):
        members = [(*key, outcome) for key in p_values for outcome in OUTCOMES if (key[1] == ALL) == overall]
        p = np.array([p_values[view, topic][OUTCOMES.index(outcome)] for view, topic, outcome in members])
        adjusted |= dict(zip(members, holm(p).tolist(), strict=True))
        n_tests[overall] = int((~np.isnan(p)).sum())
    return adjusted, n_tests


def _when(change: Sample, resolved: bool, at_T: np.ndarray) -> dict[str, Any]:
    """Return status, time, time_low, time_high and paper_time of one drift; `change` is v_t - v_0 with leading axis T."""
    empty = dict.fromkeys(("time", "time_low", "time_high", "paper_time"))
    result = difference(change)
    if np.isnan(result.p[-1]):
        return empty | {"status": "no evidence"}
    if not resolved:
        return empty | {"status": "no drift"}
    known = ~np.isnan(result.p)
    towards = -1 if change.value[-1] < 0 else 1
    arrived = paper_arrival(*(x[known] for x in (result.value, result.low, result.high)))
    found = course(change[known].weighted(towards * np.eye(known.sum())), at_T[known])
    return empty | found | {"paper_time": None if arrived is None else at_T[known][arrived]}


def course(change: Sample, at_T: np.ndarray) -> dict[str, Any]:
    """Return when an upward drift, `change` (leading axis T, first 0), passed `ARRIVED` of its change, and whether it was still moving.

    time: the first point at which the curve, linear between evaluated steps, reaches `ARRIVED` x (v_T - v_0). time_low is the last step
    that is significantly before it, and time_high the first that is significantly after it (95 % interval of the paired
    v_t - v_0 - ARRIVED (v_T - v_0)), so the interval is valid for any curve between the steps.
    non-monotone: some step lies beyond the last (5 %, Bonferroni over the steps). reached: the change in the stage's last third is
    significantly less than half of a straight line's. still moving: it is significantly above 0. undecided: neither (5 %, one-sided
    each), or no step between the ends was evaluated. Only evaluated steps of the last third count, so that an earlier jump is not taken
    for a movement at the end.
    """
    n, each = len(at_T), np.eye(len(at_T))
    left = difference(change.weighted(each - ARRIVED * each[-1]))
    if n < 3 or np.isnan(left.value).any():
        return {"status": "undecided"}
    passed = int((left.value >= 0).argmax())
    share = left.value[passed - 1] / (left.value[passed - 1] - left.value[passed])
    after = int(np.append(left.low[:-1] > 0, True).argmax())
    before = int(np.flatnonzero(left.high[:after] < 0).max(initial=0))
    found = {"time": at_T[passed - 1] + share * (at_T[passed] - at_T[passed - 1]), "time_low": at_T[before], "time_high": at_T[after]}
    done_T = (at_T - at_T[0]) / (at_T[-1] - at_T[0])
    last = min(int((done_T >= LAST - FLAT).argmax()), n - 2)
    rise = each[-1] - each[last]
    end = difference(change.weighted(np.stack([rise, rise - (1 - done_T[last]) / 2 * each[-1]])))
    beyond = difference(change.weighted(each[1:-1] - each[-1]))
    if np.where(beyond.value > 0, beyond.p, 1).min() * (n - 2) < ALPHA:
        return found | {"status": "non-monotone"}
    moved, much = np.sign(end.value) * (end.p < 2 * ALPHA)
    return found | {"status": "reached" if much < 0 else "still moving" if moved > 0 else "undecided"}


def paper_arrival(change_T: np.ndarray, low_T: np.ndarray, high_T: np.ndarray) -> int | None:
    """Return the step at which a drift arrived as the paper defines it: the first whose change lies in the extremum's 95 % interval.

    change_T: v_t - v_0, first 0. The extremum is the step farthest from v_0 in the direction of the drift. None if only the last step
    lies in its interval. The interval is that of the paired change, so that differences between prompts, which are the same at every
    step, do not make a late arrival look early. More prompts make the interval narrower and this time later.
    """
    peak = int((change_T[1:] * (-1 if change_T[-1] < 0 else 1)).argmax()) + 1
    first = int(((change_T[1:] >= low_T[peak]) & (change_T[1:] <= high_T[peak])).argmax()) + 1
    return None if first == len(change_T) - 1 else first


def by_judge(drifts: pl.DataFrame, members: Mapping[str, pl.DataFrame]) -> pl.DataFrame | None:
    """Return one row per drift and member of a panel, None if there is no panel.

    `says`: "confirms" (the panel's drift is resolved, and the member's is too, with the same sign), "contradicts" (with the other sign),
    "undecided" (the member does not resolve it), "alone" (resolved by the member and not by the panel), "none" (resolved by neither).
    A drift survives if every member confirms it.
    """
    if not members:
        return None
    key = ("stage", "view", "topic", "stance")
    panel = drifts.select(*key, panel="value", panel_low="low", panel_high="high", panel_resolved="resolved")
    rows = [
        panel.join(found.select(*key, "value", "low", "high", "resolved"), on=key, how="left", maintain_order="left").with_columns(
            judge=pl.lit(judge)
        )
        for judge, found in members.items()
    ]
    same = pl.col("panel").sign() == pl.col("value").sign()
    says = (
        pl.when(pl.col("panel_resolved") & pl.col("resolved"))
        .then(pl.when(same).then(pl.lit("confirms")).otherwise(pl.lit("contradicts")))
        .when(pl.col("panel_resolved"))
        .then(pl.lit("undecided"))
        .when(pl.col("resolved"))
        .then(pl.lit("alone"))
        .otherwise(pl.lit("none"))
    )
    return pl.concat(rows).with_columns(says=says)
