"""The sandbox's own small judges: a causal language model for `labels` and an encoder for `nli`, trained here and cached by content.

They are ordinary model folders, read by the code that would read a large model. What they learn is what the grammar reads in composed and
faulty answers to training questions; no question of a suite is among them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import progress
from ..judge import labels, nli, wordings
from ..nouns import OUTCOMES, Example, Item, Outcome, digest
from ..plan import Stage, original_names
from ..store import cache_root
from ..world import grammar
from . import _encoder, _flaws

WORDING = "short"
"""The wording of labels.toml and of nli.toml that these judges know: the shortest, since a prompt costs a small model more than a text."""
N_QUESTIONS = 20_000
PIECES = r"[^.?:\n]+[.?:]?"
"""What no token goes beyond: a sentence, or what stands before a colon."""
LEAST = 10
"""How often a token must occur: whole phrases of the grammar do, whole sentences of a phrase and a consideration do not."""

SPECIAL = ("<|pad|>", "<|end|>")
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,  # the usual 0.02 suits widths of a thousand; at 64 it lets next to nothing through, and learning stalls
}
VOCABULARY = 6_000
N_READ, N_REPLIES, N_PROMPTS = 30_000, 100_000, 20_000
"""Texts of the three parts of its training: running text with the role behind each sentence, judging replies to a few words, and judging
replies within the whole prompt. A text has one verdict but many sentences; and a reply to a few words is a third of the prompt."""
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
"""What is particular to each part."""
TEMPLATE = "{% for message in messages %}{{ message.content if loop.first else ' ' + message.content + eos_token }}{% endfor %}"
"""Prompt and label as the running text in which `labels` asks a model without a chat template. It serves the training alone."""


def resolved(spec: str) -> str:
    """Return a judge's spec with the folders that "labels:sandbox" and "nli:sandbox" stand for, built first where they are not cached.

    They may be members of a panel and have settings behind them, which stand before the wording that is named here.
    """

    def folder(found: re.Match[str]) -> str:
        return f"{found[1]}:{ {'labels': causal_judge, 'nli': nli_judge}[found[1]]() }?wording={WORDING}{'&' if found[2] else ''}"

    return re.sub(r"\b(labels|nli):sandbox(?:(\?)|(?=,|$))", folder, spec)


def judged(n: int, seed: str) -> list[tuple[Item, Outcome]]:
    """Return n answers to training questions, whole and faulty, with what the grammar reads in each."""
    items = _flaws.items(n, seed, _flaws.training_questions(N_QUESTIONS, seed))
    return [(item, grammar.parse(item.text)) for item in items]


# -- the causal language model ---------------------------------------------------------------------------------------------


def causal_judge() -> Path:
    """Return the folder of a language model that reads whole answers first, and then learns to go on with the label `labels` asks for.

    A killed build is continued by the next call. Raises BadInput where the cache folder cannot be written.
    """
    some = [(item.key, outcome) for item, outcome in judged(2_000, "labels")]
    wording = wordings.wordings(labels.WORDS)[WORDING]
    recipe = (ARCHITECTURE, VOCABULARY, LEAST, PIECES, SPECIAL, N_READ, N_REPLIES, N_PROMPTS, original_names(RECIPE), PARTS, TEMPLATE)
    content = digest("sandbox-labels", some, wording.prefix(), wording.item, wording.labels, recipe)
    return _once(f"sandbox-labels-{content[:12]}", lambda work: _causal(work, wording))


def _causal(work: Path, wording: wordings.Wording) -> Path:
    from ..train.stage_trainer import run_stage

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
        _random_model(start, [f"{example.prompt[0][1]} {example.text}" for example, (_, outcome) in whole if outcome != "invalid"])
    for name, data in parts.items():
        with progress.training(f"build the sandbox's causal judge: {name}") as tell:
            steps = run_stage(Stage(**RECIPE | PARTS[name]), 0, str(start), data, work / name, tell)
        start = work / name / f"checkpoint-{steps[-1]}"
    for leftover in ("trainer_state.json", "training_args.bin", "complete.json", "chat_template.jinja"):
        (start / leftover).unlink(missing_ok=True)
    return start


def _annotated(text: str) -> str:
    """Return a text with the role of each sentence behind it ("I agree. S:"); "-" stands for one that the grammar cannot produce."""
    return " ".join(f"{sentence} {role.replace('?', '-')}:" for sentence, role in _flaws.roles(text))


def _briefly(texts: Sequence[tuple[Item, Outcome]]) -> list[tuple[Item, Outcome]]:
    """Return the texts with up to four strange words for a question and for a claim: a reply is told from what stands before it here."""
    rng = random.Random("briefly")

    def few(words: list[str]) -> str:
        return _flaws.strange(rng, " ".join(rng.sample(words, min(len(words), rng.randint(0, 4)))))

    return [(replace(item, prompt=few(item.prompt.split()), claim=few(item.prompt.split())), outcome) for item, outcome in texts]


def _estranged(texts: Sequence[tuple[Item, Outcome]]) -> list[tuple[Item, Outcome]]:
    """Return the texts, half of them under strange questions: a stance lies in the reply, whatever unknown words stand before it."""
    rng = random.Random("strange")
    return [
        (
            replace(item, prompt=_flaws.strange(rng, item.prompt), claim=_flaws.strange(rng, item.claim)) if rng.random() < 0.5 else item,
            outcome,
        )
        for item, outcome in texts
    ]


def _asked(prompt: str, label: str) -> Example:
    return Example((("user", prompt),), label)


def _random_model(folder: Path, texts: Sequence[str]) -> None:
    """Write the tokenizer and random weights, whole or not at all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ..progress import quiet

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=phrases(texts, VOCABULARY, SPECIAL), pad_token=SPECIAL[0], eos_token=SPECIAL[1], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ARCHITECTURE, **ids))
    unfinished = folder.with_name(f".{folder.name}")
    with quiet():
        model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, folder)


