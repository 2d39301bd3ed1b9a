"""What reaches the terminal: results on stdout, sentences and the progress of long work on stderr.

Everything passes through `shown`, so that a text from outside (a topic, a model's answer, a server's error) cannot act on the terminal.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECRET_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s@'\"]*@")
"""User and password in an address."""
ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of controls, invisible marks of format, halves of pairs, and separators of lines and paragraphs."""
HARMLESS = set("\n\t\u200c\u200d")
"""Line ends and tabs, and the joiners that scripts and emoji need."""
NO_CHARACTERS = "\ufffe\uffff"
"""XML forbids these two, and what draws the charts aborts at them."""

Advance = Callable[..., None]
"""Call advance(n, total=None) when n more units are finished; `total` if it becomes known only now."""
Show = Callable[[int, float, int | None], object]


_live: Any = None
"""The progress bars of the terminal. They are drawn together, because a judge may read while a checkpoint is sampled."""
_lock = threading.Lock()
EVERY_SECONDS = 15.0
"""Seconds between progress lines if there is no terminal."""


def shown(text: str) -> str:
    """Return a text as a terminal can show it: control characters, escape sequences and bidi overrides as \\uXXXX, no password in a URL.

    The escapes are those of JSON, so that JSON stays the same JSON.
    """
    if text.isascii() and text.replace("\n", "").isprintable() and "@" not in text:
        return text
    acts = {each for each in set(text) - HARMLESS if unicodedata.category(each) in ACTING or each in NO_CHARACTERS}
    return SECRET_IN_URL.sub("***@", "".join(_escaped(each) if each in acts else each for each in text))


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@contextmanager
def task(name: str, total: int, unit: str) -> Iterator[Advance]:
    """Yield a function to call with the number of units that were finished."""
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
    """Yield a function that a stage calls after each step with (step, total, loss). A resumed stage counts from its last step."""
    done = 0
    with task(name, 0, "steps") as advance:

        def finished(step: int, total: int, loss: float) -> None:
            nonlocal done
            advance(step - done, total)
            done = step

        yield finished


@contextmanager
def _bar(name: str, total: int, unit: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    global _live
    named, rate = (TextColumn(of, markup=False) for of in ("{task.description}", "{task.fields[rate]}"))
    texts = (named, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with _lock:
        if _live is None:
            _live = Progress(*texts, console=Console(stderr=True), transient=True)
            _live.start()
        bar, row = _live, _live.add_task(shown(name), total=total, rate="")
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

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def say(sentence: str) -> None:
    """Write a sentence to stderr (stdout belongs to results)."""
    if _live is not None:
        _live.console.print(shown(sentence), markup=False, highlight=False)
    else:
        print(shown(sentence), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Write a result to stdout."""
    print(shown(text))
