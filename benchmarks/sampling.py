"""Our decoder against `model.generate` on the same model: tokens per second of both, and their ratio.

    python benchmarks/sampling.py [--model FOLDER] [--dtype bfloat16] [--prompts 128] [--draws 5] [--tokens 64] [--quick] [--json]

generate gets what it can use: prompts sorted by length, `num_return_sequences` for the samples of a prompt, and the fastest of several
batch sizes, found first. Both sides run alternately in one process, so that a busy machine slows both, at temperature 0.7.

With --model, the model of a folder answers questions of the built-in suite. Without it, a Llama of 5.5 M parameters is trained for a moment
on made-up answers whose lengths are uniform on 10 ... 60 tokens, like short opinions; its prompts have 12 ... 32 tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from valuedrift import suites
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Ending, Wanted, decode
from valuedrift.models.loading import load_model
from valuedrift.models.sampling_noise import row_words
from valuedrift.plan import EvaluationSettings

VOCABULARY, END, PAD = 4096, 1, 2
N_BANDS, BAND, FIRST = 60, 50, 1000
"""The i-th token of an answer comes from the i-th band of the vocabulary: a position that a few training steps can learn to read."""
Run = Callable[[Sequence[tuple[int, ...]]], int]


def made_up_prompts(n: int, seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(10, FIRST) for _ in range(rng.randint(12, 32))) for _ in range(n)]


def small_llama(n_steps: int) -> LlamaForCausalLM:
    """Return a Llama of 5.5 M parameters that answers in 10 to 60 tokens."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": END, "pad_token_id": PAD}
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "vocab_size": VOCABULARY}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, tie_word_embeddings=True))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rng = random.Random(1)
    for step in range(n_steps):
        rows = []
        for prompt in made_up_prompts(16, seed=step):
            answer = [FIRST + BAND * place + rng.randrange(BAND) for place in range(rng.randint(10, N_BANDS))]
            rows.append(([-100] * len(prompt) + [*answer, END], [*prompt, *answer, END]))
        width = max(len(ids) for _, ids in rows)
        labels = torch.tensor([row + [-100] * (width - len(row)) for row, _ in rows])
        ids = torch.tensor([row + [PAD] * (width - len(row)) for _, row in rows])
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def ours(model: Any, settings: EvaluationSettings, ending: Ending) -> Run:
    """Return a run of our decoder, which returns the number of tokens sampled, end tokens included."""

    def run(prompts: Sequence[tuple[int, ...]]) -> int:
        wanted = [Wanted(ids, row_words(0, str(ids), draw)) for ids in prompts for draw in range(settings.draws)]
        return sum(len(reply.tokens) for reply in decode(model, wanted, settings, ending))

    return run


@torch.inference_mode()
def _generated(model: Any, prompts: Sequence[tuple[int, ...]], settings: EvaluationSettings, ending: Ending) -> int:
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"temperature": settings.temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": settings.max_new_tokens}
    options |= {"num_return_sequences": settings.draws, "eos_token_id": sorted(ending.tokens), "pad_token_id": PAD}
    new = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, **options)[:, longest:]
    ends = torch.isin(new, torch.tensor(sorted(ending.tokens)))
    return int((ends.cumsum(1) - ends.long() == 0).sum())


def generates(model: Any, settings: EvaluationSettings, ending: Ending, batch: int) -> Run:
    """Return a run of generate over length-sorted batches of `batch` prompts."""

    def run(prompts: Sequence[tuple[int, ...]]) -> int:
        ordered = sorted(prompts, key=len)
        return sum(_generated(model, ordered[start : start + batch], settings, ending) for start in range(0, len(ordered), batch))

    return run


def rate(run: Run, prompts: Sequence[tuple[int, ...]]) -> float:
    """Return tokens per second."""
    start = time.perf_counter()
    n_tokens = run(prompts)
    return n_tokens / (time.perf_counter() - start)


def real(folder: str, dtype: str, n_prompts: int) -> tuple[Any, list[tuple[int, ...]], Ending]:
    """Return the model of a folder, questions of the built-in suite spread evenly over its topics, and what ends an answer."""
    model, tokenizer = load_model(folder, dtype=dtype)
    prompt_format, questions = PromptFormat(tokenizer), [prompt.text for prompt in suites.load("vaes")]
    some = questions[:: max(1, len(questions) // n_prompts)][:n_prompts]
    return model, [tuple(ids) for ids in prompt_format.prompts([question(text) for text in some])], prompt_format.ending(model)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Return tokens per second of both sides and the ratio's median, least and greatest over rounds."""
    settings = EvaluationSettings(temperature=0.7, max_new_tokens=arguments.tokens, draws=arguments.draws)
    if arguments.model:
        model, prompts, ending = real(arguments.model, arguments.dtype, arguments.prompts)
    else:
        prompts, ending = made_up_prompts(arguments.prompts, seed=-1), Ending(frozenset({END}))
        model = small_llama(60 if arguments.quick else 100)
    sizes = [batch for batch in ((32, 64) if arguments.quick else (4, 8, 16, 32, 64, 128)) if batch <= len(prompts)]
    trials = {batch: rate(generates(model, settings, ending, batch), prompts) for batch in sizes}
    best = max(trials, key=lambda batch: trials[batch])
    own, other = ours(model, settings, ending), generates(model, settings, ending, best)
    n_tokens = own(prompts)
    rounds = [(rate(own, prompts), rate(other, prompts)) for _ in range(arguments.rounds)]
    ratios = [mine / theirs for mine, theirs in rounds]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "answers": len(prompts) * settings.draws,
        "tokens_per_answer": round(n_tokens / (len(prompts) * settings.draws), 1),
        "generate_batch": best * settings.draws,
        "generate_tokens_per_second_by_batch": {batch * settings.draws: round(value) for batch, value in trials.items()},
        "ours_tokens_per_second": round(statistics.median(mine for mine, _ in rounds)),
        "generate_tokens_per_second": round(statistics.median(theirs for _, theirs in rounds)),
        "ratio": {name: round(value, 2) for name, value in spread.items()} | {"n": len(rounds)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a model's folder")
    parser.add_argument("--dtype", default="bfloat16", help="the type of its weights")
    for name, value in (("--prompts", 128), ("--draws", 5), ("--tokens", 64), ("--rounds", 3)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="fewer batch sizes and steps of training")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    figures = measure(arguments)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
