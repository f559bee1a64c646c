"""Branchline in processes of its own: what they are started with, and commands that are run to their end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of this process without Branchline's settings; the code is that of this checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BRANCHLINE_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `branchline` with these arguments and environment variables."""
    return capture([sys.executable, "-m", "proxy", *map(str, arguments)], {**environment(), **variables})


def capture(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed and its exit status."""
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
