"""Our decoder against `model.generate` on the same small Llama: tokens per second of both, and their ratio.

    python benchmarks/sampling.py [--quick] [--json]

generate is given what it can use: prompts sorted by length, `num_return_sequences` for the draws, and the fastest of several batch
sizes, found first. Both sides run alternately in one process, so that a busy machine slows both. The model (5.5 M parameters, as many
as the sandbox's base) is trained for a moment on made-up answers whose lengths are uniform on 10 ... 60 tokens, like short opinions;
prompts have 12 ... 32 tokens. Both sides sample at temperature 0.7 up to 64 new tokens, so that no rare endless answer of the
half-trained model, which would hold up a whole batch of generate, decides the comparison.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from valuedrift.models.decoder import Ending, Wanted, decode
from valuedrift.models.sampling_noise import row_words
from valuedrift.plan import Asking

VOCABULARY, END, PAD = 4096, 1, 2
N_BANDS, BAND, FIRST = 60, 50, 1000
"""The i-th token of an answer comes from the i-th band of the vocabulary: a position that a few training steps can learn to read."""
DRAWS = 5
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


def ours(model: LlamaForCausalLM, asking: Asking) -> Run:
    """Return a run of our decoder, which returns the number of tokens sampled, end tokens included."""

    def run(prompts: Sequence[tuple[int, ...]]) -> int:
        wanted = [Wanted(ids, row_words(0, str(ids), draw)) for ids in prompts for draw in range(DRAWS)]
        return sum(len(reply.tokens) for reply in decode(model, wanted, asking, Ending(frozenset({END}))))

    return run


@torch.inference_mode()
def _generated(model: LlamaForCausalLM, prompts: Sequence[tuple[int, ...]], asking: Asking) -> int:
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"temperature": asking.temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": asking.max_new_tokens}
    new = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, num_return_sequences=DRAWS, **settings)[:, longest:]
    return int((new != PAD).sum())


def generates(model: LlamaForCausalLM, asking: Asking, batch: int) -> Run:
    """Return a run of generate over length-sorted batches of `batch` prompts."""

    def run(prompts: Sequence[tuple[int, ...]]) -> int:
        ordered = sorted(prompts, key=len)
        return sum(_generated(model, ordered[start : start + batch], asking) for start in range(0, len(ordered), batch))

    return run


def rate(run: Run, prompts: Sequence[tuple[int, ...]]) -> float:
    """Return tokens per second."""
    start = time.perf_counter()
    n_tokens = run(prompts)
    return n_tokens / (time.perf_counter() - start)


def measure(quick: bool) -> dict[str, object]:
    """Return the figures of the benchmark: tokens per second of both sides and the ratio's median, least and greatest over rounds."""
    asking = Asking(temperature=0.7, max_new_tokens=64)
    model = small_llama(60 if quick else 100)
    prompts = made_up_prompts(64 if quick else 128, seed=-1)
    trials = {batch: rate(generates(model, asking, batch), prompts) for batch in ((32, 64) if quick else (4, 8, 16, 32, 64, 128))}
    best = max(trials, key=lambda batch: trials[batch])
    own, other = ours(model, asking), generates(model, asking, best)
    rate(own, prompts)
    rounds = [(rate(own, prompts), rate(other, prompts)) for _ in range(3 if quick else 5)]
    ratios = [mine / theirs for mine, theirs in rounds]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "answers": len(prompts) * DRAWS,
        "tokens_per_answer": round(own(prompts) / (len(prompts) * DRAWS), 1),
        "generate_batch": best * DRAWS,
        "generate_tokens_per_second_by_batch": {batch * DRAWS: round(value) for batch, value in trials.items()},
        "ours_tokens_per_second": round(statistics.median(mine for mine, _ in rounds)),
        "generate_tokens_per_second": round(statistics.median(theirs for _, theirs in rounds)),
        "ratio": {name: round(value, 2) for name, value in spread.items()} | {"n": len(rounds)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer prompts, batch sizes and rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    json.dump(figures, sys.stdout, indent=None if arguments.json else 2)
    print()
