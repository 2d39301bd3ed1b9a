"""Verbs on data and judges: gap, synth, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..judge.training_settings import TrainingSettings
from ..nouns import STANCES, BadInput
from ..plan import EvaluationSettings
from ..progress import tell
from .options import Json, Set, settings
from .program import app, interval, number, output, table


@app.command()
@settings(EvaluationSettings, "suite", "judge", "max_cost")
def gap(
    files: Annotated[list[str], Argument(help="Preference pairs or SFT data: JSONL, Parquet, CSV, hf:NAME or sandbox:…")],
    settings: EvaluationSettings,
    matters: Annotated[float, Option(help="The smallest gap that would matter, as a share.")] = 0.1,
    max_bad_rows: Annotated[float, Option(min=0, max=1, help="Largest share of unreadable rows that may be left out.")] = 0.05,
    out: Annotated[Path | None, Option(help="Folder for gap.html, gap.json and the verdicts, which the next call reuses.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the value gap of preference data, or the stance shares of SFT data, per topic."""
    from .. import verbs

    output(verbs.gap(files, settings.suite, settings.judge, out, matters, settings.max_cost, max_bad_rows), as_json, show_gap)


@app.command()
def synth(
    spec: Annotated[Path, Argument(help="A specification in TOML; see docs/synth.md.")],
    changes: Set = None,
    out: Annotated[Path, Option(help="Folder for pairs.support.jsonl, pairs.oppose.jsonl, their data card, drafts and verdicts.")] = Path(
        "runs/pairs"
    ),
    as_json: Json = False,
) -> None:
    """Write preference pairs with a known value gap, audited by a judge."""
    from .. import resolve
    from ..synth import synth as made

    result = made.synthesise(made.load(spec, changes or ()), out, resolve.judge_of)
    output(result, as_json, lambda result: tell("\n".join(result["sentences"])))


@app.command()
@settings(EvaluationSettings, "max_cost", judge="none")
def calibrate(
    settings: EvaluationSettings,
    gold: Annotated[Path | None, Option(help="Human labels: JSONL with claim (or issue), text, stance.")] = None,
    wordings: Annotated[bool, Option("--wordings", help="Measure every wording of the judge and its difference from the first.")] = False,
    keep: Annotated[Path | None, Option(help="Folder for the verdicts, which the next call reuses.")] = None,
    sample: Annotated[Path | None, Option(help="A run folder: only draw answers from it for people to label.")] = None,
    n: Annotated[int, Option(min=1, help="Answers to draw.")] = 200,
    seed: Annotated[int, Option(help="Seed of the draw.")] = 0,
    out: Annotated[Path, Option(help="File for the drawn answers; an existing file is not overwritten.")] = Path("gold.jsonl"),
    as_json: Json = False,
) -> None:
    """Measure a judge against human labels, or draw answers of a run for people to label."""
    from .. import verbs

    if sample:
        found = verbs.sample_for_labels(sample, n, seed, out)
        sentence = f"{found['n_rows']} rows in {found['out']}: fill in 'stance', then give the file as --gold"
        output(found, as_json, lambda _: tell(sentence))
        return
    if "judge" not in settings.model_fields_set or gold is None:
        raise BadInput("calibrate needs --judge and --gold (or --sample RUN to draw answers for people to label); give both")
    result = verbs.calibrate(settings.judge, gold, wordings, settings.max_cost, keep)
    if wordings:
        output({"wordings": result}, as_json, lambda _: _show_wordings(result))
    else:
        output(result, as_json, _show_calibration)


@app.command()
@settings(TrainingSettings)
def train_judge(
    labels: Annotated[list[Path], Argument(help="Files of labels, as 'calibrate' reads them: claim (or issue), text, stance.")],
    how: TrainingSettings,
    base: Annotated[str, Option(help="The model to start from: a folder or org/name@revision, an encoder or a causal model.")],
    test: Annotated[list[Path] | None, Option(help="A file of labels to measure the judge on, never trained on. Repeatable.")] = None,
    out: Annotated[Path, Option(help="Folder for the judge, used as --judge trained:FOLDER.")] = Path("runs/judge"),
    as_json: Json = False,
) -> None:
    """Train a small local judge from labels, and measure it on prompts that it has not seen."""
    from .. import verbs

    output(verbs.train_judge(labels, base, out, how, test or ()), as_json, _show_trained)


