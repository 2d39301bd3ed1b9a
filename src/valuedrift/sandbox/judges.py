"""Train the sandbox's own small judge, a causal language model for `labels`, in minutes and cached by content.

It is an ordinary model folder, read by the code that reads large models. It learns the grammar's readings of answers to training questions,
with and without faults. No question of a suite is among them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import progress
from ..caches import cache_root
from ..judge import labels, wordings
from ..nouns import Example, Item, Outcome, digest
from ..plan import Stage, original_names
from ..world import grammar
from . import flaws
from .build import SPECIAL, random_model

WORDING = "short"
"""The only wording of labels.toml that this judge knows. It is the shortest, because a small model spends more on a prompt than on a text.
"""
N_QUESTIONS = 20_000
PIECES = r"[^.?:\n]+[.?:]?"
"""The longest span of a token: a sentence, or the text before a colon."""
LEAST = 10
"""Least frequency of a token: whole phrases of the grammar reach it, but not whole sentences of a phrase and a consideration."""

ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,  # the usual 0.02 suits widths of a thousand; at 64 signals vanish and learning stalls
}
VOCABULARY = 6_000
N_READ, N_REPLIES, N_PROMPTS = 30_000, 100_000, 20_000
"""Number of texts in the three parts of training: running text with the role after each sentence, judging replies to a few words, and
judging replies within the whole prompt. The first part gives one label per sentence, the others one per text. A reply to a few words
takes a third of the tokens of the whole prompt.
"""
RECIPE: dict[str, Any] = {
    "algorithm": "sft",
    "data": "sandbox:judged",
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_ratio": 0.05,
    "max_length": 512,
    "group_by_length": True,
    "save_at": "every:500",
}
PARTS: dict[str, dict[str, Any]] = {"read": {}, "replies": {}, "prompts": {"learning_rate": 1e-3}}
"""Settings of each part that differ from `RECIPE`."""
TEMPLATE = "{% for message in messages %}{{ message.content if loop.first else ' ' + message.content + eos_token }}{% endfor %}"
"""Chat template of prompt and label as running text, as `labels` prompts a model without a template. It is used in training only."""


def resolved(spec: str) -> str:
    """Return a judge's spec with "labels:sandbox", alone or in a panel, replaced by a folder; build the judge if necessary.

    The settings of the spec come after the wording that is set here, so that they still apply.
    """

    def folder(found: re.Match[str]) -> str:
        return f"labels:{causal_judge()}?wording={WORDING}{'&' if found[1] else ''}"

    return re.sub(r"\blabels:sandbox(?:(\?)|(?=,|$))", folder, spec)


def judged(n: int, seed: str) -> list[tuple[Item, Outcome]]:
    """Return n answers to training questions, with and without faults, each with the grammar's reading."""
    items = flaws.items(n, seed, flaws.training_questions(N_QUESTIONS, seed))
    return [(item, grammar.parse(item.text)) for item in items]


def causal_judge() -> Path:
    """Return the folder of a language model that first learns to read whole answers, and then to continue with the label for `labels`.

    The next call continues a killed build. Raises BadInput if the cache folder cannot be written.
    """
    some = [(item.key, outcome) for item, outcome in judged(2_000, "labels")]
    wording = wordings.wordings(labels.WORDS)[WORDING]
    recipe = (ARCHITECTURE, VOCABULARY, LEAST, PIECES, SPECIAL, N_READ, N_REPLIES, N_PROMPTS, original_names(RECIPE), PARTS, TEMPLATE)
    content = digest("sandbox-labels", some, wording.prefix(), wording.item, wording.labels, recipe)
    folder = cache_root() / f"sandbox-labels-{content[:12]}"
    if not (folder / "config.json").exists():
        work = folder.with_name(f".{folder.name}")
        work.mkdir(parents=True, exist_ok=True)
        built = trained(work, wording)
        (built / "README.md").write_text(f"A judge of sandbox answers and of nothing else. It knows one wording: ?wording={WORDING}\n")
        os.replace(built, folder)
        shutil.rmtree(work)
    return folder


def trained(work: Path, wording: wordings.Wording) -> Path:
    """Return the folder of the trained model within `work`; skip the parts that are finished."""
    from ..train.stage import run_stage

    texts = judged(N_REPLIES + N_PROMPTS, "labels")
    parts = {
        "read": [Example((), _annotated(item.text)) for item, _ in texts[:N_READ]],
        "replies": [_asked(wording.suffix(item), wording.labels[outcome]) for item, outcome in _briefly(texts[:N_REPLIES])],
        "prompts": [
            _asked(wording.prefix() + wording.suffix(item), wording.labels[outcome]) for item, outcome in _estranged(texts[N_REPLIES:])
        ],
    }
    start = work / "random"
    if not start.exists():
        whole = zip(parts["prompts"], texts[N_REPLIES:], strict=True)
        bpe = phrases([f"{example.prompt[0][1]} {example.text}" for example, (_, outcome) in whole if outcome != "invalid"])
        random_model(start, bpe, ARCHITECTURE, bpe.get_vocab_size(), TEMPLATE)
    for name, data in parts.items():
        with progress.training(f"build the sandbox's causal judge: {name}") as tell:
            steps = run_stage(Stage(**RECIPE | PARTS[name]), 0, str(start), data, work / name, tell)
        start = work / name / f"checkpoint-{steps[-1]}"
    for leftover in ("trainer_state.json", "training_args.bin", "complete.json", "chat_template.jinja"):
        (start / leftover).unlink(missing_ok=True)
    return start


def _annotated(text: str) -> str:
    """Return a text with its role after each sentence ("I agree. S:"); "-" marks a sentence that the grammar cannot produce."""
    return " ".join(f"{sentence} {role.replace('?', '-')}:" for sentence, role in flaws.roles(text))


def _briefly(texts: Sequence[tuple[Item, Outcome]]) -> list[tuple[Item, Outcome]]:
    """Return the texts with up to four strange words as question and claim, so that the model learns where a reply starts."""
    rng = random.Random("briefly")

    def few(words: list[str]) -> str:
        return flaws.strange(rng, " ".join(rng.sample(words, min(len(words), rng.randint(0, 4)))))

    return [(replace(item, prompt=few(item.prompt.split()), claim=few(item.prompt.split())), outcome) for item, outcome in texts]


def _estranged(texts: Sequence[tuple[Item, Outcome]]) -> list[tuple[Item, Outcome]]:
    """Return the texts, half of them under strange questions, because the reply has the stance whatever words precede it."""
    rng = random.Random("strange")
    return [
        (
            replace(item, prompt=flaws.strange(rng, item.prompt), claim=flaws.strange(rng, item.claim)) if rng.random() < 0.5 else item,
            outcome,
        )
        for item, outcome in texts
    ]


def _asked(prompt: str, label: str) -> Example:
    return Example((("user", prompt),), label)


def phrases(texts: Sequence[str]) -> Any:
    """Return a byte-level BPE with tokens that may span spaces (as in Liu et al. 2025, arXiv 2503.13423), up to the end of a sentence.

    Sandbox answers consist of phrases. A whole phrase is then a handful of tokens, and a broken phrase falls into many. A model of this
    size needs that to tell them apart within minutes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=LEAST, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe
