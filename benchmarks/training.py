"""Our training loop against TRL's SFTTrainer and DPOTrainer on the same small Llama and the same batches: tokens per second, and ratios.

    python benchmarks/training.py [--quick] [--json]

Both sides run as stages, ours and `trl:NAME`, which see the same records in the same order and give the same losses (a test holds this;
the largest difference of this run is reported). They run alternately in one process, so that a busy machine slows both. TRL is spared
gradient checkpointing, which it would do by default. The model has 5.5 M parameters and is random: what it learns takes no part in the
time. Prompts have 12 to 32 words, answers 10 to 60, one token each.

steps      from the end of the first optimiser step to the end of the last: loading, tokenising and saving stand outside
reference  DPO's log-probs of the starting weights. Ours are computed once, before the first step. TRL computes them in every step, or
           (`precompute_ref_log_probs`, here "precomputed") once before the first
whole      steps and reference together, for one epoch
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from valuedrift.nouns import Example, Pair
from valuedrift.plan import Stage
from valuedrift.train.stage import run_stage
from valuedrift.train.stage_trainer import StageTrainer

SPECIAL = ["<|pad|>", "<|eos|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = [f"w{number}" for number in range(4096 - len(SPECIAL))]
BATCH = 8


@dataclass(frozen=True)
class Seconds:
    """What one stage took, and its losses."""

    steps: float
    reference: float
    losses: tuple[float, ...]

    @property
    def whole(self) -> float:
        return self.steps + self.reference


def small_llama(folder: Path) -> str:
    """Save a random Llama of 5.5 M parameters with a tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|eos|>", pad_token="<|pad|>").save_pretrained(folder)
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "vocab_size": len(vocabulary)}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, tie_word_embeddings=True)).save_pretrained(folder)
    return str(folder)


def made_up_pairs(n: int) -> list[Pair]:
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    return [Pair((("user", words(12, 32)),), words(10, 60), words(10, 60)) for _ in range(n)]


@contextmanager
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


def stage_seconds(base: str, algorithm: str, data: list[Pair] | list[Example], **own: Any) -> Seconds:
    """Train one epoch into a folder of its own, and return what it took."""
    stage = Stage(algorithm=algorithm, data="made up", batch_size=BATCH, learning_rate=1e-4, save_at="log:1", **own)
    ends: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        timed(StageTrainer, "record_logps") as ours,
        timed(trl.DPOTrainer, "_precompute_ref_logps") as theirs,
    ):
        run_stage(stage, 0, base, data, Path(folder, "stage"), lambda *_: ends.append(time.perf_counter()))
        history = json.loads(Path(folder, "stage", "losses.json").read_text())
    return Seconds(ends[-1] - ends[0], sum(ours + theirs), tuple(step["loss"] for step in history))


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return how many times as long TRL takes, over the rounds."""
    ratios = [its / mine for mine, its in zip(ours, theirs, strict=True)]
    figures = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(value, 2) for name, value in figures.items()} | {"n": len(ratios)}


def compared(ours: list[Seconds], theirs: list[Seconds], n_tokens: float) -> dict[str, Any]:
    """Return the figures of one comparison; `n_tokens` are those between the end of the first step and the end of the last."""

    def median(rounds: list[Seconds], what: str) -> float:
        return statistics.median(getattr(each, what) for each in rounds)

    figures: dict[str, Any] = {
        "ours_tokens_per_second": round(n_tokens / median(ours, "steps")),
        "trl_tokens_per_second": round(n_tokens / median(theirs, "steps")),
        "steps_ratio": spread([each.steps for each in ours], [each.steps for each in theirs]),
        "largest_difference_of_a_loss": max(abs(a - b) for a, b in zip(ours[0].losses, theirs[0].losses, strict=True)),
    }
    if any(each.reference for each in ours):
        figures |= {
            "ours_reference_seconds": round(median(ours, "reference"), 2),
            "trl_reference_seconds": round(median(theirs, "reference"), 2) if theirs[0].reference else "within the steps",
            "whole_ratio": spread([each.whole for each in ours], [each.whole for each in theirs]),
        }
    return figures


def measure(quick: bool) -> dict[str, Any]:
    """Return the figures of the benchmark."""
    n_steps, n_rounds = (9, 3) if quick else (25, 5)
    pairs = made_up_pairs(n_steps * BATCH)
    examples = [Example(pair.prompt, pair.chosen) for pair in pairs]
    lean = {"gradient_checkpointing": False}
    sides: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
        "sft": ("sft", examples, {}),
        "trl sft": ("trl:SFTTrainer", examples, lean),
        "dpo": ("dpo", pairs, {}),
        "trl dpo": ("trl:DPOTrainer", pairs, lean),
        "trl dpo precomputed": ("trl:DPOTrainer", pairs, lean | {"precompute_ref_log_probs": True}),
    }
    rounds: dict[str, list[Seconds]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        base = small_llama(Path(folder, "base"))
        for number in range(n_rounds + 1):
            for name, (algorithm, data, own) in sides.items():
                seconds = stage_seconds(base, algorithm, data, **own)
                if number:  # the first round warms up
                    rounds[name].append(seconds)
    share = (n_steps - 1) / n_steps
    prompt = [len(pair.prompt[0][1].split()) for pair in pairs]
    n_sft = share * sum(n + len(pair.chosen.split()) for n, pair in zip(prompt, pairs, strict=True))
    n_dpo = n_sft + share * sum(n + len(pair.rejected.split()) for n, pair in zip(prompt, pairs, strict=True))
    return {
        "steps": n_steps,
        "pairs_per_step": BATCH,
        "threads": torch.get_num_threads(),
        "sft": compared(rounds["sft"], rounds["trl sft"], n_sft),
        "dpo": compared(rounds["dpo"], rounds["trl dpo"], n_dpo),
        "dpo, TRL's reference precomputed": compared(rounds["dpo"], rounds["trl dpo precomputed"], n_dpo),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
