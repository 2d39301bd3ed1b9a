"""A plan small enough to run in seconds."""

from pathlib import Path

import pytest

from valuedrift import testing


@pytest.fixture
def plan_file(tmp_path, tiny_model) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(testing.PLAN.format(model=tiny_model))
    return path
