"""Validate the forecasts on the archive and write the tables of README.md and docs/, and the archive that is shipped.

python experiments/forecast/validate.py           # reads runs/forecast/*.parquet and runs/forecast/lds/lds.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
from data import OUT

import valuedrift
from valuedrift.forecast.archive import COLUMNS
from valuedrift.nouns import STANCES
from valuedrift.stats import forecast as stats

ROOT = Path(__file__).parents[2]
GAP = stats.GAP
RUNGS = {
    "gap": GAP,
    "lines": (*GAP, "lines"),
    "gradients": (*GAP, "gradients"),
    "gradients alone": ("gradients",),
    "probe": (*GAP, "probe"),
}
NAMES = {"lines": "gap and system lines", "gradients": "gap and gradients", "probe": "gap and a probe"}
BASELINES = ("no drift", "one slope", "mean of runs", "another seed")


def main() -> None:
    rows = pl.read_parquet(OUT / "archive.parquet")
    made = stats.left_out(rows, RUNGS)
    tables = {"all": table(made)} | {name: table(made.filter(algorithm=name)) for name in sorted(set(made["algorithm"]))}
    shipped = rows.select(sorted(COLUMNS | {"gradients"})).with_columns(pl.col(pl.Float64).round(5))
    shipped.write_parquet(Path(valuedrift.__file__).parent / "forecast" / "sandbox.parquet", compression_level=19)
    text = "\n\n".join(f"{'All algorithms' if name == 'all' else name}:\n\n{body}" for name, body in tables.items())
    put(Path(__file__).with_name("README.md"), "record", text + "\n\n" + controls(rows, pl.read_parquet(OUT / "controls.parquet")))
    put(ROOT / "docs" / "forecast.md", "forecast record", tables["all"])
    for page in (Path(__file__).with_name("README.md"), ROOT / "docs" / "attribute.md"):
        put(page, "lds", lds())


def table(made: pl.DataFrame) -> str:
    """Return the record of every rung and baseline."""
    lines = [
        "| forecast | rank correlation | mean error | skill | right sign | coverage | width | gain over the gap [95 %] |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in (*BASELINES[:3], *RUNGS, BASELINES[3]):
        of = stats.record(made, name, over="gap")
        gain = "" if name == "gap" else "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**of["gain"])
        numbers = [shown(of[key]) for key in ("spearman", "mae", "skill", "sign", "coverage", "width")]
        lines.append(f"| {NAMES.get(name, name)} | {' | '.join(numbers)} | {gain} |")
    n = made.select("data", "algorithm", "seed").unique().height
    resolved = made.filter(pl.col("measure").is_in(STANCES))["resolved"].sum()
    return "\n".join(lines) + f"\n\n*{n} trainings on {made['data'].n_unique()} data sets; {resolved:,} drifts of stances resolved.*"


def controls(rows: pl.DataFrame, wanted: pl.DataFrame) -> str:
    """Return what is forecast for the controls, and what happened."""
    lines = ["| control | algorithm | forecast | support | neutral | oppose |", "| --- | --- | --- | --- | --- | --- |"]
    made = {name: stats.forecast(rows.filter(pl.col("data") != "set-00"), wanted, RUNGS[name]) for name in ("gap", "gradients")}
    first = stats.left_out(rows, {name: RUNGS[name] for name in made}).filter(data="set-00")
    for control in ("set-00", *wanted["data"].unique(maintain_order=True)):
        for algorithm in ("dpo", "simpo", "sft"):
            for name in (*made, "measured"):
                if control == "set-00":
                    of = first.with_columns(value=pl.col("drift" if name == "measured" else name))
                else:
                    of = made["gap" if name == "measured" else name].filter(data=control)
                    of = of.with_columns(value=pl.col("after") - pl.col("before")) if name == "measured" else of
                of = of.filter(algorithm=algorithm)
                means = " | ".join(f"{of.filter(measure=stance)['value'].mean():+.3f}" for stance in STANCES)
                lines.append(f"| {control} | {algorithm} | {name} | {means} |")
    return "Controls, means over topics (set-00 is the original of the swapped and the shuffled set):\n\n" + "\n".join(lines)


def lds() -> str:
    """Return the linear datamodeling scores."""
    found: dict[str, Any] = json.loads((OUT / "lds" / "lds.json").read_text())["lds"]
    lines = ["| ranking | linear datamodeling score [95 %] |", "| --- | --- |"]
    lines += [f"| {name} | {of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}] |" for name, of in found.items()]
    about = (
        "*DPO on 480 pairs in 20 groups (5 topics, 2 sides, 2 styles), trained again on 40 random halves of the groups. Rank correlation, "
        "over the halves, of the summed scores with the share after training; mean over 5 topics and 3 stances, interval over topics.*"
    )
    return "\n".join(lines) + f"\n\n{about}"


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def put(path: Path, mark: str, text: str) -> None:
    """Put a text between the marks of a page."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)", re.DOTALL)
    page = path.read_text()
    assert pattern.search(page), (path, mark)
    path.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page))


if __name__ == "__main__":
    main()
