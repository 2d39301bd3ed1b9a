"""Drifts: how far and how soon each share moved within a stage, paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, BadInput
from ._cells import ALL, Cells, cells
from ._resample import TINY, Difference, Sample, difference, holm, nanmean, rng_for, weights
from .power import detectable, noise_floor
from .profile import by_topic, frame

ALPHA = 0.05
SCHEMA = (
    dict.fromkeys(("stage", "view", "topic", "stance"), pl.String())
    | dict.fromkeys(("from_step", "to_step"), pl.Int64())
    | dict.fromkeys(("value", "low", "high"), pl.Float64())
    | {"n": pl.Int64(), "n_seeds": pl.Int64(), "p": pl.Float64(), "p_adjusted": pl.Float64(), "resolved": pl.Boolean()}
    | dict.fromkeys(("floor", "detectable", "time", "time_low", "time_high"), pl.Float64())
    | {"status": pl.String()}
)


def drifts(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], *views: str, seed: int = 0) -> pl.DataFrame:
    """Return one row per stage x view (default: claim) x topic x outcome: the change from step 0 to the last step, when
    it happened, and what could be seen.

    value: v_T - v_0, signed, paired by prompt over the prompts read at both ends, seeds pooled; 95 % interval, p and Holm's p_adjusted.
    resolved: p_adjusted < 0.05. Two families within a stage, each over all views and outcomes: the topics, and "all".
    floor: `noise_floor`. detectable: `power.detectable` at 0.05 / size of the family. time, status: `drift_time`, interval by bootstrap,
    from the earliest step that was saved and not asked before an arrival; empty with "no drift" where the change is unresolved (a value
    that went and came back has not drifted between the ends), and with "no evidence" where an end has no value or fewer than 5 prompts.
    A stage with one checkpoint has no rows.
    Raises BadInput where `stages` does not know a stage of the scores.
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
            saved = sorted({step for entry in stages if entry["name"] == name for step in entry.get("steps", [])})
            paths = {view: _path(table, places, total_steps) for view, table in tables.items()}
            rows += _stage_rows(paths, floors, seed, saved)
    return frame(rows, SCHEMA)


@dataclass(frozen=True)
class _Path:
    """One stage: its steps T, and per-prompt sums T, S, P, O at each step and at step 0, both over the prompts read at the two."""

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


def _stage_rows(
    paths: Mapping[str, _Path], floors: Mapping[tuple[str, str, str, str], float | None], seed: int, saved: Sequence[int]
) -> list[dict[str, Any]]:
    changes = {(view, topic): change for view, path in paths.items() for topic, change in _changes(path).items()}
    results = {key: difference(change) for key, change in changes.items()}
    copies = {(view, topic): copy for view, path in paths.items() for topic, copy in _replicates(path, seed).items()}
    known = {key: replace(result.known, by_seed=_by_seed(results, *key)) for key, result in results.items()}
    adjusted, n_tests = families({key: result.p[-1] for key, result in results.items()})
    path = next(iter(paths.values()))
    before = [max((step for step in path.steps if step < here), default=here) for here in path.steps]
    earliest = [min((step for step in saved if low < step < here), default=here) for low, here in zip(before, path.steps, strict=True)]
    fraction_T, earliest_T = (np.array(steps) / path.total_steps for steps in (path.steps, earliest))
    rows = []
    for (view, topic), result in results.items():
        for o, outcome in enumerate(OUTCOMES):
            value, low, high, p = (float(x[-1, o]) for x in (result.value, result.low, result.high, result.p))
            corrected = adjusted[view, topic, outcome]
            resolved = bool(corrected < ALPHA)
            least = detectable(known[view, topic], changes[view, topic].n, max(n_tests[topic == ALL], 1), ALPHA)[-1, o]
            row = {
                "stage": path.stage,
                "view": view,
                "topic": topic,
                "stance": outcome,
                "from_step": path.steps[0],
                "to_step": path.steps[-1],
            }
            row |= {"value": value, "low": low, "high": high, "n": changes[view, topic].n[-1, o]}
            row |= {"n_seeds": changes[view, topic].n_seeds[-1, o], "p": p, "p_adjusted": corrected}
            row |= {"resolved": resolved, "floor": floors.get((path.stage, view, ALL if topic == ALL else "", outcome))}
            row |= {"detectable": None if np.isnan(p) else least}
            rows.append(row | _when(result, o, resolved, copies[view, topic][:, :, o], fraction_T, earliest_T))
    return rows


