"""A judge with a store: stored readings are not read again, and new ones are stored even if the work is interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from .. import progress
from ..nouns import OUTCOMES, Item, Reading, Stopped
from ..store import Store
from . import Judge, wordless

PAID = ".paid-readings.jsonl"
"""The file of replies that are paid for and not stored yet."""
FIRST = 20
"""A judge stops if none of so many first replies can be read: it would be paid for the others too."""
UNASSIGNED = 0.05
"""A mean share of votes or probability on no label that is worth a note."""


class CachedJudge(Judge):
    """The same judge with a store or, without one, a memory. Equal words are read once; the next command tries judge errors again."""

    members: list[CachedJudge]

    def __init__(self, judge: Judge, store: Store | None):
        self.judge, self.store = judge, store
        self.identity, self.note, self.agreement, self.exact = judge.identity, judge.note, judge.agreement, judge.exact
        self.is_remote, self.models = judge.is_remote, judge.models
        self.members = [CachedJudge(member, store) for member in judge.members]
        self._told_to_stop = False
        self._read_before: dict[str, Reading] = {}
        self.n_new = 0
        """Verdicts that were not in the store."""
        self._n_unread: int | None = 0
        """How many of this process's first replies could not be read; None after one that could."""

    @property
    def spent(self) -> float:  # type: ignore[override]
        """Return the dollars that this process spent."""
        return self.judge.spent

    def worst_cost(self, items: Sequence[Item]) -> float | None:
        """Return the most dollars that reading these items can cost if none is stored."""
        return self.judge.worst_cost(items)

    def wordings(self) -> list[str]:
        """Return the names of the judge's wordings."""
        return self.judge.wordings()

    def reworded(self, name: str) -> CachedJudge:
        """Return the judge in another wording, with the same store."""
        return CachedJudge(self.judge.reworded(name), self.store)

    def position_bias(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """Return the judge's position bias, which is measured anew each time."""
        return self.judge.position_bias(items)

    def stop(self) -> None:
        """Make a `read` in another thread raise Stopped as soon as its readings are stored."""
        for cached in (self, *self.members):
            cached._told_to_stop = True
        self.judge.stop()

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. Raises Stopped if the judge does; everything paid for is then in the store."""
        by_key = {item.key: item for item in items}
        found = self._stored(by_key.keys() - self._read_before.keys()) | self._read_before
        if any(reading.probs for reading in found.values()):  # a resumed command then makes the same parts as an uninterrupted one
            self._n_unread = None
        waiting = [by_key[key] for key in sorted(by_key.keys() - found.keys())]
        if waiting and self.members:
            new = self.judge.pooled(waiting, [member.read(waiting) for member in self.members])
            found |= self._add(waiting, new)
        elif waiting:
            found |= self._read_new(waiting)
        self._read_before |= {key: found[key] for key in by_key}
        return [found[item.key] for item in items]

    def _read_new(self, waiting: Sequence[Item]) -> dict[str, Reading]:
        """Return readings by item, read and stored in batches."""
        found, most = dict[str, Reading](), self.judge.batch_size
        with progress.task(f"judge with {self.identity.split('/')[0]}", len(waiting), "verdicts") as advance:
            while waiting:
                if self._told_to_stop:
                    raise Stopped("judging stopped because sampling stopped; run the same command again")
                size = most if self._n_unread is None else min(most, max(1, FIRST - self._n_unread))
                part, waiting = waiting[:size], waiting[size:]
                with self.judge.keeping(self.store.root / PAID) if self.store else contextlib.nullcontext():
                    readings = self._read(part)
                    found |= self._add(part, readings)
                self._check_first(part, readings)
                advance(len(part))
        return found

    def unread(self, items: Iterable[str] | None = None) -> dict[str, Any]:
        """Return how many verdicts on these items (by default all items read) are absent: n, of, share, and one reason as `example`.

        `unassigned` is the mean share of votes or of probability on no label, over the other verdicts.
        """
        readings = [self._read_before[item] for item in (self._read_before if items is None else items)]
        failed = [reading for reading in readings if reading.probs is None]
        example = min((reading.reason or str(reading.failure) for reading in failed), key=lambda reason: (len(reason), reason), default="")
        missing = [reading.missing for reading in readings if reading.probs and reading.missing is not None]
        return {
            "n": len(failed),
            "of": len(readings),
            "share": len(failed) / len(readings) if readings else 0.0,
            "example": example,
            "unassigned": sum(missing) / len(missing) if missing else None,
        }

    def _check_first(self, part: Sequence[Item], readings: Sequence[Reading]) -> None:
        """Raise Stopped if none of the first replies could be read. Wordless texts do not count: no judge asks about them."""
        asked = {item.key for item in part if not wordless(item.text)}
        failed = [reading for reading in readings if reading.item in asked and reading.probs is None]
        if self._n_unread is None or len(failed) < len(asked):
            self._n_unread = None
            return
        self._n_unread += len(failed)
        if self._n_unread >= FIRST:
            stored = "; these replies are stored and will not be paid for again" if self.store is not None else ""
            raise Stopped(
                f"none of the first {self._n_unread} replies of the judge {self.identity.split('/')[0]!r} could be read "
                f"({failed[0].reason or failed[0].failure}); {self.judge.advice}{stored}"
            )

    def _read(self, part: Sequence[Item]) -> list[Reading]:
        try:
            return self.judge.read(part)
        except Stopped as stopped:
            self._write(stopped.readings)
            raise

    def _add(self, items: Sequence[Item], readings: Sequence[Reading]) -> dict[str, Reading]:
        self._write(readings)
        self.n_new += len(items)
        return {reading.item: reading for reading in readings}

    def _write(self, readings: Sequence[Reading]) -> None:
        if self.store is not None:
            self.store.add_readings(readings)

    def _stored(self, wanted: set[str]) -> dict[str, Reading]:
        """Return the stored readings of these items, except `judge_error`, which is asked again.

        Stored replies without a verdict, or with one by an earlier rule, are read again by the present rule at no cost.
        """
        if not wanted or self.store is None:
            return {}
        names = [self.identity, *self.judge.earlier]
        rows = self.store.readings().filter(pl.col("judge").is_in(names), pl.col("item").is_in(list(wanted)))
        found, again = dict[str, Reading](), dict[str, Reading]()
        for row in rows.filter(pl.col("failure").is_null() | (pl.col("failure") == "unparsed")).iter_rows(named=True):
            item, of_today = row["item"], row["judge"] == self.identity
            if row["reply"] and (row["failure"] or not of_today):
                again[item] = self.judge.reread(item, row["reply"])
            if of_today and (row["failure"] is None or item not in found):
                probs = None if row["failure"] else tuple(row[name] for name in OUTCOMES)
                kept = (row["reason"] or "", row["missing"], row["reply"] or "")
                found[item] = Reading(item, self.identity, probs, row["failure"], *kept)
        better = {item: new for item, new in again.items() if item not in found or (new.probs and not found[item].probs)}
        self._write(list(better.values()))
        return found | better


def unread_notes(unread: Mapping[str, Any], what: str) -> list[str]:
    """Return notes on absent verdicts and on unassigned mass."""
    notes = []
    if unread["n"]:
        notes.append(
            f"{unread['n']:,} of {unread['of']:,} {what} have no verdict ({unread['share']:.1%}; the judge failed on them) and "
            f"are left out of all shares. One reason: {unread['example']}."
        )
    if (unread["unassigned"] or 0) >= UNASSIGNED:
        share = f"{unread['unassigned']:.1%}"
        notes.append(f"On average {share} of the judge's votes or probability is on none of its labels; verdicts use the rest.")
    return notes
