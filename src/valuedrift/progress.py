"""Progress of long work on stderr: a bar with rate and time left on a terminal, a line per finished task elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""advance(n, total=None): n more units are finished; `total` where it becomes known only now."""


@contextmanager
def task(name: str, total: int, unit: str) -> Iterator[Advance]:
    """Yield a function that is told how many units were finished."""
    started, done = time.monotonic(), 0
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            row = bar.add_task(name, total=total, rate="")

            def advance(n: int, total: int | None = None) -> None:
                nonlocal done
                done += n
                rate = done / max(time.monotonic() - started, 1e-9)
                bar.update(row, completed=done, total=total, rate=f"{rate:,.0f} {unit}/s")

            yield advance
    else:

        def advance(n: int, total: int | None = None) -> None:
            nonlocal done
            done += n

        yield advance
    seconds = time.monotonic() - started
    if done:
        say(f"{name}: {done:,} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f}/s)")


def say(sentence: str) -> None:
    """Write a sentence to stderr (stdout belongs to results)."""
    print(sentence, file=sys.stderr, flush=True)