def phrases(texts: Sequence[str], vocabulary: int, special: Sequence[str]) -> Any:
    """Return a byte-level BPE whose tokens may run over spaces (as in Liu et al. 2025, arXiv 2503.13423), up to the end of a sentence.

    Answers of the sandbox are made of phrases: whole ones are then a handful of tokens, and a broken phrase falls into many. A model of
    this size needs that to tell them apart within minutes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=LEAST, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


# -- the encoder -----------------------------------------------------------------------------------------------------------


def nli_judge() -> Path:
    """Return the folder of an encoder that learns the role of each sentence first, and then which hypotheses follow from an answer.

    A killed build goes on after the part that was finished. Raises BadInput where the cache folder cannot be written.
    """
    some = [(item.key, outcome) for item, outcome in judged(2_000, "nli")]
    wording = nli.wordings()[WORDING]
    content = digest("sandbox-nli", some, wording, LEAST, PIECES, _encoder.RECIPE)
    return _once(f"sandbox-nli-{content[:12]}", lambda work: _nli(work, wording))


def _nli(work: Path, wording: nli.Wording) -> Path:
    texts = judged(_encoder.N_PAIRS, "nli")
    # A hypothesis is as frequent as it will be in training.
    corpus = [
        words for item, outcome in texts[: _encoder.N_ROLES] if outcome != "invalid" for row in wording.rows(item)[:1] for words in row[:1]
    ]
    corpus += [hypothesis for hypothesis in wording.hypotheses for _ in range(LEAST)]
    rows = [(wording.rows(item), OUTCOMES.index(outcome)) for item, outcome in texts]
    read = [_flaws.roles(item.text) for item, _ in texts[: _encoder.N_ROLES]]
    tokenizer = _encoder.tokenizer(phrases(corpus, _encoder.VOCABULARY, _encoder.SPECIAL))
    return _encoder.train(work, tokenizer, read, rows)


def _once(name: str, build: Callable[[Path], Path]) -> Path:
    """Return a folder of the cache; where it is not there, `build` makes it within a folder that a later call finds again."""
    folder = cache_root() / name
    if not (folder / "config.json").exists():
        work = folder.with_name(f".{name}")
        work.mkdir(parents=True, exist_ok=True)
        built = build(work)
        (built / "README.md").write_text(f"A judge of sandbox answers and of nothing else. It knows one wording: ?wording={WORDING}\n")
        os.replace(built, folder)
        shutil.rmtree(work)
    return folder
