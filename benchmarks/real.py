"""Speed and memory on a pretrained model: sampling, the judge `labels`, KL, and training steps, each against what else does the same.

    python benchmarks/real.py MODEL [--parts sample,kl,labels,steps,dtypes] [--questions 550] [--rounds 3] [--json]

MODEL is a folder, for example one that experiments/real/prepare.py made. The sides of a comparison run alternately in one process, so that
a busy machine slows both; a ratio is the median over the rounds, with the least and the greatest. Peak memory is what a side adds to the
process (Linux only).

sample   questions of the built-in suite x 2 samples x 64 tokens at temperature 0.7: our decoder against `generate`, which gets prompts
         sorted by length, the samples of a prompt in one batch, and the fastest of several batch sizes, found first. Also the share of the
         machine's rate of matrix products: 2 operations per parameter and token, a prompt read once
kl       the KL of the first answers to 256 questions from another model of this size, against the time to sample all answers
labels   the judge on texts of 250 tokens: items per second, against a greedy answer from `generate`
steps    SFT and DPO steps of 8 records of about 256 tokens, all weights and LoRA, against TRL's trainers in the same precision, with the
         largest difference of a loss; TRL is spared gradient checkpointing
dtypes   the same steps in float32, and one sample of each question in float32 and in bfloat16: equal answers
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from valuedrift import suites
from valuedrift.evaluate.distance import divergences
from valuedrift.evaluate.visit import Answered
from valuedrift.judge import labels
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Ending, Wanted, decode
from valuedrift.models.loading import load_model
from valuedrift.models.sampling_noise import row_words
from valuedrift.nouns import OUTCOMES, Example, Item, Pair
from valuedrift.plan import EvaluationSettings, Stage
from valuedrift.train.stage import run_stage
from valuedrift.train.stage_trainer import StageTrainer
from valuedrift.world import grammar

DRAWS, TOKENS, RECORDS, BATCH = 2, 64, 8, 8
Side = Callable[[], float]
"""Does some work and returns its amount."""


def rates(sides: dict[str, Side], n_rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the amounts per second of every side in each round, and the GiB that each adds to the process at most."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    peaks = {}
    for _ in range(n_rounds):
        for name, side in sides.items():
            before = memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            started = time.perf_counter()
            amount = side()
            found[name].append(amount / (time.perf_counter() - started))
            peaks[name] = round(max(peaks.get(name, 0.0), memory("VmHWM") - before), 2)
    return found, peaks


def memory(name: str) -> float:
    """Return a figure of /proc/self/status in GiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 2**20


