"""Several replies to one prompt with a score each, as in UltraFeedback: the best and the worst of them make a pair."""

from __future__ import annotations

import math
from typing import Any

from ..nouns import BadInput

LISTS = ("completions", "responses", "generations", "all_generated_responses")
"""Columns that hold the replies: objects with a text and a score, or texts whose scores stand in another column."""
SCORE_LISTS = ("scores", "rm_scores", "ratings", "all_rm_scores")
TEXTS = ("response", "completion", "text", "content")
SCORES = ("fine-grained_score", "overall_score", "score", "rating")
TIED = "the best and the worst reply score the same"
FEW = "fewer than two replies carry a score"


def fits(row: dict[str, Any]) -> bool:
    """Return whether a row holds a list of replies with scores."""
    replies = _first(row, LISTS)
    return isinstance(replies, list) and (_first(row, SCORE_LISTS) is not None or bool(replies and isinstance(replies[0], dict)))


def best_and_worst(where: str, row: dict[str, Any]) -> tuple[str, str] | str:
    """Return the replies with the highest and the lowest score, or why there is no such pair. Of equal scores the first reply counts."""
    replies, listed = _first(row, LISTS), _first(row, SCORE_LISTS)
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != len(replies):
            raise BadInput(f"{where}: {len(replies)} replies and the scores {str(listed)[:60]}; give one score per reply")
        replies = [
            {"score": score} | (reply if isinstance(reply, dict) else {"text": reply}) for reply, score in zip(replies, listed, strict=True)
        ]
    scored = [(score, text) for score, text in (_reply(where, reply) for reply in replies) if score is not None]
    if len(scored) < 2:
        return FEW
    best, worst = max(scored, key=lambda reply: reply[0]), min(scored, key=lambda reply: reply[0])
    return TIED if best[0] == worst[0] else (best[1], worst[1])


def _reply(where: str, reply: Any) -> tuple[float | None, str]:
    text = _first(reply, TEXTS) if isinstance(reply, dict) else None
    if not isinstance(text, str):
        raise BadInput(
            f"{where}: a reply needs its text under one of {', '.join(map(repr, TEXTS))}, not {str(reply)[:60]}; correct the row"
        )
    return _rated(reply.get("annotations")) or next((score for key in SCORES if (score := _number(reply.get(key))) is not None), None), text


def _rated(annotations: Any) -> float | None:
    """Return the mean rating over UltraFeedback's aspects, None where one is missing.

    It comes before `overall_score`, which in that set stands at 10 where the critic gave 1 (the data card of Argilla's
    ultrafeedback-binarized-preferences says why).
    """
    if not isinstance(annotations, dict) or not annotations:
        return None
    ratings = [_number(aspect.get("Rating")) if isinstance(aspect, dict) else None for aspect in annotations.values()]
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if len(known) == len(ratings) else None


def _number(value: Any) -> float | None:
    """Return a finite score; some sets write "N/A", and some write numbers as texts."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
