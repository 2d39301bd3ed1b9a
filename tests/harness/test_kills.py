"""A sample of `make harness`: some verbs are killed at random moments and finished."""

import random

import pytest
from killing import killed
from table import VERBS as VERBS_THAT_WRITE

pytestmark = pytest.mark.slow
SEED, KILLS, VERBS = 6, 20, 5


def test_killed_verbs_end_as_if_nothing_had_happened(harness):
    chosen = random.Random(SEED).sample(sorted(name for name, verb in VERBS_THAT_WRITE.items() if not verb.needs), VERBS)
    found = killed(*harness, {name: VERBS_THAT_WRITE[name] for name in chosen}, KILLS, 4, SEED)
    assert not {name: row.faults for name, row in found.items() if row.faults}
    assert sum(row.kills for row in found.values()) >= 0.8 * KILLS, found
