"""How many prompts a look at a model in training may ask, so that all looks together keep to their share of the training's time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan import Asking

SLACK = 1.25
"""A look at worst may take this many times as long as it is reckoned: passes in which no row has ended yet take longer than others."""


@dataclass
class Pace:
    """What looks have taken so far, and what further ones may take. All times are in seconds."""

    asking: Asking
    fewest: int
    """Prompts under which a look is not worth its time: there are fewer looks then."""
    each: float = 0.0
    """What a prompt took in the latest look that sampled anything; 0 while that is not known."""
    sampling: float = 0.0
    """The part of `each` that went to sampling."""
    one_pass: float = 0.0
    """What a pass through the model takes while sampling: in the look that took most of them, which is nearest to the worst."""
    passes: int = 0
    """How many that look took."""

    def learn(self, seconds: float, sampling: float, passes: int, generated: int) -> None:
        """Take in what a look took that generated some answers, in passes one after the other."""
        if not generated:
            return  # all of them stood in the store
        n = generated / self.asking.draws
        self.each, self.sampling = seconds / n, sampling / n
        if passes >= self.passes:
            self.one_pass, self.passes = sampling / max(1, passes), passes

    def at_worst(self, n: int) -> float:
        """Return the seconds of a look at `n` prompts in which no answer ends before it must."""
        longest = self.one_pass * self.asking.max_new_tokens * math.ceil(n * self.asking.draws / self.asking.batch_rows)
        return SLACK * (n * (self.each - self.sampling) + max(n * self.sampling, longest))

    def prompts(self, most: int, seconds: float, n_looks: int) -> int:
        """Return the prompts of each of some looks, `most` at most, so that most answers come of it."""
        together, careful = max(1, self.asking.batch_rows // self.asking.draws), min(n_looks, 2)
        for_each = (n_looks - careful) * self.each + careful * self.at_worst(together) / together
        least = min(most, self.fewest)
        n = max(least, min(most, int(seconds / for_each)))
        whole = max(least, n // together * together or n)  # what is begun of another batch may take as long as a whole one
        return max(n, whole, key=lambda n: n * self.looks(n, seconds, n_looks))

    def looks(self, n: int, seconds: float, most: int) -> int:
        """Return how many looks at `n` prompts fit, `most` at most, with two of them (or the only one) at their worst.

        Where those do not fit it is one less than they: answers may end earlier, so that a last look may fit all the same.
        """
        careful = min(most, 2)
        left = seconds - careful * self.at_worst(n)
        return careful - 1 if left < 0 else min(most, careful + int(left / (n * self.each)))
