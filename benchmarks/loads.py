"""What it saves to load each checkpoint once: a trace with KL and capability, against one where each of them loads the model.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/loads.py MODEL [--checkpoints 4] [--rounds 2] [--task piqa.yaml]

MODEL is a folder of a pretrained model. Its checkpoints are copies with a little noise on the weights. Both sides run alternately, each in
a folder of its own; --task adds tasks of lm-evaluation-harness. The command prints loads per checkpoint and seconds of evaluating.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from valuedrift import pipeline
from valuedrift.evaluate.visit import Models
from valuedrift.models import loading
from valuedrift.nouns import Checkpoint
from valuedrift.plan import EvaluationSettings


def checkpoints_of(model: str, n: int, folder: Path) -> list[Path]:
    """Save `n` copies of a model, each with other noise on its weights."""
    made = []
    for number in range(n):
        loaded, tokenizer = loading.load_model(model)
        torch.manual_seed(number)
        with torch.no_grad():
            for weights in loaded.parameters():
                weights += 0.01 * number * weights.std() * torch.randn_like(weights)
        made.append(folder / f"checkpoint-{number}")
        loaded.save_pretrained(made[-1])
        tokenizer.save_pretrained(made[-1])
    return made


def side(paths: list[Path], tasks: list[str], out: Path, once: bool) -> tuple[float, float]:
    """Return loads per checkpoint and the seconds that evaluating took."""
    settings = {"topics": ["abortion"], "draws": 1, "max_new_tokens": 24, "floor": False, "side_metrics": True}
    loads, kept, get, load = [], [], Models.get, loading.load_model

    def anew(self: Models, checkpoint: Checkpoint, *given: object) -> object:
        if checkpoint.step:  # step 0 is the reference, which stays loaded on both sides
            self.keep([one for one in kept if one is not checkpoint])
        else:
            kept.append(checkpoint)
        return get(self, checkpoint, *given)

    def counted(path: object, *more: object) -> object:
        loads.append(path)
        return load(path, *more)

    with mock.patch.object(Models, "get", get if once else anew), mock.patch.object(loading, "load_model", counted):
        started = time.monotonic()
        pipeline.trace_folders(EvaluationSettings(**settings, capability=tasks), [paths[0].parent], None, out)
    shutil.rmtree(out)
    return len(loads) / len(paths), time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--task", action="append", default=[])
    args = parser.parse_args()
    sides: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        paths = checkpoints_of(args.model, args.checkpoints, Path(name) / "run")
        for _ in range(args.rounds):
            for once, seen in sides.items():
                seen.append(side(paths, args.task, Path(name) / "out", once))
    loads = {once: statistics.median(one for one, _ in seen) for once, seen in sides.items()}
    seconds = {once: statistics.median(one for _, one in seen) for once, seen in sides.items()}
    told = {"loads_once": loads[True], "loads_each": loads[False], "seconds_once": seconds[True], "seconds_each": seconds[False]}
    print(json.dumps(told | {"saved": 1 - seconds[True] / seconds[False]}))


if __name__ == "__main__":
    main()
