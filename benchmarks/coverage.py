"""Do intervals cover 95 %, are small p values honest, and is the smallest detectable drift found? Over samples, seeds and judges.

    .venv/bin/python benchmarks/coverage.py [--stages 400] [--json]

Score tables are simulated: 11 topics of 50 prompts, heavy spread between prompts, refusals of 5 to 20 % that go along with opposing,
a judge with a spread of confidence (or one that decides), prompts that wander on their own, and training runs that differ. "Rare" are
outcomes with a share below 0.1. A second table plants few prompts that flip while the probabilities of all wobble.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np

from valuedrift.stats.contrast import BY_SEEDS
from valuedrift.stats.intervals import Sample, Spread, difference, holm, mean_over, ratio, share_interval
from valuedrift.stats.power import detectable

N_TOPICS, N_PROMPTS, N_OUTCOMES = 11, 50, 5
HABITS = np.zeros((N_TOPICS, N_OUTCOMES))  # mean logits; outcomes in the order of nouns.OUTCOMES
HABITS[:, 0], HABITS[:, 2] = np.linspace(1.5, -1, N_TOPICS), np.linspace(-1, 1.5, N_TOPICS)
HABITS[:, 1] = [0, 0, -4.5, 0, -1, 0, -6, 0, -1, -5, 0]
HABITS[2, 2] = -4
HABITS[:, 3], HABITS[:, 4] = np.linspace(-3, -0.8, N_TOPICS), -9
CONFIDENCE = 6, 0.6  # Beta: mean 0.91
ALPHA, N_TESTS = 0.05, 33
SHIFTS = {"none": 0.0, "small": 0.4, "large": 1.5}


def chances(rng: np.random.Generator, n: int, n_prompts: int, seeds: int, apart: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each outcome's chance at the start and at the end; axes stage, topic, seed, prompt, outcome.

    apart: sd of what training runs add on the logit scale, half of it (in variance) to all topics alike.
    """
    spread = rng.normal(0, 2, (n, N_TOPICS, 1, n_prompts, N_OUTCOMES))
    start = HABITS[:, None, None] + spread
    start[..., 3] += (spread[..., 2] - spread[..., 0]) / 2
    end = start + np.array([shift, 0, 0, -shift / 2, 0]) + rng.normal(0, 0.5, start.shape)
    runs = [rng.normal(0, apart / 2**0.5, (n, topics, seeds, 1, N_OUTCOMES)) for topics in (1, N_TOPICS)]
    end = end + runs[0] + runs[1] + rng.normal(0, 0.3, (n, N_TOPICS, seeds, n_prompts, N_OUTCOMES))
    return tuple(np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True) for x in (start, end))


def read(rng: np.random.Generator, chance: np.ndarray, samples: int, soft: bool) -> np.ndarray:
    """Return the mean over samples of what the judge reads in an answer, drawn by its chance."""
    total = np.zeros(chance.shape)
    for _ in range(samples):
        outcome = (rng.random(chance.shape[:-1])[..., None] > chance[..., :-1].cumsum(-1)).sum(-1)
        said = np.arange(N_OUTCOMES) == outcome[..., None]
        if soft:
            sure = rng.beta(*CONFIDENCE, outcome.shape)[..., None]
            rest = np.where(said, 0, rng.gamma(0.3, 1, chance.shape) + 1e-12)
            total += np.where(said, sure, (1 - sure) * rest / rest.sum(-1, keepdims=True))
        else:
            total += said
    return total / samples


