"""The documentation against the code: links lead somewhere, examples parse, and nothing it names is made up."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from proxy.config.flags import FLAGS
from proxy.config.schema import ENVIRONMENT_PREFIX, keys, sections
from proxy.protocol.errors import ApiError

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    # what `make examples` installs has pages of its own
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if "node_modules" not in page.parts
)
API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
HTTP_API = "\n".join(page.read_text("utf-8") for page in API_PAGES)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
#: What a file in backticks looks like: `proxy/config.py`, `compose.yaml`, `storage/lua/`.
_FILE = re.compile(
    r"`((?:[\w.]+/)*[\w.]+\.(?:py|md|lua|toml|yaml|json)|(?:proxy|storage|tests|docs|benchmarks)/[\w/]*)`"
)
_OF_AN_UPSTREAM = re.compile(rf"{ENVIRONMENT_PREFIX}UPSTREAMS_([A-Z]+)_[A-Z_]+")
#: Example names that stand for a file of the reader's own.
_READERS_OWN = {"config.toml"}


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Fenced code blocks: language and text."""
    return ((match[1], match[2]) for match in _FENCE.finditer(text))


def prose(text: str) -> str:
    """A page without its fenced code blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_within_the_repository_lead_somewhere(page: Path):
    text = prose(page.read_text("utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path):
    names = set(_FILE.findall(prose(page.read_text("utf-8")))) - _READERS_OWN
    assert [name for name in sorted(names) if not (ROOT / name).exists() and "NAME" not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_blocks_parse(page: Path):
    for language, code in blocks(page.read_text("utf-8")):
        if language == "json":
            json.loads(code)
        elif language == "python":
            ast.parse(code)
        elif language == "yaml":
            yaml.safe_load(code)
        elif language == "toml":
            tomllib.loads(code)
        elif language == "sh":
            subprocess.run(["bash", "-n"], input=code.encode(), check=True, capture_output=True)
        else:
            assert language in {"", "mermaid", "nginx", "text"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_settings_variables_and_flags_that_are_named_exist(page: Path):
    text = page.read_text("utf-8")
    known = keys()
    groups = "|".join(re.escape(name) for name in sections())
    named = set(re.findall(rf"`((?:{groups})\.[a-z_]+)\b(?!\.)", text))
    files = {name for name in named if name.rpartition(".")[2] in {"py", "md", "toml"}}
    assert named - files <= known.keys() | sections().keys()
    if page.name != "configuration.md":
        variables = set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+\b", text))
        # the names of upstreams are the reader's
        names = {found[1].lower() for one in variables if (found := _OF_AN_UPSTREAM.fullmatch(one))}
        assert variables <= {key.variable for key in keys(names).values()}
    flags = {flag for _, code in blocks(text) for flag in re.findall(r"branchline serve.*?(--[a-z-]+)", code)}
    assert flags <= {flag for flag, _, _ in FLAGS.values()} | {"--config"}


def links_to_pages(page: Path) -> set[Path]:
    """The pages of the repository that a page links to."""
    names = {link.partition("#")[0] for link in _LINK.findall(prose(page.read_text("utf-8")))}
    return {(page.parent / name).resolve() for name in names if name.endswith(".md") and "://" not in name}


def test_every_page_is_at_most_two_links_away_from_the_readme():
    first = links_to_pages(ROOT / "README.md")
    second = {page for found in first for page in links_to_pages(found)}
    assert set(PAGES) - {ROOT / "README.md"} - first - second == set()


@pytest.mark.parametrize("page", [*API_PAGES, *(ROOT / "docs" / "guides").glob("*.md")], ids=page_id)
def test_a_page_of_the_api_and_a_guide_say_what_they_hold_and_where_their_neighbours_are(page: Path):
    opening = page.read_text("utf-8").partition("\n## ")[0]
    title, _, text = opening.partition("\n")
    assert title.startswith("# ")
    assert text.strip()
    neighbours = re.findall(r"\]\(([\w-]+\.md)", text)
    assert len({name for name in neighbours if (page.parent / name).exists()} - {page.name}) >= 2


def error_codes() -> set[str]:
    """Every code that the source gives an error: `code="…"`, and those that classes carry."""
    # the echo model is a server of its own, with errors of its own
    literal = re.compile(r'\bcode="([a-z_]+)"')
    sources = [path.read_text("utf-8") for path in (ROOT / "proxy").rglob("*.py") if path.parent.name != "echo"]
    found = {code for source in sources for code in literal.findall(source)}
    classes = [ApiError]
    while classes:
        error = classes.pop()
        classes += error.__subclasses__()
        found |= {error.code} if isinstance(error.code, str) else set()
    return found


def test_every_error_code_is_in_the_table_and_every_code_of_the_table_is_used():
    listed = {
        code
        for row in re.findall(r"^\| (?:\d{3}) \| (.+?) \|", prose(HTTP_API), re.MULTILINE)
        for code in re.findall(r"`([a-z_]+)`", row)
    }
    assert error_codes() == listed


def operations() -> set[tuple[str, str]]:
    """Method and path of every operation in the OpenAPI document."""
    document: dict[str, Any] = json.loads((ROOT / "proxy" / "api" / "openapi.json").read_text("utf-8"))
    methods = {"get", "post", "put", "patch", "delete"}
    return {(method.upper(), path) for path, item in document["paths"].items() for method in methods & item.keys()}


def test_every_operation_has_its_row_for_people_too_with_a_link_to_what_is_said_of_it():
    index = (ROOT / "docs" / "api" / "index.md").read_text("utf-8")
    described = set()
    for request, answer in re.findall(r"^\| (`[A-Z]+[` ].*?) \| (.*) \|$", index, re.MULTILINE):
        assert _LINK.search(answer), request
        for methods, path in re.findall(r"([A-Z][A-Z`, ⁺]*?)[` ⁺]*(/[\w/{}.]+)`", request):
            described |= {(method, path) for method in re.findall(r"[A-Z]+", methods)}
    assert described == operations()


def test_every_room_has_its_place_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for package in ("proxy", "storage"):
        section = text.partition(f"## {package}, one line a package\n")[2].partition("\n## ")[0]
        named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.+?) \|", section, re.MULTILINE))))
        rooms = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert named == {room for room in rooms if not room.startswith("__")}


def test_every_folder_of_the_code_has_its_row_in_contributing():
    table = (
        (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("### Which folder do I open?")[2].partition("\n## ")[0]
    )
    faces = [*(ROOT / "proxy").glob("*/__init__.py"), *(ROOT / "storage").glob("*/__init__.py")]
    folders = [str(face.parent.relative_to(ROOT)) for face in faces]
    assert len(folders) >= 2
    assert [folder for folder in folders if f"`{folder}/" not in table] == []


def test_modules_that_contributing_lists_after_their_folder_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    lists = re.findall(r"`((?:proxy|storage)/[\w/]+/)`: ((?:`\w+`(?:, )?)+)", text)
    assert lists
    named = [f"{folder}{name}" for folder, names in lists for name in re.findall(r"\w+", names)]
    assert [one for one in named if not ((ROOT / one).is_dir() or (ROOT / f"{one}.py").is_file())] == []


def test_a_line_of_the_log_names_the_logger_that_writes_it():
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    loggers = re.findall(r"^\S+ \S+ (?:INFO|WARNING|ERROR) ((?:proxy|storage)[\w.]+): ", text, re.MULTILINE)
    assert loggers
    assert [name for name in loggers if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


#: Words of commands, and of answers.
NO_COMMANDS = {"COUNT", "GROUP", "JUSTID", "LIMIT", "MAIN", "NOPERM", "STREAMS", "WITHSCORES"}


def test_every_command_of_the_scripts_is_named_for_the_operator_s_rights():
    text = (ROOT / "docs" / "storage.md").read_text("utf-8")
    sources = [path.read_text("utf-8") for path in (ROOT / "storage" / "lua").rglob("*.lua")]
    used = {command for source in sources for command in re.findall(r"'([A-Z]{3,})'", source)}
    commands = {command for command in used if command not in NO_COMMANDS}
    assert commands <= set(re.findall(r"\b[A-Z]{3,}\b", text))


def test_every_kind_of_key_is_described():
    source = (ROOT / "storage" / "client" / "keys.py").read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    described = (ROOT / "docs" / "storage.md").read_text("utf-8")
    kinds = re.findall(r"\{<partition>\}:(\w+)", docstring)
    assert len(kinds) > 5
    assert [kind for kind in kinds if not re.search(rf"\{{PARTITION\}}:{kind}\b", described)] == []


def test_the_readmes_python_type_checks_with_openais_types(tmp_path: Path):
    """As a reader's editor would check it; all blocks are one program."""
    program = tmp_path / "readme.py"
    code = [text for language, text in blocks((ROOT / "README.md").read_text("utf-8")) if language == "python"]
    program.write_text("\n".join(code), "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={ROOT / '.mypy_cache'}", str(program)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
