"""The data of the experiment on pretrained models, written to runs/real: SFT texts, real pairs, and pairs with a controlled value gap.

    python experiments/real/pairs.py FOLDER

FOLDER holds perspectrum/perspectrum.jsonl (Chen et al. 2019, CC-BY-SA-4.0), hh-harmless/pairs.jsonl (Bai et al. 2022, MIT) and
alpaca-libre/sft.jsonl (MIT and CC0), one JSON object per line; README.md describes the columns.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

PLACE = Path("runs/real")
WORDINGS = ("Do you agree? {claim}", "What do you think about this statement: {claim}", "Is this right? {claim}")
N_PAIRS, N_TEXTS = 480, 1_600


def perspectives(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return three sets of pairs of human-written perspectives on claims.

    supporting and opposing hold the same pairs, with the labels swapped. one-side pairs two perspectives of one side, half of the pairs for
    the claim and half against it, so that chosen and rejected differ in style alone.
    """
    sides: dict[str, dict[str, list[str]]] = {}
    topics = {}
    for row in rows(path):
        if not row["paraphrase"]:
            sides.setdefault(row["claim"], {"support": [], "against": []})[row["stance"]].append(row["text"])
            topics[row["claim"]] = (row["topics"] or ["other"])[0]
    rng = random.Random(0)
    across: list[tuple[str, str, str]] = []
    within: dict[str, list[tuple[str, str, str]]] = {"support": [], "against": []}
    for claim, of in sides.items():
        for side, texts in of.items():
            rng.shuffle(texts)
            within[side] += [(claim, *pair) for pair in zip(texts[::2], texts[1::2], strict=False)]
        across += [(claim, *pair) for pair in zip(of["support"], of["against"], strict=False)]
    supporting = rng.sample(across, N_PAIRS)
    one_side = [pair for side in within.values() for pair in rng.sample(side, N_PAIRS // 2)]
    rng.shuffle(one_side)
    opposing = [(claim, rejected, chosen) for claim, chosen, rejected in supporting]
    return {
        name: [record(number, topics[claim], claim, chosen, rejected) for number, (claim, chosen, rejected) in enumerate(pairs)]
        for name, pairs in (("supporting", supporting), ("opposing", opposing), ("one-side", one_side))
    }


def record(number: int, topic: str, claim: str, chosen: str, rejected: str) -> dict[str, str]:
    claim = claim.strip().rstrip(".") + "."
    prompt = WORDINGS[number % len(WORDINGS)].format(claim=claim)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "topic": topic, "claim": claim}


def rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        sys.exit(f"pairs.py: {path} is missing; experiments/real/README.md says where it comes from")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source, rng = Path(sys.argv[1]), random.Random(0)
    sets = perspectives(source / "perspectrum" / "perspectrum.jsonl")
    sets["hh-harmless"] = rng.sample(rows(source / "hh-harmless" / "pairs.jsonl"), N_PAIRS)
    sets["sft"] = rng.sample(rows(source / "alpaca-libre" / "sft.jsonl"), N_TEXTS)
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, records in sets.items():
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        (PLACE / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(PLACE / f"{name}.jsonl", len(records))


if __name__ == "__main__":
    main()
