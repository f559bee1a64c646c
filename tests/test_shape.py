"""The maxima of the code base. What makes code hard to change is not the average function but the longest."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from proxy.app import ROUTES

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "proxy").glob("**/*.py"), *(ROOT / "storage").glob("**/*.py")])
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_HANDLER_LINES = 25
#: What every module of routes has under the same name.
SHARED_NAMES = {"ROUTES"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a module, methods and inner ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines(node: Function) -> int:
    """How many lines a function takes, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def without_docstring(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public functions, classes and methods that have no docstring, by their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and "overload" not in map(ast.unparse, node.decorator_list):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from without_docstring(node, f"{prefix}{node.name}.")


def public_names(tree: ast.Module) -> set[str]:
    """Public classes, functions and constants of a module; loggers, of which each module has its own, aside."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign() | ast.AnnAssign() if "getLogger" not in ast.unparse(node):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(each.id for each in chain(*map(ast.walk, targets)) if isinstance(each, ast.Name))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_within_its_size_and_explains_what_is_public(path: Path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MAX_MODULE_LINES
    tree = ast.parse(source)
    assert [node.name for node in functions(tree) if lines(node) > MAX_FUNCTION_LINES] == []
    assert ast.get_docstring(tree) or not tree.body
    assert list(without_docstring(tree)) == []


def test_handlers_are_short():
    handlers = {inspect.unwrap(route.handler) for route in ROUTES}
    assert len(handlers) > 15
    sizes = {handler.__qualname__: len(inspect.getsourcelines(handler)[0]) for handler in handlers}
    assert {name: size for name, size in sizes.items() if size > MAX_HANDLER_LINES} == {}


def test_no_public_name_stands_twice():
    homes = defaultdict[str, list[str]](list)
    for path in MODULES:
        for name in public_names(ast.parse(path.read_text("utf-8"))) - SHARED_NAMES:
            homes[name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_the_measures_measure():
    source = "def long():\n" + "    pass\n" * 60 + "class Thing:\n    def do(self): ...\n    def _hidden(self): ...\n"
    tree = ast.parse(source)
    assert {node.name: lines(node) for node in functions(tree)} == {"long": 61, "do": 1, "_hidden": 1}
    assert list(without_docstring(tree)) == ["long", "Thing", "Thing.do"]
    names = "A: int = 1\nB, (_C, d) = 1, (2, 3)\nlogger = logging.getLogger()\nasync def _e(): ...\n"
    assert public_names(ast.parse(source + names)) == {"long", "Thing", "A", "B", "d"}
