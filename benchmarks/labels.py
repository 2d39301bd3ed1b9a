"""The judge `labels` against reading whole prompts and against `model.generate`: items per second, and their ratios.

    python benchmarks/labels.py [--quick] [--json]

Three ways to get a verdict from the same small Llama (5.5 M parameters) on the same prompts:

shared     the judge's own way: what all prompts begin with is computed once, and label probabilities are read off one pass per item
whole      the same probabilities from one pass over each whole prompt (and one more per label of several tokens)
generated  transformers' generate writes a greedy answer as long as the longest label, which is decoded and parsed

All three begin with items and include tokenisation, and all use length-sorted batches of the size that suits each best, found first.
They run alternately in one process, so that a busy machine slows all. The model is random: what it answers takes no part in the time.
Short items are answers of the sandbox, long ones several joined to the length of IssueBench's texts (400 words).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from valuedrift.judge import labels
from valuedrift.judge.continuations import log_probs
from valuedrift.nouns import OUTCOMES, Item
from valuedrift.world import grammar

LONG_WORDS = 400
CASES = [("plain", "short"), ("definitions", "short"), ("plain", "long"), ("definitions", "long")]
Run = Callable[[Sequence[Item]], Any]


def made_up_items(n: int, length: str) -> list[Item]:
    rng = random.Random(length)
    claims = grammar.claims_of()
    items = []
    for number in range(n):
        topic, claim, _ = rng.choice(claims)
        text = grammar.compose(rng, topic, OUTCOMES[number % 4])
        while length == "long" and len(text.split()) < LONG_WORDS:
            text += " " + grammar.compose(rng, topic, OUTCOMES[number % 3])
        items.append(Item(grammar.ask(rng, claim), claim, text, topic))
    return items


def small_llama(folder: Path) -> Path:
    """Save a random Llama of 5.5 M parameters with a tokenizer that has met the wordings and the sandbox's texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([labels.WORDS.read_text(), *(item.text for item in made_up_items(2_000, "short"))], trainer)
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "vocab_size": 4096, "max_position_embeddings": 4096}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True)).save_pretrained(folder)
    return folder


def scored(judge: labels.Judge, batch: int, share: bool) -> Run:
    """Return a run of our own code, with or without the shared beginning."""
    model = judge.model

    def run(items: Sequence[Item]) -> Any:
        ids, prompts = model.label_ids(judge.wording, OUTCOMES), model.prompts(judge.wording, OUTCOMES, items, model.max_tokens)
        return log_probs(model.loaded[0], [prompt for prompt in prompts if not isinstance(prompt, str)], ids, batch, share)

    return run


def generated(judge: labels.Judge, batch: int) -> Run:
    """Return a run of generate: a greedy answer, decoded, and the first label that it begins with, if any."""
    model, tokenizer = judge.model.loaded
    words = judge.wording.words()

    @torch.inference_mode()
    def run(items: Sequence[Item]) -> list[str | None]:
        longest_label = max(map(len, judge.model.label_ids(judge.wording, OUTCOMES)))
        prompts = sorted((judge.wording.prefix() + judge.wording.suffix(item) for item in items), key=len)
        verdicts = []
        for start in range(0, len(prompts), batch):
            given = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, padding_side="left")
            given.pop("token_type_ids", None)
            ids = model.generate(**given, do_sample=False, max_new_tokens=longest_label, pad_token_id=1)
            for text in tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True):
                verdicts.append(next((outcome for outcome in OUTCOMES if text.strip().lower().startswith(words[outcome])), None))
        return verdicts

    return run


def rate(run: Run, items: Sequence[Item]) -> float:
    """Return items per second."""
    start = time.perf_counter()
    run(items)
    return len(items) / (time.perf_counter() - start)


def case(judge: labels.Judge, items: Sequence[Item], batches: Sequence[int], n_rounds: int) -> dict[str, Any]:
    """Return the figures of one wording on one kind of item."""
    ways: dict[str, Callable[[int], Run]] = {
        "shared": lambda batch: scored(judge, batch, True),
        "whole": lambda batch: scored(judge, batch, False),
        "generated": lambda batch: generated(judge, batch),
    }
    best = {name: max(batches, key=lambda batch, way=way: rate(way(batch), items)) for name, way in ways.items()}  # type: ignore[misc]
    rounds = [{name: rate(way(best[name]), items) for name, way in ways.items()} for _ in range(n_rounds)]
    difference = (scored(judge, best["shared"], True)(items) - scored(judge, best["whole"], False)(items)).abs().max()

    def ratio(other: str) -> dict[str, float]:
        ratios = [one["shared"] / one[other] for one in rounds]
        spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        return {name: round(value, 2) for name, value in spread.items()} | {"n": n_rounds}

    prompts = judge.model.prompts(judge.wording, OUTCOMES, items, judge.model.max_tokens)
    return {
        "tokens_per_prompt": round(statistics.mean(map(len, prompts))),
        "tokens_of_labels": [len(ids) for ids in judge.model.label_ids(judge.wording, OUTCOMES)],
        "batch": best,
        "items_per_second": {name: round(statistics.median(one[name] for one in rounds), 1) for name in ways},
        "shared_to_whole": ratio("whole"),
        "shared_to_generated": ratio("generated"),
        "largest_difference_of_log_probs": float(difference),
    }


def measure(quick: bool) -> dict[str, Any]:
    """Return the figures of every case: rates, and the ratios' median, least and greatest over rounds."""
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        judge = labels.Judge(f"{small_llama(Path(folder))}?max_tokens=4096")
        n, batches, n_rounds = (64, (16,), 5) if quick else (256, (8, 16, 32, 64, 128), 5)
        return {
            "parameters": judge.model.loaded[0].num_parameters(),
            "items": n,
            "cases": {
                f"{wording}, {length} items": case(judge.reworded(wording), made_up_items(n, length), batches, n_rounds)
                for wording, length in (CASES[:2] if quick else CASES)
            },
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short items only, fewer of them, one batch size")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