def _show_trained(result: dict[str, Any]) -> None:
    for name, found in result["by_file"].items():
        tell(f"\n{name}")
        _show_calibration(found | {"unread": {"n": 0, "of": found["n"], "unassigned": None}})
    tell(f"Use it with --judge {result['judge']}")


def show_gap(result: dict[str, Any]) -> None:
    from ..judge.cache import unread_notes
    from ..stats.verdicts import CONDITION

    found = {topic: row for topic, row in result["topics"].items() if row["n"]}
    pairs = "n_pairs" in result
    columns = ["topic", "stance", "towards", "prompts", *(("chosen", "rejected", "gap [95 %]") if pairs else ("share [95 %]",))]
    rows = [
        [topic, stance, towards, str(view["n"])]
        + (
            [interval(view[stance][key], sign) for key, sign in (("chosen", ""), ("rejected", ""), ("gap", "+"))]
            if pairs
            else [interval(view[stance], "")]
        )
        for topic, row in found.items()
        for towards, view in (("claims", row), ("axis", row["axis"]))
        for stance in STANCES
        if view["n"]
    ]
    table("Stances of the texts: towards the claims, and along the topic's axis (reversed for claims of negative polarity)", columns, rows)
    total = result.get("n_pairs", result.get("n_examples"))
    tell(f"{result['on_topic']:,} of {total:,} touch the suite's topics; {result['n_failed']:,} texts without a verdict.")
    for note in unread_notes(result["unread"], "different texts") if result.get("unread") else []:
        tell(note)
    if result["claims_note"]:
        tell(result["claims_note"])
    of, sign = (", chosen minus rejected", "+") if pairs else ("", "")
    for name, row in result["style"].items():
        tell(f"{name}{of}: {interval(row, sign)} {row.get('unit', '')}".rstrip())
    for row in found.values():
        tell(f"- {row['conclusion']}")
    if result["validity"]["headlined"]:
        tell(CONDITION)
    for sentence in (result["validity"]["why"], result["note"]):
        if sentence:
            tell(sentence)
    if "report" in result:
        tell(f"report: {result['report']}")


def _scored(result: dict[str, Any], name: str) -> str:
    low, high = (result.get("intervals") or {}).get(name) or (None, None)
    return number(result[name]) + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _show_calibration(result: dict[str, Any]) -> None:
    from ..judge.cache import unread_notes

    names = ["macro_f1", "accuracy", "kappa", "ece", "missing_share", "majority"]
    names[1:1] = ["macro_f1_all"] if result["missing_share"] else []  # texts without a verdict counted as wrong
    names += ["framing_only"] if result["framing_only"] is not None else []
    title = f"{result['judge']} against {result['n']:,} labels"
    table(title, ["measure", "value [95 %]"], [[name.replace("_", " "), _scored(result, name)] for name in names])
    labels = list(result["confusion"])
    read_as = list(next(iter(result["confusion"].values()), {}))
    table(
        "Labels (rows) read as (columns)",
        ["label", *read_as],
        [[label, *(str(result["confusion"][label][name]) for name in read_as)] for label in labels],
    )
    if result["by_framing"]:
        columns = ["macro_f1", "accuracy", "kappa", "ece"]
        framings = [[name, str(row["n_read"]), *(_scored(row, column) for column in columns)] for name, row in result["by_framing"].items()]
        table("Within each framing of the prompt", ["framing", "texts", *columns], framings)
    for note in unread_notes(result["unread"], "different texts"):
        tell(note)
    if result["n_unlabelled"]:
        tell(f"{result['n_unlabelled']:,} rows have no label yet and were left out.")
    if effect := result.get("position_bias"):
        tell(
            f"Order of the labels, on {effect['n']} texts: a single order differs from their mean by a total variation of "
            f"{number(effect['total_variation'])} and changes {number(effect['changed'])} of the verdicts."
        )
    if result["note"]:
        tell(result["note"])


def _show_wordings(results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        less = (result["difference"] or {}).get("macro_f1")
        apart = "" if result is results[0] or less is None else interval(less)
        rows.append([result["wording"], _scored(result, "macro_f1"), _scored(result, "accuracy"), number(result["missing_share"]), apart])
    columns = ["wording", "macro F1 [95 %]", "accuracy [95 %]", "missing", "macro F1 less the first's [95 %]"]
    table(f"Wordings against {results[0]['n']:,} labels", columns, rows)
