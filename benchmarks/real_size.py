"""A random Qwen3 of real size on one GPU: what its training takes in time and memory, and a whole run from random weights to the report.

    python benchmarks/real_size.py [--size 0.6b] [--parts steps,run,dtypes] [--steps 10] [--stages reward,ppo] [--json] [--out FOLDER]

steps    each kind of stage for a few steps on records of LENGTH tokens: seconds a step (median without the first two), tokens a second,
         peak memory allocated, and the share of the matrix product's speed that 6 operations per parameter and token are (4 where an
         adapter is trained; what a reference takes comes before the first step)
run      a plan through the command's own `run`: pretraining on the sandbox's texts, SFT and DPO at a value gap of 1, every checkpoint
         asked all prompts and judged exactly; the answers then read again by a language model of the same size (its verdicts mean nothing)
dtypes   a checkpoint of that run asked in float32 and in bfloat16

The vocabulary has the real size: what the sandbox's tokenizer lacks is filled up with words. Weights are float32 under bfloat16 autocast
(dtype = "auto") or bfloat16, as the row says.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from valuedrift import pipeline, suites
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Decoder, Wanted
from valuedrift.models.loading import load_model
from valuedrift.models.sampling_noise import row_words
from valuedrift.nouns import Example, Pair
from valuedrift.plan import EvaluationSettings, Plan, Stage
from valuedrift.records import records
from valuedrift.sandbox import build
from valuedrift.train.stage import run_stage
from valuedrift.world import sets

ARCHITECTURES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 4096},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "vocab_size": 151_936},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "vocab_size": 151_936},
}
HEADS = {"tiny": (4, 2, 16), "others": (16, 8, 128)}
LENGTH = 1024
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"algorithm": "sft", "batch_size": 8},
    "sft bfloat16": {"algorithm": "sft", "batch_size": 8, "dtype": "bfloat16"},
    "sft lora bfloat16": {"algorithm": "sft", "batch_size": 8, "dtype": "bfloat16", "lora": {"r": 16, "lora_alpha": 32}},
    "dpo": {"algorithm": "dpo", "batch_size": 4},
    "reward": {"algorithm": "reward", "batch_size": 4},
    "ppo": {"algorithm": "ppo", "batch_size": 16, "num_mini_batches": 2, "num_ppo_epochs": 2, "max_new_tokens": 128},
}
ROWS = {"dpo": 2, "reward": 2}
N_TEXTS = {"tiny": 400, "0.6b": 3200, "1.7b": 3200}


def random_model(size: str, folder: Path) -> Path:
    """Save a Qwen3 with random bfloat16 weights and the sandbox's tokenizer, filled up to the size of the vocabulary."""
    sizes = ARCHITECTURES[size]
    small = build.untrained(folder / "sandbox", build.ARCHITECTURE)
    tokenizer = json.loads((small / "tokenizer.json").read_text())
    known = tokenizer["model"]["vocab"]
    known |= {f"w{number}": number for number in range(len(known), sizes["vocab_size"])}
    heads: dict[str, Any] = dict(
        zip(("num_attention_heads", "num_key_value_heads", "head_dim"), HEADS["tiny" if size == "tiny" else "others"], strict=True)
    )
    heads |= {"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(DEVICE):
        Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).to(torch.bfloat16).save_pretrained(folder / size)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = AutoTokenizer.from_pretrained(small)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token=special.pad_token, eos_token=special.eos_token
    ).save_pretrained(folder / size)
    return folder / size


def parameters(model: Path) -> int:
    """Return how many parameters a folder's model has."""
    with torch.device("meta"):
        return sum(values.numel() for values in Qwen3ForCausalLM(Qwen3Config.from_pretrained(model)).parameters())


