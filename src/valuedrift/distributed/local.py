"""One task after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import distributed
from . import Failed


class Engine(distributed.Engine):
    """Carries out a task when its result is asked for."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, key: Any, resources: Any, function: Callable[..., Any], *given: Any) -> None:
        """Take a task; it runs with the resources of this machine."""
        self._waiting.append((key, function, given))

    def next(self) -> tuple[Any, Any]:
        """Carry out the next task. Raises Failed."""
        key, function, given = self._waiting.pop(0)
        try:
            return key, function(*given)
        except Exception as error:
            raise Failed(key, error) from error

    def stop(self) -> None:
        """Drop the tasks that wait."""
        self._waiting.clear()
