"""What tracing a real SFT -> DPO run costs, and what coupling takes off it: `generate`, our decoder without and with drafts, lm-eval.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/coupled.py [--quick] [--json] [--only all | cpu | gpu]

A sandbox model is trained base -> SFT -> DPO with 12 checkpoints each (--quick: 4 each). Every checkpoint is asked the prompts of the suite
(--quick: of two topics) five times at temperature 0.7, up to 256 new tokens, by each side in turn, in an order that changes, so that a busy
machine slows all; the time of loading weights is part of each. The sides:

generate   transformers: prompts sorted by length, `num_return_sequences` for the draws, the fastest of several batch sizes (found first)
plain      our decoder, nothing known of earlier checkpoints
coupled    our decoder, the answers of the checkpoint before as drafts, weights switched in place
lm_eval    lm-evaluation-harness' `HFLM.generate_until`, where it is installed (null where it is not): each draw is a request of its own,
           at the fastest of several batch sizes

`exact` tells whether every coupled answer is the plain one, token for token. Judging is counted apart: the time of a verdict is measured
with a judge that reads (`labels:sandbox`); "everything" judges each answer, "new" each text that no earlier checkpoint gave to the prompt.
`whole_trace` puts sampling and judging together.

`gpu` (null without CUDA): a random Llama of half a billion parameters in bfloat16, answers of 128 tokens. A checkpoint is the same weights
plus noise, each weight's a share of its tensor's deviation; the answers before the noise are the drafts. `generate` and transformers'
continuous batching answer the same prompts. Fractions of the limits are shares of what this machine's own copy and matrix product reach:
`of_bandwidth` counts the weights once per pass (keys and values come on top), `of_flops` two operations per parameter and position.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from valuedrift import pipeline, resolve, suites
from valuedrift.evaluate.transformers import Backend
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Decoder, Ending, Wanted
from valuedrift.models.loading import load_model
from valuedrift.models.sampling_noise import row_words
from valuedrift.nouns import Answer, Checkpoint, Item, Prompt
from valuedrift.plan import Asking, Plan
from valuedrift.store import Store

PHASES = {"sft": "sft", "dpo": "preference"}
DRAWS = 5
JUDGE = "labels:sandbox"
QUICK_TOPICS = ["climate", "work"]
ASKING = Asking(draws=DRAWS)
TRAINING = """
model = "sandbox:base"
judge = "cues"
draws = 1
max_new_tokens = 4
topics = ["climate"]
floor = false
companions = false

[stage.sft]
algorithm = "sft"
data = "sandbox:neutral-chat?n=3200"
learning_rate = 1e-3
batch_size = 32
group_by_length = true
save_at = "log:{saves}"

[stage.dpo]
after = "sft"
algorithm = "dpo"
data = "sandbox:pairs?gap=1.0&direction=support&n=1536"
learning_rate = 1e-4
batch_size = 32
save_at = "every:{every}"
"""
Pair = tuple[Prompt, int]
Side = Callable[[Checkpoint, Sequence[Pair], Sequence[str | None]], list[Any]]


def trained(folder: Path, saves: int) -> Store:
    """Return the folder of a run with `saves` checkpoints per stage, trained here."""
    plan = Plan(**tomllib.loads(TRAINING.format(saves=saves, every=48 // saves)))
    pipeline.run(plan, folder)
    return Store(folder)


class Ours:
    """Our backend, which keeps its model, its slots and what it said."""

    def __init__(self) -> None:
        self.backend = Backend(ASKING)
        self.before = dict[str, int]()

    def __call__(self, checkpoint: Checkpoint, pairs: Sequence[Pair], drafts: Sequence[str | None]) -> list[Answer]:
        self.before = vars(self.backend.tally).copy() if self.backend._decoder else {}
        decoder = self.backend._decoder
        found = dict(self.backend.sample(checkpoint, pairs, 0, drafts))
        if self.backend._decoder is not decoder:
            self.before = {}
        return [found[place] for place in range(len(pairs))]

    @property
    def counts(self) -> dict[str, int]:
        """Return what the last call took."""
        return {name: value - self.before.get(name, 0) for name, value in vars(self.backend.tally).items()}


class Generate:
    """transformers' own, over length-sorted batches."""

    def __init__(self, batch: int):
        self.batch = batch

    @torch.inference_mode()
    def __call__(self, checkpoint: Checkpoint, pairs: Sequence[Pair], drafts: Sequence[str | None]) -> list[int]:
        model, tokenizer = load_model(checkpoint.path)
        prompt_format = PromptFormat(tokenizer)
        ends = prompt_format.ending(model)
        prompts = sorted(prompt_format.prompts([question(text) for text in dict.fromkeys(prompt.text for prompt, _ in pairs)]), key=len)
        lengths = []
        for start in range(0, len(prompts), self.batch):
            rows = prompts[start : start + self.batch]
            longest = max(map(len, rows))
            new = model.generate(
                input_ids=torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=model.device),
                attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device),
                do_sample=True,
                temperature=ASKING.temperature,
                top_k=0,
                top_p=1.0,
                num_return_sequences=DRAWS,
                max_new_tokens=ASKING.max_new_tokens,
                eos_token_id=sorted(ends.tokens),
                pad_token_id=0,
            )[:, longest:]
            lengths += (new != 0).sum(1).tolist()
        return lengths


