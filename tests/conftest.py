"""What tests of several folders share."""

import os
from pathlib import Path

import pytest

from valuedrift import testing

# On a GPU stages train under bfloat16 autocast, and the figures to compare with are of float32. Set to 0, tests run there all the same
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with random weights of two layers and the sandbox's tokenizer."""
    return testing.save_sandbox_model(tmp_path_factory.mktemp("tiny") / "model")
