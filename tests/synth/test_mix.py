"""The mixture of pairs meets the target by hand-made gaps, and with judges that are not sure."""

import numpy as np
import pytest
from on_disk import DIRECTIONS

from valuedrift.judge import Judge
from valuedrift.nouns import BadInput, Item, Reading, Stopped
from valuedrift.synth import mixing, synth
from valuedrift.world import grammar


def test_which_numbers_of_pairs_can_hold_a_gap():
    # 2 or 3 of 10 are 0.2 and 0.3; 2 of 8 are 0.25; 2 of 9 are 0.222; 3 of 11 are 0.273; 3 or 4 of 14 are 0.214 and 0.286
    assert [mixing.can_hold(n, 0.25) for n in (10, 8, 9, 11, 14)] == [False, True, True, True, False]
    assert all(mixing.can_hold(n, gap) for n in range(mixing.FIRM, 60) for gap in np.linspace(0, 1, 201))
    assert not mixing.can_hold(0, 0.0)


def test_sizes_are_as_even_as_the_gap_allows():
    assert mixing.sizes(1100, 11, 0.25) == [100] * 11
    assert mixing.sizes(103, 5, 0.3) == [21, 21, 21, 20, 20]
    found = mixing.sizes(110, 11, 0.25)  # ten a topic cannot
    assert sum(found) == 110
    assert set(found) <= {8, 9, 11, 12}
    with pytest.raises(BadInput, match=r"n = 3: .*the next number that can is n = 22"):
        mixing.sizes(3, 11, 0.5)  # two a topic


def test_the_judged_gap_decides_the_mixture():
    # Each opposed pair is worth 0.8: to reach 0.4 on 20 questions takes 0.4 x 20 / 0.8 = 10 of them, the first ten
    opposed, same, first = np.full((20, 2), 0.8), np.zeros((20, 2)), np.ones(20, bool)
    assert mixing.mixed(opposed, same, first, 0.4).tolist() == [True] * 10 + [False] * 10
    # Worth 0.8 in one direction and 0.6 in the other: k with 0.8 k / 20 and 0.6 k / 20 on both sides of 0.35 -> k = 10 (0.40 and 0.30)
    assert mixing.mixed(opposed * [1, 0.75], same, first, 0.35).sum() == 10
    # A same-stance pair may be worth something too: (0.8 k + 0.1 (20 - k)) / 20 = 0.45 -> k = 10
    assert mixing.mixed(opposed, same + 0.1, first, 0.45).sum() == 10


def test_pairs_are_swapped_where_the_first_ones_do_not_fit():
    # The first k lean to the support direction (1.0 and 0.2), the others to the oppose direction (0.2 and 1.0): k of the former and k of
    # the latter have a mean of 0.6 in both, so that 0.3 on 20 questions takes ten: five of each
    opposed = np.array([[1.0, 0.2]] * 10 + [[0.2, 1.0]] * 10)
    chosen = mixing.mixed(opposed, np.zeros((20, 2)), np.ones(20, bool), 0.3)
    assert (chosen[:10].sum(), chosen[10:].sum()) == (5, 5)
    assert mixing.missed(opposed, np.zeros((20, 2)), np.arange(20) < 10, 0.3) == pytest.approx(0.2)  # the first ten: 0.5 and 0.1
    assert mixing.missed(opposed, np.zeros((20, 2)), chosen, 0.3) == pytest.approx(0)
    # Of the last ten, which are of one stance at first, five prefer the first style: those ten that are of one stance at last have five too
    first = np.array([True] * 5 + [False] * 10 + [True] * 5)
    assert first[~mixing.mixed(opposed, np.zeros((20, 2)), first, 0.3)].sum() == 5


class Soft(Judge):
    """Puts 0.9 on what the oracle reads and spreads the rest over the two other stances, so that an opposed pair is worth 0.85."""

    identity, note = "soft/1", "A judge for tests."

    def read(self, items: list[Item]) -> list[Reading]:
        return [Reading(item.key, self.identity, self._probs(grammar.parse(item.text))) for item in items]

    def _probs(self, stance):
        return (*(0.9 if name == stance else 0.05 for name in ("support", "neutral", "oppose")), 0.0, 0.0)


def soft(spec: str, max_cost: float | None) -> Soft:
    assert (spec, max_cost) == ("soft:one", 2.0)
    return Soft()


SOFT = {"judge": "soft:one", "max_cost": 2.0, "topics": ["work", "death"]}


def test_a_soft_judge_meets_the_target_with_more_opposed_pairs(tmp_path):
    result = synth.synthesise(synth.Spec(n=100, gap=0.5, **SOFT), tmp_path, soft)
    assert result["n_opposed"] == 58  # 0.5 x 50 / 0.85 = 29.4 a topic, and 29 x 0.85 / 50 = 0.493
    assert result["achieved_by_topic"] == pytest.approx({"work": 0.493, "death": 0.493})


def test_a_target_out_of_reach_says_what_is_within_and_the_same_folder_takes_it(tmp_path):
    spec = synth.Spec(n=40, gap=1.0, **SOFT)
    with pytest.raises(Stopped, match=r"a gap of 1 is out of reach: .* reach 0\.850 at most; set gap to 0\.85 or less"):
        synth.synthesise(spec, tmp_path, soft)
    assert not list(tmp_path.glob("pairs.*"))
    assert synth.synthesise(spec.model_copy(update={"gap": 0.85}), tmp_path, soft)["achieved_gap"] == pytest.approx(0.85)


def test_a_weak_judge_of_real_text(tmp_path):
    result = synth.synthesise(synth.Spec(n=88, gap=[0.0, 0.5], judge="cues", topics=["work", "death"]), tmp_path)
    assert result["dropped"]["stance not read as intended"] > 0
    assert result["n_opposed"][0] == 0  # though one opposed pair would bring the mean nearer to 0
    assert result["n_opposed"][1] > 44
    for target, found in zip((0.0, 0.5), result["sets"], strict=True):
        for direction in DIRECTIONS:
            assert all(abs(stances[direction] - target) <= 0.03 for stances in found["achieved"][direction].values())
