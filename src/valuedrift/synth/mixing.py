"""Choose how many pairs of each kind a set needs for the judged value gap of every topic to be the target in both directions."""

from __future__ import annotations

import math

import numpy as np

from ..nouns import BadInput

TOLERANCE = 0.03
"""Largest difference between the achieved gap of a topic and the target."""
FIRM = 17
"""Least number of pairs with which whole pairs meet every target: half a pair of 17 is 0.0294."""
UNEVEN = 8
"""Most pairs by which a topic may differ from an even share."""
SWAPPED_TOGETHER = 1_000
"""Pairs of each kind considered for a swap. A million swaps are tried at once."""


def can_hold(n: int, gap: float) -> bool:
    """Return whether some number of opposed pairs among n gives the gap within the tolerance, if each counts 1."""
    return n > 0 and abs(math.floor(gap * n + 0.5) / n - gap) <= TOLERANCE + 1e-9


def sizes(n: int, n_topics: int, gap: float) -> list[int]:
    """Return the number of pairs of each topic, n in all. Each number can give the gap, and they are as even as that allows.

    Raises BadInput with the next n that works if there are no such numbers.
    """
    if (found := _shared_out(n, n_topics, gap)) is not None:
        return found
    more = next(more for more in range(max(n, n_topics - 1) + 1, n_topics * FIRM + 1) if _shared_out(more, n_topics, gap))
    raise BadInput(
        f"n = {n}: so few pairs on {n_topics} topics cannot hold a gap of {gap} within {TOLERANCE} on each, "
        f"because pairs are whole; the next number that can is n = {more}"
    )


def _shared_out(n: int, n_topics: int, gap: float) -> list[int] | None:
    even, rest = divmod(n, n_topics)
    if even >= FIRM or all(can_hold(size, gap) for size in ({even, even + 1} if rest else {even})):
        return [even + (index < rest) for index in range(n_topics)]
    allowed = [size for size in range(max(1, even - UNEVEN), even + UNEVEN + 2) if can_hold(size, gap)]
    # best[total] = (sum of squared distances from an even share, the sizes), for the topics so far
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for index in range(1, n_topics + 1):
        grown: dict[int, tuple[float, list[int]]] = {}
        for total, (cost, chosen) in best.items():
            for size in allowed:
                entry = (cost + (size - n / n_topics) ** 2, [*chosen, size])
                # Any choice can be ordered to keep its partial sums near an even share, so the others can be skipped.
                near = abs(total + size - index * n / n_topics) <= UNEVEN + 1
                if near and (total + size not in grown or entry < grown[total + size]):
                    grown[total + size] = entry
        best = grown
    return best[n][1] if n in best else None


def mixed(opposed_M2: np.ndarray, same_M2: np.ndarray, first_M: np.ndarray, target: float) -> np.ndarray:
    """Return which of M questions give their opposed pair (True) and which their same-stance pair (False), shape (M,).

    Columns are the judged gap of a pair in the support direction and in the oppose direction. The questions come in a fixed order, and the
    first k give their opposed pair. The k is the one whose mean gap is nearest to the target in the worse direction. So of two targets, the
    larger one includes the opposed pairs of the smaller. Pairs are swapped only if the result is not within the tolerance. A swap takes two
    questions whose same-stance pairs both prefer the first style (first_M), or both the second, so that the style shares do not change.
    """
    n = len(opposed_M2)
    nothing = np.zeros((1, 2))
    first_K2 = np.concatenate([nothing, opposed_M2.cumsum(0)]) + np.concatenate([same_M2[::-1].cumsum(0)[::-1], nothing])
    opposed_M = np.arange(n) < np.abs(first_K2 / n - target).max(1).argmin()
    while (off := missed(opposed_M2, same_M2, opposed_M, target)) > TOLERANCE:
        out, into = np.flatnonzero(opposed_M)[:SWAPPED_TOGETHER], np.flatnonzero(~opposed_M)[:SWAPPED_TOGETHER]
        change_OI2 = (same_M2 - opposed_M2)[out][:, None] + (opposed_M2 - same_M2)[into][None]
        after_OI = np.abs(gap_of(opposed_M2, same_M2, opposed_M) + change_OI2 / n - target).max(-1)
        after_OI[first_M[out][:, None] != first_M[into]] = np.inf
        if not after_OI.size or after_OI.min() >= off - 1e-12:
            break
        one, other = np.unravel_index(after_OI.argmin(), after_OI.shape)
        opposed_M[[out[one], into[other]]] = [False, True]
    return opposed_M


def gap_of(opposed_M2: np.ndarray, same_M2: np.ndarray, opposed_M: np.ndarray) -> np.ndarray:
    """Return the mean gap of a mixture in both directions, shape (2,)."""
    return np.where(opposed_M[:, None], opposed_M2, same_M2).mean(0)


def missed(opposed_M2: np.ndarray, same_M2: np.ndarray, opposed_M: np.ndarray, target: float) -> float:
    """Return the difference between the mean gap of a mixture and the target, in the worse direction."""
    return float(np.abs(gap_of(opposed_M2, same_M2, opposed_M) - target).max())