class Harness:
    """lm-evaluation-harness over a local folder; a request per draw, `batch` at a time."""

    def __init__(self, batch: int):
        self.batch = batch

    def __call__(self, checkpoint: Checkpoint, pairs: Sequence[Pair], drafts: Sequence[str | None]) -> list[str]:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        model, tokenizer = load_model(checkpoint.path)
        settings = {"until": ["\nQuestion:"], "max_gen_toks": ASKING.max_new_tokens, "do_sample": True, "temperature": ASKING.temperature}
        texts = tokenizer.batch_decode(PromptFormat(tokenizer).prompts([question(prompt.text) for prompt, _ in pairs]))
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch, device=str(model.device))
        requests = [Instance("generate_until", {}, (text, settings), place) for place, text in enumerate(texts)]
        return lm.generate_until(requests, disable_tqdm=True)


def seconds(side: Side, checkpoint: Checkpoint, pairs: Sequence[Pair], drafts: Sequence[str | None]) -> tuple[float, list[Any]]:
    gc.collect()
    started = time.perf_counter()
    found = side(checkpoint, pairs, drafts)
    return time.perf_counter() - started, found


def prefix(answer: str, draft: str) -> float:
    """Return the share of an answer's words before the first that its draft does not have."""
    words, old = answer.split(), draft.split()
    same = next((n for n, (a, b) in enumerate(zip(words, old, strict=False)) if a != b), min(len(words), len(old)))
    return same / max(1, len(words))


def verdict_seconds(answers: Sequence[tuple[Prompt, str]]) -> float:
    """Return the time of one verdict of a judge that reads, over a sample of answers."""
    judge = resolve.judge_of(JUDGE)
    items = [Item(prompt.text, prompt.claim, text, prompt.topic) for prompt, text in answers]
    judge.read(items[:64])
    started = time.perf_counter()
    judge.read(items)
    return (time.perf_counter() - started) / len(items)


def fastest(kind: Callable[[int], Any], sizes: Sequence[int], checkpoint: Checkpoint, pairs: Sequence[Pair]) -> Any:
    """Return the side with the batch size that took least time on one checkpoint."""
    return kind(min(sizes, key=lambda size: seconds(kind(size), checkpoint, pairs, [])[0]))


