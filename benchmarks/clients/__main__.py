"""`python -m benchmarks.clients PYTHON`: clients of other libraries hold their talks; is each one conversation?

PYTHON: an interpreter whose environment has langchain-openai and pydantic-ai-slim[openai]. Prints a line a client, and
fails if any talk was recorded as something else.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.clients.talk import ITEMS, LINES
from benchmarks.processes import command, free_port, listening

ROOT = Path(__file__).parents[2]
LIBRARIES, APIS, WAYS = ("langchain", "pydantic-ai"), ("responses", "chat"), ("plain", "streamed")
_SETTINGS = {"BRANCHLINE_UPSTREAM_URL": "echo", "BRANCHLINE_RECORDING_CHAT": "all"}
_SECONDS = 60


def main() -> None:
    """Let every client talk to a Branchline of its own."""
    python = sys.argv[1]
    verdicts = {}
    for library, api, way in product(LIBRARIES, APIS, WAYS):
        name = f"{library} {api} {way}"
        verdicts[name] = _talk(python, library, api, way)
        print(f"{name:28} {verdicts[name] or 'one conversation'}", flush=True)
    sys.exit(any(verdicts.values()))


def _talk(python: str, library: str, api: str, way: str) -> str:
    """Return what is wrong with what was recorded of a client's talk, '' for nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ("--port", str(port), "--data-dir", folder)
        with command(sys.executable, "-m", "proxy", "serve", *options, variables=_SETTINGS):
            asyncio.run(listening(f"http://127.0.0.1:{port}"))
            url = f"http://127.0.0.1:{port}/v1"
            told = [python, "-m", "benchmarks.clients.hold", library, api, way, url]
            held = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
            return held.stderr.strip()[-2000:] if held.returncode else _judge(url)


def _judge(url: str) -> str:
    conversations = _get(f"{url}/conversations")
    if len(conversations) != 1:
        return f"{len(conversations)} conversations"
    place = f"{url}/conversations/{conversations[0]['id']}"
    branches = sorted(_get(f"{place}/branches?limit=100"), key=lambda branch: branch["created_at"])
    lines = [_get(f"{place}/items?order=asc&limit=100&branch={branch['name']}") for branch in branches]
    asked = sorted([item["content"][0]["text"] for item in line if item.get("role") == "user"] for line in lines)
    written = {item["id"] for line in lines for item in line if item["type"] != "reasoning"}
    written -= {item["id"] for line in lines for item in line if item.get("role") in ("system", "developer")}
    if asked != sorted(LINES):
        return f"lines {asked}"
    return "" if len(written) == ITEMS else f"{len(written)} items, not {ITEMS}"


def _get(url: str) -> Any:
    # the owner is whoever has the key
    with urlopen(Request(url, headers={"Authorization": "Bearer sk-alice"})) as answer:
        return json.loads(answer.read())["data"]


if __name__ == "__main__":
    main()
