"""Fuzz what the verbs read: `make fuzz` changes real files at random and reports every traceback.

Each input is made from the seed, the kind and its number alone, so `--kind plan --first 17 --inputs 1` makes input 17 of the plans again.
An input passes if it is read, or if it is refused with one sentence (BadInput, Stopped).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # read at import; the tests that import this file leave the environment as it is
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "critical"}

import polars as pl

import valuedrift
from valuedrift import pipeline, plan, suites, testing, verbs
from valuedrift.judge import openai as judges
from valuedrift.judge import votes
from valuedrift.nouns import BadInput, Item, Prompt, Stopped
from valuedrift.parts import parquet
from valuedrift.plan import EvaluationSettings
from valuedrift.records.gold import read_gold

SHARES = {"plan": 0.3, "suite": 0.15, "pairs": 0.2, "gold": 0.1, "replies": 0.15, "checkpoint": 0.06, "run": 0.04}
"""Kind -> its share of the inputs: slow kinds get few."""
SECONDS = 60
"""An input that takes longer is a fault too."""
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 10**30, 1e400, -1e400, float("nan"), 2**63, "", " ", "\ud800", "\x00", "\n", "a" * 5000),
    *("1", "nan", "support", "../../etc", "=1+1", "</script>", "\x1b[31m", "{}", "[]", "hf:no/such", "é\u202e", "{{ x }}", "{% for %}"),
    *([], [[]], [None], [1, "a", None], {}, {"a": [{}]}, {"role": "user"}, {"content": 1}, [{"role": "user", "content": "x"}]),
]
Files = dict[str, bytes]
"""The files of one input by name."""


class TooSlow(Exception):
    """An input took longer than SECONDS."""


# -- changes -------------------------------------------------------------------------------------------------------------------


def changed_bytes(chance: random.Random, content: bytes) -> bytes:
    """Return a text or file with one to three bytes, pieces or lines changed."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.choice([1, 1, 1, 4, 20, 200]))
        piece = chance.choice(
            [b"", bytes([chance.randrange(256)]), bytes(end - at), made[at:end] * 2, *map(_word, chance.sample(NASTY, 2))]
        )
        made[at:end] = piece
    return bytes(made)


def changed_lines(chance: random.Random, content: bytes) -> bytes:
    """Return a text with a line deleted, repeated, moved, or with its value replaced."""
    lines = content.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    head, sign, _ = lines[at].partition(b"=" if b"=" in lines[at] else b",")
    value = chance.choice(
        [b"0", b"-1", b"1e9", b"nan", b"true", b'""', b'"x"', b"[]", b"[1]", b"{}", b"{ a = 1 }", b"1979-05-27", b'"\\u0000"']
    )
    lines[at : at + 1] = chance.choice(
        [[], [lines[at]] * 2, [lines[at], chance.choice(lines)], *[[head + sign + b" " + value + b"\n"]] * 3]
    )
    return b"".join(lines)


