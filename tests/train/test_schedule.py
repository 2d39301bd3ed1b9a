"""Steps, order and save points of a stage."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuedrift.nouns import BadInput
from valuedrift.plan import Stage
from valuedrift.train.step_counts import n_seen, order, save_steps, total_steps


def stage(**keys):
    return Stage(algorithm="sft", data="x", **keys)


def test_total_steps_counts_epochs_in_optimiser_steps():
    # 10 records, 2.5 epochs = 25 records seen; 4 x 2 = 8 a step: 3 full steps and one with a single record
    assert total_steps(stage(epochs=2.5, batch_size=4, gradient_accumulation_steps=2), 10) == 4
    assert n_seen(stage(epochs=2.5, batch_size=4, gradient_accumulation_steps=2), 10) == 25
    assert total_steps(stage(epochs=9, steps=7, batch_size=4), 10) == 7
    assert n_seen(stage(steps=7, batch_size=4, gradient_accumulation_steps=3), 10) == 84


def test_save_steps_by_hand():
    # 1, 100^(1/4) = 3.16, 10, 31.6, 100
    assert save_steps("log:5", 100) == [1, 3, 10, 32, 100]
    # 1, 1.78, 3.16, 5.6, 10 leaves 2 doubled where steps are scarce: every step of 6 is used
    assert save_steps("log:6", 6) == [1, 2, 3, 4, 5, 6]
    assert save_steps("log:9", 4) == [1, 2, 3, 4]
    assert save_steps("log:1", 50) == [50]
    assert save_steps("every:30", 100) == [30, 60, 90, 100]
    assert save_steps("every:500", 100) == [100]
    assert save_steps([7, 3], 9) == [3, 7, 9]


def test_a_step_after_the_end_is_refused():
    with pytest.raises(BadInput, match=r"step 12, but the stage has only 9 steps"):
        save_steps([3, 12], 9)


@given(st.integers(1, 60), st.integers(1, 3000))
def test_log_steps_are_as_many_as_asked_ascending_and_end_at_the_end(count, total):
    steps = save_steps(f"log:{count}", total)
    assert len(steps) == min(count, total)
    assert steps[0] >= 1
    assert steps[-1] == total
    assert all(a < b for a, b in itertools.pairwise(steps))


def test_order_is_one_shuffle_after_another():
    seen = order(10, 25, seed=3)
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert len(set(seen[20:].tolist())) == 5
    assert not np.array_equal(seen[:10], seen[10:20])
    assert np.array_equal(seen, order(10, 25, seed=3))
    assert not np.array_equal(seen, order(10, 25, seed=4))
    assert np.array_equal(order(10, 40, seed=3)[:25], seen)


def test_records_of_like_length_share_a_batch():
    lengths = [1, 9] * 32
    seen = order(64, 128, seed=3, lengths=lengths, batch=8)
    assert sorted(seen.tolist()) == sorted([*range(64)] * 2)  # two epochs, nothing lost
    batches = seen.reshape(-1, 8)
    assert all(len({lengths[record] for record in batch}) == 1 for batch in batches)
    assert len({lengths[batch[0]] for batch in batches[:8]}) == 2  # the batches are shuffled, not sorted
    assert np.array_equal(seen, order(64, 128, seed=3, lengths=lengths, batch=8))
    assert order(10, 10, 0, [1] * 10, 4).tolist() != []
    assert len(order(10, 10, 0, [1] * 10, 4)) == 10  # a rest that fills no batch stays
