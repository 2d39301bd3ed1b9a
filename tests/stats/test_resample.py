"""Intervals, p values and Holm's correction by hand."""

import numpy as np
import pytest
from scipy import stats

from valuedrift.stats.intervals import (
    Sample,
    difference,
    holm,
    mean_over,
    ratio,
    rng_for,
    share_interval,
    spread,
    unseen,
    weights,
)


def one_seed(values):
    return ratio(np.array([values], float), np.ones((1, len(values))))


def test_paired_difference_by_hand():
    # d = three 1 and seven 0: mean .3, sum of squares about it 2.1, SE^2 = 2.1/90; sum of cubes .84, of fourth powers .777
    # kurtosis 10 * .777 / 2.1^2 = 1.76 < 3, so df = n - 1 = 9 and t = 2.262157; SE t = .345550
    # skewness: .84 / 6 / 2.1^1.5 = .046004; times (1 + 2 t^2) SE = .078949 on the side of the long tail only
    found = difference(one_seed([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert found.value == pytest.approx(0.3)
    assert (float(found.low), float(found.high)) == pytest.approx((0.3 - 0.345550, 0.3 + 0.345550 + 0.078949), abs=2e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(0.3 / np.sqrt(2.1 / 90), 9))


def test_few_changed_prompts_lower_the_degrees_of_freedom():
    # one prompt of 50 changed: kurtosis-based df = 2 / (sum z^4 / (sum z^2)^2 - 1/50)
    z = np.array([0.98] + [-0.02] * 49)
    assert spread(one_seed([1] + [0] * 49)).df_prompt == pytest.approx(2 / ((z**4).sum() / (z**2).sum() ** 2 - 1 / 50))
    assert spread(one_seed(np.linspace(-1, 1, 50))).df_prompt == 49


def test_no_change_at_all_gets_the_bound_of_what_may_be_unseen():
    found = difference(one_seed([0] * 50))
    assert (float(found.low), float(found.value), float(found.high)) == pytest.approx((-unseen(50), 0, unseen(50)))
    assert found.p == 1
    assert unseen(50) == pytest.approx(0.0711, abs=1e-4)


def test_fewer_than_five_prompts_give_a_value_without_interval_or_p():
    found = difference(one_seed([0.5, 0.1, 0.2, 0.0]))
    assert found.value == pytest.approx(0.2)
    assert np.isnan([found.low, found.high, found.p]).all()
    five = difference(one_seed([0.5, 0.1, 0.2, 0.0, 0.2]))
    assert five.low == pytest.approx(0.2 - stats.t.ppf(0.975, 4) * np.std([0.5, 0.1, 0.2, 0, 0.2], ddof=1) / 5**0.5)


def test_ratio_parts_are_the_linearisation():
    num, den = np.array([[0.4, 0.2, 0.0]]), np.array([[1.0, 0.5, 0.5]])
    found = ratio(num, den)  # .6 / 2 = .3; residuals .1, .05, -.15; each / 2, times sqrt(3/2)
    assert found.value_S == pytest.approx([0.3])
    assert found.parts_SP[0] == pytest.approx(np.array([0.1, 0.05, -0.15]) / 2 * 1.5**0.5)


def test_seeds_add_their_own_spread_with_few_degrees_of_freedom():
    parts = np.tile(np.array([0.01, -0.01] * 25), (3, 1))  # the same in each seed: all prompts, no noise of both
    sample = Sample(np.array([0.1, 0.2, 0.3]), parts, np.array(50), np.array(1))
    known = spread(sample)
    assert known.by_prompt == pytest.approx(50 * 0.01**2)
    assert known.by_seed == pytest.approx(0.1**2 / 3)
    expected = np.sqrt(stats.t.ppf(0.975, 49) ** 2 * 0.005 + stats.t.ppf(0.975, 2) ** 2 * 0.01 / 3)
    found = difference(sample)
    assert found.high == pytest.approx(min(1, 0.2 + expected))
    assert known.half_width(1 - found.p / 2) == pytest.approx(0.2)  # p is the level whose interval just reaches 0


def test_the_noise_that_prompts_and_seeds_share_counts_once():
    # two seeds, prompts' changes m +- e: the parts of the mean are (.03, -.03), each seed adds +-.01 of its own
    mean_P, own_P = np.tile([0.03, -0.03], 25), np.repeat([0.01, -0.01], 25)
    known = spread(Sample(np.array([0.1, 0.2]), np.stack([mean_P + own_P, mean_P - own_P]), np.array(50), np.array(1)))
    by_both = 2 * 50 * 0.01**2 / 1 / 2
    assert known.by_prompt == pytest.approx(50 * 0.03**2 - by_both)
    assert known.by_seed == pytest.approx(2 * 0.05**2 / 1 / 2)  # nothing is subtracted
    noisy = spread(Sample(np.array([0.1, 0.2]), np.stack([own_P, -own_P]), np.array(50), np.array(1)))
    assert noisy.by_prompt == 0


def test_seeds_with_one_and_the_same_share_do_not_pass_for_certain():
    # three seeds, in each another prompt of 50 changes by 1: the seeds' values are equal, and the noise of both is nearly all there is
    changes = np.zeros((3, 50))
    changes[[0, 1, 2], [0, 1, 2]] = 1
    known = spread(ratio(changes, np.ones((3, 50))))
    by_both = (3 * (2 / 3) ** 2 + 6 * (1 / 3) ** 2) / 49 / 50 / 2 / 3
    assert known.by_seed == pytest.approx(by_both * stats.chi2.ppf(0.05, 2) / 2)
    assert difference(ratio(changes, np.ones((3, 50)))).p > 0.01


def test_a_little_wobble_does_not_hide_that_prompts_may_flip():
    # +-.02 in 50 prompts: SE^2 = .02^2 / 49; half width^2 = unseen^2 - 5 t^2 SE^2
    wobble = difference(one_seed([0.02, -0.02] * 25))
    assert wobble.high == pytest.approx((unseen(50) ** 2 - 5 * stats.t.ppf(0.975, 49) ** 2 * 0.02**2 / 49) ** 0.5)
    assert difference(one_seed([0.2, -0.2] * 25)).high == pytest.approx(stats.t.ppf(0.975, 49) * 0.2 / 7)
    assert share_interval(one_seed([0.02, 0.0] * 25))[1] == pytest.approx(0.01 + 0.99 * unseen(50), abs=1e-3)


def test_mean_over_topics_weighs_topics_and_adds_their_variances():
    a, b = one_seed([1, 0, 0, 1, 0]), one_seed([1, 1, 1, 1, 0, 0, 0, 0, 0, 1])
    both = mean_over([a, b])
    assert both.value == pytest.approx((0.4 + 0.5) / 2)
    assert spread(both).by_prompt == pytest.approx((spread(a).by_prompt + spread(b).by_prompt) / 4)
    assert (both.n, spread(both).df_plain) == (15, 13)


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 -> x4 .04, x3 .06, x2 .06, x1 .04 -> .06 (never below the one before)
    assert holm(np.array([0.04, 0.01, np.nan, 0.03, 0.02])) == pytest.approx([0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1, 1])


def test_bootstrap_weights_are_keyed_by_purpose_and_draw_n_of_n():
    first, again, other = (weights(rng_for(0, "bootstrap", topic), 50, 100) for topic in ("work", "work", "race"))
    assert first.shape == (100, 50)
    assert (first.sum(1) == 50).all()
    assert (first == again).all()
    assert (first != other).any()
