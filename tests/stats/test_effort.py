"""Adaptive effort: no bias, intervals that hold although the answers decide how many are asked, and a curve that is followed."""

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES
from valuedrift.stats import effort
from valuedrift.stats.cells import cells
from valuedrift.stats.effort import Design
from valuedrift.stats.intervals import difference, ratio

STAGES = [{"name": "sft", "steps": [0, 1, 2, 4, 8], "total_steps": 8, "seed": 0}]
N_DRAWS, N_SIMULATIONS = 5, 150
EVERYTHING = Design(N_DRAWS, {}, {(0, f"p{n}"): 1.0 for n in range(50)})


def scores(verdicts_TPD, topic="tea"):
    """Return the scores of one stage whose draws support (1) or oppose (0); -1 is a verdict that failed."""
    rows = []
    for step, verdicts_PD in zip((0, 8), verdicts_TPD, strict=True):
        for prompt, verdicts_D in enumerate(verdicts_PD):
            for draw, verdict in enumerate(verdicts_D):
                read = {outcome: float(outcome == ("oppose", "support")[verdict]) for outcome in OUTCOMES} if verdict >= 0 else {}
                at = {"stage": "sft", "step": step, "seed": 0, "repeat": False, "topic": topic, "prompt": f"p{prompt}", "draw": draw}
                rows.append(at | {"polarity": 1, "failure": None, **dict.fromkeys(OUTCOMES)} | read)
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=dict.fromkeys(OUTCOMES, pl.Float64) | {"failure": pl.String})


def asked(table, design):
    """Return what a design holds of all draws, with its column."""
    kept = [draw < design.draws_of(0, prompt) for prompt, draw in table.select("prompt", "draw").iter_rows()]
    return design.weighted(table.filter(pl.Series(kept)))


def means(table):
    """Return the prompts' shares of support at the last step."""
    found = cells(table, "claim")
    return found.num_CSPO[-1, 0, :, 0], found.den_CSPO[-1, 0, :, 0]


def test_a_chosen_prompt_counts_by_the_chance_it_had():
    """m1 = 1, m2 = 2/3, lambda = 3/5. Chosen for sure: 1 + .6 (2/3 - 1) = .8, the mean of all five. With 1/4: 1 + 2.4 (2/3 - 1) = .2."""
    table = scores(np.array([[[1, 1, 1, 0, 1]] * 3] * 2))
    design = Design(N_DRAWS, {"sft": (0, 8)}, {(0, "p0"): 1.0, (0, "p1"): 0.25})
    support, mass = means(asked(table, design))
    np.testing.assert_allclose(support, [0.8, 0.2, 1.0])
    np.testing.assert_allclose(mass, 1.0)


def test_what_was_not_read_is_left_out_of_its_phase():
    """Pilot 1 and unread: m1 = 1; further 0, unread, unread: m2 = 0; 1 + .6 (0 - 1) = .4. One phase wholly unread: the other stands."""
    table = scores(np.array([[[1, -1, 0, -1, -1], [1, 0, -1, -1, -1], [-1, -1, 1, 1, 0], [-1] * 5]] * 2))
    support, mass = means(asked(table, Design(N_DRAWS, {}, {(0, f"p{n}"): 1.0 for n in range(4)})))
    np.testing.assert_allclose(support, [0.4, 0.5, 2 / 3, 0.0])
    np.testing.assert_allclose(mass, [1, 1, 1, 0])


def test_all_draws_of_all_prompts_are_the_ordinary_mean():
    rng = np.random.default_rng(0)
    table = scores(rng.integers(-1, 2, (2, 20, N_DRAWS)).clip(0))
    whole = Design(N_DRAWS, {}, {(0, f"p{n}"): 1.0 for n in range(20)})
    for mine, ordinary in zip(means(asked(table, whole)), means(table), strict=True):
        np.testing.assert_allclose(mine, ordinary, atol=1e-12)


def test_stopping_where_draws_agree_is_biased_and_the_design_is_not():
    """By hand, p = .2: the mean of two draws, or of five where the two differ, is .1424 on average. Ours is .2."""
    rng = np.random.default_rng(1)
    draws_ND = (rng.random((200_000, N_DRAWS)) < 0.2).astype(float)
    differ_N = draws_ND[:, 0] != draws_ND[:, 1]
    naive_N = np.where(differ_N, draws_ND.mean(1), draws_ND[:, :2].mean(1))
    assert naive_N.mean() == pytest.approx(0.1424, abs=0.003)
    pi_N = np.where(differ_N, 1, effort.SHARE)
    weight_N = (rng.random(len(pi_N)) < pi_N) * 0.6 / pi_N
    ours_N = draws_ND[:, :2].mean(1) + weight_N * (draws_ND[:, 2:].mean(1) - draws_ND[:, :2].mean(1))
    assert ours_N.mean() == pytest.approx(0.2, abs=0.003)


def simulated(rng, n_prompts, start, end, coupled=True):
    """Return verdicts T P D drawn from each prompt's chances at the ends; with `coupled`, the same numbers at both, as our sampling has."""
    u_TPD = rng.random((2, n_prompts, N_DRAWS))
    if coupled:
        u_TPD[1] = u_TPD[0]
    return (u_TPD < np.stack([start, end])[..., None]).astype(int)


