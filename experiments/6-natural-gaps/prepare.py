"""Sort preference pairs by the gap that a judge reads in each, and write as many of each kind: support, oppose, none, and a mix of all.

python experiments/6-natural-gaps/prepare.py                                     # the sandbox's stock pairs, read by the oracle
python experiments/6-natural-gaps/prepare.py hh-rlhf.jsonl --judge labels:PATH   # any layout that `valuedrift gap` reads
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np

from valuedrift import resolve, suites
from valuedrift.nouns import BadInput
from valuedrift.records import records
from valuedrift.stats.gap import pair_gaps

NEAR = 1 / 3
"""A pair leans where its replies differ by more than this on the scale from -2 (turns support into opposition) to 2."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="sandbox:stock-pairs?n=2400")
    parser.add_argument("--judge", default="oracle")
    parser.add_argument("--suite", default="vaes")
    parser.add_argument("--most", type=int, default=384, help="pairs of each kind at most; all kinds get as many")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments/bins"))
    chosen = parser.parse_args()
    try:
        found = records.read(chosen.data, "pairs")
        gaps_N = pair_gaps(found, suites.load(chosen.suite), resolve.judge_of(chosen.judge))
    except BadInput as error:
        parser.exit(2, f"prepare: {error}\n")
    read_N = ~np.isnan(gaps_N)
    kinds = {"support": gaps_N > NEAR, "oppose": gaps_N < -NEAR, "none": np.abs(gaps_N) <= NEAR, "all": read_N}
    n = min(chosen.most, *(int(kind_N.sum()) for kind_N in kinds.values()))
    print(
        f"{len(found):,} pairs, {read_N.sum():,} on the suite's topics with a verdict: "
        + ", ".join(f"{name} {kind_N.sum():,}" for name, kind_N in kinds.items() if name != "all")
    )
    print(f"mean gap {np.nanmean(gaps_N):+.3f}; {n:,} pairs of each kind are written to {chosen.out}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, kind_N in kinds.items():
        taken = random.Random(name).sample(np.flatnonzero(kind_N).tolist(), n)
        rows = [
            {
                "prompt": [{"role": role, "content": text} for role, text in found[at].prompt],
                "chosen": found[at].chosen,
                "rejected": found[at].rejected,
            }
            | {key: value for key in ("topic", "claim") if (value := getattr(found[at], key))}
            for at in sorted(taken)
        ]
        (chosen.out / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
