"""Companions and matched points: by hand, with planted curves, and what share of the intervals holds the truth."""

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES
from valuedrift.stats.companions import companions
from valuedrift.stats.matched import matched
from valuedrift.stats.profile import profiles

STAGES = [{"name": name, "after": "sft", "settings": name, "steps": [0, 1, 2, 3], "seed": 0} for name in ("a", "b")]


def scores_of(stage, step, supports, seed=0, topic="work"):
    """Return a row per prompt, opposing where it does not support."""
    n = len(supports)
    columns = {"stage": [stage] * n, "step": [step] * n, "seed": [seed] * n, "repeat": [False] * n, "topic": [topic] * n}
    columns |= {"prompt": [f"{topic}{k:04}" for k in range(n)], "polarity": [1] * n, "draw": [0] * n}
    shares = dict.fromkeys(OUTCOMES, [0.0] * n) | {"support": list(supports), "oppose": [1 - share for share in supports]}
    return pl.DataFrame(columns | shares | {"failure": pl.Series([None] * n, dtype=pl.String)})


def told_of(stage, step, values, seed=0, topic="work", companion="kl"):
    n = len(values)
    columns = {"stage": [stage] * n, "step": [step] * n, "seed": [seed] * n, "topic": [topic] * n}
    columns |= {"prompt": [f"{topic}{k:04}" for k in range(n)], "companion": [companion] * n, "reference": ["sft"] * n}
    return pl.DataFrame(columns | {"value": [float(value) for value in values]})


def one(table, outcome="support", topic="all"):
    found = table.filter((pl.col("topic") == topic) & (pl.col("outcome") == outcome))
    assert found.height == 1
    return found.row(0, named=True)


def by_hand(second_kl=(0, 4, 8, 16)):
    """Every prompt alike: a reaches KL 2, 4, 6 with shares .3, .5, .6; b KL 4, 8, 16 with shares .3, .4, .9; both start at 0 with .2."""
    plan = {"a": zip((0, 2, 4, 6), (0.2, 0.3, 0.5, 0.6), strict=True), "b": zip(second_kl, (0.2, 0.3, 0.4, 0.9), strict=True)}
    places = [(stage, step, kl, share) for stage, points in plan.items() for step, (kl, share) in enumerate(points)]
    scores = pl.concat([scores_of(stage, step, [share] * 6) for stage, step, _, share in places])
    return scores, pl.concat([told_of(stage, step, [kl] * 6) for stage, step, kl, _ in places])


def test_a_matched_point_by_hand():
    # All curves reach 6. a is there at its last step: .6. b goes from 4 to 8: half way along KL; along its root
    # (sqrt 6 - 2) / (sqrt 8 - 2) = .542583 of the way. Midway between .35 and .354258: .352129. Ends: .9 - .6 = .3.
    table = matched(*by_hand(), STAGES)
    row = one(table)
    assert (row["axis"], row["level"], row["first"], row["second"], row["n"]) == ("kl", 6.0, "a", "b", 6)
    assert row["value"] == pytest.approx(0.352129 - 0.6, abs=1e-6)
    assert one(table, "oppose")["value"] == pytest.approx(0.6 - 0.352129, abs=1e-6)
    assert one(table, topic="work")["value"] == pytest.approx(0.352129 - 0.6, abs=1e-6)
    assert one(table, "refusal")["value"] == 0


def test_the_first_of_several_crossings_counts():
    # b rises to 8 at step 1, falls to 2, and rises again: 6 is first crossed three quarters of the way from .2 to .3
    # along KL, sqrt(3/4) = .8660 along its root: midway .280801.
    assert one(matched(*by_hand(second_kl=(0, 8, 2, 16)), STAGES))["value"] == pytest.approx(0.280801 - 0.6, abs=1e-6)


def test_a_reward_is_read_along_itself_and_at_a_level_of_each_seed():
    # Seed 0: a reaches 6, b 16: level 6. Seed 1 has rewards of ten times the scale: level 60, at the same places.
    scores, told = by_hand()
    told = told.with_columns(companion=pl.lit("reward:rm"))
    both = pl.concat([scores, scores.with_columns(seed=pl.lit(1, pl.Int64))])
    row = one(matched(both, pl.concat([told, told.with_columns(seed=pl.lit(1, pl.Int64), value=pl.col("value") * 10)]), STAGES))
    assert (row["value"], row["level"]) == (pytest.approx(0.35 - 0.6), pytest.approx(33))


def test_no_row_where_the_frame_changes_around_the_level():
    frames = {(stage, step): "plain" if step < 2 else "chat" for stage in "ab" for step in range(4)}
    assert matched(*by_hand(), STAGES, frames=frames).is_empty()  # b crosses 6 between its steps 1 and 2
    assert one(matched(*by_hand(), STAGES, frames=dict.fromkeys(frames, "chat")))["axis"] == "kl"


def test_a_stage_that_never_moves_and_another_zero_give_no_row():
    assert matched(*by_hand(second_kl=(0, 0, 0, 0)), STAGES).is_empty()
    assert matched(*by_hand(second_kl=(1, 4, 8, 16)), STAGES).is_empty()  # measured from another reference


def test_one_stage_without_the_axis_gives_no_row():
    scores, told = by_hand()
    assert matched(scores, told.filter(pl.col("stage") == "a"), STAGES).is_empty()


