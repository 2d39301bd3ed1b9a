"""Tables and numbers for people."""

from __future__ import annotations

from typing import Any

from ..progress import shown


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
