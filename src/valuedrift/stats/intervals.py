"""Uncertainty over prompts (and seeds): linearised parts, standard errors, intervals, bootstrap weights, Holm's correction.

Prompts are the unit: draws of one prompt are not independent. Intervals are linearised ones with small-sample corrections, because no
bootstrap covered 93-97 % throughout. Coverage in % of nominal 95 % with 50 prompts x 5 draws, lowest and highest over the cells of
tests/stats/test_coverage.py (and shares of .02; dense: many prompts change, sparse: only a handful, where 95 is not attainable):

                                     shares .2-.9   share .05   share .02   dense drifts   sparse drifts
    plain percentile                     90-96        82-93       57-95         88-95          17-100
    expanded percentile, bounded         91-96        89-97       90-100        89-96          75-100
    BCa, bounded                         93-98        90-97       96-99         89-95          69-97
    bootstrap-t, bounded                 95-98        97-99       98-100        91-98          78-99
    here                                 95-97        96-98       98-98         95-97          98-100

("bounded": `unseen` if all prompts agree. Expanded percentile: Hesterberg 2015.) Only the agreement of judges is bootstrapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import chdtri, stdtr, stdtrit

LEVEL = 0.95
TAIL = 0.5 + LEVEL / 2
MIN_PROMPTS = 5
"""Fewest prompts for an interval. Fewer say too little about other prompts."""
REPLICATES = 2000
FLAT = 1e-12
"""A standard error or difference below this is rounding."""
TINY = 1e-100


@dataclass(frozen=True)
class Sample:
    """Estimates and each prompt's contribution to them; leading axes (...) are shared.

    value_S: an estimate per seed (nan if the seed has no evidence). parts_SP: the influence of each prompt on it, summing to 0 over P,
    scaled so that the sum of squares over P is the squared standard error (n/(n-1) included). n: prompts with evidence.
    """

    value_S: np.ndarray
    parts_SP: np.ndarray
    n: np.ndarray
    n_strata: np.ndarray

    def __sub__(self, other: Sample) -> Sample:
        """Return the difference paired by prompt and seed."""
        n, n_strata = np.minimum(self.n, other.n), np.maximum(self.n_strata, other.n_strata)
        return Sample(self.value_S - other.value_S, self.parts_SP - other.parts_SP, n, n_strata)

    def __getitem__(self, index: Any) -> Sample:
        """Return some of the estimates; `index` is of the leading axes."""
        return Sample(self.value_S[index], self.parts_SP[index], self.n[index], self.n_strata[index])

    def weighted(self, weights_QK: np.ndarray) -> Sample:
        """Return weighted sums over the first axis K; a seed needs a value at every K."""
        n, n_strata = (np.broadcast_to(x, (len(weights_QK), *x.shape)) for x in (self.n.min(0), self.n_strata.max(0)))
        value_S, parts_SP = (np.tensordot(weights_QK, x, 1) for x in (self.value_S, self.parts_SP))
        return Sample(value_S, np.where(np.isnan(value_S)[..., None], 0, parts_SP), n, n_strata)

    @property
    def value(self) -> np.ndarray:
        """Return the mean over seeds that have evidence, nan if none has."""
        return nanmean(self.value_S)

    @property
    def n_seeds(self) -> np.ndarray:
        """Return how many seeds have evidence."""
        return (~np.isnan(self.value_S)).sum(-1)


def nanmean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean along `axis` without nan values; nan if there are no others (and no warning)."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def rng_for(seed: int, *purpose: Any) -> np.random.Generator:
    """Return a random generator keyed by its purpose, independent of earlier draws."""
    key = hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:16]
    return np.random.default_rng(int.from_bytes(key, "big"))


def ratio(num_SP: np.ndarray, den_SP: np.ndarray) -> Sample:
    """Return sum(num) / sum(den) over the last axis with each prompt's linearised part (num - ratio * den) / sum(den).

    The linearisation is the usual one of a ratio of means (Cochran 1977, ch. 6). nan if den sums to 0. One prompt shows
    no spread: its part is nan, which leads to no interval.
    """
    total = den_SP.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(total > 0, num_SP.sum(-1) / total, np.nan)
        n_S = (den_SP > 0).sum(-1)
        scale = np.sqrt(n_S / np.maximum(n_S - 1, 1)) / total
        parts = np.nan_to_num((num_SP - value[..., None] * den_SP) * scale[..., None])
    parts[n_S == 1] = np.nan
    n = (den_SP > 0).any(-2).sum(-1)
    return Sample(value, parts, n, np.ones_like(n))


def mean_over(topics: Sequence[Sample]) -> Sample:
    """Return the mean over topics with equal weights, without topics that have no evidence."""
    there = np.stack([~np.isnan(topic.value) for topic in topics])
    share = 1 / np.maximum(there.sum(0), 1)
    parts = np.concatenate([topic.parts_SP for topic in topics], -1) * share[..., None, None]
    n = np.stack([topic.n for topic in topics])
    return Sample(nanmean(np.stack([topic.value_S for topic in topics]), 0), parts, (n * there).sum(0), there.sum(0))


@dataclass(frozen=True)
class Spread:
    """How well estimates are known: squared standard errors from prompts and from seeds, each with its degrees of freedom."""

    by_prompt: np.ndarray
    by_seed: np.ndarray
    df_prompt: np.ndarray
    """2n / (kurtosis - 1), at most `df_plain`: a variance that rests on few changed prompts is uncertain, however many prompts there are.
    """
    df_plain: np.ndarray
    """n - 1 (n - number of topics for their mean)."""
    df_seed: np.ndarray
    lean: np.ndarray
    """A sixth of the prompts' third moment over their second: how far a long tail shifts the interval, per unit of 1 + 2 t^2."""
    noise: np.ndarray
    """The part of `by_seed` that is there if training runs do not differ: the noise of single answers."""
    seen: np.ndarray
    """How much prompts change within one seed: the squared standard error from prompts, averaged over seeds."""

    @property
    def seed_share(self) -> np.ndarray:
        """Return the part of the squared standard error that comes from runs that differ, beyond noise; 0 with one seed."""
        return np.maximum(self.by_seed - self.noise, 0) / np.maximum(self.by_prompt + self.by_seed, TINY)

    def half_width(self, tail: Any, plain: bool = False) -> np.ndarray:
        """Return the half width whose upper end is the quantile `tail`: each part with its own t (Cochran's combination)."""
        t_prompt, t_seed = stdtrit(self.df_plain if plain else self.df_prompt, tail), stdtrit(self.df_seed, tail)
        return np.sqrt(t_prompt**2 * self.by_prompt + t_seed**2 * self.by_seed)

    def p_value(self, value: np.ndarray) -> np.ndarray:
        """Return the two-sided p at which the interval just reaches 0: Student's t if seeds add nothing, else by bisection."""
        if not self.by_seed.any():
            return 2 * stdtr(self.df_prompt, -np.abs(value) / np.sqrt(self.by_prompt))
        low, high = np.full(value.shape, np.log(1e-15)), np.zeros(value.shape)
        for _ in range(40):
            middle = (low + high) / 2
            reaches = self.half_width(np.exp(middle) / 2) > np.abs(value)
            low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
        return np.exp(high)


