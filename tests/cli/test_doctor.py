"""doctor says what there is, also if torch is broken, and knows every extra."""

import json
import tomllib
from pathlib import Path

from valuedrift import __version__, cli, doctor

REPO = Path(__file__).parents[2]
KEY = "k3y-of-mine-1234567890"


def printed(capsys, *options):
    cli.app(["doctor", *options], standalone_mode=False)
    return capsys.readouterr().out


def test_what_it_prints(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{KEY}@127.0.0.1:1/v1?key={KEY}")
    monkeypatch.setenv("VALUEDRIFT_CACHE", str(tmp_path))
    (tmp_path / "file").write_bytes(b"x" * 100)
    text = printed(capsys, "--json")
    found = json.loads(text)
    assert KEY not in text
    assert found["endpoint"] == {"address": "http://127.0.0.1:1/v1", "key": True}
    assert (found["caches"]["valuedrift"]["bytes"], found["caches"]["valuedrift"]["path"]) == (100, str(tmp_path))
    assert found["versions"]["valuedrift"] == __version__
    assert found["versions"]["torch"]
    assert "float32" in found["precision"] or "checkpoint" in found["precision"]
    assert "torch" not in {one["package"] for one in found["missing"]}


def test_a_broken_torch_and_a_missing_extra_are_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        doctor, "requires", lambda name: ["nosuch>=1; extra == 'ray'", "pytest>=999", "typer>=0.1", "also; extra == 'docs'"]
    )
    words = printed(capsys)
    assert "torch: it cannot be imported (OSError: libtorch.so: cannot open)" in words
    assert "not known, because torch cannot be imported" in words
    assert "Missing: nosuch: it is not installed: pip install 'valuedrift[ray]'. Needed for --engine ray (run, trace)." in words
    assert "and >=999 is needed: pip install 'pytest>=999'. Needed for every verb." in words
    assert words.count("Missing:") == 3


def test_every_extra_has_a_purpose():
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert doctor.NEEDED_FOR.keys() == extras.keys() - {"test", "dev", "docs"}