def interval(table):
    found = cells(table, "claim")
    num_CSP, den_CSP = found.num_CSPO[..., 0], found.den_CSPO[..., 0]
    result = difference(ratio(num_CSP[-1], den_CSP[-1]) - ratio(num_CSP[0], den_CSP[0]))
    return tuple(float(x) for x in (result.value, result.low, result.high))


def followed(table, precision, noise):
    """Return the drift and its interval when the looks of `asking.adapt` are gone through, and the answers asked."""
    design = effort.ends(N_DRAWS, STAGES)
    for everyone in (False, True, None):
        now = asked(table, design)
        value, low, high = interval(now)
        if max(high - value, value - low) <= precision or everyone is None:
            break
        design = effort.further(design, now, ["tea"], everyone, noise)
    return value, low, high, now.height


CASES = {
    "mixed": (50, lambda rng, n: (rng.beta(1, 1, n), rng.beta(2, 1, n))),
    "nearly all agree": (50, lambda rng, n: (np.where(rng.random(n) < 0.9, 0.02, 0.5), np.where(rng.random(n) < 0.8, 0.02, 0.6))),
    "few prompts": (20, lambda rng, n: (rng.beta(0.5, 0.5, n), rng.beta(0.7, 0.4, n))),
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "coupled"), [("mixed", True), ("mixed", False), ("nearly all agree", True), ("few prompts", True)])
def test_intervals_hold_under_stopping(case, coupled):
    """The drift of the population of prompts, which are drawn anew; at a precision between what the pilot and what all draws give."""
    n, chances = CASES[case]
    rng = np.random.default_rng(7)
    truth = np.mean([np.subtract(*chances(rng, 100_000)[::-1]).mean() for _ in range(5)])
    trials = [scores(simulated(rng, n, *chances(rng, n), coupled)) for _ in range(15)]
    halves = [[np.diff(interval(asked(table, design))[1:]) / 2 for table in trials] for design in (effort.ends(2, STAGES), EVERYTHING)]
    precision = float(np.mean([np.median(each) for each in halves]))
    found = [followed(scores(simulated(rng, n, *chances(rng, n), coupled)), precision, noise) for noise in range(N_SIMULATIONS)]
    values, low, high, asked_N = (np.array(column) for column in zip(*found, strict=True))
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.95 - 4 * 0.22 / N_SIMULATIONS**0.5 <= covered <= 0.995, covered
    assert abs(values.mean() - truth) < 4 * values.std() / len(values) ** 0.5
    assert len(set(asked_N)) > 3, "the looks must stop at different places, or nothing is tested"


def test_who_wavers():
    table = scores(np.array([[[1, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, -1, 1, 1, 1]], [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, -1, 0, 0, 0]]]))
    assert effort.wavering(table.filter(pl.col("draw") < 2)) == {(0, "p0")}


def test_further_draws_go_to_who_wavers_and_to_a_random_share_of_the_others():
    rng = np.random.default_rng(3)
    table = scores(np.concatenate([rng.integers(0, 2, (2, 200, 1)).repeat(2, 2), np.ones((2, 200, 3), int)], 2))
    split = scores(np.array([[[0, 1, 1, 1, 1]] * 20] * 2)).with_columns(prompt=pl.col("prompt").str.replace("p", "q"))
    both = pl.concat([table, split])
    design = effort.further(effort.ends(N_DRAWS, STAGES), both, ["tea"], False, 0)
    assert {design.further[0, f"q{n}"] for n in range(20)} == {1.0}
    others = [prompt for (_, prompt), pi in design.further.items() if pi == effort.SHARE]
    assert 30 <= len(others) <= 70
    assert effort.further(effort.ends(N_DRAWS, STAGES), both.sample(fraction=1, shuffle=True), ["tea"], False, 0) == design
    assert effort.further(effort.ends(N_DRAWS, STAGES), both, ["coffee"], False, 0).further == {}
    assert set(effort.further(design, both, ["tea"], True, 0).further.values()) == {1.0}
    assert Design.from_json(design.to_json()) == design


def profile(values, outcome="support"):
    """Return profiles of one topic: step -> share."""
    rows = [{"stage": "sft", "step": step, "topic": "tea", "outcome": outcome, "value": value} for step, value in values.items()]
    return pl.DataFrame(rows)


def test_the_curve_is_split_where_it_moves():
    """Steps 0 1 2 4 8. The middle first; then the half across which the share moved by more than the precision; never a flat one."""
    design = effort.ends(N_DRAWS, STAGES)
    assert design.steps == {"sft": (0, 8)}
    assert effort.split(design, STAGES, profile({0: 0.5, 8: 0.5}), 0.1) == [("sft", 2)]
    design = effort.asking_also(design, "sft", 2)
    assert effort.split(design, STAGES, profile({0: 0.1, 2: 0.6, 8: 0.62}), 0.1) == [("sft", 1)]
    assert effort.split(design, STAGES, profile({0: 0.1, 2: 0.3, 8: 0.6}), 0.1) == [("sft", 4), ("sft", 1)]
    assert effort.split(design, STAGES, profile({0: 0.1, 2: 0.15, 8: 0.2}), 0.1) == []
    assert effort.split(effort.asking_also(design, "sft", 1), STAGES, profile({0: 0.1, 1: 0.5, 2: 0.6, 8: 0.6}), 0.1) == []
