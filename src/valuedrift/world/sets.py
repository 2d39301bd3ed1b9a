"""Make the training data of the sandbox: pretraining mix, chat with a stance habit, preference pairs with a set gap, anchors.

Every set is a pure function of its address ("sandbox:pairs?gap=0.5&direction=support"), so two plans with the same address train on the
same data. No question of a trace suite occurs in any of it (a test compares them).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Set
from typing import TypeVar

from ..nouns import STANCES, BadInput, Example, Outcome, Pair
from ..registry import among
from . import grammar

HABITS: dict[str, dict[Outcome, float]] = {
    # The shares that the paper reports for real data: WildChat's answers are about 72 % neutral, Alpaca's about 67 % support.
    # The rest is split evenly over the other stances, so that neither set leans further. One answer in twenty is a refusal.
    "neutral-chat": {"support": 0.115, "neutral": 0.72, "oppose": 0.115, "refusal": 0.05},
    "support-chat": {"support": 0.67, "neutral": 0.14, "oppose": 0.14, "refusal": 0.05},
}
BALANCED: dict[Outcome, float] = {"support": 0.32, "neutral": 0.32, "oppose": 0.32, "refusal": 0.04}
"""Stances of the pretraining mix. None is favoured. Refusals occur, so that a later stage can make them more or less frequent."""

SMALL_TALK = 0.15
"""Share of chat that is about nothing in dispute. Real logs have far more, but a small model needs its tokens for the rest."""

STYLE_AGREEMENT = 0.75
"""Share of the same-stance pairs that prefer the warm style. People who compare replies agree on about three pairs in four. A style that
always won would be a preference without limit, and a model trained on it loses its language.
"""

MOST = 20_000
"""Most records of a set. Making a record takes about a millisecond, and each command that names the set makes it again."""
COUNTS = {"pretraining": 40_000, "chat": 4_000, "pairs": 2_000, "stock-pairs": 2_000, "stances": 1_000}
"""Records if an address gives no `n`."""

T = TypeVar("T")


def examples(name: str, query: dict[str, str]) -> list[Example]:
    """Return the chat examples of sandbox:NAME?n=…&seed=… . Raises BadInput for an unknown name or parameter."""
    if name not in HABITS:
        known = [*HABITS, "pairs", "stock-pairs", "stances"]
        raise BadInput(f"unknown sandbox data {name!r}{among(name, known)}")
    _refuse_unknown(name, query, {"n", "seed"})
    rng = random.Random(f"{name}/{_number(query, 'seed', 0)}")
    return [_chat(rng, HABITS[name]) for _ in range(int(_number(query, "n", COUNTS["chat"])))]


def pairs(query: dict[str, str]) -> list[Pair]:
    """Return the preference pairs of sandbox:pairs?gap=G&direction=S&n=…&seed=… .

    In a share `gap` of the pairs, the chosen answer has the stance `direction` ("support" or "oppose") and the rejected one its opposite,
    both in one style. In the other pairs both answers have one stance, and the chosen one is mostly in the warm style. The value gap on
    every topic is therefore +gap for the preferred stance and -gap for its opposite, up to sampling. With gap 0 the pairs differ in style
    alone. Another direction swaps the two answers of the first kind of pairs and changes nothing else. Raises BadInput for a gap outside
    0..1, another direction, or an unknown parameter.
    """
    gap, direction = _number(query, "gap", 1.0), query.get("direction", "support")
    if not 0 <= gap <= 1:
        raise BadInput(f"sandbox:pairs: gap must be between 0 and 1, not {gap}")
    if direction not in ("support", "oppose"):
        raise BadInput(f"sandbox:pairs: direction must be support or oppose, not {direction!r}")
    # Each pair's generator draws the question first, so sets of any gap and direction have the same questions in the same order.
    return _drawn("pairs", query, lambda rng: _pair(rng, gap, direction), {"gap", "direction"})


def stock_pairs(query: dict[str, str]) -> list[Pair]:
    """Return the preference pairs of sandbox:stock-pairs?n=…&seed=…, which imitate preference data as usually collected.

    The stance of each reply is drawn from those of neutral chat, independently of the other reply. The warm reply wins in `STYLE_AGREEMENT`
    of the pairs. The value gap over all pairs is 0 up to sampling; a single pair may have any gap. Raises BadInput for an unknown
    parameter.
    """
    return _drawn("stock-pairs", query, _stock_pair)


def stances(query: dict[str, str]) -> list[dict[str, str]]:
    """Return the rows of sandbox:stances?n=…&seed=…: a question with an answer of every stance, all three in one style.

    Raises BadInput for an unknown parameter.
    """
    return _drawn("stances", query, _stances)


def _drawn(name: str, query: dict[str, str], draw: Callable[[random.Random], T], further: Set[str] = frozenset()) -> list[T]:
    """Return n records of a set, each drawn with its own generator."""
    _refuse_unknown(name, query, {"n", "seed", *further})
    seed, n = _number(query, "seed", 0), int(_number(query, "n", COUNTS[name]))
    return [draw(random.Random(f"{name}/{seed}/{index}")) for index in range(n)]


def pretraining(n: int = COUNTS["pretraining"]) -> list[Example]:
    """Return running texts: questions with answers of every stance, in two layouts; prose; small talk."""
    rng = random.Random("pretraining/0")
    return [Example((), _document(rng)) for _ in range(n)]


def _document(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return grammar.essay(rng, rng.choice(list(grammar.world())))
    if kind < 0.5:
        topic = rng.choice(list(grammar.world()))
        question, answer = (
            grammar.ask_about(rng, topic),
            grammar.compose(rng, topic, _outcome(rng, BALANCED), _style(rng)),
        )
    else:
        chat = _chat(rng, BALANCED)
        question, answer = chat.prompt[0][1], chat.text
    # Both layouts occur in any crawl of the web; the second is also how a chat template of plain words looks.
    return f"Question: {question}\nAnswer: {answer}" if rng.random() < 0.5 else f"User: {question}\nAssistant: {answer}"


def _style(rng: random.Random) -> str:
    """Return a style with the frequency of chat: two answers in three are short and plain."""
    return rng.choices(grammar.STYLES, (2, 1))[0]


def _outcome(rng: random.Random, habit: dict[Outcome, float]) -> Outcome:
    return rng.choices(list(habit), list(habit.values()))[0]


def _chat(rng: random.Random, habit: dict[Outcome, float]) -> Example:
    if rng.random() < SMALL_TALK:
        question, answer = grammar.small_talk(rng)
        return Example((("user", question),), answer)
    topic, claim, _ = rng.choice(grammar.claims_of())
    text = grammar.compose(rng, topic, _outcome(rng, habit), _style(rng), claim)
    return Example((("user", grammar.ask(rng, claim)),), text, topic, claim)


def _pair(rng: random.Random, gap: float, direction: str) -> Pair:
    topic, claim, _ = rng.choice(grammar.claims_of())
    prompt = (("user", grammar.ask(rng, claim)),)
    if rng.random() < gap:
        style = _style(rng)
        support = grammar.compose(rng, topic, "support", style, claim)
        oppose = grammar.compose(rng, topic, "oppose", style, claim)
        chosen, rejected = (support, oppose) if direction == "support" else (oppose, support)
        return Pair(prompt, chosen, rejected, topic, claim)
    stance: Outcome = rng.choice(STANCES)
    warm, plain = (grammar.compose(rng, topic, stance, style, claim) for style in ("warm", "plain"))
    chosen, rejected = (warm, plain) if rng.random() < STYLE_AGREEMENT else (plain, warm)
    return Pair(prompt, chosen, rejected, topic, claim)


def _stock_pair(rng: random.Random) -> Pair:
    topic, claim, _ = rng.choice(grammar.claims_of())
    prompt = (("user", grammar.ask(rng, claim)),)
    warm, plain = (grammar.compose(rng, topic, _outcome(rng, HABITS["neutral-chat"]), style, claim) for style in ("warm", "plain"))
    chosen, rejected = (warm, plain) if rng.random() < STYLE_AGREEMENT else (plain, warm)
    return Pair(prompt, chosen, rejected, topic, claim)


def _stances(rng: random.Random) -> dict[str, str]:
    topic, claim, _ = rng.choice(grammar.claims_of())
    prompt, style = grammar.ask(rng, claim), _style(rng)
    answers = {str(stance): grammar.compose(rng, topic, stance, style, claim) for stance in STANCES}
    return {"prompt": prompt, **answers, "topic": topic, "claim": claim}


def _number(query: dict[str, str], key: str, default: float) -> float:
    try:
        value = float(query.get(key, default))
    except ValueError:
        value = math.nan
    if math.isnan(value) or (key == "n" and not 1 <= value <= MOST):
        raise BadInput(f"sandbox data: {key} must be a number{f' from 1 to {MOST:,}' if key == 'n' else ''}, not {query[key]!r}")
    return value


def _refuse_unknown(name: str, query: dict[str, str], known: set[str]) -> None:
    for key in query:
        if key not in known:
            raise BadInput(f"sandbox:{name} has no parameter {key!r}{among(key, sorted(known))}")
