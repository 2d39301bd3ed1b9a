"""Write the option tables of docs/: run `python .ci/option_tables.py` after a change of an option or a setting.

A line `<!-- options of VERB -->` or `<!-- keys of MODEL -->` in a page stands above the table that is written.
"""

import json
import re
from pathlib import Path

import typer
from pydantic.fields import FieldInfo

from valuedrift import plan, registry
from valuedrift.cli import app
from valuedrift.cli.options import shown_default
from valuedrift.synth.synth import Spec

DOCS = Path(__file__).parents[1] / "docs"
TABLE = re.compile(r"<!-- (options|keys) of (.*) -->\n(?:\|.*\n)*")


def filled(page: str) -> str:
    """Return the text of a page with its tables written again."""
    make = {"options": options, "keys": keys}
    return TABLE.sub(lambda found: f"<!-- {found[1]} of {found[2]} -->\n{make[found[1]](found[2])}", page)


def options(verb: str) -> str:
    """Return the table of a verb's options, for example of "trace" or "suite build"."""
    command = typer.main.get_command(app)
    for name in verb.split():
        command = command.commands[name]
    rows = []
    for option in [one for one in command.params if one.opts[0].startswith("--")]:
        default = option.show_default if isinstance(option.show_default, str) else shown_default(option.default)
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        plain = option.required or default in ("on", "off", "none") or " " in default
        rows.append((names, "required" if option.required else default if plain else f"`{default}`", option.help))
    return table("option", rows)


def keys(name: str) -> str:
    """Return the table of the keys of a model of plan.py, of `Spec`, or of "all algorithms"; of `Plan`, its own ones alone."""
    if name == "all algorithms":
        classes = [(choice, registry.find("algorithm", choice)) for choice in registry.names("algorithm")]
        own = [(choice, one) for choice, one in classes if one.__module__.startswith("valuedrift.") and not hasattr(one, "named")]
        rows = [(f"`{choice}`", *row) for choice, one in own for row in rows_of(one.Settings.model_fields)]
        return table("algorithm | key", rows)
    fields = (Spec if name == "Spec" else getattr(plan, name)).model_fields
    taken = plan.EvaluationSettings.model_fields if name == "Plan" else {}
    return table("key", rows_of({key: field for key, field in fields.items() if key not in taken}))


def rows_of(fields: dict[str, FieldInfo]) -> list[tuple[str, ...]]:
    """Return name, default and meaning of each field."""
    rows = []
    for key, field in fields.items():
        default = "required" if field.is_required() else "none" if field.default is None else f"`{json.dumps(field.default)}`"
        rows.append((f"`{key}`", default, " ".join((field.description or "").partition("\n\n")[0].split())))
    return rows


def table(what: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown; a path like docs/judge.md in a meaning becomes a link."""
    linked = [[re.sub(r"docs/(\w+)\.md(#[\w-]+)?", r"[\1](\1.md\2)", cell).replace("|", r"\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in ([what, "default", "meaning"], ["---"] * len(rows[0]), *linked))


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        path.write_text(filled(path.read_text()))
