"""Preference pairs from the layouts that trainers use."""

from __future__ import annotations

import logging
import re
from typing import Any

from ..nouns import BadInput, Pair
from ._rows import Messages, address, messages, missing, rows

logger = logging.getLogger(__name__)

TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def read(source: str) -> list[Pair]:
    """Return the pairs of a source, in order.

    Understood: `prompt`, `chosen`, `rejected` as texts or as message lists, and `chosen` with `rejected` as whole
    conversations that share their prompt (message lists, or texts of "\\n\\nHuman: …\\n\\nAssistant: …" turns).
    Conversations that part before the last reply are no pair of replies to one prompt: they are left out, with a warning.
    Raises BadInput with the place of the first row that is not understood.
    """
    if source.startswith("sandbox:"):
        return _sandbox(source)
    read_rows = [_pair(where, row) for where, row in rows(source)]
    pairs = [pair for pair in read_rows if pair is not None]
    if not pairs:
        raise BadInput(f"{source}: in every row the conversations part before the last reply; give pairs of replies to one prompt")
    if len(pairs) < len(read_rows):
        left_out = len(read_rows) - len(pairs)
        logger.warning(f"{source}: left out {left_out} of {len(read_rows)} rows whose conversations part before the last reply")
    return pairs


def _sandbox(source: str) -> list[Pair]:
    from ..sandbox._data import pairs

    name, query = address(source)
    if name != "pairs":
        raise BadInput(f"{source}: the sandbox makes preference pairs only as sandbox:pairs?…; write that")
    return pairs(query)


def _pair(where: str, row: dict[str, Any]) -> Pair | None:
    if row.get("chosen") is None or row.get("rejected") is None:
        raise missing(where, row, "'chosen' and 'rejected' (and 'prompt', unless both are whole conversations)")
    chosen, rejected = (_turns(row[key], where) for key in ("chosen", "rejected"))
    if row.get("prompt") is None:
        if len(chosen) < 2 or len(rejected) < 2:
            raise missing(where, row, "'prompt', or 'chosen' and 'rejected' as whole conversations")
        return _replies(where, chosen, rejected)
    prompt = _prompt(row["prompt"], where)
    if isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        return Pair(prompt, row["chosen"], row["rejected"])
    # Some sets repeat the prompt inside both conversations.
    chosen, rejected = (prompt + turns if turns[0][0] == "assistant" else turns for turns in (chosen, rejected))
    return _replies(where, chosen, rejected)


def _replies(where: str, chosen: Messages, rejected: Messages) -> Pair | None:
    """Return the pair of last replies, or None where the conversations differ before them."""
    for turns in (chosen, rejected):
        if turns[-1][0] != "assistant":
            raise BadInput(
                f"{where}: the last message is by {turns[-1][0]!r}, not by 'assistant'; give conversations that end in the reply"
            )
    if chosen[:-1] != rejected[:-1]:
        return None
    return Pair(chosen[:-1], chosen[-1][1], rejected[-1][1])


def _prompt(value: Any, where: str) -> Messages:
    turns = (_dialogue(value) or (("user", value),)) if isinstance(value, str) else _turns(value, where)
    # "…\n\nAssistant:" only says whose turn it is.
    return turns[:-1] if turns[-1] == ("assistant", "") else turns


def _turns(value: Any, where: str) -> Messages:
    """Return the messages of a reply or a whole conversation; a text without turns is one reply."""
    if isinstance(value, str):
        return _dialogue(value) or (("assistant", value),)
    if value == []:
        raise BadInput(f"{where}: an empty list of messages; take the row out")
    return messages(value, where)


def _dialogue(text: str) -> Messages | None:
    """Return the turns of a "\n\nHuman: …\n\nAssistant: …" text, or None where it does not begin as one."""
    first = TURN.match(text)
    if not first or first.group(1) != "Human":
        return None
    parts = TURN.split(text)[1:]
    return tuple((ROLES[role], turn.strip()) for role, turn in zip(parts[::2], parts[1::2], strict=True))
