"""Read the stance by zero-shot entailment: does the answer entail that it supports the claim? `nli:PATH_OR_ID?wording=answer&batch=32`."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..models import loading
from ..nouns import OUTCOMES, BadInput, Item, digest, whole_characters
from . import DIGITS, DTYPES, classifier, settings

WORDS = Path(__file__).with_name("nli.toml")
RULE = 2
"""Part of the identity. Raise it whenever the verdict or the truncation of premises changes, so that old verdicts are not reused."""
ENTAILMENT = ("entailment", "entail", "entails")


class Wording(NamedTuple):
    """Templates of the premise and, in the order of OUTCOMES, of the hypotheses."""

    premise: str
    hypotheses: tuple[str, ...]

    def rows(self, item: Item) -> list[tuple[str, str]]:
        """Return (premise, hypothesis) per outcome."""
        words = {"question": item.prompt, "claim": item.claim, "text": item.text}
        return [(self.premise.format(**words), hypothesis.format(**words)) for hypothesis in self.hypotheses]


class Judge(classifier.Classifier):
    """Weighs each outcome by the probability, from an NLI model, that the answer entails the outcome's hypothesis."""

    def __init__(self, argument: str):
        self.known = wordings()
        path, chosen = settings(
            f"nli:{argument}", {"wording": "", "batch": 32, "dtype": "auto"}, {"wording": self.wordings(), "dtype": DTYPES}
        )
        if not path:
            raise BadInput("the judge 'nli' needs a model; write nli:FOLDER or nli:ORG/NAME@REVISION")
        super().__init__(path, chosen["dtype"], chosen["batch"])
        self.set_wording(chosen["wording"] or self.wordings()[0])
        self.entailment = entailment_label(path)

    def set_wording(self, name: str) -> None:
        """Ask in another wording. Raises BadInput for an unknown one."""
        super().set_wording(name)
        self.identity = f"nli/{digest('nli', RULE, DIGITS, self.wording, loading.weights_digest(self.path), self.dtype)}"
        self.note = (
            f"The judge 'nli' reads entailment with {Path(self.path).name} in the wording {name!r}; how far it agrees with people was "
            "not measured here ('valuedrift calibrate' does that)."
        )

    def weights(self, logits_RL: Sequence[Any]) -> list[float]:
        """Return e(outcome), the probability that the answer entails the outcome's hypothesis.

        The likeliest outcome is the label of Yin et al. 2019 (arXiv 1909.00161). The zero-shot pipeline of transformers takes the softmax
        of the raw entailment logits instead: a hypothesis may win by a large logit although the model finds its contradiction likelier.
        """
        return [float(logits_L.double().softmax(-1)[self.entailment]) for logits_L in logits_RL]

    def rows(self, item: Item) -> list[dict[str, list[int]]]:
        """Return the token ids per outcome, with a long premise truncated at its end; none if no premise fits."""
        _, tokenizer, longest = self.loaded()
        rows = [(whole_characters(premise), whole_characters(hypothesis)) for premise, hypothesis in self.wording.rows(item)]
        room = longest - tokenizer.num_special_tokens_to_add(pair=True)
        if max(len(ids) for ids in tokenizer([each for _, each in rows], add_special_tokens=False)["input_ids"]) >= room:
            return []
        return [dict(tokenizer(*row, truncation="only_first", max_length=longest)) for row in rows]


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
