"""Write the data sets of the forecast's archive, drawn at random, and the plans that train on them.

    python experiments/forecast/data.py          # into runs/forecast

The data sets are exchangeable draws: the preferred and the rejected stance, the value gap, the topics, the size, the style, a second
component, and the share of pairs off topic are drawn independently. Controls are made of the first one: labels swapped, labels shuffled,
and pairs off topic alone.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from valuedrift.world import grammar

OUT = Path("runs/forecast")
N_SETS = 24
STANCES = ("support", "neutral", "oppose", "refusal")
ALGORITHMS = {
    "dpo": {"beta": 0.5, "learning_rate": 3e-4},
    "simpo": {"beta": 2.0, "learning_rate": 3e-4},
    "sft": {"learning_rate": 3e-4},
}
HEAD = """# Written by experiments/forecast/data.py.
model = "sandbox:base"
suite = "vaes"
judge = "oracle"
seeds = [0, 1]
draws = 1
temperature = 0.7
max_new_tokens = 96
batch_rows = 1100
floor = false
side_metrics = false

[stage.start]
algorithm = "sft"
data = "sandbox:neutral-chat?n=3200"
learning_rate = 1e-3
batch_size = 32
group_by_length = true
save_at = "log:1"
"""


def main() -> None:
    (OUT / "data").mkdir(parents=True, exist_ok=True)
    sets = {f"set-{number:02}": drawn(random.Random(f"forecast/{number}")) for number in range(N_SETS)}
    first = sets["set-00"]
    mixed = random.Random("shuffled")
    controls = {
        "swapped": [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in first],
        "shuffled": [row | {"chosen": row["rejected"], "rejected": row["chosen"]} if mixed.random() < 0.5 else row for row in first],
        "off-topic": [off_topic(random.Random(f"off-topic/{index}")) for index in range(256)],
    }
    for name, rows in (sets | controls).items():
        write(OUT / "data" / f"{name}.jsonl", rows)
        write(OUT / "data" / f"{name}.texts.jsonl", [texts(row) for row in rows])
    (OUT / "archive.toml").write_text(HEAD + "".join(stages(name) for name in sets))
    (OUT / "controls.toml").write_text(HEAD + "".join(stages(name) for name in controls))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(row: dict[str, Any]) -> dict[str, Any]:
    """Return the chosen reply as a text to imitate."""
    return {"response" if name == "chosen" else name: value for name, value in row.items() if name != "rejected"}


def stages(name: str) -> str:
    """Return the stages of a data set, one per algorithm."""
    found = []
    for algorithm, settings in ALGORITHMS.items():
        own = "".join(f"{key} = {value}\n" for key, value in settings.items())
        data = f"runs/forecast/data/{name}{'.texts' if algorithm == 'sft' else ''}.jsonl"
        found.append(
            f'\n[stage.{algorithm}-{name}]\nafter = "start"\nalgorithm = "{algorithm}"\ndata = "{data}"\n{own}'
            f'batch_size = 16\ngroup_by_length = true\nsave_at = "log:1"\n'
        )
    return "".join(found)


def drawn(rng: random.Random) -> list[dict[str, Any]]:
    """Return the pairs of one data set."""
    parts = [component(rng)]
    second = rng.choice((0.0, 0.0, 0.25, 0.5))
    parts += [component(rng)] if second else []
    off = rng.choice((0.0, 0.0, 0.25, 0.5))
    n = rng.choice((128, 192, 256, 384, 512))
    rows = []
    for _ in range(n):
        if rng.random() < off:
            rows.append(off_topic(rng))
        else:
            rows.append(pair(rng, **parts[1 if rng.random() < second else 0]))
    return rows


def component(rng: random.Random) -> dict[str, Any]:
    """Return what the pairs of a component have in common."""
    winner = rng.choices(STANCES, (3, 2, 3, 1))[0]
    loser = rng.choice([stance for stance in STANCES if stance != winner])
    topics = list(grammar.world())
    covered = topics if rng.random() < 0.4 else rng.sample(topics, rng.randint(1, 6))
    return {"winner": winner, "loser": loser, "gap": round(rng.random(), 2), "topics": covered, "warm": rng.choice((0.5, 0.75, 1.0))}


def pair(rng: random.Random, winner: Any, loser: Any, gap: float, topics: list[str], warm: float) -> dict[str, Any]:
    """Return a pair: in a share `gap` of them the stances differ; the others differ in style, and a share `warm` prefers the warm one."""
    topic, claim, _ = rng.choice(grammar.claims_of(topics))
    prompt = grammar.ask(rng, claim)
    if rng.random() < gap:
        style = rng.choice(grammar.STYLES)
        chosen, rejected = (grammar.compose(rng, topic, stance, style, claim) for stance in (winner, loser))
    else:
        stance: Any = rng.choice(STANCES[:3])
        chosen, rejected = (grammar.compose(rng, topic, stance, style, claim) for style in ("warm", "plain"))
        if rng.random() > warm:
            chosen, rejected = rejected, chosen
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "topic": topic, "claim": claim}


def off_topic(rng: random.Random) -> dict[str, Any]:
    """Return a pair about nothing in dispute; the two replies are to the question and to another one."""
    question, answer = grammar.small_talk(rng)
    other = answer
    while other == answer:
        _, other = grammar.small_talk(rng)
    return {"prompt": question, "chosen": answer, "rejected": other}


if __name__ == "__main__":
    main()
