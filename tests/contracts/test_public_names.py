"""The tests use public names only, so that the inside of a module may change without them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import valuedrift

TESTS = Path(__file__).parents[1]
SOURCES = Path(valuedrift.__file__).parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined_in(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a file defines: functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


PRIVATE = {
    name
    for path in SOURCES.rglob("*.py")
    for name in (*defined_in(ast.parse(path.read_text("utf-8"))), path.stem)
    if is_private(name) and name != "_"
}


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names of valuedrift that a test imports, reads as an attribute, or names in a string ("module._name")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "valuedrift":
            yield from (part for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)] if is_private(part))
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (part for parts in names if parts[0] == "valuedrift" for part in parts if is_private(part))
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            yield from {node.attr} & PRIVATE
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from {node.value, node.value.rpartition(".")[2]} & PRIVATE


def test_tests_use_public_names_only():
    used = {path.relative_to(TESTS).as_posix(): set(private_names(ast.parse(path.read_text("utf-8")))) for path in TESTS.rglob("*.py")}
    assert {path: names for path, names in used.items() if names} == {}
