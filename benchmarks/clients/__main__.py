"""`python -m benchmarks.clients [--python PATH] [--node FOLDER]`: other clients hold their talks; is each recorded?

PATH: an interpreter whose environment has langchain-openai and pydantic-ai-slim[openai]. FOLDER: has a `node_modules`
with ai, @ai-sdk/openai and zod, and @openai/codex if that is to be tried. Prints a line a client, and fails if any talk
was recorded as something else than one conversation with its branches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.clients.codex import hold_session, judge_session
from benchmarks.clients.talk import ITEMS, LINES
from benchmarks.processes import command, free_port, listening

ROOT = Path(__file__).parents[2]
LIBRARIES, APIS, WAYS = ("langchain", "pydantic-ai"), ("responses", "chat"), ("plain", "streamed")
_SETTINGS = {
    "BRANCHLINE_UPSTREAM_URL": "echo",
    "BRANCHLINE_RECORDING_CHAT": "all",
    # Codex always says so
    "BRANCHLINE_RECORDING_STORE_FALSE": "true",
}
_SECONDS = 60

Lines = Sequence[Sequence[dict[str, Any]]]
#: Holds a talk with a Branchline, in a folder of its own; returns what went wrong, '' for nothing.
Hold = Callable[[str, Path], str]
#: Returns what is wrong with the lines that were recorded, '' for nothing.
Judge = Callable[[Lines], str]


def main() -> None:
    """Let every client talk to a Branchline of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--node", type=Path)
    options = parser.parse_args()
    verdicts = {}
    for name, hold, judge in _clients(options.python, options.node):
        verdicts[name] = _verdict(hold, judge)
        print(f"{name:30} {verdicts[name] or 'one conversation'}", flush=True)
    sys.exit(any(verdicts.values()) or not verdicts)


def _clients(python: Path | None, node: Path | None) -> Iterator[tuple[str, Hold, Judge]]:
    for library, api, way in product(LIBRARIES, APIS, WAYS) if python else ():
        told = [str(python), "-m", "benchmarks.clients.hold", library, api, way]
        yield f"{library} {api} {way}", _running(told, ROOT), judge_talk
    if node is None:
        return
    # modules are looked for beside the program
    program = shutil.copy(Path(__file__).with_name("ai_sdk.mjs"), node)
    for api, way in product(APIS, WAYS):
        yield f"AI SDK {api} {way}", _running(["node", program, api, way], node), judge_talk
    codex = (node / "node_modules/.bin/codex").absolute()
    if codex.exists():
        yield "Codex", lambda url, folder: hold_session(codex, url, folder), judge_session


def _running(told: Sequence[str], folder: Path) -> Hold:
    def hold(url: str, _: Path) -> str:
        held = subprocess.run([*told, url], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        return held.stderr.strip()[-2000:] if held.returncode else ""

    return hold


def _verdict(hold: Hold, judge: Judge) -> str:
    """Return what is wrong with what was recorded of a client's talk, '' for nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as folder:
        options = ("--port", str(port), "--data-dir", data)
        with command(sys.executable, "-m", "proxy", "serve", *options, variables=_SETTINGS):
            asyncio.run(listening(f"http://127.0.0.1:{port}"))
            url = f"http://127.0.0.1:{port}/v1"
            return hold(url, Path(folder)) or _judged(url, judge)


def _judged(url: str, judge: Judge) -> str:
    conversations = _get(f"{url}/conversations")
    if len(conversations) != 1:
        return f"{len(conversations)} conversations"
    place = f"{url}/conversations/{conversations[0]['id']}"
    # the oldest line first
    branches = _get(f"{place}/branches?limit=100&order=asc")
    return judge([_get(f"{place}/items?order=asc&limit=100&branch={branch['name']}") for branch in branches])


def judge_talk(lines: Lines) -> str:
    """Return what is wrong with the lines of the talk, '' for nothing."""
    asked = [[item["content"][0]["text"] for item in line if item.get("role") == "user"] for line in lines]
    if asked != list(LINES):
        return f"lines {asked}"
    spoken = [item for line in lines for item in line if item["type"] != "reasoning"]
    written = {item["id"] for item in spoken if item.get("role") not in ("system", "developer")}
    return "" if len(written) == ITEMS else f"{len(written)} items, not {ITEMS}"


def _get(url: str) -> Any:
    # the owner is whoever has the key
    with urlopen(Request(url, headers={"Authorization": "Bearer sk-alice"})) as answer:
        return json.loads(answer.read())["data"]


if __name__ == "__main__":
    main()
