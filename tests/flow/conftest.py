"""A random model that knows the sandbox's tokenizer, and a plan small enough to run in seconds."""

from pathlib import Path

import pytest

from valuedrift.sandbox import build

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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with random weights of two layers and the sandbox's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ARCHITECTURE", build.ARCHITECTURE | small)
        patch.setattr(build, "VOCABULARY", 512)
        return build._start(folder)


@pytest.fixture
def plan_file(tmp_path, tiny_model) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(model=tiny_model))
    return path
