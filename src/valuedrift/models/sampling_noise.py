"""Sampling noise: a stateless function of (sampling seed, prompt text, draw), position and vocabulary index.

A token is `argmax(logits / T + g)` with Gumbel noise g, which is a sample of `softmax(logits / T)`. g comes from a hash and not from a
stream. So g does not depend on the rest of the batch, and two checkpoints get the same g for the same question: their answers differ only
if their probabilities do (common random numbers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ..nouns import BadInput

ELEMENTS = {"cpu": 1 << 19, "other": 1 << 24}
"""Scores handled at a time: few enough for a CPU's cache, many enough to fill an accelerator."""
MOST = 16.7
"""More than the greatest noise, log(2^24) = 16.636, by more than scores are rounded."""


def parts(values_NV: Tensor) -> Iterator[slice]:
    """Yield slices of rows that are few enough for a CPU's cache, or many enough to fill an accelerator."""
    rows = max(1, ELEMENTS["cpu" if values_NV.device.type == "cpu" else "other"] // values_NV.shape[1])
    yield from (slice(start, start + rows) for start in range(0, len(values_NV), rows))


def row_words(sampling_seed: int, text: str, draw: int) -> tuple[int, int]:
    """Return the two signed 32-bit words that name one answer's noise."""
    content = hashlib.sha256(f"{sampling_seed}\0{draw}\0{text}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(content[:4], "little", signed=True), int.from_bytes(content[4:8], "little", signed=True)


def _mix_(x: Tensor, scratch: Tensor) -> Tensor:
    """Apply lowbias32 to `x` (int32) in place and return it: a bijection with full avalanche (Wellons 2018), wrapping like uint32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)), (16, 1)):
        torch.bitwise_right_shift(x, shift, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_((1 << 32 - shift) - 1))  # int32 shifts copy the sign bit; the mask makes them logical
        if factor != 1:
            x.mul_(factor)
    return x


def vocabulary_words(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return one mixed int32 word per vocabulary index, shape (n,)."""
    return _counted(torch.arange(n, dtype=torch.int32, device=device))


def position_words(words_B2: Tensor, position_B: Tensor) -> Tensor:
    """Return the words of each row at a position of its answer, shape (B, 2) int32."""
    mixed_B2 = words_B2 ^ _counted(position_B.to(torch.int32))[:, None]
    scratch_B2 = torch.empty_like(mixed_B2)
    _mix_(mixed_B2, scratch_B2)
    mixed_B2[:, 0].add_(words_B2[:, 1])
    mixed_B2[:, 1].bitwise_xor_(mixed_B2[:, 0])
    return _mix_(mixed_B2, scratch_B2)


def _counted(numbers_N: Tensor) -> Tensor:
    """Return one mixed word for each number from 0 on."""
    words_N = (numbers_N + 1).mul_(0x9E3779B9 - (1 << 32))
    return _mix_(words_N, torch.empty_like(words_N))


def uniform(words_B2: Tensor, vocabulary_V: Tensor) -> Tensor:
    """Return u uniform on the odd multiples of 2^-24, shape (B, V) float32: one number per row and vocabulary index, never 0 or 1.

    `vocabulary_V` may have a row of its own for each row, shape (B, V).
    """
    bits_BV = torch.bitwise_xor(words_B2[:, :1], vocabulary_V)
    scratch_BV = torch.empty_like(bits_BV)
    _mix_(bits_BV, scratch_BV).add_(words_B2[:, 1:])
    _mix_(bits_BV, scratch_BV).bitwise_and_((1 << 24) - 1).bitwise_or_(1)
    return bits_BV.to(torch.float32).mul_(2.0**-24)


def minus_gumbel(words_B2: Tensor, vocabulary_V: Tensor) -> Tensor:
    """Return log(-log(u)), minus standard Gumbel noise, shape (B, V); between -16.6 and 2.9, always finite."""
    return uniform(words_B2, vocabulary_V).log_().neg_().log_()


def kept(scores_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return the scores with -inf outside the `top_k` best (0: all), then outside the fewest tokens whose probability reaches `top_p`."""
    if 0 < top_k < scores_BV.shape[1]:
        scores_BV = scores_BV.masked_fill(scores_BV < scores_BV.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        sorted_BV, index_BV = scores_BV.sort(descending=True, stable=True)
        probs_BV = sorted_BV.softmax(-1)
        beyond_BV = probs_BV.cumsum(-1) - probs_BV >= top_p
        scores_BV = sorted_BV.masked_fill_(beyond_BV, -torch.inf).gather(-1, index_BV.argsort(-1))
    return scores_BV


def drawn(logits_BV: Tensor, words_B2: Tensor, vocabulary_V: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return one token per row, shape (B,): argmax(logits / T + g) over the tokens kept, or the greedy token at T = 0.

    `words_B2` are the rows' words at this position. The order of the filters is that of transformers: temperature, top-k, top-p. Noise is
    computed only for tokens that can win: those within `MOST` of the likeliest token's score with its noise. Raises BadInput if the
    logits are not finite.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    tokens_B = torch.full((len(logits_BV),), logits_BV.shape[1], device=logits_BV.device)
    for part in parts(logits_BV):
        logits_bV, words_b2, scale = logits_BV[part], words_B2[part], temperature
        if top_k or top_p < 1:
            logits_bV, scale = kept(logits_bV.float() / temperature, top_k, top_p), 1.0
        top_b1, token_b1 = logits_bV.max(-1, keepdim=True)
        least_b1 = (top_b1.float() / scale - minus_gumbel(words_b2, vocabulary_V[token_b1]) - MOST) * scale
        # Compared in the logits' own precision, so that they are not copied: a little lower, because 16 bits may round it up
        row_C, token_C = (logits_bV >= (least_b1 - least_b1.abs() / 256).to(logits_bV.dtype)).nonzero(as_tuple=True)
        sums_C = logits_bV[row_C, token_C].float() / scale - minus_gumbel(words_b2[row_C], vocabulary_V[token_C, None])[:, 0]
        best_b = torch.full((len(logits_bV),), -torch.inf, device=sums_C.device).scatter_reduce_(0, row_C, sums_C, "amax")
        wins_C = sums_C == best_b[row_C]
        tokens_B[part].scatter_reduce_(0, row_C[wins_C], token_C[wins_C], "amin")
    if tokens_B.numel() and int(tokens_B.max()) == logits_BV.shape[1]:
        raise BadInput("the model's logits are not finite while it writes an answer; load it in float32, or check its weights")
    return tokens_B