def compared(ours: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return how many times as fast our side is, over the rounds."""
    ratios = [mine / its for mine, its in zip(ours, other, strict=True)]
    figures = {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
    return {name: round(value, 2) for name, value in figures.items()} | {"rounds": len(ratios)}


def figures_of(sides: dict[str, Side], n_rounds: int, unit: str) -> dict[str, Any]:
    """Return the rates of the sides, how much faster the first is than each other, and the memory."""
    found, peaks = rates(sides, n_rounds)
    first, *others = found
    return {
        unit: {name: round(statistics.median(values), 2) for name, values in found.items()},
        "ratio": {f"{first} to {other}": compared(found[first], found[other]) for other in others},
        "added_gib": peaks,
    }


def product_rate() -> float:
    """Return the operations per second of a bfloat16 matrix product of 2048 x 2048 on all threads."""
    square = torch.randn(2048, 2048).bfloat16()
    times = []
    for _ in range(10):
        started = time.perf_counter()
        square @ square
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times)


# -- sampling --------------------------------------------------------------------------------------------------------------


class Questions:
    """The suite's questions in a model's prompt format, and the two ways to answer them."""

    def __init__(self, folder: str, n: int, dtype: str = "bfloat16"):
        self.model, self.tokenizer = load_model(folder, dtype=dtype)
        self.format = PromptFormat(self.tokenizer)
        texts = [prompt.text for prompt in suites.load("vaes")]
        self.texts = texts[:: max(1, len(texts) // n)][:n]
        self.prompts = [tuple(ids) for ids in self.format.prompts([question(text) for text in self.texts])]
        self.ending: Ending = self.format.ending(self.model)
        self.settings = EvaluationSettings(temperature=0.7, max_new_tokens=TOKENS, draws=DRAWS)

    def ours(self, draws: int = DRAWS) -> list[Any]:
        wanted = [Wanted(ids, row_words(0, str(ids), draw)) for ids in self.prompts for draw in range(draws)]
        return decode(self.model, wanted, self.settings, self.ending)

    @torch.inference_mode()
    def generated(self, batch: int, prompts: Sequence[tuple[int, ...]] = ()) -> float:
        """Return the number of tokens that `generate` writes, end tokens included, in batches of so many answers."""
        ordered = sorted(prompts or self.prompts, key=len)
        options: dict[str, Any] = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "max_new_tokens": TOKENS, "num_return_sequences": DRAWS}
        options |= {"eos_token_id": sorted(self.ending.tokens), "pad_token_id": 0, "do_sample": True}
        total = 0
        for part in (ordered[start : start + batch // DRAWS] for start in range(0, len(ordered), batch // DRAWS)):
            longest = max(map(len, part))
            ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in part])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in part])
            new = self.model.generate(input_ids=ids, attention_mask=mask, **options)[:, longest:]
            ends = torch.isin(new, torch.tensor(sorted(self.ending.tokens)))
            total += int((ends.cumsum(1) - ends.long() == 0).sum())
        return total


def n_multiplied(model: Any) -> int:
    """Return the parameters that take part in matrix products: all, less an input embedding that is not the output layer too."""
    rows, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return model.num_parameters() - (0 if out is rows else rows.numel())


def sample(folder: str, n_rounds: int, n: int) -> dict[str, Any]:
    """Return the figures of sampling."""
    asked = Questions(folder, n)
    few = asked.prompts[::4]
    trials = {}
    for batch in (64, 128, 256):
        started = time.perf_counter()
        trials[batch] = asked.generated(batch, few) / (time.perf_counter() - started)
    best = max(trials, key=lambda batch: trials[batch])
    n_tokens = sum(len(reply.tokens) for reply in asked.ours())
    sides: dict[str, Side] = {
        "ours": lambda: sum(len(reply.tokens) for reply in asked.ours()),
        "generate": lambda: asked.generated(best),
    }
    figures = figures_of(sides, n_rounds, "tokens_per_second")
    inner = asked.model.num_parameters() - asked.model.get_output_embeddings().weight.numel()
    operations = 2 * (n_multiplied(asked.model) * n_tokens + inner * sum(len(ids) - 1 for ids in asked.prompts))
    rate = product_rate()
    share = operations / (n_tokens / figures["tokens_per_second"]["ours"]) / rate
    more = {"answers": DRAWS * len(asked.prompts), "tokens_per_answer": round(n_tokens / len(asked.prompts) / DRAWS, 1)}
    batches = {"generate_batch": best, "generate_by_batch": {batch: round(value) for batch, value in trials.items()}}
    return more | batches | figures | {"product_tera_per_second": round(rate / 1e12, 2), "of_matrix_product": round(share, 3)}


def kl(folder: str, n_rounds: int, n: int) -> dict[str, Any]:
    """Return the seconds of the KL and of sampling."""
    asked = Questions(folder, n)
    reference, _ = load_model(folder, dtype="bfloat16")
    with torch.no_grad():
        for weights in reference.parameters():
            weights.mul_(1.01)
    replies = asked.ours(1)
    read = zip(asked.texts[:256], replies, strict=False)
    said = [Answered(str(n), asked.format.reply(reply.tokens)[0], reply.ended, text) for n, (text, reply) in enumerate(read)]
    sides: dict[str, Side] = {
        "kl": lambda: bool(divergences(asked.model, asked.tokenizer, reference, said, asked.settings)),
        "sampling": lambda: bool(asked.ours()),
    }
    found, peaks = rates(sides, n_rounds)
    seconds = {name: round(1 / statistics.median(values), 1) for name, values in found.items()}
    return {"answers": len(said), "seconds": seconds, "share": round(seconds["kl"] / seconds["sampling"], 2), "added_gib": peaks}


# -- the judge -------------------------------------------------------------------------------------------------------------


def made_up_items(n: int, tokenizer: Any) -> list[Item]:
    """Return items whose texts have about 250 tokens."""
    rng, claims, items = random.Random(0), grammar.claims_of(), []
    for number in range(n):
        topic, claim, _ = rng.choice(claims)
        ids: list[int] = []
        while len(ids) < 250:
            ids += tokenizer(" " + grammar.compose(rng, topic, OUTCOMES[number % 3]), add_special_tokens=False)["input_ids"]
        items.append(Item(grammar.ask(rng, claim), claim, tokenizer.decode(ids[:250]), topic))
    return items


def judge(folder: str, n_rounds: int, n: int) -> dict[str, Any]:
    """Return the items per second of the judge `labels`, and of generating a greedy label."""
    reader = labels.Judge(f"{folder}?dtype=bfloat16")
    model, tokenizer = reader.model.loaded
    items = made_up_items(min(n, 128), tokenizer)
    longest = max(map(len, reader.model.label_ids(reader.wording, OUTCOMES)))

    @torch.inference_mode()
    def generated() -> float:
        prompts = sorted((list(ids) for ids in reader.model.prompts(reader.wording, OUTCOMES, items, 2048)), key=len)
        for start in range(0, len(prompts), 16):
            part = prompts[start : start + 16]
            width = max(map(len, part))
            ids = torch.tensor([[0] * (width - len(one)) + one for one in part])
            mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in part])
            model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=longest, pad_token_id=0)
        return len(items)

    sides: dict[str, Side] = {"labels": lambda: len(reader.read(items)), "generate": generated}
    return {"items": len(items)} | figures_of(sides, n_rounds, "items_per_second")


# -- training --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def timed(owner: type, method: str) -> Iterator[list[float]]:
    """Yield a list that gets the seconds of every call of a method."""
    inner: Callable[..., Any] = getattr(owner, method)
    seconds: list[float] = []

    def outer(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, method, outer)
    try:
        yield seconds
    finally:
        setattr(owner, method, inner)


def pairs(n: int, tokenizer: Any) -> list[Pair]:
    items = made_up_items(2 * n, tokenizer)
    return [Pair((("user", item.prompt),), item.text, other.text) for item, other in itertools.batched(items, 2)]


def trained(folder: str, algorithm: str, data: Sequence[Any], dtype: str, **own: Any) -> tuple[float, list[float]]:
    """Train some steps; return the seconds per step after the first, DPO's reference included, and the losses."""
    stage = Stage(
        algorithm=algorithm, data="made", batch_size=BATCH, learning_rate=1e-5, save_at="log:1", max_length=320, dtype=dtype, **own
    )
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as place, timed(StageTrainer, "record_logps") as reference:
        run_stage(stage, 0, folder, list(data), Path(place, "stage"), lambda *_: ends.append(time.perf_counter()))
        losses = [step["loss"] for step in json.loads(Path(place, "stage", "losses.json").read_text())]
    return (ends[-1] - ends[0]) / (len(ends) - 1) + sum(reference) / len(ends), losses


def steps(folder: str, n_rounds: int, n: int, dtypes: Sequence[str] = ("auto",)) -> dict[str, Any]:
    """Return the seconds per step of our loop, in every dtype, and of TRL's in the first of them."""
    data = pairs(BATCH * 4, load_model(folder)[1])
    examples = [Example(pair.prompt, pair.chosen) for pair in data]
    found: dict[str, Any] = {}
    for name, adapter in (("all weights", {}), ("LoRA", {"lora": {"r": 16, "lora_alpha": 32}})):
        for algorithm, trainer, records in (("sft", "trl:SFTTrainer", examples), ("dpo", "trl:DPOTrainer", data)):
            losses: dict[str, list[float]] = {}
            took: dict[str, list[float]] = {}

            def side(
                algorithm: str, dtype: str, records: Any = records, adapter: Any = adapter, losses: Any = losses, took: Any = took
            ) -> Side:
                def run() -> float:
                    lean = {"gradient_checkpointing": False} if algorithm.startswith("trl") else {}
                    seconds, losses[f"{algorithm} {dtype}"] = trained(folder, algorithm, records, dtype, **adapter, **lean)
                    took.setdefault(f"{algorithm} {dtype}", []).append(seconds)
                    return 1.0

                return run

            sides = {f"{algorithm} {dtype}": side(algorithm, dtype) for dtype in dtypes}
            if len(dtypes) == 1:
                sides[f"{trainer} {dtypes[0]}"] = side(trainer, dtypes[0])
            _, peaks = rates(sides, n_rounds)
            first, *others = sides
            found[f"{algorithm}, {name}"] = {
                "seconds_per_step": {one: round(statistics.median(values), 2) for one, values in took.items()},
                "ratio": {f"{first} to {one}": compared([1 / s for s in took[first]], [1 / s for s in took[one]]) for one in others},
                "largest_difference_of_a_loss": max(abs(a - b) for one in others for a, b in zip(losses[first], losses[one], strict=True)),
                "added_gib": peaks,
            }
    return found


def dtypes(folder: str, n_rounds: int, n: int) -> dict[str, Any]:
    """Return the steps in two precisions, and how many answers are equal."""
    said = [[reply.tokens for reply in Questions(folder, n, dtype).ours(1)] for dtype in ("float32", "bfloat16")]
    alike = sum(a == b for a, b in zip(*said, strict=True)) / len(said[0])
    return {"equal_answers": round(alike, 3), "answers": len(said[0])} | steps(folder, n_rounds, n, ("auto", "float32"))


PARTS: dict[str, Callable[[str, int, int], dict[str, Any]]] = {
    "sample": sample,
    "kl": kl,
    "labels": judge,
    "steps": steps,
    "dtypes": dtypes,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model's folder")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=550)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, in one line")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    figures: dict[str, Any] = {"model": Path(arguments.model).name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    for part in arguments.parts.split(","):
        figures[part] = PARTS[part](arguments.model, arguments.rounds, arguments.questions)
        print(json.dumps({part: figures[part]}), file=sys.stderr, flush=True)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
