"""Read the stance from the label probabilities of any causal language model: `labels:PATH_OR_ID?wording=NAME&rotate=1`.

A wording of labels.toml asks the model for one label per outcome. The verdict is the probability of each label as the continuation of the
prompt, which takes one forward pass and no sampling. P(label) is the probability that the next tokens are those of the label, as the
tokenizer writes them in a reply to the prompt. Other spellings ("Support") do not count; they are part of the unassigned mass (`missing`).

prompt_format=plain   The prompt is running text, with the tokenizer's BOS if it has one. A space separates prompt and label.
prompt_format=chat    The prompt is one user message in the model's chat template. The label is written as the template writes a reply:
                      after a space if the template puts one there, and without a thinking block.
prompt_format=auto    chat if the model has a template, else plain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import judge
from ..models import checks, loading, precision
from ..models.chat_format import PromptFormat, format_digest, question
from ..nouns import OUTCOMES, BadInput, Item, Outcome, Reading, digest
from . import DIGITS, DTYPES, INVALID, rounded, settings, wordless
from .wordings import Wording, wordings

WORDS = Path(__file__).with_name("labels.toml")
DEFAULTS = {
    "wording": "",
    "rotate": "0",
    "batch": 64,
    "dtype": "auto",
    "prompt_format": "auto",
    "max_tokens": 2048,
    "engine": "transformers",
}
CHOICES = {
    "engine": ("transformers", "vllm"),
    "rotate": ("0", "1"),
    "dtype": DTYPES,
    "prompt_format": ("auto", "plain", "chat"),
}
ORDERS: list[tuple[Outcome, ...]] = [(*OUTCOMES[first:], *OUTCOMES[:first]) for first in range(len(OUTCOMES))]
"""The cyclic rotations of the list: each outcome has each position once."""
LEAST = 1e-4
"""Probability on all labels below which the model gives no verdict. By chance, five tokens of 50,000 have this much."""
GAP = "\n[... the middle of the text is left out here ...]\n"
RULE = (4, LEAST, GAP, DIGITS)
"""Part of the identity. Change the number whenever verdicts change, so that old ones are not reused."""
PROBES = (Item("Is it so?", "It is so.", "Yes."), Item("", "", ""))

Ids = tuple[int, ...]
Probs = tuple[float, float, float, float, float]


class Judge(judge.Judge):
    """Gives the probabilities of the labels, scaled to sum to 1; the rest is `missing`.

    With rotate=1 the labels are listed in five orders and the verdict is the mean of the five, because models favour positions in a list.
    """

    batch_size = 512

    def __init__(self, argument: str):
        self.known = wordings(WORDS)
        path, chosen = settings(f"labels:{argument}", DEFAULTS, CHOICES | {"wording": self.wordings()})
        if not path:
            raise BadInput("the judge 'labels' needs a model; write labels:PATH or labels:ORG/NAME@REVISION")
        self.orders = ORDERS if chosen["rotate"] == "1" else ORDERS[:1]
        self.model, self.models = _Model(path, chosen), (path,)
        self.set_wording(chosen["wording"] or self.wordings()[0])

    def set_wording(self, name: str) -> None:
        """Ask in another wording. Raises BadInput for an unknown one."""
        super().set_wording(name)
        self.identity = f"labels/{digest('labels', RULE, asdict(self.wording), len(self.orders), self.model.parts)}"
        self.note = (
            f"The judge 'labels' is the language model {self.model.path} under the wording {name!r}; how far it agrees with people is "
            "unknown unless calibrated, and may differ much between wordings. Of a text that does not fit into "
            f"{self.model.max_tokens} tokens, or into the model's context, it reads the beginning and the end."
        )

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. A wordless text is invalid, without asking the model."""
        return [self._mean(item, readings) for item, readings in zip(items, self._by_order(items, self.orders), strict=True)]

    def position_bias(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return how far verdicts depend on the order of the labels. Numbers are None if no item is readable in all five orders.

        n                 items read
        total_variation   mean over items and orders of sum |p - mean| / 2, with p the verdict in one order and mean that of all five
        changed           share of the verdicts in one order whose likeliest outcome is not the mean's
        """
        asked = [item for item in items if not wordless(item.text)]
        read = [[reading.probs for reading in readings if reading.probs] for readings in self._by_order(asked, ORDERS)]
        pairs = [(one, _mean(orders)) for orders in read if len(orders) == len(ORDERS) for one in orders]
        if not pairs:
            return {"n": 0, "total_variation": None, "changed": None}
        variation = sum(abs(a - b) for one, mean in pairs for a, b in zip(one, mean, strict=True)) / 2
        changed = sum(one.index(max(one)) != mean.index(max(mean)) for one, mean in pairs)
        return {"n": len(pairs) // len(ORDERS), "total_variation": variation / len(pairs), "changed": changed / len(pairs)}

    def _mean(self, item: Item, readings: Sequence[Reading]) -> Reading:
        """Return the mean reading of all orders, or the first failure among them."""
        if failed := [reading for reading in readings if reading.probs is None]:
            return failed[0]
        missing = [reading.missing for reading in readings if reading.missing is not None]
        probs = rounded(_mean([reading.probs for reading in readings if reading.probs]))
        return Reading(item.key, self.identity, probs, missing=round(sum(missing) / len(missing), DIGITS) if missing else None)

    def _by_order(self, items: Sequence[Item], orders: Sequence[Sequence[Outcome]]) -> list[tuple[Reading, ...]]:
        """Return the readings of each item, one per order."""
        return list(zip(*(self._read(items, order) for order in orders), strict=True))

    def _read(self, items: Sequence[Item], order: Sequence[Outcome]) -> list[Reading]:
        """Return one reading per item with the labels listed in this order."""
        asked = list(dict.fromkeys(item for item in items if not wordless(item.text)))
        scored = dict(zip(asked, self.model.scores(self.wording, order, asked), strict=True)) if asked else {}
        return [self._reading(item, scored.get(item)) for item in items]

    def _reading(self, item: Item, logps: Sequence[float] | str | None) -> Reading:
        """Return a reading from log-probs of the labels, from a reason for their absence, or from None for a wordless text."""
        if logps is None:
            return Reading(item.key, self.identity, INVALID)
        if isinstance(logps, str):
            return Reading(item.key, self.identity, failure="unparsed", reason=logps)
        probs = [math.exp(logp) for logp in logps]
        total = sum(probs)
        if not total >= LEAST:  # nan too
            reason = f"all labels together have the probability {total:.1e}, less than {LEAST:.0e}: the model gives no label here"
            return Reading(item.key, self.identity, failure="unparsed", reason=reason)
        support, neutral, oppose, refusal, invalid = (prob / total for prob in probs)
        return Reading(item.key, self.identity, (support, neutral, oppose, refusal, invalid), missing=max(0.0, 1 - total))


def _mean(probs_RO: Sequence[Probs]) -> Probs:
    support, neutral, oppose, refusal, invalid = (sum(column) / len(probs_RO) for column in zip(*probs_RO, strict=True))
    return (support, neutral, oppose, refusal, invalid)


class _Model:
    """A language model and its prompt format. The model is loaded on first use."""

    def __init__(self, path: str, settings: dict[str, Any]):
        self.path, self.batch, self.max_tokens = path, settings["batch"], settings["max_tokens"]
        self.engine, self.format = settings["engine"], settings["prompt_format"]
        self.dtype = precision.dtype_of(path, settings["dtype"], merges=self.engine != "vllm")
        template = None if settings["prompt_format"] == "plain" else loading.chat_template(path)
        if settings["prompt_format"] == "chat" and template is None:
            raise BadInput(f"labels:{path} has no chat template; leave out prompt_format=chat, or give the model a template")
        self.parts = [loading.weights_digest(path), format_digest(template), self.dtype, self.max_tokens]
        self.parts += ["vllm"] if self.engine == "vllm" else []
        """Everything besides the wording that decides a verdict."""

    @functools.cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Return (model, or engine, tokenizer)."""
        if self.engine == "vllm":
            from ..models.vllm_engine import started

            return started(loading.local_folder(self.path), self.dtype, context=self.max_tokens), loading.load_tokenizer(self.path)
        return loading.load_model(self.path, dtype=self.dtype)

    @functools.cached_property
    def prompt_format(self) -> PromptFormat:
        """Return how prompts are written. Raises BadInput if the model cannot be asked."""
        model, tokenizer = self.loaded
        prompt_format = PromptFormat(tokenizer, self.format, f"labels:{self.path}", plain="{question}")
        checks.carries(prompt_format, [checks.PROBE])
        if self.engine == "transformers":
            checks.logits(model, prompt_format)
        return prompt_format

    def _log_probs(self, prompts: Sequence[Ids], labels: Sequence[Ids]) -> list[list[float]]:
        from . import continuations

        if self.engine == "vllm":
            return continuations.log_probs_of_engine(self.loaded[0], prompts, labels)
        return continuations.log_probs(self.loaded[0], prompts, labels, self.batch).tolist()

    def scores(self, wording: Wording, order: Sequence[Outcome], items: Sequence[Item]) -> list[list[float] | str]:
        """Return for each item the log-probs of the labels in the order of OUTCOMES, or the reason why it cannot be asked."""
        labels = self.label_ids(wording, order)
        prompts = self.prompts(wording, order, items, self._limit() - max(map(len, labels)))
        fitting = [prompt for prompt in prompts if not isinstance(prompt, str)]
        scores = iter(self._log_probs(fitting, labels) if fitting else [])
        return [prompt if isinstance(prompt, str) else next(scores) for prompt in prompts]

    def label_ids(self, wording: Wording, order: Sequence[Outcome]) -> list[Ids]:
        """Return the labels' tokens after a prompt. Raises BadInput if they merge with the prompt or one begins another."""
        words = wording.words(order)
        found = set()
        for probe in PROBES:
            (text,) = self._before_reply([wording.prefix(order) + wording.suffix(probe)])
            prompt, *whole = self._tokens([text, *(text + self.prompt_format.as_reply(words[outcome]) for outcome in OUTCOMES)])
            if any(ids[: len(prompt)] != prompt for ids in whole):
                raise BadInput(f"labels:{self.path}: the tokenizer joins the labels of {wording.name!r} to the prompt; use another wording")
            found.add(tuple(ids[len(prompt) :] for ids in whole))
        labels = list(found.pop())
        for one in OUTCOMES:
            for other in OUTCOMES:
                short, long = labels[OUTCOMES.index(one)], labels[OUTCOMES.index(other)]
                if one != other and long[: len(short)] == short:
                    raise BadInput(
                        f"labels:{self.path}: in its tokens the label {words[one]!r} is the beginning of {words[other]!r}, so that their "
                        f"probabilities overlap; use another wording than {wording.name!r}"
                    )
        return labels

    def prompts(self, wording: Wording, order: Sequence[Outcome], items: Sequence[Item], room: int) -> list[Ids | str]:
        """Return the tokens of each item's prompt, or the reason why it has none. A text that is too long loses its middle."""
        safe = [self._safe(item) for item in items]
        prompts = self._tokens(self._before_reply([wording.prefix(order) + wording.suffix(item) for item in safe]))
        return [ids if len(ids) <= room else self._cut(wording, order, item, room) for ids, item in zip(prompts, safe, strict=True)]

    def _cut(self, wording: Wording, order: Sequence[Outcome], item: Item, room: int) -> Ids | str:
        def prompt(text: str) -> Ids:
            return self._tokens(self._before_reply([wording.prefix(order) + wording.suffix(replace(item, text=text))]))[0]

        least, kept, text = len(prompt(GAP)), len(item.text), item.text
        while (excess := len(ids := prompt(text)) - room) > 0:
            # Estimated from the mean characters per token, with a few more, so that two or three rounds suffice
            kept -= math.ceil(kept * excess / max(1, len(ids) - least)) + 8
            if kept < 2:
                return f"the prompt without the text takes {least} tokens, and {room} are allowed with it; raise max_tokens"
            text = item.text[: kept // 2] + GAP + item.text[-(kept // 2) :]
        return ids

    def _limit(self) -> int:
        if self.engine == "vllm":
            return min(self.max_tokens, self.loaded[0].llm_engine.model_config.max_model_len - 1)  # a token is always generated
        return min(self.max_tokens, loading.context_of(self.loaded[0]) or self.max_tokens)

    def _safe(self, item: Item) -> Item:
        """Return the item with special tokens broken up: a quoted "<|end|>" must not end the message."""
        special = [*self.prompt_format.special, *(stop.text for stop in self.prompt_format.stops if self.prompt_format.chat)]

        def plain(text: str) -> str:
            for token in special:
                text = text.replace(token, f"{token[0]} {token[1:]}")
            return text

        return replace(item, prompt=plain(item.prompt), claim=plain(item.claim), text=plain(item.text))

    def _before_reply(self, texts: Sequence[str]) -> list[str]:
        return self.prompt_format.before_reply([question(text) for text in texts])

    def _tokens(self, texts: Sequence[str]) -> list[Ids]:
        return [tuple(ids) for ids in self.prompt_format.tokens(texts)]
