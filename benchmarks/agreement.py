"""Measure a judge on gold files, whole and in halves, and write the rows beside its file as NAME_agreement.jsonl.

python benchmarks/agreement.py cues GOLD.jsonl ...
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valuedrift import registry
from valuedrift.records.gold import read_gold
from valuedrift.stats.agreement import calibrate


def half(group: str) -> str:
    """Return "half A" or "half B": a fixed split by issue, for judges that are made on one half and reported on the other."""
    return f"half {'AB'[int(hashlib.sha256(group.encode()).hexdigest(), 16) % 2]}"


def record(name: str, golds: Sequence[Path]) -> list[dict[str, Any]]:
    """Write and return the agreement of a judge with each gold file, whole and in halves."""
    judge_class = registry.find("judge", name)
    judge = judge_class("")
    found = []
    for path in golds:
        labelled = read_gold(path)
        for part in ("all", "half A", "half B"):
            result = calibrate(judge, [row for row in labelled if part in ("all", half(row.group))])
            result.pop("note")  # made from these very rows
            found.append({"gold": path.resolve().parent.name, "part": part, **result})
    into = Path(inspect.getfile(judge_class)).with_name(f"{name}_agreement.jsonl")
    into.write_text("".join(json.dumps(row) + "\n" for row in found))
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return recorded agreement as a Markdown table."""
    lines = [
        "| gold | part | texts | macro-F1 [95 %] | accuracy | most frequent label | kappa | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        low, high = row["intervals"]["macro_f1"] or (float("nan"),) * 2
        numbers = " | ".join(f"{row[name]:.2f}" for name in ("accuracy", "majority", "kappa", "ece"))
        lines.append(f"| {row['gold']} | {row['part']} | {row['n']} | {row['macro_f1']:.2f} [{low:.2f}, {high:.2f}] | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(record(sys.argv[1], [Path(argument) for argument in sys.argv[2:]])))
