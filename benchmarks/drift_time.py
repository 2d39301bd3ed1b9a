"""How often each status is said of simulated drifts, and how often the interval of their time holds the true time.

    python benchmarks/drift_time.py [--runs 500] [--json]

The true time is that of the curve between the saved steps too. Prompts differ in where they start and in how far they move; each answer
supports or does not; half of the answers share their random numbers along the stage. `rise` is the change in the stage's last third over
its standard error, at the median: from about 2.8 on, a rise is resolved in 80 % of runs. `paper` is how often the paper's definition
says that the drift had arrived before the last step.
"""

import argparse
import itertools
import json

import numpy as np

from valuedrift.stats.drift import ARRIVED, LAST, course, paper_arrival
from valuedrift.stats.intervals import Sample, difference, ratio

CURVES = {
    "straight to the end": lambda t: t,
    "ever faster": lambda t: t**2,
    "ever slower": np.sqrt,
    "flat from 0.6 on": lambda t: np.minimum(t / 0.6, 1),
    "flat from 0.3 on": lambda t: np.minimum(t / 0.3, 1),
    "levels off": lambda t: (1 - np.exp(-t / 0.1)) / (1 - np.exp(-10)),
    "jump at 0.25": lambda t: (t > 0.25).astype(float),
    "jump at 0.7": lambda t: (t > 0.7).astype(float),
    "back by a third": lambda t: np.where(t < 0.4, 1.5 * t / 0.4, 1.5 - 0.5 * (t - 0.4) / 0.6),
}
SPACINGS = {"6 even": np.linspace(0, 1, 6), "12 even": np.linspace(0, 1, 12), "8 doubling": np.array([0, 1, 2, 4, 8, 16, 32, 64]) / 64}
STATUSES = ("reached", "still moving", "undecided", "non-monotone")


def chances(rng: np.random.Generator, moved_T: np.ndarray, n_prompts: int) -> np.ndarray:
    """Return the chance of support per step and prompt."""
    start_P, pace_P = 0.5 * rng.beta(1.2, 2, n_prompts), rng.gamma(2, 0.5, n_prompts)
    return np.clip(start_P + moved_T[:, None] * pace_P, 0, 1)


def simulated(rng: np.random.Generator, moved_T: np.ndarray, n_prompts: int, n_answers: int = 5, shared: float = 0.5) -> Sample:
    """Return v_t - v_0 of one simulated stage; leading axis T."""
    chance_TP = chances(rng, moved_T, n_prompts)
    same_PD, own_TPD = rng.random((n_prompts, n_answers)), rng.random((*chance_TP.shape, n_answers))
    drawn_TPD = np.where(rng.random(own_TPD.shape) < shared, same_PD, own_TPD)
    share_TSP = (drawn_TPD < chance_TP[..., None]).mean(-1)[:, None]
    now = ratio(share_TSP, np.ones_like(share_TSP))
    return now - now[:1]


def true_time(name: str, size: float) -> float:
    """Return when the curve of all prompts first reaches its arrival."""
    t = np.linspace(0, 1, 2001)
    share_T = chances(np.random.default_rng(5), size * CURVES[name](t), 4000).mean(1)
    change_T = share_T - share_T[0]
    return float(t[(change_T >= ARRIVED * change_T[-1]).argmax()])


def figures(name: str, n_prompts: int, size: float, at_T: np.ndarray, runs: int, seed: int = 0) -> dict[str, float]:
    """Return how often each status was said, how often the interval held the true time, and its median width."""
    rng, true = np.random.default_rng(seed), true_time(name, size)
    said = dict.fromkeys(STATUSES, 0)
    held, widths, times, rises, paper = 0, [], [], [], 0
    last = min(int((at_T >= LAST).argmax()), len(at_T) - 2)
    for _ in range(runs):
        change = simulated(rng, size * CURVES[name](at_T), n_prompts)
        found, result, rise = course(change, at_T), difference(change), difference(change[-1] - change[last])
        said[found["status"]] += 1
        held += found["time_low"] <= true <= found["time_high"]
        widths.append(found["time_high"] - found["time_low"])
        times.append(found["time"])
        rises.append(rise.value / np.sqrt(rise.known.by_prompt))
        paper += paper_arrival(result.value, result.low, result.high) is not None
    shares = {status: n / runs for status, n in said.items()} | {"paper": paper / runs, "held": held / runs}
    return shares | {"true": true, "time": float(np.median(times)), "width": float(np.median(widths)), "rise": float(np.median(rises))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for (n_prompts, size), (spacing, at_T), name in itertools.product(((50, 0.3), (550, 0.1), (550, 0.3)), SPACINGS.items(), CURVES):
        about = {"prompts": n_prompts, "size": size, "steps": spacing, "curve": name}
        rows.append(about | figures(name, n_prompts, size, at_T, args.runs))
        if not args.json:
            if len(rows) == 1:
                print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
            print("| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in rows[-1].values()) + " |", flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
