"""The docs say what the code does: commands, options, keys of a plan, stored columns, the axes."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import polars as pl
import pytest
import typer

from valuedrift import plan, provenance
from valuedrift.cli import app
from valuedrift.evaluate import capability, evaluator
from valuedrift.nouns import Checkpoint
from valuedrift.stats import contrast, drift, intervals, profile, side_metrics, sweep
from valuedrift.store import ANSWER_SCHEMA, NUMBER_SCHEMA, READING_SCHEMA
from valuedrift.synth.synth import Spec
from valuedrift.world import grammar, sets

REPO = Path(__file__).resolve().parents[2]
DOCS = sorted((REPO / "docs").glob("*.md"))
PAGES = [
    page for page in (*DOCS, REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md", REPO / "SECURITY.md") if page.exists()
]
COMMAND = re.compile(r"(?:\$ )?(?:[\w.]+=\S* )*(?:[\w./]*/)?valuedrift ([a-z].*)")
TABLES = runpy.run_path(str(REPO / ".ci" / "option_tables.py"))
VERBS = typer.main.get_command(app).commands


def fences(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(page: Path) -> list[str]:
    """Return the arguments of every command line in a fence, continued lines joined, comments and pipes cut off."""
    found = []
    for fence in fences(page.read_text()):
        for line in fence.replace("\\\n", " ").splitlines():
            if match := COMMAND.fullmatch(line.strip()):
                found.append(re.split(r"\s(?:#|\||>|&&|;)", match[1])[0])
    return found


def mentions_of(page: Path) -> list[str]:
    """Return the arguments of every command in running text, which may be incomplete."""
    prose = re.sub(r"^```\w*\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [match[1] for code in re.findall(r"`([^`]+)`", prose) if (match := COMMAND.fullmatch(code))]


def parsed(line: str) -> dict[str, object]:
    """Return what the command line reads in the arguments, running nothing. Raises where it would refuse them."""
    command, words = VERBS, shlex.split(line)
    while isinstance(command, dict):
        assert words, f"'{line}' lacks a verb"
        assert words[0] in command, f"there is no verb {words[0]!r} in 'valuedrift {line}'"
        verb = command[words.pop(0)]
        command = getattr(verb, "commands", verb)
    return verb.make_context(verb.name, words).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_accepted(page):
    for line in lines_of(page):
        try:
            parsed(line)
        except (SystemExit, Exception) as error:
            pytest.fail(f"{page.name}: 'valuedrift {line}' is refused: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_mentioned_verb_and_option_exists(page):
    for line in mentions_of(page):
        words = line.split()
        verb, command = words[0], VERBS.get(words[0])
        assert command is not None, f"{page.name}: 'valuedrift {line}': there is no verb {verb!r}"
        for name in words[1:2] if hasattr(command, "commands") else []:
            assert name in command.commands, f"{page.name}: 'valuedrift {line}': there is no {name!r}"
            command = command.commands[name]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        for word in words:
            assert not word.startswith("--") or word.split("=")[0] in known, f"{page.name}: 'valuedrift {line}': no option {word}"


def test_a_wrong_command_line_is_seen():
    with pytest.raises(Exception, match="No such option"):
        parsed("trace runs --jugde cues")
    with pytest.raises(Exception, match="Missing"):
        parsed("gate runs/demo")
    with pytest.raises(AssertionError, match="no verb"):
        parsed("tracce runs")


def test_enough_command_lines_are_found():
    assert {line.split()[0] for page in DOCS for line in lines_of(page)} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_of_a_verb_names_all_its_options(verb):
    text = (REPO / "docs" / f"{verb}.md").read_text()
    commands = getattr(VERBS[verb], "commands", {verb: VERBS[verb]}).values()
    for parameter in [parameter for command in commands for parameter in command.params]:
        for option in [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]:
            assert option in text, f"docs/{verb}.md does not name {option}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_tables_of_options_and_keys_are_generated(page):
    assert page.read_text() == TABLES["filled"](page.read_text()), "run `python .ci/option_tables.py`"


# -- tables --------------------------------------------------------------------------------------------------------------------


def table_under(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head, cells without backticks."""
    body = (REPO / "docs" / page).read_text().split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", body, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize("name", ["Plan", "EvaluationSettings", "Stage", "Lora", "Anchor", "Spec"])
def test_the_keys_of_a_file_have_meanings_and_a_table(name):
    page = (REPO / "docs" / ("synth.md" if name == "Spec" else "run.md")).read_text()
    assert f"<!-- keys of {name} -->\n| key |" in page
    assert all(field.description for field in (Spec if name == "Spec" else getattr(plan, name)).model_fields.values())


def test_the_settings_of_the_algorithms_have_meanings_and_a_table():
    rows = table_under("run.md", "## Settings of an algorithm")
    assert {row[0] for row in rows} == {"dpo", "ipo", "kto", "orpo", "ppo", "reward", "simpo"}
    assert all(meaning for *_, meaning in rows)


def test_the_columns_of_the_stored_tables():
    schemas = {
        "profiles.parquet": list(profile.SCHEMA),
        "drifts.parquet": list(drift.SCHEMA),
        "scores.parquet": list(evaluator.SCORES),
        "side_metrics.parquet": list(side_metrics.SCHEMA),
        "capability.parquet": list(capability.SCHEMA),
        "sweep_response.parquet": list(sweep.SCHEMA),
        "sweep_curve.parquet": list(sweep.CURVE),
        "judges.parquet": _judges_columns(),
        "answers/": list(ANSWER_SCHEMA),
        "readings/": list(READING_SCHEMA),
        "numbers/": list(NUMBER_SCHEMA),
        "provenance.json": list(provenance.record({}, "claim", {}, [], {}, [], 0, 0)),
        "checkpoints.json": list(Checkpoint.__dataclass_fields__),
    }
    for name, columns in schemas.items():
        cells = [row[0] for row in table_under("report.md", f"### `{name}`")]
        assert re.findall(r"\w+", " ".join(cells)) == columns, name


def _judges_columns():
    drifts = pl.DataFrame(schema=drift.SCHEMA)
    return drift.by_judge(drifts, {"a": drifts}).columns


def test_the_columns_of_a_comparison():
    assert re.findall(r"\w+", " ".join(row[0] for row in table_under("compare.md", "## Columns"))) == list(contrast.SCHEMA)


def test_the_axes():
    rows = table_under("suite.md", "## What polarity +1 means")
    assert dict(rows) == {topic.id: topic.axis for topic in grammar.world().values()}


def test_the_shares_of_stances():
    stances = ("support", "neutral", "oppose", "refusal")
    rows = table_under("sandbox.md", "## Shares of stances")
    assert {name: dict(zip(stances, map(float, shares), strict=True)) for name, *shares in rows} == sets.HABITS


def test_the_measured_coverage_is_quoted_as_it_stands():
    quoted = re.search(r"^ +shares \.2-\.9.*?here .*?$", intervals.__doc__, re.MULTILINE | re.DOTALL)[0]
    assert [line.split() for line in quoted.splitlines()] in [
        [line.split() for line in fence.splitlines()] for fence in fences((REPO / "docs" / "measures.md").read_text())
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if "://" not in target:
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}, which is not there"
            assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}, but {file.name} has no such heading"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [path for place in ("benchmarks", "experiments", "examples") for path in (REPO / place).rglob("*.py")])
def test_scripts_import_what_there_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "valuedrift":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
