"""A few hundred changed files of every kind: each is read or refused with one sentence. `make fuzz` tries 20,000."""

import importlib.util
import sys
import warnings
from pathlib import Path

import datasets
import huggingface_hub
import pytest

spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)
INPUTS = {"plan": 80, "suite": 60, "pairs": 60, "gold": 60, "replies": 60, "checkpoint": 40, "run": 6}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Return the kinds, offline and with the server's address; both end with the module."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_BASE_URL", "NO_PROXY"):
            patch.setenv(name, "")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with fuzz.serve():
            yield fuzz.kinds(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", INPUTS)
def test_no_traceback(kinds, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ended, faults = fuzz.fuzz(kinds[kind], kind, 1, 0, INPUTS[kind])
    assert not faults
    assert ended.total() == INPUTS[kind]
    assert ended["read"] > 0
