"""Branchline in processes of its own: commands that are run to their end, and servers that a test kills.

They are forked from a process that has loaded the code, and so are there at once: to load it takes a second of
processor time, and what is tested is what a command does. That `python -m proxy` does it is seen by the tests that say
`sys.executable`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryFile

from proxy.cli.main import main

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of this process without Branchline's settings; the code is that of this checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BRANCHLINE_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `branchline` with these arguments and environment variables; nobody types anything."""
    command = [str(argument) for argument in arguments]
    with TemporaryFile() as told, TemporaryFile() as complained:
        process = fork(command, variables, told.fileno(), complained.fileno())
        process.join()
        texts = []
        for file in (told, complained):
            file.seek(0)
            texts.append(file.read().decode())
        status = process.exitcode or 0
        process.close()
    return subprocess.CompletedProcess(command, status, *texts)


def capture(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed and its exit status."""
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def start_server(arguments: Sequence[str], variables: Mapping[str, str]) -> BaseProcess:
    """Start `branchline serve` with these arguments and environment variables; what it says goes nowhere."""
    with Path(os.devnull).open("wb") as nowhere:
        return fork(["serve", *arguments], variables, nowhere.fileno(), nowhere.fileno())


def launch(arguments: Sequence[str], variables: Mapping[str, str]) -> Callable[[], None]:
    """Start a server like `start_server`; return what kills it."""
    process = start_server(arguments, variables)

    def kill() -> None:
        process.kill()
        process.join()

    return kill


def fork(arguments: Sequence[str], variables: Mapping[str, str], *outputs: int) -> BaseProcess:
    """Start `branchline` with these arguments and environment variables.

    outputs: descriptors of what is its standard output and its standard error.
    """
    # a Connection is how the process that forks is handed a descriptor, of whatever it is
    handed = [Connection(os.dup(output), readable=False) for output in outputs]
    process = _loaded().Process(target=_main, args=(arguments, {**environment(), **variables}, *handed))
    process.start()
    for one in handed:
        one.close()
    return process


@cache
def _loaded() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["proxy.cli.serve", "proxy.cli.commands.doctor", "rich.table", "uvloop"])
    return context


def _main(arguments: Sequence[str], variables: Mapping[str, str], *outputs: Connection) -> None:
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
        output.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    # as the interpreter begins, told `-m proxy`; what it starts itself is this command once more
    sys.orig_argv = [sys.executable, "-m", "proxy", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTHONWARNINGS" in variables:
        warnings.simplefilter(variables["PYTHONWARNINGS"])  # type: ignore[arg-type]
    sys.argv = ["branchline", *arguments]
    main(arguments)