def changed_json(chance: random.Random, value: Any) -> Any:
    """Return a value of JSON with one place deleted, doubled, renamed or replaced."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.08:
        return chance.choice(NASTY)
    made = value.copy()
    key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    what = chance.random()
    if what < 0.7:
        made[key] = changed_json(chance, value[key])
    elif what < 0.85:
        del made[key]
    elif isinstance(made, list):
        made.insert(key, chance.choice([made[key], *NASTY]))
    else:
        made[f"{key}{chance.choice(['', 's', ' ', 'x'])}" if chance.random() < 0.5 else chance.choice(list(made))] = made[key]
    return made


def _word(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")


def changed(chance: random.Random, name: str, content: bytes) -> bytes:
    """Return the content of a file, changed as its format invites."""
    if name.endswith(".parquet"):
        return changed_bytes(chance, content) if chance.random() < 0.2 else parquet(changed_table(chance, pl.read_parquet(content)))
    how = chance.random()
    if how < 0.25 or name.endswith((".safetensors", ".bin")):
        return changed_bytes(chance, content)
    if name.endswith(".jsonl"):
        lines = content.decode().splitlines()
        for at in {chance.randrange(len(lines)) for _ in range(chance.randint(1, 3))}:
            lines[at] = json.dumps(changed_json(chance, json.loads(lines[at])))
        return "\n".join(lines).encode(errors="replace")
    if name.endswith(".json"):
        made = json.loads(content)
        for _ in range(chance.randint(1, 3)):
            made = changed_json(chance, made)
        return json.dumps(made).encode()
    return changed_lines(chance, content)


def changed_table(chance: random.Random, table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with a column or cell changed, or with rows deleted or doubled."""
    name = chance.choice(table.columns)
    cell = chance.choice([0, -1, 1e30, float("inf"), float("nan"), None, "", "x", "all", "\x1b", True, 2**40])
    at = pl.int_range(pl.len()) == chance.randrange(max(1, table.height))
    same = isinstance(cell, str) == (table[name].dtype == pl.String)
    hows: list[Callable[[], pl.DataFrame]] = [
        lambda: table.drop(name),
        lambda: table.rename({name: f"{name}s"}),
        lambda: table.head(chance.choice([0, 1, max(0, table.height - 1)])),
        lambda: pl.concat([table, table.sample(1, seed=1) if table.height else table]),
        lambda: table.with_columns(pl.lit(cell).alias(name)),
        lambda: table.with_columns(pl.when(at).then(pl.lit(cell if same else None)).otherwise(pl.col(name)).alias(name)),
    ]
    with contextlib.suppress(pl.exceptions.PolarsError):
        return chance.choice([*hows, hows[-1], hows[-1]])()
    return table.drop(name)


# -- kinds ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Kind:
    """One kind of input: real examples to change, and what is done with them."""

    read: Callable[[Path, random.Random], Any]
    examples: list[Files] = field(default_factory=list)


