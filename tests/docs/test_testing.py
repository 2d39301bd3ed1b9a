"""The example of CONTRIBUTING that uses valuedrift.testing runs as it is shown."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_the_example(tmp_path):
    code = re.search(
        r"^```python\n(from valuedrift import pipeline.*?)^```", (REPO / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )[1]
    names: dict = {}
    exec(code, names)
    names["test_a_trace"](tmp_path)
