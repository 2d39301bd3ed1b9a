"""Six-step curves on ragged batches, against stored ones.

After a change that is meant to move them: `VALUEDRIFT_REWRITE_GOLDENS=1 pytest tests/train/test_golden.py`, and say why in the commit.
"""

import checks
import pytest

from valuedrift import testing
from valuedrift.plan import Stage
from valuedrift.train.stage import run_stage

RUNS = {
    "sft": {},
    "dpo": {},
    "simpo": {},
    "ipo": {},
    "orpo": {"odds_weight": 1},
    "reward": {"center_rewards_coefficient": 0.02},
    "kto": {"undesirable_weight": 0.2},  # so that the chosen answers take the mismatched ones up with them, above the bound of z0
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", RUNS)
def test_curve(algorithm, tmp_path):
    plan = {"steps": 6, "batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 3e-3, "warmup_ratio": 0.2, "weight_decay": 0.1}
    stage = Stage(algorithm=algorithm, data="x", **plan, **RUNS[algorithm])
    data = testing.examples(21) if algorithm == "sft" else testing.pairs(21)
    run_stage(stage, 7, testing.save_model(tmp_path / "base", "qwen3"), data, tmp_path / "out")
    checks.assert_golden(tmp_path / "out", algorithm)