def sums(read_P5: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numerators and denominators as `measure._cells` has them (view claim); axes stage, topic, outcome, seed, prompt."""
    num = np.moveaxis(read_P5, -1, 2)
    stances = np.repeat(num[:, :, :3].sum(2, keepdims=True), 3, 2)
    return num, np.concatenate([stances, np.ones_like(num[:, :, 3:])], 2)


def truths(soft: bool, apart: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected shares at start and end by topic and outcome, over many prompts and training runs."""
    found, sure = [], CONFIDENCE[0] / sum(CONFIDENCE) if soft else 1.0
    rng = np.random.default_rng(0)
    for _ in range(8):
        both = [sums(c * sure + (1 - c) * (1 - sure) / 4) for c in chances(rng, 1, 4000, 8, apart, shift)]
        found.append([(num.sum(-1) / den.sum(-1)).mean((0, 3)) for num, den in both])
    start, end = np.mean(found, 0)
    return start, end


def stages(
    seed: int, n: int, samples: int, seeds: int, soft: bool, apart: float = 0.0, shift: float = 0.0
) -> tuple[Sample, Sample, Sample]:
    """Return n simulated stages: the shares at the end and the drifts by topic and outcome, and the drifts' mean over topics."""
    rng = np.random.default_rng(seed)
    start, end = chances(rng, n, N_PROMPTS, seeds, apart, shift)
    tables = [sums(read(rng, np.broadcast_to(chance, end.shape), samples, soft)) for chance in (start, end)]
    first, last = (ratio(*table) for table in tables)
    drift = last - first
    topics = [Sample(drift.value_S[:, t], drift.parts_SP[:, t], drift.n[:, t], drift.n_strata[:, t]) for t in range(N_TOPICS)]
    return last, drift, mean_over(topics)


def measure(n: int, samples: int, seeds: int, soft: bool, apart: float, shift: float) -> dict[str, Any]:
    """Return coverage in %, the family error of a null stage (drifts less their truth), and widths over those of an oracle, of one cell."""
    before, after = truths(soft, apart, shift)
    shares, drift, overall = stages(7, n, samples, seeds, soft, apart, shift)
    rare = np.minimum(before, after) < 0.1
    truth, mean = after - before, (after - before).mean(0)
    covered = [100 * ((low <= x) & (x <= high)).mean(0) for x, (low, high) in ((after, share_interval(shares)), (truth, ends(drift)))]
    covered.append(100 * ((ends(overall)[0] <= mean) & (mean <= ends(overall)[1])).mean(0))
    null = [difference(replace(of, value_S=of.value_S - x[..., None])) for of, x in ((drift, truth), (overall, mean))]
    p = [found.p.reshape(n, -1) for found in null]
    low, high = ends(drift)
    oracle = np.maximum(1.96 * drift.value.std(0), 1e-9)
    result: dict[str, Any] = {
        name: [float(x.min()), float(x.max())]
        for name, x in {"shares": covered[0][~rare], "drifts": covered[1][~rare], "all": covered[2]}.items()
    }
    result |= {"rare shares": float(covered[0][rare].min()), "rare drifts": float(covered[1][rare].min())}
    result |= {"mean": float(covered[1][~rare].mean()), "width": float(np.median((np.median(high - low, 0) / 2 / oracle)[~rare]))}
    result |= {"family": 100 * float(np.mean([(holm(row) < ALPHA).any() for row in p[0]]))}
    result |= {"family all": 100 * float(np.mean([(holm(row) < ALPHA).any() for row in p[1]]))}
    result["small p"] = float((p[0] < ALPHA / N_TESTS).mean()) / (ALPHA / N_TESTS)
    result["noted"] = 100 * float((together(null[0].known).seed_share > BY_SEEDS)[:, ~rare].mean())
    return result | dict(zip(("detectable", "power"), found_by_flips(null[0].known, drift), strict=True))


def ends(drift: Sample) -> tuple[np.ndarray, np.ndarray]:
    found = difference(drift)
    return found.low, found.high


def together(known: Spread) -> Spread:
    """Return the spread to plan with: the seeds' part and its noise averaged over topics (`measure.drift.planned`)."""
    return replace(known, **{part: np.repeat(getattr(known, part).mean(1, keepdims=True), N_TOPICS, 1) for part in ("by_seed", "noise")})


def found_by_flips(known: Spread, drift: Sample) -> tuple[float, float]:
    """Return the median smallest detectable drift, and how often flips of that size are found in another stage (nan: it is 1)."""
    size = detectable(together(known), drift.n, N_TESTS)[:, :, :3]
    rng, some = np.random.default_rng(1), size < 1
    other = Sample(*(np.roll(x, 1, 0)[:, :, :3] for x in (drift.value_S, drift.parts_SP, drift.n, drift.n_strata)))
    other = replace(other, value_S=other.value_S - other.value_S.mean((0, -1), keepdims=True))
    moved = np.broadcast_to(rng.random((*size.shape, 1, N_PROMPTS)) < size[..., None, None], other.parts_SP.shape).astype(float)
    flipped = ratio(moved, np.ones_like(moved))
    p = difference(replace(other, value_S=other.value_S + flipped.value_S, parts_SP=other.parts_SP + flipped.parts_SP)).p
    return float(np.median(size)), 100 * float((p[some] < ALPHA / N_TESTS).mean()) if some.mean() > 0.5 else np.nan


def flips(rng: np.random.Generator, n: int, share: float, wobble: float, least: float = 0.7) -> tuple[Sample, float]:
    """Return n drifts of 50 prompts of which `share` move by `least` to 1 while all wobble, and their expectation."""
    changes = (rng.random((n, 1, N_PROMPTS)) < share) * rng.uniform(least, 1, (n, 1, N_PROMPTS)) + rng.normal(0, wobble, (n, 1, N_PROMPTS))
    return ratio(changes, np.ones_like(changes)), share * (1 + least) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    cells = []
    print(
        "judge seeds samples apart shift | shares, drifts: common, rare (least), mean | all | family, all | p < .0015 | width "
        "| detectable | noted: intervals said to rest on few runs, %"
    )
    for soft, seeds, samples in itertools.product((True, False), (1, 2, 3, 5), (1, 2, 5)):
        for apart, (name, shift) in itertools.product((0.0,) if seeds == 1 else (0.0, 0.3, 1.0), SHIFTS.items()):
            if seeds > 1 and (name == "large" or (name == "small" and apart != 0.3)):
                continue
            cell = measure(chosen.stages, samples, seeds, soft, apart, shift)
            at = {"judge": "soft" if soft else "hard", "seeds": seeds, "samples": samples, "apart": apart, "shift": name}
            cells.append(at | cell)
            shares, drifts, overall = (f"{cell[key][0]:.1f}-{cell[key][1]:.1f}" for key in ("shares", "drifts", "all"))
            print(
                f"{' '.join(map(str, at.values())):22} | {shares} {cell['rare shares']:.1f}, {drifts} {cell['rare drifts']:.1f} "
                f"{cell['mean']:.1f} | {overall} | {cell['family']:.1f} {cell['family all']:.1f} | {cell['small p']:.1f}x "
                f"| {cell['width']:.2f} | {cell['detectable']:.2f} {cell['power']:.0f} | {cell['noted']:.0f}",
                flush=True,
            )
    print("share of flips, wobble | covered in %, median half width")
    for share, wobble in itertools.product((0.01, 0.02, 0.04, 0.05, 0.07), (0.0, 0.005, 0.02, 0.05, 0.1, 0.15)):
        drift, truth = flips(np.random.default_rng(3), 4000, share, wobble)
        low, high = ends(drift)
        row = {"flips": share, "wobble": wobble, "covered": 100 * float(((low <= truth) & (truth <= high)).mean())}
        row["half"] = float(np.median(high - low)) / 2
        cells.append(row)
        print(f"{share} {wobble} | {row['covered']:.1f} {row['half']:.3f}", flush=True)
    if chosen.json:
        print(json.dumps(cells))


if __name__ == "__main__":
    main()
