"""Ask a chat model behind an OpenAI-compatible address: `openai:MODEL?mode=auto&votes=5&wording=NAME`. Needs OPENAI_API_KEY.

OPENAI_BASE_URL names another server than OpenAI's. models/endpoint.py and models/budget.py handle prices and --max-cost.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import judge, progress
from ..models.budget import Budget
from ..models.chat_api import NO_TEXT, Failed, Reply, Request
from ..models.endpoint import Ended, Endpoint, Refused
from ..nouns import OUTCOMES, BadInput, Item, Outcome, Reading, Stopped, digest
from . import INVALID, settings, wordless
from .votes import label_of
from .wordings import Wording, wordings

WORDS = Path(__file__).with_name("openai.toml")
Mode = Literal["logprobs", "votes"]
MODES = ("auto", "logprobs", "votes")

RULES: dict[str, tuple[int, ...]] = {"logprobs": (1, 2), "votes": (2, 3)}
"""The versions of the rule that turns replies into verdicts, newest last. Add one with every change: old verdicts are then not reused,
and replies stored under an earlier version are read again by the new rule."""
TOP = 20
"""Number of top log-probs to request: the most that OpenAI gives."""
FEWEST = len(OUTCOMES)
"""An endpoint that returns fewer top log-probs than there are labels cannot show all labels."""
LEAST = 0.05
"""Probability on all labels below which the reply gives no verdict."""
MARKS = " \t\r\n\u0120\u010a\u2581'\"`*_#.,:;!()[]-\u2018\u2019\u201c\u201d"
"""Spaces (also as tokenizers write them), quotes and punctuation around a label. Not "<" and "/", because "</s>" begins no label."""
PROBE = Item(
    "Should shops close on Sundays?",
    "Shops should close on Sundays.",
    "Yes. A day on which nearly everyone is free at once is worth more than a day more of shopping.",
)
"""The item of the probe request."""
N_PROBES = 3
"""Replies without log-probs after which the endpoint counts as giving none. A single one may be a server's hiccup."""

Verdict = tuple[tuple[float, float, float, float, float] | None, float | None, str]
"""Probabilities or None, the unassigned mass, and the reason if there are no probabilities."""


class Settings(NamedTuple):
    """The settings after the "?"; `timeout` in seconds, `max_tokens` per vote."""

    mode: str = "auto"
    votes: int = 5
    wording: str = ""
    max_tokens: int = 8
    concurrency: int = 8
    timeout: float = 60.0


class Probe(NamedTuple):
    """The mode that a probe found, its cost in dollars, and the budget that paid."""

    mode: Mode
    cost: float
    budget: Budget


PROBED: dict[tuple[str, str], Probe] = {}
"""(URL, model) -> its probe, so that each process probes once."""


