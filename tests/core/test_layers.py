"""One direction: a folder imports only folders below it, and no folder imports another's private modules."""

import ast
from pathlib import Path

import pytest

import valuedrift

ROOT = Path(valuedrift.__file__).parent
LAYERS = (  # from the bottom
    {"nouns", "__init__"},
    {"registry", "progress", "caches"},
    {"plan", "parts"},
    {"store"},
    {"provenance"},
    {"distributed"},
    {"world"},
    {"records"},
    {"models"},
    {"checkpoints", "suites"},
    {"train"},
    {"judge"},
    {"stats"},
    {"evaluate"},
    {"report"},
    {"analyses"},
    {"synth", "sandbox"},  # optional: nothing below imports them
    {"resolve"},
    {"ready"},
    {"training"},
    {"pipeline"},
    {"forecast"},
    {"integrations", "verbs", "testing", "doctor"},
    {"cli"},
    {"__main__"},
)
LAYER = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def imports_of(path: Path, module: str) -> set[str]:
    """Return the modules of this package that a file imports, anywhere in it."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") or "__init__"


MODULES = {path: name_of(path) for path in ROOT.rglob("*.py")}


def test_every_folder_stands_on_one_layer():
    assert {module.partition(".")[0] for module in MODULES.values()} == LAYER.keys()


@pytest.mark.parametrize("path", MODULES, ids=MODULES.get)
def test_imports_point_down_and_to_public_modules(path):
    room = MODULES[path].partition(".")[0]
    for imported in imports_of(path, MODULES[path]):
        other, *inside = imported.split(".")
        if other not in LAYER or other == room:
            continue
        assert LAYER[other] < LAYER[room], f"{MODULES[path]} imports {imported}, which stands above it"
        assert not (inside and inside[0].startswith("_")), f"{MODULES[path]} imports {imported}, which is private to its folder"
