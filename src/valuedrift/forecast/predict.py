"""The verb forecast: what a data set will do to a model's stances, with intervals and the record of such forecasts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .. import registry, resolve
from ..judge.cache import CachedJudge
from ..nouns import OUTCOMES, STANCES, BadInput, Example, Pair
from ..parts import parquet
from ..plan import EvaluationSettings, Plan, Stage
from ..records import records
from ..registry import among
from ..stats import forecast as stats
from ..stats import gap
from ..stats.text_style import length
from ..store import Store, sealed
from ..train.reward_model import RewardModel
from . import archive as archives
from .gradients import has_gradients
from .page import write_forecast_page
from .starts import Starts, architecture

RUNGS = {"gap": stats.GAP, "gradients": (*stats.GAP, "gradients")}
"""Rung of the ladder -> the features that its forecast is made of, the cheapest first."""
FAR, NEAR = 2.0, 0.1
"""How far a training's dose (as a factor) and the start's shares may lie outside those of the archive before its errors say nothing."""
FLAT = 0.01
"""A forecast of a smaller drift has no direction."""
BASELINES = ("no drift", "one slope", "mean of runs", "another seed")


def stage_of(plan: Plan | None, name: str, data: str, algorithm: str) -> Stage:
    """Return the training to forecast: a stage of the plan on this data, or the algorithm with its default settings."""
    if plan is None:
        return Stage(algorithm=algorithm or ("dpo" if isinstance(records.read([data])[0], Pair) else "sft"), data=data)
    if not name and len(plan.stage) > 1:
        raise BadInput(f"the plan has {len(plan.stage)} stages; name the one to forecast with --stage ({', '.join(plan.stage)})")
    name = name or next(iter(plan.stage))
    if name not in plan.stage:
        raise BadInput(f"the plan has no stage {name!r}{among(name, list(plan.stage))}")
    return plan.stage[name].changed(["data"], data)


def forecast(
    stage: Stage, model: str, settings: EvaluationSettings, out: Path, given: Sequence[Path] = (), rung: str = "", seed: int = 0
) -> dict[str, Any]:
    """Return the forecast drift of every topic and measure if `model` is trained by `stage`; nothing is trained.

    `given` are archives (run folders or Parquet files), by default the sandbox's. Without `rung`, the dearest one is taken whose record is
    better than the gap's (`shipped`); the gap, if the forecast has no interval. Writes OUT/forecast.json, sealed by its digest, and
    OUT/forecast.html.
    """
    if rung not in ("", *RUNGS):
        raise BadInput(f"unknown rung {rung!r}{among(rung, list(RUNGS))}")
    if "rollouts" in registry.algorithm(stage.algorithm).needs:
        return _by_rewards(stage, model, settings, out)
    store, starts = Store(out), Starts(settings, out)
    judge = CachedJudge(resolve.judge_of(settings.judge, settings.max_cost), store)
    seconds: dict[str, float] = {}
    with store.locked():
        known = _archive(given, starts, judge, rung, seconds)
        if stage.algorithm not in (have := known["algorithm"].unique().sort().to_list()):
            raise BadInput(f"the archive holds no training with {stage.algorithm!r}, only with {', '.join(have)}; give runs with --archive")
        known = known.filter(algorithm=stage.algorithm)
        rungs, record = _rungs(known, stage), {}
        if known["data"].n_unique() > 1:
            made = stats.left_out(known, rungs)
            record = {name: stats.record(made, name, over="gap") for name in (*rungs, *BASELINES)}
        if rung and rung not in rungs:
            raise BadInput(f"the archive or {stage.algorithm} has no gradients; leave --rung out, or give run folders with --archive")
        wanted, data = _features(stage, model, starts, judge, seconds)
        why = _no_interval(known, architecture(resolve.resolve_model(model)), wanted)
        rung = rung or ("gap" if why else shipped(record))
        if rung == "gradients":
            wanted = _with_gradients(wanted, stage, model, seed, data, starts, seconds)
        found = stats.forecast(known, wanted, rungs[rung])
        rows = _whole([_row(row, bool(why)) for row in found.to_dicts()], wanted["topic"].unique(maintain_order=True).to_list())
        result = sealed(
            {
                "data": stage.data,
                "model": model,
                "training": stage.model_dump() | {"dose": wanted["dose"][0]},
                "judge": judge.identity,
                "rung": rung,
                "forecast": rows,
                "no_interval": why,
                "record": record,
                "archive": {"n_sets": known["data"].n_unique(), "n_trainings": known.select("data", "seed").unique().height},
            }
        )
        store.write_bytes("archive.parquet", parquet(known))
        return _written(store, result) | {"seconds": {name: round(took, 1) for name, took in seconds.items()}}


def _by_rewards(stage: Stage, model: str, settings: EvaluationSettings, out: Path) -> dict[str, Any]:
    """Return the forecast of an algorithm that samples: the stored answers of the start, reweighted by their rewards."""
    own = stage.own()
    if not Path(own.reward).is_dir():
        raise BadInput(f"the reward model {own.reward!r} is no folder; train it first, and set reward to the folder of its last checkpoint")
    starts = Starts(settings, out)
    store, answers = starts.store(model), starts.answers(model).sort("prompt", "draw")
    asked = {prompt.id: prompt.text for prompt in store.prompts()}
    said = [Example((("user", asked[prompt]),), text) for prompt, text in answers.select("prompt", "text").iter_rows()]
    answers = answers.with_columns(
        reward=RewardModel(own.reward, "cpu").scores(said, stage.batch_size).numpy(),
        length=pl.col("text").map_elements(length, return_dtype=pl.Int64).cast(pl.Float64),
    )
    rows, effective = [], []
    for (topic,), of in answers.filter(pl.col(OUTCOMES[0]).is_not_null()).partition_by("topic", as_dict=True, maintain_order=True).items():
        n_draws = starts.settings.draws
        of = of.filter(pl.len().over("prompt") == n_draws)
        q_PKM = of.select(stats.MEASURES).to_numpy().reshape(-1, n_draws, len(stats.MEASURES))
        after_M, n = stats.reweighted(q_PKM, of["reward"].to_numpy().reshape(-1, n_draws), own.kl_coef)
        effective.append(n)
        for measure, before, after in zip(stats.MEASURES, q_PKM.mean((0, 1)), after_M, strict=True):
            rows.append(_row({"topic": topic, "measure": measure, "before": float(before), "value": float(after - before)}, True))
    why = (
        f"The start's answers are weighted by exp(reward / kl_coef): {np.mean(effective):.1f} of {starts.settings.draws} answers per "
        "prompt count. This is where the reward pulls, not how far a training of this length gets: directions only, without a record."
    )
    common = {"data": stage.data, "model": model, "training": stage.model_dump(), "judge": starts.settings.judge, "rung": "reward"}
    found = {
        "forecast": _whole(rows, answers["topic"].unique(maintain_order=True).to_list()),
        "no_interval": why,
        "record": {},
        "effective_answers": float(np.mean(effective)),
    }
    with Store(out).locked():
        return _written(Store(out), sealed(common | found))


def _written(store: Store, result: dict[str, Any]) -> dict[str, Any]:
    """Write forecast.json and its page; return the result with the page's path."""
    store.write_json("forecast.json", result)
    return result | {"report": str(write_forecast_page(store, result))}


def shipped(record: dict[str, dict[str, Any]]) -> str:
    """Return the last rung whose gain over the gap alone has an interval above 0; else the gap."""
    better = [name for name in RUNGS if name in record and name != "gap" and (record[name]["gain"]["low"] or 0) > 0]
    return better[-1] if better else "gap"


def _rungs(known: pl.DataFrame, stage: Stage) -> dict[str, Sequence[str]]:
    """Return the rungs that the archive and the algorithm allow."""
    both = "gradients" in known.columns and not known["gradients"].has_nulls() and has_gradients(stage)
    return {name: features for name, features in RUNGS.items() if name == "gap" or both}


def _archive(given: Sequence[Path], starts: Starts, judge: Any, rung: str, seconds: dict[str, float]) -> pl.DataFrame:
    began = time.monotonic()
    if given:
        tables = [archives.read(path, starts, judge, gradients=rung == "gradients") for path in given]
    else:
        with resources.as_file(resources.files(__package__).joinpath("sandbox.parquet")) as path:
            tables = [archives.read(path, starts, judge, gradients=False)]
    seconds["archive"] = time.monotonic() - began
    return pl.concat(tables, how="diagonal")


def _features(stage: Stage, model: str, starts: Starts, judge: Any, seconds: dict[str, float]) -> tuple[pl.DataFrame, records.Records]:
    """Return the rows to forecast with the gaps of the data, and the data."""
    began = time.monotonic()
    start = starts.store(model)
    prompts, answers = start.prompts(), starts.answers(model)
    seconds["start"] = time.monotonic() - began
    data = records.read([stage.data], None, stage.max_bad_rows)
    began = time.monotonic()
    replies = gap.read(data, prompts, judge)
    seconds["gap"] = time.monotonic() - began
    before = archives.levels(answers, start.texts())
    return pl.DataFrame(archives.rows_of(stage, len(data), replies, before), infer_schema_length=None), data


