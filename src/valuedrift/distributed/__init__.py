"""Engines carry out independent tasks: stages of training, and the evaluation of checkpoints.

An engine is one file with a `class Engine` that derives from the class here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..plan import Resources


class Engine:
    """Carries out tasks. A task may start again if its machine is lost: a second start must write the same files and return the same."""

    slots: int = 1
    """How many tasks the engine takes at a time."""

    def submit(self, key: Any, resources: Resources | None, function: Callable[..., Any], *given: Any) -> None:
        """Take a task. The function and its arguments can be pickled."""
        raise NotImplementedError

    def next(self) -> tuple[Any, Any]:
        """Wait for a task to end and return its key and result. Raises Failed if the task raised."""
        raise NotImplementedError

    def stop(self) -> None:
        """Drop the tasks that wait, and end those under way."""
        raise NotImplementedError


class Failed(Exception):
    """A task ended with an exception."""

    def __init__(self, key: Any, error: BaseException):
        super().__init__(str(error))
        self.key, self.error = key, error
