"""One direction: a module imports only modules of its own layer or of layers before it."""

import ast
from pathlib import Path

import valuedrift

ROOT = Path(valuedrift.__file__).parent
LAYERS = [
    {"nouns", "__init__"},
    {"registry", "progress"},
    {"plan", "parts"},
    {"store"},
    {"scale"},
    {"sandbox._grammar", "sandbox._data", "sandbox"},
    {"suites"},
    {"data"},
    {"sample"},
    {"train"},
    {"judge"},
    {"measure"},
    {"report"},
    {
        "attach",
        "provenance",
        "sandbox.build",
        "sandbox.judges",
        "sandbox._encoder",
        "data.synth",
        "data._drafts",
        "data._card",
        "suites.vprism",
    },
    {"asking", "resolve", "tables"},
    {"ready"},
    {"flow"},
    {"attach.callback", "attach.watch", "attach.inspect"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]


def layer_of(module: str) -> int:
    for name in (module, module.split(".")[0]):
        for index, layer in enumerate(LAYERS):
            if name in layer:
                return index
    raise AssertionError(f"{module} stands in no layer; add it to LAYERS")


def imports_of(path: Path, module: str) -> set[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [*base, *(node.module.split(".") if node.module else [])]
            found |= {".".join(names)} if node.module else {".".join([*names, alias.name]) for alias in node.names}
    return {name for name in found if name}


def test_nothing_upstream_imports_downstream():
    wrong = []
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") or "__init__"
        for imported in imports_of(path, module):
            known = (ROOT / f"{imported.replace('.', '/')}.py").exists() or (ROOT / imported.replace(".", "/")).is_dir()
            if known and layer_of(imported) > layer_of(module):
                wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)
