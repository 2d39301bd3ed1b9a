"""Read the stance with a classifier that was trained from labels: `trained:FOLDER?batch=16`. `valuedrift train-judge` makes the folder."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from .. import judge
from ..models import loading, precision
from ..nouns import BadInput, Item, Reading, digest, whole_characters
from ..store import Store
from . import DIGITS, DTYPES, INVALID, classifier, rounded, settings

CARD = "judge.json"
"""The file beside the weights that says how the judge reads, and what it was trained and measured on."""
RULE = 1
"""Part of the identity. Raise it whenever a text is encoded in another way, so that old verdicts are not reused."""
TEMPLATE = "Claim: {claim}\nQuestion: {question}\nAnswer: {text}"
"""What the classifier reads. The answer is last, because a causal model reads the stance at the last token."""


@with_config({"extra": "allow"})
class Card(TypedDict):
    """What CARD holds."""

    template: str
    temperature: float
    max_length: int
    agreement: dict[str, Any] | None


class Judge(judge.Judge):
    """Gives the classifier's probabilities, softmax(logits / temperature), to the outcomes."""

    def __init__(self, argument: str):
        self.path, chosen = settings(f"trained:{argument}", {"batch": 16, "dtype": "auto"}, {"dtype": DTYPES})
        if not self.path:
            raise BadInput("the judge 'trained' needs a folder; write trained:FOLDER, and make one with 'valuedrift train-judge'")
        card = Store(loading.local_folder(self.path)).read_json(CARD, Card)
        if card is None:
            raise BadInput(f"{self.path} holds no {CARD}; give a folder that 'valuedrift train-judge' wrote")
        self.card, self.batch = card, chosen["batch"]
        weights, dtype = loading.weights_digest(self.path), precision.dtype_of(self.path, chosen["dtype"])
        reads = [RULE, DIGITS, card["template"], card["temperature"], card["max_length"], weights, dtype]
        self.identity = f"trained/{digest('trained', *reads)}"
        self.agreement = card["agreement"]
        self.note = f"The judge 'trained' reads with {Path(self.path).name}, which 'valuedrift train-judge' trained from labels."
        self._model: Callable[[], tuple[Any, Any, int]] = functools.cache(functools.partial(classifier.load, self.path, dtype))

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one reading per item, in order. An answer without a letter or digit is invalid, without asking the model."""
        asked = [item for item in dict.fromkeys(items) if re.search(r"\w", item.text)]
        found: dict[Item, Reading] = {}
        if asked:
            model, tokenizer, _ = self._model()
            rows = [encoded(tokenizer, item, self.card["template"], self.card["max_length"]) for item in asked]
            for item, logits_O in zip(asked, classifier.logits(model, tokenizer, rows, self.batch), strict=True):
                probs = (logits_O.double() / self.card["temperature"]).softmax(-1).tolist()
                if all(value == value for value in probs):
                    found[item] = Reading(item.key, self.identity, rounded(probs))
                else:
                    found[item] = Reading(item.key, self.identity, failure="unparsed", reason="the model's logits are not numbers")
        return [found.get(item) or Reading(item.key, self.identity, INVALID) for item in items]


def encoded(tokenizer: Any, item: Item, template: str, max_length: int) -> dict[str, list[int]]:
    """Return the token ids of an item. A long answer is truncated at its end."""
    written = template.format(claim=item.claim, question=item.prompt, text=item.text)
    return dict(tokenizer(whole_characters(written), truncation=True, max_length=max_length))
