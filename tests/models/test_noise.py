import math

import pytest
import torch
from scipy import stats

from valuedrift.models.sampling_noise import drawn, kept, minus_gumbel, position_words, row_words, uniform, vocabulary_words
from valuedrift.nouns import BadInput

VOCABULARY = 500


def uniforms(draws=range(8), positions=range(8), sampling_seed=0):
    """Return u of shape (draws, positions, vocabulary)."""
    words_B2 = torch.tensor([row_words(sampling_seed, "Is it right?", draw) for draw in draws], dtype=torch.int32)
    vocabulary_V = vocabulary_words(VOCABULARY)
    return torch.stack([uniform(position_words(words_B2, torch.tensor([position])), vocabulary_V) for position in positions], dim=1)


def test_uniform_on_the_open_interval():
    u = uniforms(range(16), range(16))
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    # what 24 bits can yield lies from 1/2^24 to 1 - 1/2^24; the smallest of 2^20 hashed values is near 1/2^20
    many = uniform(torch.zeros(1, 2, dtype=torch.int32), vocabulary_words(1 << 20))
    assert 2**-24 <= many.min() < 1e-5
    assert 1 - 1e-5 < many.max() <= 1 - 2**-24
    assert torch.equal((many.double() * 2**23).frac(), torch.full((1, 1 << 20), 0.5, dtype=torch.float64)), "half offsets, exact in float32"
    assert torch.isfinite(minus_gumbel(torch.zeros(1, 2, dtype=torch.int32), vocabulary_words(1 << 20))).all()


@pytest.mark.parametrize("axis", ["draw", "position", "vocabulary", "noise"])
def test_independent_along_every_axis(axis):
    u = torch.stack([uniforms(range(24), range(24), noise) for noise in range(2)], dim=-1)
    u = u.movedim(("draw", "position", "vocabulary", "noise").index(axis), 0).flatten(1).double()
    correlation = torch.corrcoef(u)
    off = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
    n, n_pairs = u.shape[1], len(off) / 2
    assert off.abs().max() * math.sqrt(n) < stats.norm.isf(5e-4 / n_pairs)  # family-wise level 1e-3
    assert (off * math.sqrt(n)).pow(2).mean().item() == pytest.approx(1, abs=6 / math.sqrt(n_pairs))


def test_no_two_cells_share_their_number():
    u = uniforms(range(8), range(8))
    n = u.numel()
    collisions = n - len(u.unique())
    # 32,000 cells in 2^23 values collide n^2 / 2^24 = 61 times by chance
    assert collisions < 2 * n * n / 2**24


def test_frequencies_match_the_softmax():
    torch.manual_seed(0)
    logits_V = torch.randn(40) * 1.5
    n, temperature = 40_000, 0.7
    words_B2 = position_words(torch.tensor([row_words(0, "q", draw) for draw in range(n)], dtype=torch.int32), torch.tensor([3]))
    tokens_B = drawn(logits_V.expand(n, -1), words_B2, vocabulary_words(40), temperature)
    expected_V = (logits_V / temperature).double().softmax(-1) * n
    seen_V = torch.bincount(tokens_B, minlength=40).double()
    enough_V = expected_V >= 5
    seen = [*seen_V[enough_V].tolist(), seen_V[~enough_V].sum().item()]
    expected = [*expected_V[enough_V].tolist(), expected_V[~enough_V].sum().item()]
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_filters_by_hand():
    scores = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    assert kept(scores, 2, 1.0).isfinite().tolist() == [[False, True, False, True]]
    # 0.5 < 0.7 <= 0.5 + 0.25: two tokens reach 0.7; three are needed for 0.76
    assert kept(scores, 0, 0.7).isfinite().tolist() == [[False, True, False, True]]
    assert kept(scores, 0, 0.76).isfinite().tolist() == [[False, True, True, True]]
    # after top-k = 2 the shares are 2/3 and 1/3, so one token reaches 0.6
    assert kept(scores, 2, 0.6).isfinite().tolist() == [[False, True, False, False]]
    assert torch.equal(kept(scores, 0, 1.0), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("spread", "shift"), [(0.5, 0.0), (3.0, -200.0), (30.0, 0.0)])
def test_tokens_that_cannot_win_are_left_out_without_changing_any(spread, shift, dtype):
    logits_BV = (torch.randn(3000, 400, generator=torch.Generator().manual_seed(2)) * spread + shift).to(dtype)
    words_B2 = position_words(torch.tensor([row_words(0, "q", draw) for draw in range(3000)], dtype=torch.int32), torch.tensor([3]))
    noise_BV = minus_gumbel(words_B2, vocabulary_words(400))
    expected_B = (logits_BV.float() / 0.7 - noise_BV).argmax(-1)
    assert torch.equal(drawn(logits_BV, words_B2, vocabulary_words(400), 0.7), expected_B)
    expected_B = (kept(logits_BV.float() / 0.7, 20, 0.9) - noise_BV).argmax(-1)
    assert torch.equal(drawn(logits_BV, words_B2, vocabulary_words(400), 0.7, 20, 0.9), expected_B)


def test_logits_that_are_not_finite_give_no_token():
    logits_BV = torch.zeros(3, 30)
    logits_BV[1, 4] = torch.nan
    with pytest.raises(BadInput, match="logits are not finite"):
        drawn(logits_BV, torch.zeros(3, 2, dtype=torch.int32), vocabulary_words(30), 1.0)


def test_greedy_at_temperature_zero():
    logits_BV = torch.randn(7, 30, generator=torch.Generator().manual_seed(1))
    words_B2 = torch.zeros(7, 2, dtype=torch.int32)
    assert torch.equal(drawn(logits_BV, words_B2, vocabulary_words(30), 0.0), logits_BV.argmax(-1))


def test_noise_is_fixed_for_good():
    """Stored answers depend on these numbers: where they must change, change `Backend.identity` too."""
    assert row_words(0, "Is it right?", 0) == PINNED_WORDS
    words_B2 = position_words(torch.tensor([row_words(0, "Is it right?", 0)], dtype=torch.int32), torch.tensor([5]))
    assert uniform(words_B2, vocabulary_words(3)).tolist() == [PINNED_UNIFORMS]


PINNED_WORDS = (-282127805, 2098852141)
PINNED_UNIFORMS = [15886717 / 2**24, 13448433 / 2**24, 3600149 / 2**24]
