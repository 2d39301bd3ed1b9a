"""A judge that keeps its verdicts: what stands in the store is not read again, and what was read stays there however the work ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from .. import progress
from ..nouns import OUTCOMES, Item, Reading, Stopped
from ..store import Store

TOGETHER = 1024
"""Items judged between two parts on disk, unless the judge says otherwise: what a kill can lose."""


class Kept:
    """The same judge, with a store. Equal words are read once; what failed for want of an answer is tried again by the next command."""

    def __init__(self, judge: Any, store: Store):
        self.judge, self.store = judge, store
        self.identity, self.note = judge.identity, judge.note
        self.agreement, self.exact = getattr(judge, "agreement", None), getattr(judge, "exact", False)
        self.members = [Kept(member, store) for member in getattr(judge, "members", [])]
        self.waits: bool = getattr(judge, "waits", False) or any(member.waits for member in self.members)
        self._told_to_stop = False
        self._read_before: dict[str, Reading] = {}
        self.n_new = 0
        """Verdicts that were not in the store."""

    @property
    def spent(self) -> float:
        """Return the dollars that this process has paid."""
        return sum(member.spent for member in self.members) if self.members else getattr(self.judge, "spent", 0.0)

    def stop(self) -> None:
        """Let a `read` in another thread raise Stopped when what it is about to be told is in the store."""
        for kept in (self, *self.members):
            kept._told_to_stop = True
            if hasattr(kept.judge, "stop"):
                kept.judge.stop()

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. Raises Stopped where the judge does, with all that was paid for in the store."""
        by_key = {item.key: item for item in items}
        found = self._stored(by_key.keys() - self._read_before.keys()) | self._read_before
        waiting = [by_key[key] for key in sorted(by_key.keys() - found.keys())]
        if waiting and self.members:
            new = self.judge.pooled(waiting, [member.read(waiting) for member in self.members])
            found |= self._add(waiting, new)
        elif waiting:
            together = getattr(self.judge, "together", TOGETHER)
            with progress.task(f"judge with {self.identity.split('/')[0]}", len(waiting), "verdicts") as advance:
                for start in range(0, len(waiting), together):
                    if self._told_to_stop:
                        raise Stopped("the judging was stopped with the sampling beside it; run the same command again")
                    part = waiting[start : start + together]
                    found |= self._add(part, self._read(part))
                    advance(len(part))
        self._read_before |= {key: found[key] for key in by_key}
        return [found[item.key] for item in items]

    def _read(self, part: Sequence[Item]) -> list[Reading]:
        try:
            return self.judge.read(part)
        except Stopped as stopped:
            self.store.add_readings(stopped.readings)
            raise

    def _add(self, items: Sequence[Item], readings: Sequence[Reading]) -> dict[str, Reading]:
        self.store.add_readings(readings)
        self.n_new += len(items)
        return {reading.item: reading for reading in readings}

    def _stored(self, wanted: set[str]) -> dict[str, Reading]:
        """Return the stored readings of this judge on some items: all but `judge_error`, which another try may mend."""
        if not wanted:
            return {}
        of_this = (pl.col("judge") == self.identity) & (pl.col("failure").is_null() | (pl.col("failure") == "unparsed"))
        found = {}
        for row in self.store.readings().filter(of_this).iter_rows(named=True):
            if row["item"] in wanted and (row["failure"] is None or row["item"] not in found):
                probs = None if row["failure"] else tuple(row[name] for name in OUTCOMES)
                found[row["item"]] = Reading(row["item"], row["judge"], probs, row["failure"], row["reason"] or "", row["missing"])
        return found
