"""Read the records of any source: preference pairs or texts to imitate, with an account of the rows read and left out."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..nouns import BadInput, Example, Pair
from . import layouts
from .layouts import Graded
from .rows import address, attempts, present
from .turns import Unfit

logger = logging.getLogger(__name__)

Kind = Literal["pairs", "examples"]
MAX_BAD_ROWS = 0.05
"""Largest share of unreadable rows that may be left out."""
ONE_OF = 10
"""In a source of at least this many rows, one bad row may be left out even if it is more than MAX_BAD_ROWS of them."""
LONE = "no other row has a better or worse reply to the same prompt"
HALF = "half of a surrogate pair in a text was replaced by '?'"
BETWEEN = "the reply is neither the best nor the worst of its prompt"


@dataclass
class Rows:
    """A group of rows with something in common."""

    n: int
    first: str
    """The place of the first row."""
    bad: bool = False
    """Whether the rows could not be read. Rows without a preference (ties, say) can be read."""


@dataclass
class Account:
    """How many rows of one source were read, noted and left out."""

    source: str
    n_rows: int = 0
    n_records: int = 0
    used: Counter[str] = field(default_factory=Counter)
    """Column -> number of rows that used it."""
    unused: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, Rows] = field(default_factory=dict)
    """Reason -> the rows left out for it."""
    noted: dict[str, Rows] = field(default_factory=dict)
    """Warning -> the rows that were read with it."""

    def leave_out(self, reason: str, where: str, bad: bool) -> None:
        """Count a row that is left out."""
        self.left_out.setdefault(reason, Rows(0, where, bad)).n += 1

    def note(self, what: str, where: str) -> None:
        """Count a row that is read with a warning."""
        self.noted.setdefault(what, Rows(0, where)).n += 1

    @property
    def n_bad(self) -> int:
        """Return the rows that could not be read."""
        return sum(left.n for left in self.left_out.values() if left.bad)

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON: part of `gap --json` and of the record of a trained stage."""
        return {
            "source": self.source,
            "n_rows": self.n_rows,
            "n_records": self.n_records,
            "columns_used": sorted(self.used),
            "columns_not_used": sorted(self.unused.keys() - self.used.keys()),
            "left_out": [{"reason": reason} | dataclasses.asdict(left) for reason, left in self.left_out.items()],
            "noted": [{"what": what, "n": rows.n, "first": rows.first} for what, rows in self.noted.items()],
            "sentences": self.sentences(),
        }

    def sentences(self) -> list[str]:
        """Return the notes that a reader of the figures needs, one sentence each; none for a set that the sandbox made."""
        if not self.used:
            return []
        used, unused = sorted(self.used), sorted(self.unused.keys() - self.used.keys())
        columns = f"columns used: {_listed(used)}" + (f"; not used: {_listed(unused)}" if unused else "")
        n_rows = _count(self.n_rows, "row")
        found = [f"{_count(self.n_records, 'record')} from {n_rows}; {columns}."]
        found += [f"left out {rows.n:,} of {n_rows} where {why} (first: {rows.first})." for why, rows in self.left_out.items()]
        found += [f"in {_count(rows.n, 'row')} {what} (first: {rows.first})." for what, rows in self.noted.items()]
        return [f"{self.source}: {sentence}" for sentence in found]


class Records(list[Any]):
    """Pairs or examples, all of one kind, with an account of each source and the place of each record in it."""

    def __init__(self, records: Iterable[Pair | Example] = (), accounts: Sequence[Account] = (), places: Sequence[str] = ()):
        super().__init__(records)
        self.accounts, self._places = list(accounts), list(places)

    def place(self, number: int) -> str:
        """Return the file and line of a record, counted from 0."""
        return (self._places[number] if self._places else "") or f"record {number + 1} of the data"


def read(sources: str | Sequence[str], kind: Kind | None = None, max_bad_rows: float = MAX_BAD_ROWS) -> Records:
    """Return the records of one or several sources, in order. `accounts` counts the rows left out; each reason is logged once.

    Without a kind, the first readable row of each source decides its kind. Replies with a label or score of their own (KTO) make pairs of a
    better and a worse reply to the same prompt. Raises BadInput if a source is of another kind, if sources are of different kinds, if a
    source has no records left, or if more than `max_bad_rows` of its rows cannot be read.
    """
    given = [sources] if isinstance(sources, str) else sources
    parts = {source: _source(source, kind, max_bad_rows) for source in given}
    are_pairs = {source: isinstance(part[0][0][1], Pair) for source, part in parts.items()}
    if len(set(are_pairs.values())) > 1:
        pairs, texts = (next(source for source in given if are_pairs[source] is is_pair) for is_pair in (True, False))
        raise BadInput(f"{pairs} holds pairs and {texts} single texts, which are measured differently; give one kind at a time")
    for _, account in parts.values():
        for sentence in account.sentences():
            _log(sentence)
    found = [entry for source in given for entry in parts[source][0]]
    accounts = [account for _, account in parts.values()]
    return Records([record for _, record in found], accounts, [where for where, _ in found])


@functools.cache
def _log(sentence: str) -> None:
    """Log a sentence once per process: a plan reads the data of a stage for every seed."""
    logger.warning(sentence)


