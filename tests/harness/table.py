"""What the harness works with: a small world of models and data, and the table of the verbs that write."""

from __future__ import annotations

import json
import random
import re
import shutil
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from misbehaving import Server
from safetensors.torch import load_file, save_file

from valuedrift import suites, testing
from valuedrift.nouns import OUTCOMES, Prompt, digest
from valuedrift.world import grammar

PAID = "openai:paid?mode=logprobs"
TRACED = "--suite {suite} --draws 2 --max-new-tokens 6"
SPEC = 'writer = "openai:paid"\nn = 12\ngap = 0.25\ntopics = ["work", "death"]\ncandidates = 1\n'
SAYS = (("support", "The tax is good because it helps the poor."), ("oppose", "border border border wall wall wall"))
STANCES = {"support": "who agrees with", "oppose": "who disagrees with", "neutral": "who takes no side"}


@dataclass(frozen=True)
class Verb:
    """One way to call a verb: its words with the names of `World.names`, and what is copied into {out} before its first call.

    `finished` is in the sentence with which the verb refuses to do again what it has finished.
    """

    words: str
    given: dict[str, str] = field(default_factory=dict)
    finished: str = ""
    needs: str = ""


VERBS = {
    "run": Verb("run {plan} --out {out}/run"),
    "trace": Verb(f"trace {{steps}} --base {{model}} {TRACED} --judge {{paid}} --out {{out}}/run"),
    "trace of an API": Verb(f"trace openai:traced {TRACED} --judge cues --backend openai --out {{out}}/run"),
    "watch": Verb(
        f"watch {{out}}/steps --base {{model}} {TRACED} --judge {{paid}} --until 3 --settled 0 --keep 1 --out {{out}}/run",
        {"steps": "steps"},
    ),
    "callback": Verb("callback {model} {out}/trainer {out}/run {suite} {paid}"),
    "judge": Verb("judge {out}/run --judge {paid}", {"run": "traced"}),
    "report": Verb("report {out}/run --view axis --picture {out}/picture.png", {"run": "traced"}),
    "forecast": Verb("forecast {pairs} --model {model} --suite {suite} --draws 2 --max-new-tokens 6 --judge {paid} --out {out}/forecast"),
    "attribute": Verb("attribute {out}/run --topic work --stance invalid --verify 4", {"run": "trained/run"}),
    "export": Verb("export {out}/run --out {out}/logs", {"run": "traced"}, needs="inspect_ai"),
    "gap": Verb("gap {pairs} --judge {paid} --out {out}/gap"),
    "synth": Verb("synth {spec} --out {out}/pairs"),
    "calibrate --keep": Verb("calibrate --judge {paid} --gold {labels} --keep {out}/kept"),
    "calibrate --sample": Verb("calibrate --sample {traced} --n 30 --out {out}/gold.jsonl"),
    "train-judge": Verb(
        "train-judge {labels} --base {model} --num-train-epochs 2 --learning-rate 0.002 --out {out}/judge",
        finished="holds a trained judge already",
    ),
}


class World:
    """The models and data of all trials, in one folder, and the server that answers and counts."""

    def __init__(self, root: Path, server: Server):
        self.root, self.out, self.server = root, root / "out", server
        server.text, server.first_tokens = _answer, _label
        files = {"plan": "plan.toml", "spec": "spec.toml", "suite": "suite.jsonl", "labels": "labels.jsonl", "pairs": "pairs.jsonl"}
        self.names = {
            name: str(root / file)
            for name, file in (files | {name: name for name in ("model", "steps", "traced", "trained", "out")}).items()
        }
        self.names["paid"] = PAID
        testing.save_sandbox_model(root / "model")
        for step in (1, 2, 3):
            folder = shutil.copytree(root / "model", root / "steps" / f"checkpoint-{step}")
            weights = {name: values + 0.02 * step for name, values in load_file(folder / "model.safetensors").items()}
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        prompts = suites.load("vaes", ["work", "religion"])
        _lines(root / "suite.jsonl", [asdict(prompt) for topic in ("work", "religion") for prompt in _of(prompts, topic)[:20]])
        sides = ("I agree, because {}.", "I disagree, because {}.")
        pairs = [{"prompt": one.text, "chosen": sides[n % 2], "rejected": sides[1 - n % 2]} for n, one in enumerate(prompts)]
        _lines(root / "pairs.jsonl", [{name: text.format(n) for name, text in pair.items()} for n, pair in enumerate(pairs)])
        about = [{"prompt": f"What about {n}?", "claim": f"Thing {n} is good."} for n in range(120)]
        _lines(root / "labels.jsonl", [row | {"text": SAYS[n % 2][1], "stance": SAYS[n % 2][0]} for n, row in enumerate(about)])
        plan = testing.PLAN.format(model=root / "model").replace('topics = ["work", "religion"]', f'suite = "{root}/suite.jsonl"')
        (root / "plan.toml").write_text(plan.replace('"oracle"', f'"{PAID}"'))
        (root / "spec.toml").write_text(SPEC)

    def argv(self, words: str) -> list[str]:
        return words.format(**self.names).split()

    def begin(self, verb: Verb) -> None:
        """Make {out} as it is before the first call."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, source in verb.given.items():
            shutil.copytree(self.root / source, self.out / name)


def _of(prompts: Sequence[Prompt], topic: str) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.topic == topic]


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _label(body: dict[str, Any]) -> dict[str, float]:
    """Return first tokens that depend on the message alone: verdicts differ, and each is the same again."""
    number = int(digest(body["messages"])[:8], 16)
    return {OUTCOMES[number % 3]: 0.6, OUTCOMES[(number + 1) % 3]: 0.3, "The": 0.1}


def _answer(number: int, body: dict[str, Any]) -> str:
    """Write an answer by the message and the seed alone: for synth one that its request asks for, else one of three sentences."""
    said = body["messages"][-1]["content"]
    rng = random.Random(f"{body.get('seed')}/{said}")
    if claim := re.search(r"^The statement: (.*)$", said, re.MULTILINE):
        stance = next(name for name, mark in STANCES.items() if mark in said)
        topic = next(topic for topic, own, _ in grammar.claims_of() if own == claim[1])
        return grammar.compose(rng, topic, stance, "plain", claim[1])
    noise = "".join(rng.choices(string.ascii_lowercase, k=8))
    return rng.choice(["I agree", "I disagree", "There are two sides"]) + f": {noise}."
