"""The examples in docs/examples, each in a process of its own against a server, as its reader runs it.

What they need is where `make examples` puts it: `.venv-examples`, and `node_modules` beside them. An example whose
packages are not there is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.reader import Reader, check_output

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
#: Where packages are that our own environment need not have.
PYTHON = ROOT / ".venv-examples" / "bin" / "python"
#: What each Python example imports.
IMPORTS = {
    "openai_python": "openai",
    "openai_agents": "agents",
    "langchain_chat": "langchain_openai",
    "pydantic_ai_agent": "pydantic_ai",
}
PROGRAMS = sorted(one for one in EXAMPLES.iterdir() if one.suffix in {".py", ".mjs", ".sh"})


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patches:
        reader = Reader(tmp_path_factory.mktemp("examples"), patches)
        reader.serve()
        yield f"{reader.url}/v1"
        reader.kill()


def command(example: Path) -> list[str]:
    """Return what runs an example; skips the test if its packages are not there."""
    if example.suffix == ".mjs":
        if shutil.which("node") is None or not (EXAMPLES / "node_modules").is_dir():
            pytest.skip("needs Node and its packages: make examples")
        return ["node", str(example)]
    if example.suffix == ".sh":
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        return ["sh", str(example)]
    # found, not imported: that takes seconds, and then the example does it again
    finds = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({IMPORTS[example.stem]!r}) is None)"
    for python in (sys.executable, str(PYTHON)):
        if Path(python).exists() and not run([python, "-c", finds], {}).returncode:
            return [python, str(example)]
    pytest.skip(f"needs {IMPORTS[example.stem]}: make examples")


def run(program: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BRANCHLINE_")}
    return subprocess.run(program, env={**clean, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("example", PROGRAMS, ids=lambda path: path.name)
def test_an_example_prints_what_it_says(example: Path, base_url: str):
    done = run(command(example), {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "any"})
    assert done.returncode == 0, done.stderr
    check_output(example.read_text("utf-8").replace("// > ", "# > "), done.stdout)


def test_every_python_example_is_known():
    assert {one.stem for one in PROGRAMS if one.suffix == ".py"} == IMPORTS.keys()


def test_codex_is_configured_as_in_its_guide():
    guide = (ROOT / "docs" / "guides" / "codex-cli.md").read_text("utf-8")
    text = (EXAMPLES / "codex.toml").read_text("utf-8")
    assert "```toml\n" + text.partition("\n")[2] + "```" in guide
