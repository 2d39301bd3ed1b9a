"""Read the stance with a classifier that was trained from labels: `trained:FOLDER?batch=16`. `valuedrift train-judge` makes the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from ..models import loading
from ..nouns import BadInput, Item, digest, whole_characters
from ..store import Store
from . import DIGITS, DTYPES, classifier, settings

CARD = "judge.json"
"""The file beside the weights that says how the judge reads, and what it was trained and measured on."""
RULE = 2
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
    weights: NotRequired[str]  # absent up to version 0.2.0


class Judge(classifier.Classifier):
    """Gives the classifier's probabilities, softmax(logits / temperature), to the outcomes."""

    def __init__(self, argument: str):
        path, chosen = settings(f"trained:{argument}", {"batch": 16, "dtype": "auto"}, {"dtype": DTYPES})
        if not path:
            raise BadInput("the judge 'trained' needs a folder; write trained:FOLDER, and make one with 'valuedrift train-judge'")
        card = Store(loading.local_folder(path)).read_json(CARD, Card)
        if card is None:
            raise BadInput(f"{path} holds no {CARD}; give a folder that 'valuedrift train-judge' wrote")
        super().__init__(path, chosen["dtype"], chosen["batch"])
        self.card, weights = card, loading.weights_digest(path)
        if card.get("weights", weights) != weights:
            raise BadInput(f"the weights in {path} are not those that 'valuedrift train-judge' saved; copy the folder again, or train anew")
        reads = [RULE, DIGITS, card["template"], card["temperature"], card["max_length"], weights, self.dtype]
        self.identity = f"trained/{digest('trained', *reads)}"
        self.agreement = card["agreement"]
        self.note = f"The judge 'trained' reads with {Path(path).name}, which 'valuedrift train-judge' trained from labels."

    def rows(self, item: Item) -> list[dict[str, list[int]]]:
        """Return the token ids of an item as one row."""
        return [encoded(self.loaded()[1], item, self.card["template"], self.card["max_length"])]

    def weights(self, logits_RL: Sequence[Any]) -> list[float]:
        """Return softmax(logits / temperature)."""
        probs: list[float] = (logits_RL[0].double() / self.card["temperature"]).softmax(-1).tolist()
        return probs


def encoded(tokenizer: Any, item: Item, template: str, max_length: int) -> dict[str, list[int]]:
    """Return the token ids of an item. A long answer is truncated at its end."""
    written = template.format(claim=item.claim, question=item.prompt, text=item.text)
    return dict(tokenizer(whole_characters(written), truncation=True, max_length=max_length))
