"""The guides, as their reader types them: every Python and shell block runs, and prints what the page says it does.

Blocks of a page run in their order, Python in one namespace, shell with one environment. Lines `# > …` are the output
that a block must have, `…` standing for anything. `make run` starts the server, or kills it (`kill -9`) and starts it
again. Codex CLI is a stand-in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.reader import Reader, blocks, check_output, expected_output

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "docs" / "tutorial.md"]
#: Those with something to type.
GUIDES = [page for page in PAGES if blocks(page, "python", "sh")]
API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
#: Its shell blocks are about installing, too.
README = ROOT / "README.md"
#: What the guide's configuration of Codex says if it is to use a WebSocket.
WITH_WEBSOCKETS = "supports_websockets = true\n"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages call curl")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader(tmp_path, monkeypatch)
    yield reader
    reader.kill()


@needs_curl
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_works_as_typed(reader: Reader, page: Path):
    found = blocks(page, "python", "sh", "toml")
    assert ("sh", "make run\n") in found
    assert any(expected_output(code) for _, code in found)
    reader.follow(found)


@needs_curl
def test_codex_works_without_a_websocket_too(reader: Reader):
    (page,) = [page for page in GUIDES if page.stem == "codex-cli"]
    reader.follow([(language, code.replace(WITH_WEBSOCKETS, "")) for language, code in blocks(page, "sh", "toml")])


@needs_curl
def test_what_other_pages_give_to_try_works_as_typed(reader: Reader):
    reader.serve()
    for page in API_PAGES:
        reader.follow(blocks(page, "python", "sh"))
    reader.follow(blocks(README, "python"))


def test_a_block_that_prints_something_else_is_noticed():
    check_output("# > MAIN_…\n# > 4\n", "MAIN_20261121_a1b2\n4\n")
    for printed in ("", "MAIN\n4\n", "MAIN_x\n5\n", "MAIN_x\n4\nmore\n"):
        with pytest.raises(AssertionError):
            check_output("# > MAIN_…\n# > 4\n", printed)
