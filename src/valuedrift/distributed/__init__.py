"""Engines carry out what does not depend on each other: stages of training, and the asking of checkpoints.

An engine is one file that defines `class Engine`:

    slots: int                                how many tasks it wants to hold at a time
    def submit(self, key, resources, function, *given) -> None: ...   function and arguments can be pickled
    def next(self) -> tuple[key, result]: ... waits for a task that is done; raises what the task raised, as `Failed`
    def stop(self) -> None: ...               ends what is under way

A task may be begun again when the machine it ran on is lost: it must lead to the same files and the same result.
"""

from __future__ import annotations

from typing import Any


class Failed(Exception):
    """A task ended with an exception."""

    def __init__(self, key: Any, error: BaseException):
        super().__init__(str(error))
        self.key, self.error = key, error