class Judge(judge.Judge):
    """Reads the stance from the model's probabilities of the five labels, or from its votes if the endpoint hides log-probs.

    One probe decides the mode, when the identity is first needed. The two modes are never mixed.
    """

    batch_size = 64
    is_remote = True
    advice = "choose another wording, another model, or a larger max_tokens if the model thinks before it answers (docs/openai.md)"

    def __init__(self, argument: str):
        self.known = wordings(WORDS)
        choices = {"mode": MODES, "wording": self.wordings()}
        model, chosen = settings(f"openai:{argument}", Settings._field_defaults, choices)
        self.settings = Settings(**chosen)
        self.set_wording(self.settings.wording or self.wordings()[0])
        self.models = (f"openai:{model}",)
        self.endpoint = Endpoint(model, concurrency=self.settings.concurrency, timeout_seconds=self.settings.timeout)

    def set_wording(self, name: str) -> None:
        """Ask in another wording. Raises BadInput for an unknown one."""
        super().set_wording(name)
        self.labels = labels(self.wording)

    @functools.cached_property
    def mode(self) -> Mode:
        """Return the mode; asks the endpoint if the setting is "auto"."""
        return self._probed() if self.settings.mode == "auto" else self.settings.mode  # type: ignore[return-value]

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Return the identity. May send a paid probe for the mode. Raises BadInput, or Stopped at the budget."""
        return self._named(RULES[self.mode][-1])

    @property
    def earlier(self) -> Sequence[str]:  # type: ignore[override]
        """Return the identities of this judge under earlier rules."""
        return [self._named(rule) for rule in RULES[self.mode][:-1]]

    def _named(self, rule: int) -> str:
        decides: list[Any] = [self.endpoint.model, self.endpoint.address, dataclasses.asdict(self.wording), self.mode]
        decides += [self.settings.votes, self.settings.max_tokens] if self.mode == "votes" else []
        return f"openai/{digest('openai', rule, decides)}"

    def reworded(self, wording: str) -> Judge:
        """Return this judge in another wording; both share the endpoint, the mode and the budget."""
        _ = self.mode  # one probe for both
        return super().reworded(wording)

    @property
    def spent(self) -> float:  # type: ignore[override]
        """Return the dollars that this judge spent, including a probe that an earlier judge of this process sent."""
        return self.endpoint.spent

    @property
    def max_cost(self) -> float | None:
        """Return the dollars that it may spend. Setting it raises BadInput if the model has no price."""
        return self.endpoint.max_cost

    @max_cost.setter
    def max_cost(self, dollars: float | None) -> None:
        self.endpoint.max_cost = dollars

    def worst_cost(self, items: Sequence[Item]) -> float | None:
        """Return the most dollars that reading these items can cost, without the probe; None if the price is unknown.

        In the mode "auto" the more expensive mode counts.
        """
        if not self.endpoint.price:
            return None
        modes: Sequence[Any] = MODES[1:] if self.settings.mode == "auto" else [self.settings.mode]
        requests = [[self.request(item, mode) for item in items] for mode in modes]
        return max(sum(self.endpoint.worst(request) * request.n for request in of_mode) for of_mode in requests)

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. A wordless text is invalid and is not sent.

        Raises Stopped with the readings so far at the budget, on Ctrl-C, and if the server is gone.
        """
        asked = [item for item in items if not wordless(item.text)]
        requests = [self.request(item, self.mode) for item in asked]
        try:
            replies: Sequence[Reply | Failed | None] = self.endpoint.chat(requests)
        except Ended as ended:
            readings = [self._reading(item, reply) for item, reply in zip(asked, ended.replies, strict=True) if reply is not None]
            raise Stopped(str(ended), readings) from ended
        by_key = {item.key: reply for item, reply in zip(asked, replies, strict=True)}
        return [self._reading(item, by_key.get(item.key)) for item in items]

    def keeping(self, path: Path) -> AbstractContextManager[None]:
        """Return the context of Endpoint.keeping."""
        return self.endpoint.keeping(path)

    def stop(self) -> None:
        """Make a `read` in another thread send nothing more; it raises Stopped with the readings so far."""
        self.endpoint.stop()

    def request(self, item: Item, mode: Mode) -> Request:
        """Return what the endpoint is asked about an item."""
        messages = (("user", self.wording.prefix() + self.wording.suffix(item)),)
        if mode == "logprobs":
            return Request(messages, max_tokens=1, top_logprobs=TOP)
        return Request(messages, max_tokens=self.settings.max_tokens, n=self.settings.votes)

    def _reading(self, item: Item, reply: Reply | Failed | None) -> Reading:
        """Return the reading of a reply, of a failed request, or of a wordless text (None)."""
        if reply is None:
            return Reading(item.key, self.identity, INVALID)
        if isinstance(reply, Failed):
            return Reading(item.key, self.identity, failure="judge_error", reason=reply.reason)
        if self.mode == "logprobs" and reply.top_logprobs is None:
            return Reading(item.key, self.identity, failure="judge_error", reason="the endpoint returned no log-probs for this reply")
        kept = {"logprobs": reply.top_logprobs} if self.mode == "logprobs" else {"texts": reply.texts, "ended": reply.ended}
        return self.reread(item.key, json.dumps(kept))

    def reread(self, item: str, reply: str) -> Reading:
        """Return the reading of a stored reply (Reading.reply); sends nothing."""
        kept = json.loads(reply)
        if self.mode == "logprobs":
            probs, missing, reason = from_logprobs(kept["logprobs"], self.labels)
        else:
            probs, missing, reason = from_votes(kept["texts"], self.labels)
            if not probs and (short := [how for how in kept["ended"] if how != "stop"]):
                why = NO_TEXT.get(short[0], f"the reply was cut off at max_tokens={self.settings.max_tokens}")
                reason = f"{reason}; {len(short)} of {len(kept['texts'])}: {why}"
        return Reading(item, self.identity, probs, None if probs else "unparsed", reason, missing, reply)

    def _probed(self) -> Mode:
        """Return the mode that the endpoint allows. Raises BadInput if it does not answer, Stopped at the budget."""
        where = (self.endpoint.address, self.endpoint.model)
        if where not in PROBED:
            PROBED[where] = Probe(*self._probe(), self.endpoint.budget)
        elif PROBED[where].budget is not self.endpoint.budget:
            self.endpoint.book(PROBED[where].cost)
        return PROBED[where].mode

    def _probe(self) -> tuple[Mode, float]:
        """Return the mode, and the dollars that the probe cost."""
        before, why = self.endpoint.spent, "the endpoint gives no log-probs"
        for _ in range(N_PROBES):
            try:
                [reply] = self.endpoint.chat([self.request(PROBE, "logprobs")])
            except Refused as refused:
                why = f"the endpoint refused to give log-probs ({refused})"
                break
            if isinstance(reply, Failed):
                raise BadInput(
                    f"the endpoint {self.endpoint.address} does not answer ({reply.reason}); check OPENAI_BASE_URL, or try again later"
                )
            if reply.top_logprobs is None or len(reply.top_logprobs) < FEWEST:
                continue
            probs, _, reason = from_logprobs(reply.top_logprobs, self.labels)
            if probs:
                return "logprobs", self.endpoint.spent - before
            why = f"its first tokens are no label ({reason})"
            break
        progress.say(f"judge openai: counts votes, because {why}")
        return "votes", self.endpoint.spent - before

    @property
    def note(self) -> str:  # type: ignore[override]
        """Return what a reader of its figures must know."""
        how = "by the probabilities of its first token" if self.mode == "logprobs" else f"by {self.settings.votes} votes per text"
        return (
            f"The judge '{self.endpoint.model}' at {self.endpoint.host} was asked {how} (wording {self.wording.name!r}). How far it agrees "
            "with people is unknown unless it was calibrated, and what stands behind its name may change."
            + ("" if self.endpoint.price else " What it costs is not known.")
        )


