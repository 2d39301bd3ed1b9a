"""Preference pairs from the layouts that trainers use."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any

from ..nouns import BadInput, Pair
from . import _scored
from ._rows import PROMPTS, Messages, address, messages, missing, rows, stated, system

logger = logging.getLogger(__name__)

LAYOUTS = (
    "'chosen' with 'rejected' (and 'prompt', 'instruction' or 'question', unless both are whole conversations), or "
    "'prompt' with 'completions' that carry scores, or with 'responses' and 'scores'"
)
ALIASES = {"chosen_response": "chosen", "rejected_response": "rejected"}
TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
PARTED = "the conversations part before the last reply"


def read(source: str) -> list[Pair]:
    """Return the pairs of a source, in order.

    Understood: `prompt` (or `instruction`, `question`, …), `chosen`, `rejected` as texts or as message lists; `chosen` with `rejected` as
    whole conversations that share their prompt (message lists, or texts of "\\n\\nHuman: …\\n\\nAssistant: …" turns); `completions` with
    scores, as in UltraFeedback, of which the best is chosen and the worst rejected. Scores beside `chosen` and `rejected` change nothing.
    Rows that hold no preference between two replies to one prompt are left out, with a warning that counts them.
    Raises BadInput with the place of the first row that is not understood.
    """
    if source.startswith("sandbox:"):
        return _sandbox(source)
    found = [_pair(where, row) for where, row in rows(source)]
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    lost = Counter(reason for reason in found if isinstance(reason, str))
    if not pairs:
        raise BadInput(f"{source}: in every row {' or '.join(lost)}; give pairs of replies to one prompt")
    for reason, n in lost.items():
        logger.warning(f"{source}: left out {n} of {len(found)} rows where {reason}")
    return pairs


def fits(row: dict[str, Any]) -> bool:
    """Return whether a row is laid out as a preference."""
    return not {"chosen", "rejected", *ALIASES}.isdisjoint(row) or _scored.fits(row)


def _sandbox(source: str) -> list[Pair]:
    from ..sandbox import _data

    name, query = address(source)
    made = {"pairs": _data.pairs, "stock-pairs": _data.stock_pairs}
    if name not in made:
        raise BadInput(f"{source}: the sandbox makes preference pairs only as sandbox:pairs?… and sandbox:stock-pairs?…; write one of them")
    return made[name](query)


def _pair(where: str, row: dict[str, Any]) -> Pair | str:
    """Return the pair of a row, or why it holds none."""
    row = {ALIASES.get(key, key): value for key, value in row.items()}
    prompt = next((_prompt(row[key], where) for key in PROMPTS if row.get(key) is not None), None)
    if row.get("chosen") is None and _scored.fits(row):
        if prompt is None:
            raise missing(where, row, LAYOUTS)
        replies = _scored.best_and_worst(where, row)
        return replies if isinstance(replies, str) else Pair(_opened(row, prompt), *replies, **stated(row))
    if row.get("chosen") is None or row.get("rejected") is None:
        raise missing(where, row, LAYOUTS)
    chosen, rejected = (_turns(row[key], where) for key in ("chosen", "rejected"))
    if prompt is None:
        if len(chosen) < 2 or len(rejected) < 2:
            raise missing(where, row, "'prompt', or 'chosen' and 'rejected' as whole conversations")
        return _replies(where, row, chosen, rejected)
    if isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        return Pair(_opened(row, prompt), row["chosen"], row["rejected"], **stated(row))
    # Some sets repeat the prompt inside both conversations.
    chosen, rejected = (prompt + turns if turns[0][0] == "assistant" else turns for turns in (chosen, rejected))
    return _replies(where, row, chosen, rejected)


def _replies(where: str, row: dict[str, Any], chosen: Messages, rejected: Messages) -> Pair | str:
    """Return the pair of last replies, or why there is none: the conversations differ before them."""
    for turns in (chosen, rejected):
        if turns[-1][0] != "assistant":
            raise BadInput(
                f"{where}: the last message is by {turns[-1][0]!r}, not by 'assistant'; give conversations that end in the reply"
            )
    if chosen[:-1] != rejected[:-1]:
        return PARTED
    return Pair(_opened(row, chosen[:-1]), chosen[-1][1], rejected[-1][1], **stated(row))


def _opened(row: dict[str, Any], prompt: Messages) -> Messages:
    """Return the prompt with the system message of the row's own column before it."""
    return prompt if prompt and prompt[0][0] == "system" else system(row) + prompt


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
    return tuple((SPEAKERS[role], turn.strip()) for role, turn in zip(parts[::2], parts[1::2], strict=True))
