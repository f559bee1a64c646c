"""The shape of the imports: one way, over few levels, and as docs/architecture.md draws them; tests stand alone."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
MAX_LEVELS = 13
MAX_FILES_OF_PROXY = 8
MAX_FILES_OF_A_FOLDER = 20
#: What looks like an import of a test module; only such a file is worth the time that parsing takes.
MAY_IMPORT_A_TEST = re.compile(r"^ *(?:from|import) (?:[^\n(]*|[^\n(]*\([^)]*)\btest_", re.MULTILINE)
#: Who speaks HTTP, and may know aiohttp's requests and answers.
SPEAK_HTTP = re.compile(
    r"proxy/(app\.py|(api|http|websocket|idempotency|cli|echo)/.*|page/(?!content/).*|streams/follower\.py)"
)
#: What others may take of `aiohttp.web`: the keys that carry their classes.
KEYS = {"AppKey", "RequestKey"}

Imports = Mapping[str, set[str]]


@cache
def imports() -> Imports:
    """What each room imports, for types only too: a room is a package or module of `proxy`, or all of `storage`."""
    graph = grimp.build_graph("proxy", "storage", exclude_type_checking_imports=False, cache_dir=None)
    rooms: dict[str, set[str]] = {}
    for module in graph.modules:
        wanted = rooms.setdefault(room_of(module), set())
        wanted.update(room_of(other) for other in graph.find_modules_directly_imported_by(module))
    return {room: wanted - {room, "proxy"} for room, wanted in rooms.items() if room != "proxy"}


def room_of(module: str) -> str:
    """The room that a module stands in."""
    return ".".join(module.split(".")[: 2 if module.startswith("proxy") else 1])


def levels(graph: Imports) -> list[list[str]]:
    """Rooms by level, the lowest first: each imports only what is below it. Raises ValueError with a circle's rooms."""
    found: list[list[str]] = []
    left = dict(graph)
    while left:
        level = sorted(room for room, wanted in left.items() if not wanted & left.keys())
        if not level:
            raise ValueError(f"a circle: {', '.join(sorted(left))}")
        found.append(level)
        left = {room: wanted for room, wanted in left.items() if room not in level}
    return found


def test_imports_run_one_way_over_few_levels():
    drawn = levels(imports())
    for number, level in zip(count(len(drawn), -1), reversed(drawn), strict=False):
        print(f"{number:2}  {'  '.join(room.removeprefix('proxy.') for room in level)}")
    assert len(drawn) <= MAX_LEVELS


def test_a_back_arrow_is_noticed():
    assert levels({"a": {"b"}, "b": {"c"}, "c": set()}) == [["c"], ["b"], ["a"]]
    with pytest.raises(ValueError, match="a, b"):
        levels({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()})


def test_the_page_draws_the_layers_of_the_contract():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    drawn = text.partition("## Layers")[2].partition("```\n")[2].partition("```")[0].splitlines()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == ["proxy"])
    assert drawn == [*layers, "storage"]


def test_contracts_name_packages():
    text = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.importlinter]")[2]
    named = set(re.findall(r'"((?:proxy|storage)(?:\.\w+)+)"', text))
    modules = {name for name in named if not (ROOT / Path(*name.split("."))).is_dir()}
    assert modules <= {"proxy.delivery", "storage.store"}


def test_no_folder_is_a_list():
    folders = {
        path.parent for package in ("proxy", "storage") for path in (ROOT / package).rglob("*") if path.is_file()
    }
    sizes = {
        str(folder.relative_to(ROOT)): sum(one.is_file() for one in folder.iterdir())
        for folder in folders
        if folder.name != "__pycache__"
    }
    assert sizes.pop("proxy") <= MAX_FILES_OF_PROXY
    assert {folder: size for folder, size in sizes.items() if size > MAX_FILES_OF_A_FOLDER} == {}


FACES = [path for package in ("proxy", "storage") for path in sorted((ROOT / package).rglob("*/__init__.py"))]


@pytest.mark.parametrize("face", FACES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_package_says_what_lives_there_and_what_it_may_import(face: Path):
    said = ast.get_docstring(ast.parse(face.read_text("utf-8"))) or ""
    assert said.splitlines()[0].endswith(".")
    assert re.search(r"^Imports .*\.", said, re.MULTILINE), "what it may import: a line that begins with 'Imports'"


def test_tests_of_modules_stand_in_folders_that_are_called_as_their_packages():
    for package in ("proxy", "storage"):
        folders = [path.parent for path in (ROOT / "tests" / package).rglob("*.py")]
        names = {str(folder.relative_to(ROOT / "tests")) for folder in folders}
        assert {name for name in names if not (ROOT / name / "__init__.py").is_file()} == set()
        assert len(names) > 1


def test_no_test_module_imports_another():
    """What several suites need stands in a module that is named for it."""
    between = {}
    for path in (ROOT / "tests").rglob("*.py"):
        source = path.read_text("utf-8")
        if MAY_IMPORT_A_TEST.search(source) and (taken := imported_tests(ast.parse(source))):
            between[str(path.relative_to(ROOT))] = taken
    assert between == {}


def test_an_import_of_a_test_module_is_noticed():
    source = "from tests.a.test_a import x\nfrom tests.b import test_b, talk\nimport tests.test_c\nfrom . import test_d"
    assert all(map(MAY_IMPORT_A_TEST.search, [*source.splitlines(), "from tests.a import (\n    b,\n    test_c,\n)"]))
    assert imported_tests(ast.parse(source)) == {"test_a", "test_b", "test_c", "test_d"}
    assert imported_tests(ast.parse("from tests.flows.talk import post\nfrom aiohttp import test_utils")) == set()


def imported_tests(tree: ast.Module) -> set[str]:
    """The test modules of this repository that a module imports."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = f"tests.{node.module}" if node.level else node.module
            names += [f"{home}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names += [each.name for each in node.names]
    ours = [name.split(".") for name in names if name.startswith("tests.")]
    return {part for name in ours for part in name if part.startswith("test_")}


def test_only_who_speaks_http_knows_its_requests():
    strangers = {}
    for path in (ROOT / "proxy").rglob("*.py"):
        name, source = str(path.relative_to(ROOT)), path.read_text("utf-8")
        if SPEAK_HTTP.fullmatch(name) or "aiohttp" not in source:
            continue
        if taken := web_names(ast.parse(source)) - KEYS:
            strangers[name] = taken
    assert strangers == {}


def web_names(tree: ast.Module) -> set[str]:
    """What a module takes of `aiohttp.web`; `web` for all of it."""
    taken: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "aiohttp.web":
            taken.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "aiohttp":
            taken.update(each.name for each in node.names if each.name == "web")
        elif isinstance(node, ast.Import):
            taken.update("web" for each in node.names if each.name == "aiohttp.web")
    return taken
