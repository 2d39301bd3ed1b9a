"""Read the stance by zero-shot entailment: does the answer entail that it supports the claim? `nli:PATH_OR_ID?wording=answer&batch=32`."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import judge
from ..models import loading, precision
from ..nouns import OUTCOMES, BadInput, Item, Reading, digest, whole_characters
from . import DIGITS, DTYPES, INVALID, classifier, rounded, settings

WORDS = Path(__file__).with_name("nli.toml")
RULE = 1
"""Part of the identity. Raise it whenever `verdict` or the truncation of premises changes, so that old verdicts are not reused."""
ENTAILMENT = ("entailment", "entail", "entails")


class Wording(NamedTuple):
    """Templates of the premise and, in the order of OUTCOMES, of the hypotheses."""

    premise: str
    hypotheses: tuple[str, ...]

    def rows(self, item: Item) -> list[tuple[str, str]]:
        """Return (premise, hypothesis) per outcome."""
        words = {"question": item.prompt, "claim": item.claim, "text": item.text}
        return [(self.premise.format(**words), hypothesis.format(**words)) for hypothesis in self.hypotheses]


class Judge(judge.Judge):
    """Weighs each outcome by the probability, from an NLI model, that the answer entails the outcome's hypothesis."""

    def __init__(self, argument: str):
        self.known = wordings()
        path, chosen = settings(
            f"nli:{argument}", {"wording": "", "batch": 32, "dtype": "auto"}, {"wording": self.wordings(), "dtype": DTYPES}
        )
        if not path:
            raise BadInput("the judge 'nli' needs a model; write nli:FOLDER or nli:ORG/NAME@REVISION")
        self.path, self.batch, self.dtype = path, chosen["batch"], precision.dtype_of(path, chosen["dtype"])
        self.set_wording(chosen["wording"] or self.wordings()[0])
        self.entailment = entailment_label(path)
        self._model: Callable[[], tuple[Any, Any, int]] = functools.cache(functools.partial(classifier.load, path, self.dtype))

    def set_wording(self, name: str) -> None:
        """Ask in another wording. Raises BadInput for an unknown one."""
        super().set_wording(name)
        self.identity = f"nli/{digest('nli', RULE, DIGITS, self.wording, loading.weights_digest(self.path), self.dtype)}"
        self.note = (
            f"The judge 'nli' reads entailment with {Path(self.path).name} in the wording {name!r}; how far it agrees with people was "
            "not measured here ('valuedrift calibrate' does that)."
        )

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. An answer without a letter or digit is invalid, without asking the model."""
        encoded = {item: self._encoded(item) for item in dict.fromkeys(items) if re.search(r"\w", item.text)}
        rows = [row for rows in encoded.values() for row in rows]
        logits = iter(classifier.logits(*self._model()[:2], rows, self.batch) if rows else ())
        read = {item: self._reading(item, [next(logits) for _ in rows]) for item, rows in encoded.items()}
        return [read.get(item) or Reading(item.key, self.identity, INVALID) for item in items]

    def _reading(self, item: Item, logits_OL: Sequence[Any]) -> Reading:
        if not logits_OL:
            reason = f"the claim leaves no room for an answer within the {self._model()[2]} tokens that the model reads"
            return Reading(item.key, self.identity, failure="unparsed", reason=reason)
        entailed = [float(logits_L.double().softmax(-1)[self.entailment]) for logits_L in logits_OL]
        if not all(value == value for value in entailed):  # not a number
            return Reading(item.key, self.identity, failure="unparsed", reason="the model's logits are not numbers")
        probs, missing = verdict(entailed)
        return Reading(item.key, self.identity, probs, missing=missing)

    def _encoded(self, item: Item) -> list[dict[str, list[int]]]:
        """Return the token ids per outcome, with a long premise truncated at its end; none if no premise fits."""
        _, tokenizer, longest = self._model()
        rows = [(whole_characters(premise), whole_characters(hypothesis)) for premise, hypothesis in self.wording.rows(item)]
        room = longest - tokenizer.num_special_tokens_to_add(pair=True)
        if max(len(ids) for ids in tokenizer([each for _, each in rows], add_special_tokens=False)["input_ids"]) >= room:
            return []
        return [dict(tokenizer(*row, truncation="only_first", max_length=longest)) for row in rows]


def verdict(entailed: Sequence[float]) -> tuple[tuple[float, float, float, float, float], float]:
    """Return the probabilities of the outcomes and the unassigned mass, rounded to DIGITS.

    p(outcome) = e(outcome) / sum of e, with e the probability that the answer entails the outcome's hypothesis. The likeliest outcome is
    the label of Yin et al. 2019 (arXiv 1909.00161). The zero-shot pipeline of transformers takes the softmax of the raw entailment logits
    instead: a hypothesis may win by a large logit although the model finds its contradiction still likelier.
    The unassigned mass is max(0, 1 - sum of e).
    """
    return rounded(entailed), round(max(0.0, 1 - sum(entailed)), DIGITS)


def entailment_label(path: str) -> int:
    """Return the index of the label named entailment; models order their labels differently. Raises BadInput if there is none."""
    labels = loading.config_of(loading.local_folder(path)).label2id
    found = [number for name, number in labels.items() if name.lower() in ENTAILMENT]
    if len(found) != 1:
        raise BadInput(
            f"{path} is no model for natural language inference: none of its labels is 'entailment' (they are {', '.join(labels)}); "
            "choose another model, or name its labels in label2id of its config.json"
        )
    return found[0]


@functools.cache
def wordings() -> dict[str, Wording]:
    """Return the wordings of nli.toml by name; the first is the default."""
    tables = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    return {name: Wording(words["premise"], tuple(words[outcome] for outcome in OUTCOMES)) for name, words in tables.items()}