def spread(sample: Sample) -> Spread:
    """Return the spread of a mean over seeds, in a crossed layout: SE^2 = max(0, SE_prompt^2 - SE_both^2) + SE_seed^2.

    The spread of seed means and that of prompt means both contain the noise of a single answer (samples, prompt x seed), which must count
    once. It is subtracted from the prompts' part, which rests on many prompts. Subtracting it from the seeds' part leaves 0 too often:
    with 2 or 3 seeds, p values below .0015 were then up to 40 times too frequent. Rare outcomes are so discrete that all seeds may show
    the same share, so the seeds' part is at least the 5 % quantile of what noise alone gives.
    """
    has_S = ~np.isnan(sample.value_S)
    n_seeds = np.maximum(sample.n_seeds, 1)
    df_seed = np.maximum(n_seeds - 1, 1)
    df_plain = np.maximum(sample.n - sample.n_strata, 2)
    mean_P = sample.parts_SP.sum(-2) / n_seeds[..., None]
    square = (mean_P**2).sum(-1)
    deviation_S = np.where(has_S, sample.value_S - sample.value[..., None], 0)
    noise_SP = (sample.parts_SP - mean_P[..., None, :]) * has_S[..., None]
    by_both, by_seed = ((x**2).sum(axes) / df_seed / n_seeds for x, axes in ((noise_SP, (-1, -2)), (deviation_S, -1)))
    by_seed = np.maximum(by_seed, by_both * chdtri(df_seed, LEVEL) / df_seed)
    scale = np.maximum(square, TINY)
    tails = (mean_P**4).sum(-1) / scale**2 - 1 / np.maximum(sample.n, 2)
    df_prompt = np.clip(2 / np.maximum(tails, 2 / df_plain), 2, df_plain)
    seen = (sample.parts_SP**2).sum((-1, -2)) / n_seeds
    return Spread(np.maximum(square - by_both, 0), by_seed, df_prompt, df_plain, df_seed, (mean_P**3).sum(-1) / 6 / scale, by_both, seen)