def labels(wording: Wording) -> dict[str, Outcome]:
    """Return lower-case label -> outcome. Raises BadInput if two labels begin with the same letter: a first token would fit both."""
    found = {word.lower(): outcome for outcome, word in wording.words().items()}
    if len({word[0] for word in found}) < len(OUTCOMES):
        raise BadInput(f"{WORDS}: labels of the wording {wording.name!r} begin with the same letter ({', '.join(found)}); choose others")
    return found


def bare(text: str) -> str:
    """Return a text in lower case without the marks that may surround a label."""
    return text.strip(MARKS).lower()


def from_logprobs(top_logprobs: Sequence[tuple[str, float]], labels: dict[str, Outcome]) -> Verdict:
    """Return P(outcome) = mass of the first tokens that begin its label, divided by the mass on all labels; the rest is unassigned.

    A token that begins no label ("The") or holds more than a label ("supports") is unassigned mass, and so are tokens below the top ones.
    """
    mass = dict.fromkeys(OUTCOMES, 0.0)
    for token, logprob in top_logprobs:
        if start := bare(token):
            for label, outcome in labels.items():
                if label.startswith(start):
                    mass[outcome] += math.exp(logprob)
    total = sum(mass.values())
    if total > 1 + 1e-3:
        return None, None, f"the probabilities of the labels sum to {total:.3g}, so they are none"
    if total < LEAST:
        likely = max(top_logprobs, key=lambda top: top[1])[0]
        return None, 1 - total, f"only {total:.3f} of the probability is on the labels; the likeliest first token is {likely!r}"
    return tuple(mass[outcome] / total for outcome in OUTCOMES), max(0.0, 1 - total), ""  # type: ignore[return-value]


def from_votes(texts: Sequence[str], labels: dict[str, Outcome]) -> Verdict:
    """Return the share of each outcome among the votes that give a label (`label_of`); the share of the others is unassigned.

    If fewer than half of the votes give a label, there is no verdict.
    """
    votes = [label_of(text, labels) for text in texts]
    n_read = len(votes) - votes.count(None)
    missing = votes.count(None) / len(votes)
    if 2 * n_read < len(votes):
        example = next(text for text, vote in zip(texts, votes, strict=True) if vote is None)
        return None, missing, f"only {n_read} of {len(votes)} votes are a label; one was {example[:80]!r}"
    return tuple(votes.count(outcome) / n_read for outcome in OUTCOMES), missing, ""  # type: ignore[return-value]
