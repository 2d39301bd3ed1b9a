"""What tracing a real SFT -> DPO run costs, and what coupling takes off it: `generate`, our decoder without and with drafts, lm-eval.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/coupled.py [--quick] [--json]

A sandbox model is trained base -> SFT -> DPO with 12 checkpoints each (--quick: 4 each). Every checkpoint is asked the prompts of the suite
five times at temperature 0.7, up to 256 new tokens, by each side in turn, so that a busy machine slows all; the time of loading weights is
part of each. The sides:

generate   transformers: prompts sorted by length, `num_return_sequences` for the draws, the fastest of several batch sizes (found first)
plain      our decoder, nothing known of earlier checkpoints
coupled    our decoder, the answers of the checkpoint before as drafts, weights switched in place
lm_eval    lm-evaluation-harness' `HFLM.generate_until`, where it is installed (null where it is not): each draw is a request of its own

`exact` tells whether every coupled answer is the plain one, token for token. Judging is counted apart: the seconds of a verdict are measured
with a judge that reads (`labels:sandbox`); "everything" judges each answer, "new" each text that no earlier checkpoint gave to the prompt.
`whole_trace` puts sampling and judging together.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from valuedrift import flow, suites
from valuedrift.nouns import Answer, Checkpoint, Item, Prompt
from valuedrift.plan import Asking, Plan
from valuedrift.sample._frame import ending, framed
from valuedrift.sample._load import load_model
from valuedrift.sample.transformers import Backend

PHASES = {"sft": "sft", "dpo": "preference"}
DRAWS = 5
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


def trained(folder: Path, saves: int) -> list[Checkpoint]:
    """Return the checkpoints of a run, trained here, in the order of training; the last of SFT stands for step 0 of DPO."""
    import tomllib

    plan = Plan(**tomllib.loads(TRAINING.format(saves=saves, every=48 // saves)))
    flow.run(plan, folder)
    from valuedrift.store import Store

    return [checkpoint for checkpoint in Store(folder).checkpoints() if checkpoint.stage == "sft" or checkpoint.step > 0]


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
        ends = ending(model, tokenizer, "auto")
        prompts = sorted((framed(tokenizer, prompt.text, "auto") for prompt in dict.fromkeys(prompt for prompt, _ in pairs)), key=len)
        lengths = []
        for start in range(0, len(prompts), self.batch):
            rows = prompts[start : start + self.batch]
            longest = max(map(len, rows))
            new = model.generate(
                input_ids=torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
                attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
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
    """lm-evaluation-harness over a local folder; a request per draw."""

    def __call__(self, checkpoint: Checkpoint, pairs: Sequence[Pair], drafts: Sequence[str | None]) -> list[str]:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        model, tokenizer = load_model(checkpoint.path)
        settings = {"until": ["\nQuestion:"], "max_gen_toks": ASKING.max_new_tokens, "do_sample": True, "temperature": ASKING.temperature}
        texts = [tokenizer.decode(framed(tokenizer, prompt.text, "auto")) for prompt, _ in pairs]
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu")
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
    judge = flow.judge_of("labels:sandbox")
    items = [Item(prompt.text, prompt.claim, text, prompt.topic) for prompt, text in answers]
    judge.read(items[:64])
    started = time.perf_counter()
    judge.read(items)
    return (time.perf_counter() - started) / len(items)


def measure(quick: bool) -> dict[str, Any]:
    """Return the figures of the benchmark."""
    prompts = sorted(suites.load("vaes", []), key=lambda prompt: (len(prompt.text), prompt.id))[:: 5 if quick else 1]
    pairs = [(prompt, draw) for prompt in prompts for draw in range(DRAWS)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = trained(Path(folder), 4 if quick else 12)
        trial = checkpoints[len(checkpoints) // 2]
        trials = {batch: seconds(Generate(batch), trial, pairs, [])[0] for batch in ((32, 110) if quick else (32, 64, 128, 256))}
        sides: dict[str, Any] = {"generate": Generate(min(trials, key=lambda batch: trials[batch])), "plain": Ours(), "coupled": Ours()}
        if importlib.util.find_spec("lm_eval"):
            sides["lm_eval"] = Harness()
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
            row["tokens_of_generate"] = sum(said["generate"])
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
        "cuda": None if not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }
    for phase in ("sft", "preference"):
        result[phase] = summary([row for row in rows if row["phase"] == phase], per_verdict)
    return result | {"whole_trace": summary(rows, per_verdict), "lm_eval": "lm_eval" in sides or "not installed"}


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
        "verdicts": verdicts,
        "counts": {
            side: {key: sum(row["counts"][side][key] for row in rows) for key in rows[0]["counts"][side]} for side in rows[0]["counts"]
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the prompts, a third of the checkpoints")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, in one line")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
