"""Progress of long work on stderr: a bar with rate and time left on a terminal, a line per finished task elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[..., None]
"""advance(n, total=None): n more units are finished; `total` where it becomes known only now."""
Show = Callable[[int, float, int | None], object]


_live: Any = None
"""The bars on the terminal, which must be drawn together: a judge may read while a checkpoint is asked."""
_lock = threading.Lock()
EVERY_SECONDS = 15.0
"""How often a line is written where there is no terminal."""


@contextmanager
def task(name: str, total: int, unit: str) -> Iterator[Advance]:
    """Yield a function that is told how many units were finished."""
    started = time.monotonic()
    done = 0

    def rate() -> float:
        return done / max(time.monotonic() - started, 1e-9)

    with _bar(name, total, unit) if sys.stderr.isatty() else _lines(name, total, unit) as show:

        def advance(n: int, total: int | None = None) -> None:
            nonlocal done
            done += n
            show(done, rate(), total)

        yield advance
    if done:
        say(f"{name}: {done:,} {unit} in {time.monotonic() - started:.1f} s ({rate():,.1f}/s)")


@contextmanager
def training(name: str) -> Iterator[Callable[[int, int, float], None]]:
    """Yield what a stage calls after each step with (step, total, loss); a resumed stage counts from where it was cut off."""
    done = 0
    with task(name, 0, "steps") as advance:

        def tell(step: int, total: int, loss: float) -> None:
            nonlocal done
            advance(step - done, total)
            done = step

        yield tell


@contextmanager
def _bar(name: str, total: int, unit: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    global _live
    texts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with _lock:
        if _live is None:
            _live = Progress(*texts, console=Console(stderr=True), transient=True)
            _live.start()
        bar, row = _live, _live.add_task(name, total=total, rate="")
    try:
        yield lambda done, rate, new_total: bar.update(row, completed=done, total=new_total, rate=f"{rate:,.1f} {unit}/s")
    finally:
        with _lock:
            bar.remove_task(row)
            if not bar.tasks:
                bar.stop()
                _live = None


@contextmanager
def _lines(name: str, total: int, unit: str) -> Iterator[Show]:
    last = time.monotonic()

    def show(done: int, rate: float, new_total: int | None) -> None:
        nonlocal last, total
        total = new_total or total
        if time.monotonic() - last > EVERY_SECONDS:
            last = time.monotonic()
            say(f"{name}: {done:,} of {total:,} {unit}, {rate:,.1f}/s, {(total - done) / max(rate, 1e-9):,.0f} s left")

    yield show


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def say(sentence: str) -> None:
    """Write a sentence to stderr (stdout belongs to results)."""
    if _live is not None:
        _live.console.print(sentence, markup=False, highlight=False)
    else:
        print(sentence, file=sys.stderr, flush=True)
