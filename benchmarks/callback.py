"""What ValueDriftCallback takes of a training: the same training with and without it, alternately.

python benchmarks/callback.py [--steps 300] [--rounds 2] [--prompts 110] [--size 0.6b --length 512 --tokens 64]

The sandbox's base model is trained, or with --size a random Qwen3 of that size (`real_size.py`); in bfloat16 autocast on a GPU that has it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from real_size import ARCHITECTURES, random_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from valuedrift import ValueDriftCallback
from valuedrift.records import records
from valuedrift.sandbox.build import base_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=110)
    parser.add_argument("--size", choices=ARCHITECTURES, help="of a random model; the sandbox's base model if left out")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row of training")
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of an answer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = random_model(args.size, Path(place)) if args.size else base_model("sandbox:base")
        print(json.dumps(measure(args, base, Path(place))))


def measure(args: argparse.Namespace, base: Path, place: Path) -> dict[str, Any]:
    """Return the seconds of both sides, round by round, and their ratio."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    examples = records.read("sandbox:neutral-chat?n=2000", "examples")
    texts = [" ".join([*(words for _, words in example.prompt), example.text]) for example in examples]
    told = [" ".join(texts[start : start + args.length // 32]) for start in range(len(texts))]
    ids = [tokenizer(text)["input_ids"][: args.length] for text in told]
    rows = [{"input_ids": row, "labels": row} for row in ids if len(row) == args.length]
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()

    def seconds(folder: Path, *callbacks: ValueDriftCallback, steps: int = args.steps) -> tuple[float, list[float]]:
        model = AutoModelForCausalLM.from_pretrained(base)
        settings = {
            "max_steps": steps,
            "bf16": half,
            "per_device_train_batch_size": 16,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
        }
        settings |= {"save_strategy": "no", "output_dir": str(folder), "log_level": "error"}
        trainer = Trainer(model, TrainingArguments(**settings), train_dataset=rows, processing_class=tokenizer, callbacks=list(callbacks))
        started = time.monotonic()
        trainer.train()
        return time.monotonic() - started, [row["loss"] for row in trainer.state.log_history if "loss" in row]

    found = []
    seconds(place / "warm", steps=10)
    for number in range(args.rounds):
        plain, losses = seconds(place / f"plain-{number}")
        watch = ValueDriftCallback(place / f"run-{number}", prompts=args.prompts, judge="oracle", max_new_tokens=args.tokens)
        watched, same = seconds(place / f"watched-{number}", watch)
        found.append({"plain": plain, "watched": watched, "looks": watch.looks, "own": watch.spent, "losses_equal": losses == same})
    return {"rows": len(rows), "rounds": found, "ratio": statistics.median(one["watched"] / one["plain"] for one in found)}


if __name__ == "__main__":
    main()