def unseen(n: np.ndarray | int) -> np.ndarray:
    """Return the largest share of prompts that may change although none of n did (Clopper-Pearson, 97.5 %)."""
    return 1 - ((1 - LEVEL) / 2) ** (1 / np.maximum(n, 1))


def flips(known: Spread, n: np.ndarray | int) -> np.ndarray:
    """Return the squared standard error for other prompts that may flip although the evaluated ones hardly change.

    If no prompt changes at all, a share `unseen(n)` of them may still flip fully. A soft judge's probabilities always move a little, so
    this bound fades as changes grow, and ends if their squares add up to half of one flipped prompt (0.1 per prompt if n is 50).
    """
    return np.maximum((unseen(n) / stdtrit(known.df_plain, TAIL)) ** 2 - 5 * known.seen, 0)


def share_interval(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of a share in [0, 1]: Wilson's interval with t for z and SE^2 for v(1-v)/n.

    SE_prompt^2 is first shrunk towards v(1-v)/(n-1), its value if samples of one prompt never differed, with the weight of one degree of
    freedom: with few prompts off zero the observed spread is often too small. t is that of every drift: with the plain t of n - 1 degrees,
    rare outcomes under a confident judge were covered in 89 to 92 % (benchmarks/coverage.py). If prompts hardly differ, some may
    answer anything (`flips`).
    nan below 5 prompts.
    """
    value, known = sample.value.clip(0, 1), spread(sample)
    with np.errstate(invalid="ignore", divide="ignore"):
        clustered = value * (1 - value) / (sample.n - 1)
        drawn = (known.df_prompt * known.by_prompt + clustered) / (known.df_prompt + 1)
        q = replace(known, by_prompt=drawn).half_width(TAIL) ** 2 / (value * (1 - value))
        centre = (value + q / 2) / (1 + q)
        half = np.sqrt(q * value * (1 - value) + q**2 / 4) / (1 + q)
    bound = stdtrit(known.df_plain, TAIL) * np.sqrt(flips(known, sample.n))
    low, high = np.fmin(centre - half, value * (1 - bound)), np.fmax(centre + half, value + (1 - value) * bound)
    few = sample.n < MIN_PROMPTS
    return np.where(few, np.nan, low.clip(0, 1)), np.where(few, np.nan, high.clip(0, 1))


@dataclass(frozen=True)
class Difference:
    """A paired difference with its interval and two-sided p (nan: none), and the spread behind them."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    known: Spread


def difference(sample: Sample) -> Difference:
    """Return a difference with its interval and p value; nan below 5 prompts.

    p and interval: Student's t (`Spread.half_width`); on the side of the long tail the interval also reaches Hesterberg's (2015)
    skewness-adjusted t, so that it is never narrower than p's. If prompts hardly change, some may flip unseen (`flips`).
    """
    known = spread(sample)
    known = replace(known, by_prompt=np.maximum(known.by_prompt, flips(known, sample.n)))
    value = np.where(np.abs(sample.value) <= FLAT, 0 * sample.value, sample.value)
    half, plain = known.half_width(TAIL), known.half_width(TAIL, plain=True)
    lean = known.lean * (1 + 2 * stdtrit(known.df_plain, TAIL) ** 2)
    low, high = value - np.maximum(half, plain - lean), value + np.maximum(half, plain + lean)
    few = (sample.n < MIN_PROMPTS) | np.isnan(value) | np.isnan(known.by_prompt)
    low, high, p = (np.where(few, np.nan, x) for x in (low.clip(-1, 1), high.clip(-1, 1), known.p_value(value)))
    return Difference(value, low, high, p, known)


def weights(rng: np.random.Generator, n: int, replicates: int = REPLICATES) -> np.ndarray:
    """Return bootstrap weights RN: how often each of n units is drawn, n draws per replicate."""
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's (1979) adjusted p values; nan (no evidence) stays nan and is not counted as a test."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: (~np.isnan(p_values)).sum()]
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted
