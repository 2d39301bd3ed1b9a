"""Verbs on causes: forecast before a training, attribute after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from .. import plan as plans
from ..nouns import OUTCOMES, BadInput
from ..plan import EvaluationSettings
from ..progress import tell
from .options import Json, RunFolder, settings
from .program import app, number, output, table


@app.command()
@settings(EvaluationSettings, "suite", "judge", "draws", "max_new_tokens", "dtype", "max_cost")
def forecast(
    data: Annotated[str, Argument(help="Preference pairs or SFT data, as for 'gap'.")],
    settings: EvaluationSettings,
    model: Annotated[str, Option(help="The model to train: a folder, a hub id, or sandbox:base.")],
    plan: Annotated[Path | None, Option(help="A plan that says how the model is trained and evaluated.")] = None,
    stage: Annotated[str, Option(help="The stage of the plan to forecast; not needed if it has one.")] = "",
    algorithm: Annotated[str, Option(help="Without a plan: the algorithm, with its default settings (dpo for pairs, sft for texts).")] = "",
    archive: Annotated[list[Path] | None, Option(help="A run folder, or archive.parquet of an earlier forecast. Repeatable.")] = None,
    rung: Annotated[str, Option(help="gap or gradients; by default the dearest one that its record supports.")] = "",
    out: Annotated[Path, Option(help="Folder for forecast.json, forecast.html and the model's answers.")] = Path("runs/forecast"),
    as_json: Json = False,
) -> None:
    """Forecast how a model's stances will move if it is trained on some data, with intervals and the record of such forecasts."""
    from ..forecast import predict

    if plan and (algorithm or settings.model_fields_set):
        raise BadInput("the plan says how the model is trained and evaluated; leave out --algorithm and the evaluation's options")
    loaded = plans.load(plan) if plan else None
    told = predict.stage_of(loaded, stage, data, algorithm)
    output(predict.forecast(told, model, loaded or settings, out, archive or (), rung), as_json, _show_forecast)


@app.command()
def attribute(
    run: RunFolder,
    topic: Annotated[str, Option(help="The topic.")],
    stance: Annotated[str, Option(help="The stance: support, neutral, oppose, refusal or invalid.")],
    stage: Annotated[str, Option(help="The stage; by default the run's last one.")] = "",
    seed: Annotated[int | None, Option(help="The seed; by default the first one.")] = None,
    verify: Annotated[int, Option(min=0, help="Train again without the first K records, to see whether they did it.")] = 0,
    out: Annotated[Path | None, Option(help="Folder for the result; by default in the run's folder attribution.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the training examples of a stage by their effect on a stance."""
    from ..forecast import attribution

    output(attribution.attribute(run, topic, stance, stage, seed, verify, out), as_json, _show_attribution)


def _show_forecast(result: dict[str, Any]) -> None:
    from ..forecast.predict import sentences
    from ..stats.forecast import MEASURES

    at = {(row["topic"], row["measure"]): row for row in result["forecast"]}
    rows = [[topic, *(_expected(at[topic, name]) for name in MEASURES)] for topic in dict.fromkeys(topic for topic, _ in at)]
    table("Expected drift [90 %]", ["topic", *OUTCOMES, "words"], rows)
    for sentence in sentences(result):
        tell(sentence)
    tell(f"report: {result['report']}")


def _expected(row: dict[str, Any]) -> str:
    """Return the direction of a forecast without an interval, else its value and interval, short enough for six columns."""
    if row["value"] is None:
        return str(row["direction"])
    digits = 1 if row["measure"] == "length" else 2
    value, low, high = (f"{row[name]:+.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _show_attribution(result: dict[str, Any]) -> None:
    from ..forecast.attribution import sentences

    rows = [
        [str(row["rank"]), str(row["row"]), f"{row['score']:+.2e}", row["topic"], row["prompt"][:80]] for row in result["examples"][:10]
    ]
    table(f"Records by their effect on {result['stance']} on {result['topic']}", ["rank", "record", "score", "topic", "prompt"], rows)
    for name, value in result["agreement"].items():
        tell(f"Rank correlation with {name}: {number(value)}.")
    for sentence in sentences(result):
        tell(sentence)
    tell(f"report: {result['report']}")