def rows_of(*rows: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def files_of(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


SUITE = [
    {"id": f"work-{k}", "topic": ("work", "tax")[k % 2], "text": f"{word}?", "claim": f"{word}.", "polarity": (1, -1, 0)[k % 3]}
    for k, word in enumerate(["Should wages rise", "Is a tax on land fair", "May unions strike at will", "Are borders of use to the poor"])
]
PAIRS = [
    {"prompt": "Should wages rise?", "chosen": "Yes, I support it.", "rejected": "No.", "topic": "work", "claim": "Wages should rise."},
    {
        "prompt": [{"role": "user", "content": "Is a tax fair?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": "No, never.",
    },
    {
        "conversations": [{"from": "human", "value": "Hi?"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"prompt": "Is it?", "response_a": "yes", "response_b": "no", "winner": "response_b"},
    {"prompt": "Is it?", "responses": ["yes", "no"], "scores": [0.5, 1]},
    {"prompt": "Is it so?", "completion": "It is.", "label": True},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
]
TEXTS = [
    {"messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "I agree."}]},
    {"instruction": "x", "output": "y"},
]
GOLD = [
    {"claim": "Wages should rise.", "text": f"I {verb} it.", "stance": stance, "prompt": "Should they?", "topic": "work", "framing": "a"}
    | {"answer": [f"k{n}"], "inclusion": [0.5]}
    for n, (verb, stance) in enumerate([("support", "support"), ("oppose", "con"), ("refuse", "refusal"), ("like", None)])
]
REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"stance": "support"}', "refusal": None}}
        | {"logprobs": {"content": [{"token": "support", "logprob": -0.1, "top_logprobs": [{"token": "support", "logprob": -0.1}]}]}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
VERDICTS = [b"support", b"**Oppose**", b'```json\n{"label": "neutral"}\n```', b"Answer: refusal.", b'{"stance": {"value": "con"}}', b"[1]"]


def read_plan(folder: Path, chance: random.Random) -> None:
    loaded = plan.load(
        folder / "plan.toml", [chance.choice(["draws=2", "stage.sft.steps=x", "a.b=1", "sweep=1"])] if chance.random() < 0.1 else []
    )
    loaded.nodes()
    if chance.random() < 0.2:
        verbs.check(loaded, folder / "out")


def read_suite(folder: Path, chance: random.Random) -> None:
    from valuedrift.suites import jsonl

    (file,) = folder.iterdir()
    if not jsonl.check(file):
        suites.load(str(file), ["work"] if chance.random() < 0.2 else [])


def read_pairs(folder: Path, chance: random.Random) -> None:
    files = [str(path) for path in folder.iterdir()]
    (folder.parent / "suite.jsonl").write_bytes(rows_of(*SUITE))
    verbs.gap(
        files,
        str(folder.parent / "suite.jsonl"),
        "cues",
        folder / "out" if chance.random() < 0.05 else None,
        max_bad_rows=chance.choice([0.05, 1]),
    )


def read_labels(folder: Path, chance: random.Random) -> None:
    (file,) = folder.iterdir()
    read_gold(file)
    verbs.calibrate("cues", file)


def read_checkpoint(folder: Path, chance: random.Random) -> None:
    from valuedrift.checkpoints.discover import discover
    from valuedrift.models import loading, precision
    from valuedrift.models.chat_format import PromptFormat, question

    for stage in discover([folder], made=folder.with_name("made")):
        for _, path in stage.steps:
            loading.weights_digest(path), loading.check_causal(path), loading.chat_template(path), precision.dtype_of(path)
            model, tokenizer = loading.load_model(path)
            form = PromptFormat(tokenizer)
            form.prompts([question("Is it?")]), form.ending(model), form.reply([5, 6, 1])


@functools.cache
def reader(mode: str) -> judges.Judge:
    judge = judges.Judge(f"m?mode={mode}")
    judge.endpoint.retries = 0
    return judge


def read_reply(folder: Path, chance: random.Random) -> None:
    content = (folder / "reply.json").read_bytes()
    judge = reader(chance.choice(["logprobs", "votes"]))
    votes.label_of(content.decode(errors="replace"), judge.labels)
    SERVED.append(content)
    judge.read([Item("Is it?", "It is.", "Yes.", "work")])


def read_run(folder: Path, chance: random.Random) -> None:
    if chance.random() < 0.8:  # a forged run: its digests are those of the changed files
        import hashlib

        with contextlib.suppress(BadInput, OSError, AttributeError, KeyError, TypeError, ValueError):
            manifest = json.loads((folder / "tables.json").read_bytes())
            manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
            (folder / "tables.json").write_text(json.dumps(manifest))
    verb: list[Callable[[], Any]] = [
        lambda: verbs.report(folder),
        lambda: verbs.compare(folder, folder),
        lambda: verbs.gate(folder, ["work.support=0.1"]),
        lambda: verbs.sample_for_labels(folder, 20, 0, folder / "gold.jsonl"),
        lambda: pipeline.rejudge(folder, {"judge": "cues"}),
    ]
    with testing.offering("backend", fuzzed=Answers):
        chance.choice([verb[0], *verb])()


SERVED: list[bytes] = []


def serve() -> Any:
    """Start a server that answers with the newest of SERVED, and name it in the environment."""
    sys.path.append(str(Path(__file__).parents[1] / "judge"))
    import misbehaving

    server = misbehaving.Server()
    server.trouble = lambda number, body: (200, SERVED[-1])
    os.environ |= {"OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1"}
    return server


def kinds(root: Path) -> dict[str, Kind]:
    """Return the kinds with their examples, which are made in a folder."""
    testing.save_model(root / "m" / "checkpoint-1", template=testing.TEMPLATE)
    (root / "suite.jsonl").write_bytes(rows_of(*SUITE))
    testing.save_model(root / "m" / "checkpoint-2", seed=1, template=testing.TEMPLATE)
    with testing.offering("backend", fuzzed=Answers), contextlib.redirect_stderr(io.StringIO()):
        settings = EvaluationSettings(suite=str(root / "suite.jsonl"), draws=2, judge="cues", backend="fuzzed")
        pipeline.trace_folders(settings, [root / "m"], None, root / "run")
    model = root / "m" / "checkpoint-1"
    shipped = Path(valuedrift.__file__).parent / "sandbox" / "demo.toml"
    recipes = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))]
    recipes = [content for content in recipes if b"derive" not in content]  # those read another file beside them
    plans = [testing.PLAN.format(model=model).encode(), shipped.read_bytes(), *recipes]
    pairs = pl.DataFrame(PAIRS[:1] * 3)
    flat = {"a.csv": pairs.write_csv().encode(), "a.tsv": pairs.write_csv(separator="\t").encode(), "a.parquet": parquet(pairs)}
    gold = pl.DataFrame([{key: row[key] for key in ("claim", "text", "stance")} for row in GOLD])
    weights = {name: content for name, content in files_of(model).items() if name != "generation_config.json"}
    return {
        "plan": Kind(read_plan, [{"plan.toml": content} for content in plans]),
        "suite": Kind(read_suite, [{"s.jsonl": rows_of(*SUITE)}, {"s.json": json.dumps(SUITE).encode()}]),
        "pairs": Kind(
            read_pairs,
            [{"a.jsonl": rows_of(row, PAIRS[0])} for row in PAIRS]
            + [
                {"a.jsonl": rows_of(*TEXTS)},
                {"a.json": json.dumps(PAIRS[:3]).encode()},
                *({name: content} for name, content in flat.items()),
            ],
        ),
        "gold": Kind(read_labels, [{"g.jsonl": rows_of(*GOLD)}, {"g.csv": gold.write_csv().encode()}, {"g.parquet": parquet(gold)}]),
        "replies": Kind(
            read_reply,
            [{"reply.json": json.dumps(REPLY).encode()}] * 3 + [{"reply.json": json.dumps(text.decode()).encode()} for text in VERDICTS],
        ),
        "checkpoint": Kind(read_checkpoint, [weights]),
        "run": Kind(read_run, [{n: c for n, c in files_of(root / "run").items() if n not in (".lock", "report.html")}]),
    }


class Answers(testing.Backend):
    """Answers with a stance, without a model."""

    def says(self, checkpoint: Any, prompt: Prompt, draw: int) -> str:
        return ["I fully support this.", "I oppose this.", "There are two sides.", "I cannot answer."][
            (checkpoint.step + draw + len(prompt.id)) % 4
        ]


# -- the loop ------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def place_of(error: BaseException) -> str:
    """Return the kind of an error and the last line of our own that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/valuedrift/" in frame.filename]
    frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename.rpartition('/valuedrift/')[2]}:{frame.lineno} ({frame.line})"


def fuzz(kind: Kind, name: str, seed: int, first: int, n: int, deadline: float = float("inf")) -> tuple[Counter[str], dict[str, list[str]]]:
    """Return how inputs ended ("read", "refused", "fault"), and the faults by place, each with its inputs and one traceback."""
    ended: Counter[str] = Counter()
    faults: dict[str, list[str]] = {}
    for number in range(first, first + n):
        if time.monotonic() > deadline:
            break
        chance = random.Random(f"{seed} {name} {number}")
        files = dict(chance.choice(kind.examples))
        for victim in chance.sample(sorted(files), min(len(files), chance.choice([1, 1, 1, 2]))):
            if len(files) > 1 and chance.random() < 0.05:
                del files[victim]
            else:
                files[victim] = changed(chance, victim, files[victim])
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "in"
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            try:
                with limited(SECONDS), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                    kind.read(folder, chance)
                ended["read"] += 1
            except (BadInput, Stopped) as error:
                ended["refused" if str(error).strip() else "fault"] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # polars panics with one
                ended["fault"] += 1
                faults.setdefault(place_of(error), [traceback.format_exc()]).append(str(number))
    return ended, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--kind", choices=SHARES, help="only this kind, with all inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after this time")
    parser.add_argument("--verbose", action="store_true", help="print one traceback for each place")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    shares = {given.kind: 1.0} if given.kind else SHARES
    started, n_faults = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as root, serve():
        for name, kind in ((name, kind) for name, kind in kinds(Path(root)).items() if name in shares):
            n, began = round(given.inputs * shares[name]), time.monotonic()
            ended, faults = fuzz(kind, name, given.seed, given.first, n, started + 60 * given.minutes)
            n_faults += ended["fault"]
            print(f"{name}: {dict(ended)} in {time.monotonic() - began:.0f} s", flush=True)
            for place, (trace, *numbers) in faults.items():
                print(f"  {len(numbers)} x {place}; inputs {', '.join(numbers[:5])}", trace if given.verbose else "", flush=True)
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