def measure(quick: bool) -> dict[str, Any]:
    """Return the figures of all parts but the GPU's."""
    prompts = sorted(suites.load("vaes", QUICK_TOPICS if quick else []), key=lambda prompt: (len(prompt.text), prompt.id))
    pairs = [(prompt, draw) for prompt in prompts for draw in range(DRAWS)]
    with tempfile.TemporaryDirectory() as folder:
        store = trained(Path(folder), 4 if quick else 12)
        # The last of SFT stands for step 0 of DPO
        checkpoints = [checkpoint for checkpoint in store.checkpoints() if checkpoint.stage == "sft" or checkpoint.step > 0]
        trial = checkpoints[len(checkpoints) // 2]
        generate = fastest(Generate, (32, 100) if quick else (32, 64, 128, 256), trial, pairs)
        sides: dict[str, Any] = {"generate": generate, "plain": Ours(), "coupled": Ours()}
        if importlib.util.find_spec("lm_eval"):
            sides["lm_eval"] = fastest(Harness, (64, 256) if quick else (64, 128, 256), trial, pairs)
        rows, drafts, differing = [], list[str | None]([None] * len(pairs)), 0
        seen: set[tuple[str, str]] = set()
        for checkpoint in checkpoints:
            row: dict[str, Any] = {"phase": PHASES[checkpoint.stage], "step": checkpoint.step, "seconds": {}, "counts": {}}
            said: dict[str, list[Any]] = {}
            for name, side in random.Random(checkpoint.step).sample(sorted(sides.items()), len(sides)):
                row["seconds"][name], said[name] = seconds(side, checkpoint, pairs, drafts if name == "coupled" else [None] * len(pairs))
                if isinstance(side, Ours):
                    row["counts"][name] = side.counts
            texts = [answer.text for answer in said["coupled"]]
            differing += sum(mine != theirs for mine, theirs in zip(said["coupled"], said["plain"], strict=True))
            row["counts"]["generate"] = {"tokens": sum(said["generate"])}
            if drafts[0] is not None:
                old = [str(draft) for draft in drafts]
                row["unchanged"] = sum(a == b for a, b in zip(texts, old, strict=True)) / len(texts)
                row["prefix_accepted"] = sum(map(prefix, texts, old)) / len(texts)
            given = {(prompt.id, text) for (prompt, _), text in zip(pairs, texts, strict=True)}
            row["verdicts"] = {"everything": len(texts), "new": len(given - seen)}
            seen |= given
            drafts = [*texts]
            rows.append(row)
            print(f"{checkpoint.stage} {checkpoint.step}: {row}", file=sys.stderr, flush=True)
        some = random.Random(0).sample([(prompt, text) for (prompt, _), text in zip(pairs, texts, strict=True)], min(512, len(pairs)))
        per_verdict = verdict_seconds(some)
    result: dict[str, Any] = {
        "exact": differing == 0,
        "differing": differing,
        "answers": len(rows) * len(pairs),
        "threads": torch.get_num_threads(),
        "checkpoints": len(rows),
        "generate_batch": sides["generate"].batch * DRAWS,
        "seconds_per_verdict": round(per_verdict, 5),
        "lm_eval_batch": sides["lm_eval"].batch if "lm_eval" in sides else "null: lm_eval is not installed",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    for phase in ("sft", "preference"):
        result[phase] = summary([row for row in rows if row["phase"] == phase], per_verdict)
    return result | {"whole_trace": summary(rows, per_verdict)}


def summary(rows: Sequence[dict[str, Any]], per_verdict: float) -> dict[str, Any]:
    """Return the sums over some checkpoints, and their ratios."""
    total = {name: sum(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
    verdicts = {kind: sum(row["verdicts"][kind] for row in rows) for kind in ("everything", "new")}
    followed = [row for row in rows if "unchanged" in row]
    everything, coupled = total["generate"] + per_verdict * verdicts["everything"], total["coupled"] + per_verdict * verdicts["new"]
    return {
        "generate_over_plain": round(total["generate"] / total["plain"], 2),
        "generate_over_coupled": round(total["generate"] / total["coupled"], 2),
        "plain_over_coupled": round(total["plain"] / total["coupled"], 2),
        "lm_eval_over_coupled": round(total["lm_eval"] / total["coupled"], 2) if "lm_eval" in total else None,
        "with_judging": round(everything / coupled, 2),
        "unchanged": round(sum(row["unchanged"] for row in followed) / len(followed), 3),
        "unchanged_range": [round(f(row["unchanged"] for row in followed), 3) for f in (min, max)],
        "prefix_accepted": round(sum(row["prefix_accepted"] for row in followed) / len(followed), 3),
        "seconds": {name: round(value, 1) for name, value in total.items()},
        "judging_seconds": {kind: round(per_verdict * n, 1) for kind, n in verdicts.items()},
        "verdicts": verdicts,
        "counts": {
            side: {key: sum(row["counts"][side][key] for row in rows) for key in rows[0]["counts"][side]} for side in rows[0]["counts"]
        },
    }


# -- a GPU ---------------------------------------------------------------------------------------------------------------

LENGTH, CHANGES = 128, (0.0, 0.003, 0.03)
SIZES = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 20, "vocab_size": 32000}
HEADS = {"num_attention_heads": 12, "num_key_value_heads": 4}


def measure_gpu(quick: bool, device: str = "cuda", sizes: dict[str, int] = SIZES) -> dict[str, Any]:
    """Return the figures of the part for a GPU."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **HEADS, tie_word_embeddings=True)).to(device, torch.bfloat16).eval()
    n_parameters, rng = sum(parameter.numel() for parameter in model.parameters()), random.Random(0)
    prompts = [tuple(rng.randrange(10, sizes["vocab_size"]) for _ in range(rng.randint(12, 48))) for _ in range(64 if quick else 550)]
    asking = Asking(draws=DRAWS, max_new_tokens=LENGTH)
    limits = _limits(device)
    result: dict[str, Any] = {"device": device, "parameters": n_parameters, "answers": len(prompts) * DRAWS} | limits
    decoder = Decoder(model)

    def ours(drafts: Sequence[Sequence[int]]) -> tuple[list[list[int]], dict[str, Any]]:
        rows = [(ids, draw) for ids in prompts for draw in range(DRAWS)]
        wanted = [Wanted(ids, row_words(0, str(ids), draw), draft) for (ids, draw), draft in zip(rows, drafts, strict=True)]
        before = vars(decoder.tally).copy()
        took, said = _took(device, lambda: dict(decoder.decode(wanted, asking, Ending(frozenset()))))
        counts = {name: value - before[name] for name, value in vars(decoder.tally).items()}
        counts["of_bandwidth"] = round(counts["passes"] * 2 * n_parameters / took / limits["bytes_per_second"], 3)
        counts["of_flops"] = round(counts["positions"] * 2 * n_parameters / took / limits["flops_per_second"], 3)
        return [said[place].tokens for place in range(len(wanted))], {"seconds": round(took, 2)} | counts

    none: list[Sequence[int]] = [()] * (len(prompts) * DRAWS)
    ours(none)  # what is compiled and allocated once
    drafts, result["plain"] = ours(none)
    settings = {"do_sample": True, "temperature": ASKING.temperature, "top_k": 0, "top_p": 1.0, "pad_token_id": 0, "eos_token_id": -1}
    trials = {batch: _generate_seconds(model, prompts, batch, settings, device) for batch in ((16, 64) if quick else (32, 64, 128, 256))}
    best = min(trials, key=lambda batch: trials[batch])
    result["generate"] = {"seconds": round(trials[best], 2), "batch": best * DRAWS}
    result["continuous_batching"] = _continuous(model, prompts, settings, device)
    result["coupled"] = []
    own = [parameter.detach().clone() for parameter in model.parameters()]
    for change in CHANGES:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), own, strict=True):
                spread = float(value.float().std()) if value.numel() > 1 else 0.0
                parameter.copy_(value + change * spread * torch.randn_like(value))
        plain, theirs = ours(none)
        coupled, figures = ours(drafts)
        pairs = list(zip(plain, coupled, drafts, strict=True))
        figures |= {"change": change, "plain_over_coupled": round(theirs["seconds"] / figures["seconds"], 2)}
        figures["generate_over_coupled"] = round(trials[best] / figures["seconds"], 2)
        figures["differing"] = sum(a != b for a, b, _ in pairs)  # bfloat16 ties more often than float32
        figures["unchanged"] = round(sum(a == draft for a, _, draft in pairs) / len(pairs), 3)
        result["coupled"].append(figures)
    return result


def _took(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    def wait() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    wait()
    started = time.perf_counter()
    found = work()
    wait()
    return time.perf_counter() - started, found


def _limits(device: str) -> dict[str, float]:
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
        found[name] = max(amount / _took(device, work)[0] for _ in range(10))
    return found


@torch.inference_mode()
def _generate_seconds(model: Any, prompts: Sequence[tuple[int, ...]], batch: int, settings: dict[str, Any], device: str) -> float:
    ordered = sorted(prompts, key=len)

    def work() -> None:
        for start in range(0, len(ordered), batch):
            rows = ordered[start : start + batch]
            longest = max(map(len, rows))
            ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
            model.generate(input_ids=ids, attention_mask=mask, num_return_sequences=DRAWS, max_new_tokens=LENGTH, **settings)

    return _took(device, work)[0]


def _continuous(model: Any, prompts: Sequence[tuple[int, ...]], settings: dict[str, Any], device: str) -> dict[str, Any] | None:
    """Return the time of transformers' continuous batching, or the reason why there is none."""
    from transformers import GenerationConfig

    inputs = [list(ids) for ids in prompts for _ in range(DRAWS)]
    wanted = GenerationConfig(max_new_tokens=LENGTH, **settings)
    before = model.config._attn_implementation
    try:
        took, found = _took(device, lambda: model.generate_batch(inputs, generation_config=wanted))
    except Exception as error:  # needs parts of transformers that not every machine has; the rest of the figures stands
        return {"seconds": None, "why": str(error).split("\n")[0] or type(error).__name__}
    finally:
        model.set_attn_implementation(before)
    return {"seconds": round(took, 2), "tokens": sum(len(output.generated_tokens) for output in found.values())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two topics of the suite, a third of the checkpoints")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, in one line")
    parser.add_argument("--only", choices=("all", "cpu", "gpu"), default="all", help="the sandbox run, the part for a GPU, or both")
    arguments = parser.parse_args()
    figures = measure(arguments.quick) if arguments.only != "gpu" else {}
    if arguments.only != "cpu":
        figures["gpu"] = measure_gpu(arguments.quick) if torch.cuda.is_available() else None
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
