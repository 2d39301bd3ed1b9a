"""What shared prefixes save: the sweep of experiment 1 in one run folder, and each of its values in a folder of its own, in turn.

    .venv/bin/python benchmarks/prefix.py [--rounds 2] [--json]

One seed; the base model is cached before. The times are those of whole commands, imports and report included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

PLAN = Path(__file__).parents[1] / "experiments" / "1-value-gap" / "plan.toml"
KEY = "stage.dpo.data.gap"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    values = tomllib.loads(PLAN.read_text())["sweep"][KEY]
    rounds = [(seconds([values]), seconds([[value] for value in values])) for _ in range(chosen.rounds)]
    ratios = sorted(apart / shared for shared, apart in rounds)
    result = {"values": values, "shared_s": [s for s, _ in rounds], "apart_s": [a for _, a in rounds], "apart_over_shared": ratios}
    if chosen.json:
        print(json.dumps(result))
    else:
        print(f"{len(values)} values: shared {result['shared_s']} s, apart {result['apart_s']} s")
        print(f"apart / shared: {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def seconds(sweeps: list[list[float]]) -> float:
    """Return the time of one run per sweep, each in an empty folder."""
    started = time.monotonic()
    for values in sweeps:
        with tempfile.TemporaryDirectory() as work:
            plan = Path(work) / "plan.toml"
            plan.write_text(f'derive = "{PLAN}"\nseeds = [0]\n\n[sweep]\n"{KEY}" = {values}\n')
            command = [str(Path(sys.executable).with_name("valuedrift")), "run", str(plan), "--out", f"{work}/out", "--json"]
            subprocess.run(command, check=True, capture_output=True)
    return round(time.monotonic() - started, 1)


if __name__ == "__main__":
    main()