def _by_seed(results: Mapping[tuple[str, str], Difference], view: str, topic: str) -> np.ndarray:
    """Return the seeds' part to plan with: its mean over a view's topics, because few seeds say little of one topic; "all" has its own."""
    alike = [result.known.by_seed for (other, name), result in results.items() if other == view and (name == ALL) == (topic == ALL)]
    return np.asarray(np.mean(alike, 0))


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


def _replicates(path: _Path, seed: int) -> dict[str, np.ndarray]:
    """Return bootstrap replicates of v_t - v_0, axes R, T, O: prompts (and seeds, where several) drawn anew, the same for all steps."""
    n_seeds = path.now[0].shape[1]
    seeds_RS = weights(rng_for(seed, "bootstrap", "seeds"), n_seeds)
    copies = {}
    for topic, place in path.topics.items():
        prompts_RP = weights(rng_for(seed, "bootstrap", topic), place.stop - place.start)
        values = []
        for num, den in (path.now, path.start):
            num_RTSO, den_RTSO = (np.tensordot(prompts_RP, x[:, :, place], axes=(1, 2)) for x in (num, den))
            share = num_RTSO / np.maximum(den_RTSO, TINY)
            with np.errstate(invalid="ignore", divide="ignore"):
                values.append(np.einsum("rs,rtso->rto", seeds_RS, share) / np.einsum("rs,rtso->rto", seeds_RS, den_RTSO > 0))
        copies[topic] = values[0] - values[1]
    return copies | {ALL: nanmean(np.stack(list(copies.values())), 0)}


def _when(
    result: Difference, o: int, resolved: bool, copies_RT: np.ndarray, fraction_T: np.ndarray, earliest_T: np.ndarray
) -> dict[str, Any]:
    """Return time, time_low, time_high and status of one drift. What was saved and not asked before an arrival may be the arrival."""
    empty = {"time": None, "time_low": None, "time_high": None}
    change_T, low_T, high_T = result.value[:, o], result.low[:, o], result.high[:, o]
    if np.isnan(result.p[-1, o]):
        return empty | {"status": "no evidence"}
    if not resolved:
        return empty | {"status": "no drift"}
    below_T, above_T = change_T - low_T, high_T - change_T
    first, status = drift_time(change_T[None], below_T, above_T)
    if status[0] == "not reached":
        return empty | {"status": "not reached"}
    copied, _ = drift_time(copies_RT[~np.isnan(copies_RT[:, -1])], below_T, above_T)
    low = np.quantile(earliest_T[copied], 0.025, method="inverted_cdf")
    high = np.quantile(fraction_T[copied], 0.975, method="inverted_cdf")
    return {"time": fraction_T[first[0]], "time_low": low, "time_high": high, "status": str(status[0])}


def drift_time(change_RT: np.ndarray, below_T: np.ndarray, above_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each curve the index of the step at which it has arrived, and the status.

    change_RT: v_t - v_0 (step 0 first). The extremum is the step farthest from v_0 in the direction of the drift. The curve has arrived at
    the first step after 0 whose change lies within the extremum's 95 % interval [change - below, change + above]; the interval is that of
    the paired change, so that differences between prompts, which are the same at every step, do not make a late arrival look early.
    reached: it arrived before the last step and ends there. not reached: only the last step lies in the interval; the value was still
    moving when the stage ended. non-monotone: the last step has left the interval again (the index is still that of the arrival).
    """
    rows = np.arange(len(change_RT))
    toward = np.where(np.isnan(change_RT), -np.inf, change_RT * np.where(change_RT[:, -1:] < 0, -1, 1))
    peak = toward[:, 1:].argmax(1) + 1
    top = change_RT[rows, peak][:, None]
    inside = (change_RT >= top - below_T[peak][:, None]) & (change_RT <= top + above_T[peak][:, None])
    inside[rows, peak] = True
    first = inside[:, 1:].argmax(1) + 1
    last = change_RT.shape[1] - 1
    status = np.where(~inside[:, -1], "non-monotone", np.where(first == last, "not reached", "reached"))
    return first, status