def test_a_rise_within_chance_is_no_distance():
    rng = np.random.default_rng(1)
    scores, _ = by_hand()
    told = pl.concat([told_of(stage, step, rng.normal(0, 1, 6), companion="reward:rm") for stage in "ab" for step in range(4)])
    start = told.filter((pl.col("stage") == "a") & (pl.col("step") == 0)).with_columns(stage=pl.lit("b"))
    told = pl.concat([told.filter((pl.col("stage") == "a") | (pl.col("step") > 0)), start])
    assert matched(scores, told, STAGES).is_empty()


def test_seeds_are_matched_each_by_itself():
    # Seed 1 of b takes twice the distance: KL 8, 16, 32, so that 6 lies at 3/4 of its first step (.8660 along the root): .280801.
    scores, told = by_hand()
    both = pl.concat([scores, scores.with_columns(seed=pl.lit(1, pl.Int64))])
    far = told.with_columns(seed=pl.lit(1, pl.Int64), value=pl.when(stage="b").then(pl.col("value") * 2).otherwise("value"))
    row = one(matched(both, pl.concat([told, far]), STAGES))
    assert row["value"] == pytest.approx(((0.352129 - 0.6) + (0.280801 - 0.6)) / 2, abs=1e-6)


# -- simulated runs -----------------------------------------------------------------------------------------------------------

N_PROMPTS, N_DRAWS = 60, 5


def simulated(rng, slopes, speeds, power=1):
    """Return scores and KL of two stages: the share rises by slope x speed per step, the KL by the power of that; prompts differ in all.

    Prompts have their own start, their own part of the KL (shared by both stages, and half of it their own), and draws.
    """
    scores, told = [], []
    base, far = rng.beta(4, 16, N_PROMPTS), rng.gamma(1, 1, N_PROMPTS)
    started = rng.binomial(N_DRAWS, base) / N_DRAWS
    for stage, slope, speed in zip("ab", slopes, speeds, strict=True):
        own = (far + rng.gamma(1, 1, N_PROMPTS)) / 2
        for step in range(4):
            share = started if step == 0 else rng.binomial(N_DRAWS, np.clip(base + slope * speed * step, 0, 1)) / N_DRAWS
            scores.append(scores_of(stage, step, share))
            noise = rng.gamma(2, 1 / 2, N_PROMPTS)  # of the one answer that is looked at
            told.append(told_of(stage, step, (speed * step) ** power * own * noise))
    return pl.concat(scores), pl.concat(told)


@pytest.mark.slow
def test_the_same_curve_at_another_speed_differs_at_the_end_and_not_when_matched():
    """Support rises by .04 per nat in both; b goes twice as fast."""
    n, ends, covered, resolved = 200, 0, 0, 0
    for number in range(n):
        scores, told = simulated(np.random.default_rng((3, number)), (0.04, 0.04), (1, 2))
        row = one(matched(scores, told, STAGES))
        covered += row["low"] <= 0 <= row["high"]
        resolved += row["resolved"]
        last = scores.filter(pl.col("step") == 3).group_by("stage").agg(pl.col("support").mean()).sort("stage")["support"]
        ends += last[1] - last[0] > 0.05
    assert ends > 0.9 * n
    assert covered / n >= 0.92, covered / n
    assert resolved <= 0.08 * n


@pytest.mark.slow
def test_a_path_along_the_root_of_the_distance_is_no_difference_either():
    """Shares rise with the step, KL with its square, as near a reference; b goes twice as fast."""
    n, covered, resolved = 200, 0, 0
    for number in range(n):
        scores, told = simulated(np.random.default_rng((5, number)), (0.04, 0.04), (1, 2), power=2)
        row = one(matched(scores, told, STAGES))
        covered += row["low"] <= 0 <= row["high"]
        resolved += row["resolved"]
    assert covered / n >= 0.92, covered / n
    assert resolved <= 0.08 * n


@pytest.mark.slow
def test_different_curves_differ_when_matched_and_the_interval_holds_the_truth():
    """At equal KL b has risen by .10 per nat and a by .02: their difference at a level is .08 times it, wherever it is crossed.

    Prompts' own KL scatters around the mean distance, which puts the noise of the axis into the matched shares."""
    n, resolved, covered = 200, 0, 0
    for number in range(n):
        scores, told = simulated(np.random.default_rng((4, number)), (0.02, 0.10), (1, 1.2))
        row = one(matched(scores, told, STAGES))
        resolved += row["resolved"]
        covered += row["low"] <= 0.08 * row["level"] <= row["high"]
    assert resolved > 0.8 * n
    assert covered / n >= 0.91, covered / n


# -- companions ----------------------------------------------------------------------------------------------------------------


def test_companions_by_hand(row):
    # mean of 1 .. 6 is 3.5, standard error sqrt(3.5 / 6), t of 5 degrees of freedom 2.571
    told = pl.concat([told_of("a", 0, [0] * 6), told_of("a", 3, range(1, 7)), told_of("a", 3, [9, 9, 9], companion="reward:rm")])
    shares = pl.concat([scores_of("a", step, [0.5] * 6) for step in (0, 3)])
    table = companions(told, profiles(shares))
    moved = row(table, companion="kl", step=3)
    assert (moved["value"], moved["n"], moved["reference"]) == (pytest.approx(3.5), 6, "sft")
    assert moved["high"] - 3.5 == pytest.approx(2.571 * (3.5 / 6) ** 0.5, abs=0.02)
    still = row(table, companion="kl", step=0)
    assert (still["value"], still["low"], still["high"]) == (0, 0, 0)
    few = row(table, companion="reward:rm")
    assert (few["value"], few["low"], few["high"], few["n"]) == (9, None, None, 3)
    assert row(table, companion="refusal", step=3)["value"] == 0
    assert set(table["companion"]) == {"kl", "reward:rm", "refusal", "invalid"}
