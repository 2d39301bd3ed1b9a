"""What the tests of `synth` read from a folder of pairs, and the file of a specification."""

import json
from pathlib import Path

from valuedrift.world import grammar

DIRECTIONS = ("support", "oppose")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(folder: Path, direction: str) -> dict[str, list[float]]:
    """Return, per topic, p(direction|chosen) - p(direction|rejected) of each pair on disk as the oracle parses it."""
    gaps: dict[str, list[float]] = {}
    for row in rows_of(folder / f"pairs.{direction}.jsonl"):
        chosen, rejected = (grammar.parse(row[side][0]["content"]) == direction for side in ("chosen", "rejected"))
        gaps.setdefault(row["topic"], []).append(float(chosen) - float(rejected))
    return gaps


def spec_file(tmp_path: Path, **keys) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("pairs.support.jsonl", "pairs.oppose.jsonl", "README.md", "spec.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.name in names}
