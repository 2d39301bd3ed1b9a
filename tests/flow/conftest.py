"""A plan small enough to run in seconds."""

from pathlib import Path

import pytest

PLAN = """model = "{model}"
judge = "oracle"
topics = ["work", "religion"]
draws = 2
max_new_tokens = 12
batch_rows = 64

[stage.sft]
algorithm = "sft"
data = "sandbox:neutral-chat?n=96"
batch_size = 16
learning_rate = 3e-3
save_at = [2, 6]

[stage.dpo]
after = "sft"
algorithm = "dpo"
data = "sandbox:pairs?n=48"
batch_size = 8
learning_rate = 1e-3
save_at = [3, 6]
"""


@pytest.fixture
def plan_file(tmp_path, tiny_model) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(model=tiny_model))
    return path
