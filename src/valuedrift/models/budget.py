"""Prices and budgets of endpoints: an editable price table, and a limit that holds during concurrent requests."""

from __future__ import annotations

import contextlib
import os
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..nouns import BadInput

PRICES = Path(__file__).with_name("prices.toml")
VARIABLE = "VALUEDRIFT_PRICES"
ROUNDING = 1e-12
"""Dollars of float rounding to ignore."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, n_input: int, n_output: int) -> float:
        """Return the price of a number of tokens in dollars."""
        return (n_input * self.input + n_output * self.output) / 1e6


def price_table() -> dict[str, Price]:
    """Return the prices by pattern of a model's name, from the file that VALUEDRIFT_PRICES names, else from the shipped one."""
    path = Path(os.environ.get(VARIABLE) or PRICES)
    try:
        models = tomllib.loads(path.read_text(encoding="utf-8"))["models"]
        found = {pattern: Price(float(row["input"]), float(row["output"])) for pattern, row in models.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: the price table cannot be read ({error}); copy and edit {PRICES}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f'{path}: a row of [models] must read "MODEL" = {{ input = DOLLARS, output = DOLLARS }} ({error!r})') from error
    for pattern, price in found.items():
        if not (0 <= price.input < float("inf") and 0 <= price.output < float("inf")):
            raise BadInput(f"{path}: the price of {pattern!r} is {price.input:g} and {price.output:g}; write dollars, 0 or more")
    return found


def price_of(model: str) -> Price | None:
    """Return the price under the first pattern that matches a model's name; None if none does."""
    return next((price for pattern, price in price_table().items() if fnmatchcase(model, pattern)), None)


class Budget:
    """Keeps the dollars spent plus those that may still be billed within a limit.

    Each request reserves its worst-case cost before it is sent. The real cost replaces the reservation when the reply comes.
    """

    def __init__(self, limit: float | None = None):
        self.limit = limit
        self.spent = 0.0
        """Dollars, by the server's token counts."""
        self.unclear = 0.0
        """Worst-case dollars of requests whose reply was lost, which may or may not have been billed."""
        self._held = 0.0
        self._changed = threading.Condition()

    def hold(self, cost: float, stopped: Callable[[], bool]) -> bool:
        """Reserve `cost`; if it does not fit yet, wait for pending requests. Return False if it never fits, or if `stopped`."""
        with self._changed:
            while not self._fits(cost):
                if stopped() or self._held <= ROUNDING:
                    return False
                self._changed.wait(0.1)  # poll `stopped`: nothing notifies of it
            self._held += cost
            return True

    def settle(self, held: float, paid: float = 0.0, unclear: float = 0.0, keep: float = 0.0) -> float:
        """Release a reservation and book the real cost; return `keep` if so much stays reserved, else 0."""
        with self._changed:
            self._held -= held
            self.spent += paid
            self.unclear += unclear
            kept = keep if self._fits(keep) else 0.0
            self._held += kept
            self._changed.notify_all()
            return kept

    def _fits(self, cost: float) -> bool:
        return self.limit is None or self.spent + self.unclear + self._held + cost <= self.limit + ROUNDING


_COMMON: ContextVar[Budget | None] = ContextVar("common", default=None)


@contextlib.contextmanager
def limited(dollars: float | None) -> Iterator[Budget]:
    """Give all endpoints made in this block one shared budget. A nested block uses the outer budget."""
    budget = common() or Budget(dollars)
    token = _COMMON.set(budget)
    try:
        yield budget
    finally:
        _COMMON.reset(token)


def common() -> Budget | None:
    """Return the budget of the surrounding `limited` block, or None."""
    return _COMMON.get()
