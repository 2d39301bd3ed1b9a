"""The program: how a verb's result is printed, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from ..distributed import storage
from ..nouns import BadInput, Stopped
from ..progress import say, shown, tell

INTERRUPTED = 130
Usage: Any = typer.BadParameter.__base__
"""What typer raises for options that it cannot read; it has no public name."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trace where a model's values come from, and when they move.",
)


def output(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print a result as JSON, or by `show` for people."""
    if as_json:
        tell(json.dumps(result, ensure_ascii=False))
    else:
        show(result)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table with its title above it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # reads no markup: a stage's name may hold brackets

    grid = Table()
    for index, column in enumerate(columns):
        grid.add_column(Text(shown(column)), justify="left" if index < 2 else "right", no_wrap=index < 2)
    for row in rows:
        grid.add_row(*(Text(shown(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file or a pipe has no width of its own
    console.print(Text(shown(title)), soft_wrap=True)  # a title inside the table would be cut to the table's width
    console.print(grid)


def number(value: float | None) -> str:
    """Return a number with three digits, or "no evidence"."""
    return "no evidence" if value is None else f"{value:.3f}"


def interval(row: dict[str, Any], sign: str = "+") -> str:
    """Return a number with its interval; `sign` is empty for a share, which has none."""
    if row["value"] is None:
        return "no evidence"
    value, low, high = (None if row[name] is None else f"{row[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def main() -> None:
    """Run the command line; turn bad input into one sentence and exit code 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start background jobs with it switched off
    try:
        with storage.sending():
            code = app(standalone_mode=False)
    except BadInput as error:
        leave(str(error), 2)
    except Stopped as error:
        leave(str(error), 3)
    except Usage as error:
        message, command = error.format_message(), error.ctx.command_path if error.ctx else "valuedrift"
        if "Usage:" in message:  # no verb at all: the help itself
            error.show()
            sys.exit(2)
        leave(f"{message.rstrip('.?')}; '{command} --help' shows what there is", 2)
    if code == INTERRUPTED:
        leave("interrupted; the same command again finishes the rest", INTERRUPTED)
    sys.exit(code or 0)


def leave(sentence: str, code: int) -> None:
    """Print one sentence and exit."""
    say(f"valuedrift: {' '.join(sentence.split())}")
    sys.exit(code)
