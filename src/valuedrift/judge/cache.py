"""A judge that keeps its verdicts: what is stored is not read again, and what was read is stored however the work ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from .. import progress
from ..nouns import OUTCOMES, Item, Reading, Stopped
from ..store import Store

TOGETHER = 1024
"""Items judged between two parts on disk, unless the judge says otherwise: what a kill can lose."""
FIRST = 20
"""If none of a judge's first replies can be read, it stops: the others would be paid for like them."""


UNASSIGNED = 0.05
"""Mean share of votes or probability on no label from which on it is said."""


class Kept:
    """The same judge, with a store or, without one, a memory. Equal words are read once; the next command tries judge errors again."""

    def __init__(self, judge: Any, store: Store | None):
        self.judge, self.store = judge, store
        self.identity, self.note = judge.identity, judge.note
        self.agreement, self.exact = getattr(judge, "agreement", None), getattr(judge, "exact", False)
        self.members = [Kept(member, store) for member in getattr(judge, "members", [])]
        self.waits: bool = getattr(judge, "waits", False) or any(member.waits for member in self.members)
        self._told_to_stop = False
        self._read_before: dict[str, Reading] = {}
        self.n_new = 0
        """Verdicts that were not in the store."""
        self._n_unread: int | None = 0
        """How many replies this process could not read from its first one on; None once one was read."""

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
        if any(reading.probs for reading in found.values()):  # also: a command that goes on makes the parts that a whole one makes
            self._n_unread = None
        waiting = [by_key[key] for key in sorted(by_key.keys() - found.keys())]
        if waiting and self.members:
            new = self.judge.pooled(waiting, [member.read(waiting) for member in self.members])
            found |= self._add(waiting, new)
        elif waiting:
            together = getattr(self.judge, "together", TOGETHER)
            with progress.task(f"judge with {self.identity.split('/')[0]}", len(waiting), "verdicts") as advance:
                while waiting:
                    if self._told_to_stop:
                        raise Stopped("the judging was stopped with the sampling beside it; run the same command again")
                    size = together if self._n_unread is None else min(together, max(1, FIRST - self._n_unread))
                    part, waiting = waiting[:size], waiting[size:]
                    readings = self._read(part)
                    found |= self._add(part, readings)
                    self._check_first(part, readings)
                    advance(len(part))
        self._read_before |= {key: found[key] for key in by_key}
        return [found[item.key] for item in items]

    def unread(self, items: Iterable[str] | None = None) -> dict[str, Any]:
        """Return how many verdicts of some items (all that were read) are missing: n, of, share, and the reason of one as `example`.

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
        """Raise Stopped if none of the first replies could be read. Texts without words do not count: no judge is asked for them."""
        asked = {item.key for item in part if re.search(r"\w", item.text)}
        failed = [reading for reading in readings if reading.item in asked and reading.probs is None]
        if self._n_unread is None or len(failed) < len(asked):
            self._n_unread = None
            return
        self._n_unread += len(failed)
        if self._n_unread >= FIRST:
            advice = getattr(self.judge, "advice", "check the judge's model and settings (docs/judge.md)")
            stored = "; these replies are stored and not paid again" if self.store is not None else ""
            raise Stopped(
                f"none of the first {self._n_unread} replies of the judge {self.identity.split('/')[0]!r} could be read "
                f"({failed[0].reason or failed[0].failure}); {advice}{stored}"
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
        """Return the stored readings of this judge on some items: all but `judge_error`, which another try may mend.

        Replies that no verdict or an earlier rule was found for are read again by today's rule, and nothing is paid.
        """
        if not wanted or self.store is None:
            return {}
        earlier = getattr(self.judge, "earlier", [])
        rows = self.store.readings().filter(pl.col("judge").is_in([self.identity, *earlier]), pl.col("item").is_in(list(wanted)))
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
    """Return what a reader must know of the verdicts that are missing."""
    notes = []
    if unread["n"]:
        notes.append(
            f"{unread['n']:,} of {unread['of']:,} {what} have no verdict ({unread['share']:.1%}; the judge failed on them); they count in "
            f"no share. The reason for one of them: {unread['example']}."
        )
    if (unread["unassigned"] or 0) >= UNASSIGNED:
        share = f"{unread['unassigned']:.1%}"
        notes.append(f"On average {share} of the judge's votes or probability is on none of its labels; the verdicts rest on what is left.")
    return notes
