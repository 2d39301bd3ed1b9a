"""How much faster tasks that wait (for a server, a disk) are done by several workers of a Ray cluster on this machine than by one.

    python benchmarks/fanout.py [--workers 8] [--tasks 32] [--seconds 0.5] [--rounds 3]

Both sides run alternately on the same cluster; the cluster's start and its workers' first imports are not counted.
"""

import argparse
import json
import statistics
import time

import ray as cluster

from valuedrift.distributed.ray import Engine
from valuedrift.plan import Resources


def waits(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def seconds_of(n_tasks: int, seconds: float, cpus: float) -> float:
    """Return how long it takes to have some tasks done that take `cpus` cores each."""
    engine = Engine()
    started = time.monotonic()
    for number in range(n_tasks):
        engine.submit(number, Resources(cpus=cpus), waits, seconds)
    for _ in range(n_tasks):
        engine.next()
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("--workers", 8), ("--tasks", 32), ("--rounds", 3)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    cluster.init(num_cpus=args.workers, log_to_driver=False, include_dashboard=False)
    seconds_of(args.workers, 0.1, 1)
    rounds = [
        {"one": seconds_of(args.tasks, args.seconds, args.workers), "many": seconds_of(args.tasks, args.seconds, 1)}
        for _ in range(args.rounds)
    ]
    ratios = [each["one"] / each["many"] for each in rounds]
    print(json.dumps({"workers": args.workers, "rounds": rounds, "ratio": statistics.median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()
