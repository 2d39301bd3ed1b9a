"""What tests of several folders share."""

import os
from pathlib import Path

import pytest

from valuedrift.sandbox import build

# On a GPU stages train under bfloat16 autocast, and the figures to compare with are of float32. Set to 0, tests run there all the same
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with random weights of two layers and the sandbox's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ARCHITECTURE", build.ARCHITECTURE | small)
        patch.setattr(build, "VOCABULARY", 512)
        return build._start(folder)
