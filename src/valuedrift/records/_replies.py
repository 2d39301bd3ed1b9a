"""Decide which of several replies is better, from a verdict between two or from a score or rank for each."""

from __future__ import annotations

import math
from typing import Any

from .turns import Unfit

TIE = "the verdict is a tie"
TIED = "the best and the worst reply score the same"
FEW = "fewer than two replies have a score"

NAMED = ("winner", "better_response_id", "preference", "choice")
"""Verdicts that name a reply by the end of its column's name: "model_a", "A", 0, 1, 2."""
SIGNED = ("overall_preference", "preference_strength")
"""Verdicts from -3 to 3: below 0 the first reply is better (HelpSteer)."""
FIRST = ("labels",)
"""Verdicts that are 1 if the first reply is better, else 0 (SHP)."""
ONE_EACH = ("winner_model_a", "winner_model_b", "winner_tie")
TIES = ("tie", "tie (bothbad)", "bothbad", "both_bad", "both bad", "both", "neither", "draw", "equal", "same", "1.5")
CONTRADICTING = ("safer_response_id",)
"""A second verdict in the form of NAMED (PKU-SafeRLHF). It is not used; a row is noted if it says the opposite."""

LISTS = ("completions", "responses", "generations", "all_generated_responses", "answers")
"""Columns that hold several replies: objects with a text and a score, or texts with their scores in another column."""
SCORES_OF = ("scores", "rm_scores", "ratings", "all_rm_scores", "ranks")
TEXTS = ("response", "completion", "text", "content", "answer")
SCORES = ("fine-grained_score", "overall_score", "score", "rating", "pm_score", "rank")
OWN_SYSTEM = "custom_system_prompt"
"""UltraFeedback's own system message for each reply to a prompt."""
LOWEST_IS_BEST = ("rank", "ranks")


def truth(value: Any) -> float:
    """Return 1 for a desirable reply and 0 for an undesirable one."""
    found = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "-1": 0.0, "-1.0": 0.0}.get(str(value).strip().lower())
    if found is None:
        raise Unfit(
            "the label is neither true nor false", f" but {value!r:.60}", "correct the row, or rename the column if it is not a label"
        )
    return found


def grade(value: Any) -> float:
    """Return the score of a reply as a number."""
    if (found := number(value)) is None:
        raise Unfit("the score of the reply is not a number", f" but {value!r:.60}", "correct the row")
    return found


def better(found: Any, first: str, second: str) -> int | None:
    """Return 0 or 1 for the better reply of two columns, None for a tie. Raises Unfit without a verdict that is understood."""
    ends = tuple(name.lower().replace("_", "")[-1] for name in (first, second))
    if column := found.first(SIGNED):
        sign = grade(found.take(column))
        return None if sign == 0 else int(sign > 0)
    if column := found.first(FIRST) if ends == ("a", "b") else "":
        return 1 - int(truth(found.take(column)))
    if column := found.first(NAMED):
        verdict = _named(found.take(column), ends, column)
        if verdict is not None:
            other = [name for name in CONTRADICTING if found.has(name) and _named(found.row[name], ends, name) == 1 - verdict]
            found.notes += [f"the unused column {name!r} contradicts the preference" for name in other]
        return verdict
    if all(found.has(name) for name in ONE_EACH[:2]):
        sides = [grade(found.take(name)) for name in ONE_EACH if found.has(name)]
        if sorted(sides)[:-1] != [0] * (len(sides) - 1):
            raise Unfit("the columns winner_model_a, winner_model_b and winner_tie do not name one winner")
        return sides.index(max(sides)) if max(sides[:2]) > 0 else None
    scores = [f"score_{name[-1]}" for name in (first, second)]
    if all(found.has(name) for name in scores):
        one, two = (grade(found.take(name)) for name in scores)
        return None if one == two else int(two > one)
    raise Unfit(f"no column says which of {first!r} and {second!r} is better", cure=f"add one, for example {NAMED[0]!r}")


def _named(value: Any, ends: tuple[str, ...], column: str) -> int | None:
    text = str(value).strip().lower()
    if text in TIES or (text in ("0", "0.0") and "0" not in ends):
        return None
    short = text.removesuffix(".0").rpartition("_")[2]
    if isinstance(value, bool) or short not in ends:
        raise Unfit(f"the column {column!r} names neither reply", f" but is {value!r:.60}", f"write {ends[0]!r}, {ends[1]!r} or 'tie'")
    return ends.index(short)


# -- a score for each ------------------------------------------------------------------------------------------------------------


def fits(row: dict[str, Any]) -> bool:
    """Return whether a row holds a list of replies with scores."""
    replies = _first(row, LISTS)
    return isinstance(replies, list) and (_first(row, SCORES_OF) is not None or bool(replies and isinstance(replies[0], dict)))


def best_and_worst(found: Any) -> tuple[str, str] | str:
    """Return the replies with the highest and the lowest score, or why there is no such pair. Of equal scores the first reply is taken."""
    replies = found.take(found.first(LISTS))
    if any(isinstance(reply, dict) and reply.get(OWN_SYSTEM) for reply in replies):
        found.notes.append(f"each reply's own system message ({OWN_SYSTEM!r}) is not used")
    if column := found.first(SCORES_OF):
        listed = found.take(column)
        if not isinstance(listed, list) or len(listed) != len(replies):
            shown = f": {len(replies)} replies and the scores {str(listed)[:60]}"
            raise Unfit("the scores are not one per reply", shown, "give one score per reply")
        score = "rank" if column in LOWEST_IS_BEST else "score"
        replies = [
            {score: given} | ({key: reply[key] for key in TEXTS if key in reply} if isinstance(reply, dict) else {"text": reply})
            for given, reply in zip(listed, replies, strict=True)
        ]
    scored = [(score, text) for score, text in map(_reply, replies) if score is not None]
    if len(scored) < 2:
        return FEW
    best, worst = max(scored, key=lambda reply: reply[0]), min(scored, key=lambda reply: reply[0])
    return TIED if best[0] == worst[0] else (best[1], worst[1])


def _reply(reply: Any) -> tuple[float | None, str]:
    text = _first(reply, TEXTS) if isinstance(reply, dict) else None
    if not isinstance(text, str):
        raise Unfit("a reply needs its text", f" under one of {', '.join(map(repr, TEXTS))}, not {str(reply)[:60]}", "correct the row")
    if (rated := _rated(reply.get("annotations"))) is not None:
        return rated, text
    name, score = next(((key, score) for key in SCORES if (score := number(reply.get(key))) is not None), ("", None))
    return (-score if score is not None and name in LOWEST_IS_BEST else score), text


def _rated(annotations: Any) -> float | None:
    """Return the mean rating over UltraFeedback's aspects, None if one is missing.

    It precedes `overall_score`, which is 10 in that set for some replies that the critic rated 1 (see the data card of Argilla's
    ultrafeedback-binarized-preferences).
    """
    if not isinstance(annotations, dict) or not annotations:
        return None
    ratings = [number(aspect.get("Rating")) if isinstance(aspect, dict) else None for aspect in annotations.values()]
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if len(known) == len(ratings) else None


def number(value: Any) -> float | None:
    """Return a finite score, or None. Some sets write "N/A", and some write numbers as texts."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