def _source(source: str, kind: Kind | None, max_bad_rows: float) -> tuple[list[tuple[str, Any]], Account]:
    """Return the records of one source, each with its place, and the account of its rows."""
    if source.startswith("sandbox:"):
        made = _sandbox(source, kind)
        return [("", record) for record in made], Account(source, len(made), len(made))
    account = Account(source)
    found: list[tuple[str, Pair | Example | Graded]] = []
    faults: list[str] = []
    for where, row in attempts(source):
        account.n_rows += 1
        if isinstance(row, BadInput):
            faults.append(str(row))
            account.leave_out("the line is not a row", where, bad=True)
            continue
        try:
            cells, record = _row(row, kind)
            unused = [] if isinstance(record, str) else cells.unused(pair=not isinstance(record, Example))
        except Unfit as fault:
            faults.append(f"{where}: {fault}")
            account.leave_out(fault.reason, where, bad=True)
            continue
        if isinstance(record, str):
            account.leave_out(record, where, bad=False)
        else:
            if (whole := _whole(record)) != record:
                account.note(HALF, where)
            found.append((where, whole))
        account.used.update(cells.used)
        account.unused.update(unused)
        kind = kind or ("examples" if isinstance(record, Example) else "pairs")
        for what in cells.notes:
            account.note(what, where)
    _refuse(source, account, faults, max_bad_rows)
    records = _paired(found, account)
    account.n_records = len(records)
    if not records:
        raise BadInput(f"{source}: in every row {' or '.join(account.left_out)}; give pairs of replies to one prompt")
    return records, account


def _row(row: dict[str, Any], kind: Kind | None) -> tuple[layouts.Cells, Pair | Example | Graded | str]:
    """Return a row's cells and its record (or why it holds no preference). Raises Unfit if it is not a readable row of this kind."""
    cells = layouts.cells(row)
    record = layouts.record(cells)
    if record is None:
        pairs, texts = f"for preference pairs {layouts.PAIRS}", f"for single texts {layouts.TEXTS}"
        needed = {"pairs": layouts.PAIRS, "examples": layouts.TEXTS, None: f"{pairs}; {texts}"}[kind]
        shown = f": a row needs {needed}, but has the keys {present(row)}"
        raise Unfit("the columns are of no known layout", shown, "rename or convert them")
    if kind == "pairs" and isinstance(record, Example):
        shown = f": it needs {layouts.PAIRS}, but has the keys {present(row)}"
        raise Unfit("the row holds a text to imitate and no preference", shown, "give preferences")
    if kind == "examples" and isinstance(record, Graded):
        why = f"the column {record.column!r} says how good each reply is, which imitation ignores"
        raise Unfit(why, cure="train on it with kto or dpo, or keep the good replies and remove the column")
    if kind == "examples" and not isinstance(record, Example):
        raise Unfit("the row holds a preference and no text to imitate", cure=f"give {layouts.TEXTS}")
    return cells, record


def _whole(record: Any) -> Any:
    """Return a record with "?" in place of every half of a surrogate pair, because no tokenizer takes one."""
    texts = {name: text.encode(errors="replace").decode() for name, text in vars(record).items() if isinstance(text, str)}
    prompt = tuple((role, text.encode(errors="replace").decode()) for role, text in record.prompt)
    return dataclasses.replace(record, prompt=prompt, **texts)


def _refuse(source: str, account: Account, faults: list[str], max_bad_rows: float) -> None:
    """Raise BadInput with the first fault and the number of faults if more rows than allowed could not be read."""
    allowed = max(max_bad_rows * account.n_rows, 1 if max_bad_rows and account.n_rows >= ONE_OF else 0)
    if account.n_bad <= allowed:
        return
    if len(faults) == 1:
        raise BadInput(faults[0])
    reasons = "; ".join(f"{left.n:,}: {reason}" for reason, left in account.left_out.items() if left.bad)
    raise BadInput(f"{faults[0]} ({len(faults):,} of {account.n_rows:,} rows cannot be read, more than {max_bad_rows:.0%}: {reasons})")


def _paired(found: Sequence[tuple[str, Pair | Example | Graded]], account: Account) -> list[tuple[str, Pair | Example]]:
    """Return the records with their places. Graded replies become pairs, each at the place of the first reply to its prompt."""
    groups: dict[Any, list[tuple[str, Graded]]] = {}
    for where, record in found:
        if isinstance(record, Graded):
            groups.setdefault((record.prompt, record.topic, record.claim), []).append((where, record))
    records: list[tuple[str, Pair | Example]] = []
    for where, record in found:
        if not isinstance(record, Graded):
            records.append((where, record))
        elif group := groups.pop((record.prompt, record.topic, record.claim), None):
            records += [(where, pair) for pair in _of_group(group, account)]
    return records


def _of_group(group: Sequence[tuple[str, Graded]], account: Account) -> list[Pair]:
    """Return the pairs among the graded replies to one prompt.

    Labels pair each desirable reply with an undesirable one, in order; the shorter list starts again. Scores pair the best reply with the
    worst.
    """
    best, worst = (end(reply.grade for _, reply in group) for end in (max, min))
    if best == worst:
        for where, _ in group:
            account.leave_out(LONE, where, bad=False)
        return []
    good, bad = ([reply for _, reply in group if reply.grade == end] for end in (best, worst))
    n = max(len(good), len(bad)) if group[0][1].column in layouts.LABELS else 1
    for where, reply in group:
        if reply not in (good[:n] + bad[:n]):
            account.leave_out(BETWEEN, where, bad=False)
    return [
        Pair(one.prompt, one.text, other.text, one.topic, one.claim)
        for one, other in ((good[at % len(good)], bad[at % len(bad)]) for at in range(n))
    ]


def _sandbox(source: str, kind: Kind | None) -> list[Any]:
    from ..world import sets

    name, query = address(source)
    made = {"pairs": sets.pairs, "stock-pairs": sets.stock_pairs}
    if name in made and kind != "examples":
        return made[name](query)
    if kind == "pairs":
        raise BadInput(f"{source}: the sandbox makes preference pairs only as sandbox:pairs?… and sandbox:stock-pairs?…; write one of them")
    return sets.examples(name, query)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