def measure_steps(model: Path, n_steps: int, place: Path, stages: list[str]) -> list[dict[str, Any]]:
    """Return what each kind of stage takes per step; PPO needs the reward stage before it."""
    flops = limits(DEVICE)["flops_per_second"]
    n_parameters, found = parameters(model), []
    examples = records.read("sandbox:neutral-chat?n=300", "examples")
    texts = list(itertools.islice(itertools.cycle(example.text for example in examples), 4000))
    chosen, rejected = (" ".join(texts[start : start + 120]) for start in (0, 60))  # more than LENGTH tokens: cut to it
    reward = ""
    for name in stages:
        settings = STAGES[name]
        algorithm = settings["algorithm"]
        n = settings["batch_size"] * (n_steps + 2)
        asked = [(("user", f"{text} ({number})"),) for number, text in enumerate(texts[:n])]
        data = [Pair(prompt, chosen, rejected) if algorithm in ROWS else Example(prompt, chosen) for prompt in asked]
        more = {"reward": reward} if algorithm == "ppo" else {}
        stage = Stage(data="made", steps=n_steps, max_length=LENGTH, learning_rate=1e-5, save_at=[n_steps], **settings, **more)
        times: list[float] = []
        forget()
        started = time.perf_counter()
        out = place / name.replace(" ", "-")
        run_stage(stage, 0, str(model), data, out, lambda *_, times=times: times.append(time.perf_counter()))
        seconds = statistics.median(after - before for before, after in itertools.pairwise(times[1:]))
        row = {"stage": name, "seconds_a_step": round(seconds, 4), "whole_seconds": round(time.perf_counter() - started, 1)}
        row["peak_gib"] = peak_gib()
        row["checkpoint_gib"] = round(sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**30, 2)
        if algorithm != "ppo":
            tokens = settings["batch_size"] * ROWS.get(algorithm, 1) * LENGTH
            operations = (4 if "lora" in settings else 6) * n_parameters * tokens
            row |= {"tokens_a_second": round(tokens / seconds), "of_matrix_product": round(operations / seconds / flops, 3)}
        if algorithm == "reward":
            reward = str(out / f"checkpoint-{n_steps}")
        print(json.dumps(row), file=sys.stderr, flush=True)
        found.append(row)
    return found


def plan_of(model: Path, size: str, place: Path) -> Plan:
    """Return the run: the sandbox's language is learnt from nothing, then its stances from chats, then from pairs."""
    n = N_TEXTS[size]
    texts = [json.dumps({"text": text.text}) for text in sets.pretraining(n)]
    (place / "words.jsonl").write_text("\n".join(texts) + "\n")
    common = {"batch_size": 64 if size != "tiny" else 8, "max_length": 256, "warmup_ratio": 0.05}
    words = {"algorithm": "sft", "data": str(place / "words.jsonl"), "learning_rate": 3e-4, "save_at": "log:1", "group_by_length": True}
    chats = {"algorithm": "sft", "data": f"sandbox:neutral-chat?n={n // 4}", "learning_rate": 5e-5, "save_at": "log:2"}
    choice = {"algorithm": "dpo", "data": f"sandbox:pairs?gap=1.0&n={n // 8}", "learning_rate": 2e-6, "save_at": "log:2"}
    stages = {"words": common | words, "sft": common | chats | {"after": "words"}, "dpo": common | choice | {"after": "sft"}}
    how = {"judge": "oracle", "draws": 1, "max_new_tokens": 64, "batch_rows": 1024, "side_metrics": False}
    return Plan(model=str(model), stage={name: Stage(**given) for name, given in stages.items()}, **how)


def measure_run(model: Path, size: str, place: Path) -> dict[str, Any]:
    """Return what a whole run took, what it found, and how fast a judge of that size reads its answers."""
    forget()
    out = place / "run"
    seconds, result = took(DEVICE, lambda: pipeline.run(plan_of(model, size, place), out))
    timings = json.loads((out / "provenance.json").read_text())["timings"]
    tokens = pl.read_parquet(out / "answers" / "*.parquet")["n_tokens"].sum()
    found: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "timings": timings,
        "peak_gib": peak_gib(),
        "checkpoints": len(result["checkpoints"]),
    }
    found |= {"stages": {stage["name"]: [stage["total_steps"], stage["seconds"]] for stage in result["stages"]}}
    found |= {"answers": result["n_generated"], "tokens": tokens, "tokens_a_second": round(tokens / timings["sample"])}
    found |= {"findings": result["findings"], "outcome_shares": result["outcome_shares"]}
    again = pipeline.rejudge(out, {"judge": f"labels:{model}"})
    seconds = json.loads((out / "provenance.json").read_text())["timings"]["judge"]
    found["judge"] = {"verdicts": again["n_judged"], "seconds": seconds, "verdicts_a_second": round(again["n_judged"] / seconds)}
    return found


