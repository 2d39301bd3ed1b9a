"""What every analysis keeps, whoever wrote it."""

from __future__ import annotations

import dataclasses
import importlib.util
from html.parser import HTMLParser
from pathlib import Path

import pytest

from valuedrift import analyses, registry
from valuedrift.report.page import page
from valuedrift.report.run import Run, read

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("made_run", Path(__file__).resolve().parent.parent / "report" / "made.py")
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

VOID = {"br", "hr", "img", "input", "link", "meta", "path"}


class Elements(HTMLParser):
    """Collects the tags and ids of a fragment, and refuses an end tag that closes another element."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.handlers = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def elements(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    full = read(made.make_run(tmp_path_factory.mktemp("full")))
    one = read(made.make_run(tmp_path_factory.mktemp("one"), branches=(("trace", "base"),), topics=("work",), steps=(700,), hostile=False))
    tables = {name: getattr(full, name).clear() for name in ("profiles", "drifts", "scores", "answers")}
    return {"full": full, "one": one, "empty": dataclasses.replace(full, **tables, tables=tables, checkpoints=[], provenance={})}


@pytest.mark.parametrize("name", registry.names("analysis"))
@pytest.mark.parametrize("kind", ["full", "one", "empty"])
def test_panel_gives_whole_and_harmless_html(name, kind, runs):
    html = registry.find("analysis", name)().panel(runs[kind])
    found = elements(html)
    assert len(set(found.ids)) == len(found.ids)
    assert found.handlers == []
    assert "img" not in found.tags
    assert "NaN" not in html
    assert ">None<" not in html
    assert "nan" not in html.split()


@pytest.mark.parametrize("name", registry.names("analysis"))
def test_panel_is_documented_and_has_its_place(name):
    panel = registry.find("analysis", name)
    module = importlib.import_module(panel.__module__)
    assert module.__doc__
    assert panel.panel.__doc__
    assert isinstance(panel.order, int)
    assert panel.title.strip()
    assert [registry.find("analysis", other).order for other in registry.names("analysis")].count(panel.order) == 1


class Extra(analyses.Analysis):
    order = 15
    title = "Third <party>"

    def panel(self, run):
        return f"<p>{len(run.stages)} stages</p>"


class Nothing(Extra):
    title = "Never shown"

    def panel(self, run):
        return ""


class Point:
    def __init__(self, panel):
        self.load = lambda: panel


def test_third_party_panel_takes_its_place_and_an_empty_one_is_left_out(runs, monkeypatch):
    monkeypatch.setattr(
        registry, "third_party", lambda kind: {"extra": Point(Extra), "nothing": Point(Nothing)} if kind == "analysis" else {}
    )
    html = page(runs["one"])
    assert "<p>1 stages</p>" in html
    assert html.index("Trajectories</h2>") < html.index("Third &lt;party&gt;</h2>") < html.index("Drifts</h2>")
    assert "Never shown" not in html