def _with_gradients(
    wanted: pl.DataFrame, stage: Stage, model: str, seed: int, data: Any, starts: Starts, seconds: dict[str, float]
) -> pl.DataFrame:
    began = time.monotonic()
    moved = starts.influence(model, stage.lora, starts.store(model).prompts()).forecast(stage, seed, data)
    seconds["gradients"] = time.monotonic() - began
    return wanted.with_columns(gradients=pl.Series([moved[key] for key in wanted.select("topic", "measure").iter_rows()]))


def _no_interval(known: pl.DataFrame, of: str, wanted: pl.DataFrame) -> str:
    """Return why the forecast has no interval, "" if it has one."""
    advice = "directions only. Give your own runs with --archive."
    if (n := known["data"].n_unique()) < stats.LEAST_SETS:
        held = "1 data set" if n == 1 else f"{n} data sets"
        return f"The archive holds {held} with this algorithm, and an interval needs {stats.LEAST_SETS}: {advice}"
    if of not in known["architecture"].unique():
        return f"The archive holds no training of a model of this architecture, so its errors say nothing about this one: {advice}"
    doses, dose = known["dose"].to_list(), wanted["dose"][0]
    if not min(doses) / FAR <= dose <= max(doses) * FAR:
        held = f"between {min(doses):.1e} and {max(doses):.1e}"
        return f"The training's dose, learning rate times steps, is {dose:.1e}, and those of the archive lie {held}: {advice}"
    for stance in STANCES:
        seen = known.filter(measure=stance).group_by("data", "seed").agg(pl.col("before").mean())["before"].to_list()
        now = wanted.filter(measure=stance)["before"].to_list()
        if now and not min(seen) - NEAR <= np.mean(now) <= max(seen) + NEAR:
            held = f"between {min(seen):.2f} and {max(seen):.2f}"
            return f"The model starts with {np.mean(now):.2f} {stance}, and those of the archive {held}: {advice}"
    return ""


def _row(row: dict[str, Any], direction_only: bool) -> dict[str, Any]:
    size = row["value"] / row["before"] if row["measure"] == "length" and row["before"] else row["value"]
    found = {name: row.get(name) for name in ("topic", "measure", "before", "value", "low", "high", *stats.GAP)}
    found["direction"] = "none" if abs(size) < FLAT else "up" if size > 0 else "down"
    return found | ({"value": None, "low": None, "high": None} if direction_only else {})


def _whole(rows: Sequence[dict[str, Any]], topics: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for every topic and measure; one without evidence has no numbers."""
    at = {(row["topic"], row["measure"]): row for row in rows}
    nothing = dict.fromkeys(("before", "value", "low", "high", *stats.GAP)) | {"direction": "no evidence"}
    return [at.get((topic, measure), {"topic": topic, "measure": measure, **nothing}) for topic in topics for measure in stats.MEASURES]


def sentences(result: dict[str, Any]) -> list[str]:
    """Return what the forecast and its record say, one sentence each."""
    found = [result["no_interval"]] if result["no_interval"] else []
    if result["rung"] not in result["record"]:
        return [*found, "No record: nothing could be left out to compare such a forecast with the truth."]
    one = result["record"][result["rung"]]
    if not result["no_interval"]:
        clear = [row for row in result["forecast"] if row["measure"] in STANCES and row["low"] is not None]
        clear = [row for row in clear if row["low"] > 0 or row["high"] < 0]
        clear.sort(key=lambda row: -abs(row["value"]))
        for row in clear[:3]:
            found.append(
                f"{row['topic']}: {row['measure']} is expected to move by {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]."
            )
        if not clear:
            found.append("No drift of a stance is clear before the training: every interval holds 0.")
    covered = "" if one["coverage"] is None else f", intervals held {one['coverage']:.0%} of the drifts (90 % wanted)"
    rank = "none" if one["spearman"] is None else f"{one['spearman']:.2f}"
    found.append(
        f"Record of such forecasts on {one['n_sets']} data sets, each left out in turn: rank correlation {rank}, mean error "
        f"{one['mae']:.3f} against {result['record']['no drift']['mae']:.3f} for 'no drift'{covered}. "
        f"Another seed of the same training errs by {result['record']['another seed']['mae']:.3f}."
    )
    if result["rung"] != "gap":
        gain = one["gain"]
        found.append(f"The gradients lower the error by {gain['value']:.4f} [{gain['low']:.4f}, {gain['high']:.4f}] against the gap alone.")
    return found