def measure_dtypes(place: Path) -> dict[str, Any]:
    """Return how long a float32 checkpoint takes to be asked as it is and in bfloat16."""
    path = max((place / "run" / "stages").glob("dpo*/checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    rows, said = {}, {}
    for dtype in ("float32", "bfloat16"):
        rows[dtype], said[dtype] = asked(path, dtype)
    same = sum(said["float32"][place].tokens == said["bfloat16"][place].tokens for place in said["float32"])
    return {**rows, "same_answers": same, "answers": len(said["float32"])}


def asked(path: Path, dtype: str) -> tuple[dict[str, Any], dict[int, Any]]:
    """Return what asking a checkpoint all prompts once took, and its replies."""
    forget()
    model, tokenizer = load_model(path, dtype=dtype)
    prompts = suites.load("vaes", [])
    prompt_format = PromptFormat(tokenizer, "chat")
    ids = prompt_format.prompts([question(prompt.text) for prompt in prompts])
    wanted = [Wanted(tuple(one), row_words(0, prompt.text, 0)) for one, prompt in zip(ids, prompts, strict=True)]
    decoder, settings, ends = Decoder(model), EvaluationSettings(batch_rows=1024, max_new_tokens=64), prompt_format.ending(model)
    list(decoder.decode(wanted[:8], settings, ends))  # what is compiled and allocated once
    seconds, said = took(DEVICE, lambda: dict(decoder.decode(wanted, settings, ends)))
    return {"seconds": round(seconds, 2), "peak_gib": peak_gib()}, said


def took(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work took, and what it returned."""

    def wait() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    wait()
    started = time.perf_counter()
    found = work()
    wait()
    return time.perf_counter() - started, found


def limits(device: str) -> dict[str, float]:
    """Return what this machine reaches: bytes moved in a copy, and operations in a bfloat16 matrix product, per second."""
    n = 8192 if device != "cpu" else 512
    square = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    many = torch.empty(2**30 if device != "cpu" else 2**24, device=device, dtype=torch.uint8)
    found = {}
    for name, work, amount in (
        ("bytes_per_second", lambda: many.clone(), 2 * many.numel()),
        ("flops_per_second", lambda: square @ square, 2 * n**3),
    ):
        work()
        found[name] = max(amount / took(device, work)[0] for _ in range(10))
    return found


def peak_gib() -> float | None:
    """Return the most memory that was allocated on the GPU since `forget`."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 1) if DEVICE != "cpu" else None


def forget() -> None:
    """Give all memory back and begin to count its peak anew."""
    gc.collect()
    if DEVICE != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


DEVICE = str(torch.accelerator.current_accelerator() or "cpu")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=ARCHITECTURES, default="0.6b")
    parser.add_argument("--parts", default="steps,run,dtypes")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--stages", default=",".join(STAGES), help="kinds of stages of the part steps")
    parser.add_argument("--out", type=Path, help="keep the run here")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, in one line")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.out or Path(temporary)
        os.makedirs(place, exist_ok=True)
        model = random_model(arguments.size, place)
        figures |= {"size": arguments.size, "parameters": parameters(model)}
        for part in arguments.parts.split(","):
            figures[part] = {
                "steps": lambda: measure_steps(model, arguments.steps, place, arguments.stages.split(",")),
                "run": lambda: measure_run(model, arguments.size, place),
                "dtypes": lambda: measure_dtypes(place),
            }[part]()
            print(json.dumps({part: figures[part]}), file=sys.stderr, flush=True)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
