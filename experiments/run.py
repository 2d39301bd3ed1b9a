"""Run the experiments and write what was measured into their READMEs.

    python experiments/run.py                 # all eight of the sandbox
    python experiments/run.py 3 8             # only these
    python experiments/run.py real            # the one on pretrained models; see real/README.md for what it needs
    python experiments/run.py --read          # run nothing; rewrite the READMEs from stored tables

All experiments share one run folder, so a stage used by several is trained once, and finished work is not repeated. The tables and the
report of each plan are copied to runs/experiments/results. A claim is one figure of a table and the range that the paper predicts. It
agrees if the whole 95 % interval lies in the range, disagrees if the whole interval lies outside, and is undecided otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import polars as pl

from valuedrift import plan

HERE = Path(__file__).parent
SANDBOX = sorted(HERE.glob("[0-9]-*"))
OUT = Path("runs/experiments")
TABLES = ("drifts", "effects", "sweep_response", "sweep_curve", "side_metrics", "profiles")
MARKS = ("<!-- measured -->", "<!-- end of measured -->")
STANCES = ("support", "neutral", "oppose")
SIGNS = {"above": "above {}", "below": "below {}", "within": "within ±{}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="numbers, or real")
    parser.add_argument("--read", action="store_true", help="run nothing")
    chosen = parser.parse_args()
    folders = [folder for folder in [*SANDBOX, HERE / "real"] if folder.name.partition("-")[0] in (chosen.names or "12345678")]
    for folder in folders:
        if not chosen.read:
            run(folder)
        write(folder, measured(folder))
    write(HERE, overview())


def plans(folder: Path) -> list[Path]:
    """Return the plans of an experiment, in the order of their names."""
    return [path for path in sorted(folder.glob("*.toml")) if path.name != "claims.toml"]


def results(folder: Path, name: str) -> Path:
    return OUT / "results" / folder.name / name


def run(folder: Path) -> None:
    """Run an experiment's preparation and its plans, and copy what each measured."""
    if (folder / "prepare.py").exists() and folder.name != "real":  # its models come under terms that the user must accept
        subprocess.run([sys.executable, str(folder / "prepare.py")], check=True)
    for path in plans(folder):
        print(f"{folder.name}: {path.name}", file=sys.stderr)
        started = time.monotonic()
        command = [str(Path(sys.executable).with_name("valuedrift")), "run", str(path), "--out", str(OUT), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        kept = results(folder, path.stem)
        kept.mkdir(parents=True, exist_ok=True)
        told = json.loads(done.stdout)
        record = {"seconds": round(time.monotonic() - started), "findings": told["findings"], "notes": told["notes"]}
        record |= {
            "plan": plan_digest(path),
            "n_answers": told["n_answers"],
            "n_generated": told["n_generated"],
            "margins": margins(told["checkpoints"]),
        }
        if done_before := _record(folder, path.stem):  # what was begun and went on, or was read again, took all of that time
            record["seconds"] += done_before["seconds"]
        (kept / "record.json").write_text(json.dumps(record, indent=1))
        for name in (*(f"{table}.parquet" for table in TABLES), "report.html", "stages.json"):
            (kept / name).unlink(missing_ok=True)
            if (OUT / name).exists():
                shutil.copy(OUT / name, kept / name)


def margins(checkpoints: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return each stage's mean reward margin over the last quarter of its steps, one per seed, where its algorithm logs one.

    Each pair is seen once, so that the margin is that of pairs not trained on yet.
    """
    found: dict[str, list[float]] = {}
    for stage, seed in sorted({(row["stage"], row["seed"]) for row in checkpoints}):
        last = max((row for row in checkpoints if (row["stage"], row["seed"]) == (stage, seed)), key=lambda row: row["step"])
        history = json.loads((Path(last["path"]).parent / "losses.json").read_text())
        values = [entry["reward_margin"] for entry in history if "reward_margin" in entry]
        if values:
            found.setdefault(stage, []).append(statistics.mean(values[-max(len(values) // 4, 1) :]))
    return found


def plan_digest(path: Path) -> str:
    """Return the digest of all that a plan asks for, whatever its comments say."""
    return hashlib.sha256(plan.load(path).model_dump_json().encode()).hexdigest()


def _record(folder: Path, name: str) -> dict[str, Any]:
    """Return what was told of a plan's last run; empty where there is none, or where the plan has changed since."""
    path = results(folder, name) / "record.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    return told if told.get("plan") == plan_digest(folder / f"{name}.toml") else {}


# -- what is said ----------------------------------------------------------------------------------------------------------


def claims(folder: Path) -> list[dict[str, Any]]:
    """Return an experiment's claims, each with its figure and verdict."""
    rows = []
    for claim in tomllib.loads((folder / "claims.toml").read_text())["claim"]:
        table = results(folder, claim.get("plan", "plan")) / f"{claim['table']}.parquet"
        row = figure(table, claim["where"], claim.get("column", "value"))
        rows.append(claim | {"figure": row, "verdict": verdict(claim, row)})
    return rows


def figure(table: Path, where: dict[str, Any], column: str) -> dict[str, Any] | None:
    """Return value, low and high of the one row of a table that has these entries (view: claim, if not named); None without one."""
    if not table.exists():
        return None
    found = pl.read_parquet(table)
    where = {"view": "claim"} | where if "view" in found.columns else where
    found = found.filter(pl.all_horizontal([pl.col(name) == value for name, value in where.items()]))
    if found.height > 1:
        raise SystemExit(f"{table}: {where} names {found.height} rows and not one; name more columns in claims.toml")
    if not found.height:
        return None
    ends = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
    values = [found[name][0] for name in (column, *ends)]
    return None if None in values else dict(zip(("value", "low", "high"), values, strict=True))


def verdict(claim: dict[str, Any], row: dict[str, Any] | None) -> str:
    """Return agrees, disagrees or undecided; "no evidence" without a figure, and "" for a question that the paper does not answer."""
    expected = [name for name in SIGNS if name in claim]
    if not expected:
        return ""
    if row is None:
        return "no evidence"
    bound = claim[expected[0]]
    if expected[0] == "within":
        inside, outside = -bound <= row["low"] and row["high"] <= bound, row["low"] > bound or row["high"] < -bound
    else:
        inside, outside = row["low"] > bound, row["high"] < bound
        inside, outside = (inside, outside) if expected[0] == "above" else (outside, inside)
    return "agrees" if inside else "disagrees" if outside else "undecided"


def number(row: dict[str, Any] | None) -> str:
    """Return "+0.20 [+0.14, +0.26]"."""
    if row is None or row["value"] is None:
        return "no evidence"
    ends = "no interval" if row["low"] is None or row["high"] is None else f"{row['low']:+.2f}, {row['high']:+.2f}"
    return f"{row['value']:+.2f} [{ends}]"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(folder: Path) -> str:
    """Return the measured part of an experiment's README."""
    asked = [path.stem for path in plans(folder) if _record(folder, path.stem)]
    if not asked:
        return "Not run yet."
    said = [
        (
            claim["says"],
            next((SIGNS[name].format(claim[name]) for name in SIGNS if name in claim), "open"),
            number(claim["figure"]),
            claim["verdict"],
        )
        for claim in claims(folder)
    ]
    parts = ["### Claims and questions", table(("claim or question", "expected", "measured [95 %]", "verdict"), said)]
    parts += [_plan(folder, name) for name in asked]
    return "\n\n".join(parts)


def _plan(folder: Path, of: str) -> str:
    kept, record = results(folder, of), _record(folder, of)
    stages = json.loads((kept / "stages.json").read_text())
    seeds = len({stage["seed"] for stage in stages})
    parts = [
        f"### {of}.toml",
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {record['n_answers']:,} answers judged. "
        "Drifts over all topics, from each stage's start to its end:",
    ]
    drifts = pl.read_parquet(kept / "drifts.parquet")
    rows = []
    for name, view in drifts.select("stage", "view").unique(maintain_order=True).iter_rows():
        of = drifts.filter(stage=name, view=view)
        overall = {row["stance"]: row for row in of.filter(pl.col("topic") == "all").to_dicts()}
        fine = of.filter((pl.col("topic") != "all") & pl.col("stance").is_in(STANCES))
        margin = record["margins"].get(name)
        won = "" if margin is None else f"{statistics.mean(margin):.2f} ({min(margin):.2f} to {max(margin):.2f})"
        resolved = f"{fine['resolved'].sum()} of {fine.height}"
        rows.append((name, view, *(number(overall[stance]) for stance in (*STANCES, "invalid")), resolved, won))
    parts += [f"*{note}*" for note in record["notes"] if not note.startswith("Data of ")]  # the pages name the data
    parts.append(
        table(("stage", "view", *STANCES, "invalid", "resolved by topic", "reward margin in the algorithm's own units (seeds)"), rows)
    )
    if (kept / "effects.parquet").exists():
        parts += ["Effects, the end of the second minus the end of the first:", _differences(pl.read_parquet(kept / "effects.parquet"))]
    if (kept / "sweep_response.parquet").exists():  # the sentences on sweeps come after those of the stages
        parts += ["Sweep response:", *record["findings"][len(rows) :]]
    return "\n\n".join(parts)


def _differences(found: pl.DataFrame) -> str:
    about = ("kind", "first", "second", "view")
    rows = []
    for key, of in found.filter(pl.col("topic") == "all").group_by(about, maintain_order=True):
        by_stance = {row["outcome"]: row for row in of.to_dicts()}
        rows.append(
            (
                *map(str, key),
                *(number(by_stance[stance]) for stance in STANCES),
            )
        )
    return table((*about, *STANCES), rows)


def overview() -> str:
    """Return the table of all experiments."""
    rows = []
    for folder in [*SANDBOX, HERE / "real"]:
        if not all(_record(folder, path.stem) for path in plans(folder)):
            rows.append((f"[{folder.name}]({folder.name}/README.md)", "", "not run yet", "", "", ""))
            continue
        verdicts = [claim["verdict"] for claim in claims(folder)]
        counts = (str(verdicts.count(name) or "") for name in ("agrees", "disagrees", "undecided", "no evidence"))
        seconds = sum(_record(folder, path.stem)["seconds"] for path in plans(folder))
        rows.append((f"[{folder.name}]({folder.name}/README.md)", *counts, f"{seconds / 60:.1f} min"))
    return table(("experiment", "agrees", "disagrees", "undecided", "no evidence", "time"), rows)


def write(folder: Path, text: str) -> None:
    """Put the measured part into a README, between its marks."""
    path = folder / "README.md"
    before, after = (re.escape(mark) for mark in MARKS)
    found = re.sub(f"{before}.*?{after}", lambda _: f"{MARKS[0]}\n{text}\n{MARKS[1]}", path.read_text(), flags=re.DOTALL)
    path.write_text(found)


if __name__ == "__main__":
    main()
