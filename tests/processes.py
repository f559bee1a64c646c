"""Branchline in processes of its own: commands that are run to their end, and servers that a test kills."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from proxy.cli.main import main

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


def start_server(arguments: Sequence[str], variables: Mapping[str, str]) -> BaseProcess:
    """Start `branchline serve` with these arguments and environment variables.

    It is forked from a process that has loaded its code, and so is there at once: what is tested is how it ends.
    """
    process = _loaded().Process(target=_serve, args=(arguments, {**environment(), **variables}))
    process.start()
    return process


def launch(arguments: Sequence[str], variables: Mapping[str, str]) -> Callable[[], None]:
    """Start a server like `start_server`; return what kills it."""
    process = start_server(arguments, variables)

    def kill() -> None:
        process.kill()
        process.join()

    return kill


@cache
def _loaded() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["proxy.cli.serve", "uvloop"])
    return context


def _serve(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    # as what it starts is started: this command once more
    sys.orig_argv = [sys.executable, "-m", "proxy", "serve", *arguments]
    main(["serve", *arguments])
