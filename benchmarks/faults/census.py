"""A Branchline that can be counted: its asyncio tasks, descriptors and memory, told on a unix socket of its own.

It is forked from a process that has loaded its code, and so is there at once. What it serves is `branchline serve`.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from proxy.cli.main import main


@dataclass(frozen=True, slots=True)
class Census:
    """What a process has. peak_bytes: most of the memory that it ever had."""

    tasks: int
    descriptors: int
    memory_bytes: int
    peak_bytes: int


def start(arguments: Sequence[str], variables: Mapping[str, str], folder: Path) -> BaseProcess:
    """Start `branchline serve` with these arguments and environment variables; its log and census are in `folder`."""
    process = _loaded().Process(target=_serve, args=(list(arguments), dict(variables), str(folder)))
    process.start()
    return process


async def count(pid: int, folder: Path) -> Census:
    """Count what that process has. Raises OSError if it does not run."""
    reader, writer = await asyncio.open_unix_connection(folder / "census.sock")
    tasks = int(await reader.read())
    writer.close()
    return _count(Path(f"/proc/{pid}"), tasks)


def _count(process: Path, tasks: int) -> Census:
    status = (process / "status").read_text()
    memory, peak = (_kilobytes(status, name) * 1024 for name in ("VmRSS", "VmHWM"))
    return Census(tasks, len(list((process / "fd").iterdir())), memory, peak)


def _kilobytes(status: str, name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(match[1]) if match else 0


@cache
def _loaded() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["proxy.cli.serve", "uvloop"])
    return context


def _serve(arguments: list[str], variables: dict[str, str], folder: str) -> None:
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    threading.Thread(target=_tell, args=(Path(folder) / "census.sock",), daemon=True).start()
    main(["serve", *arguments])


def _tell(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        while True:
            with server.accept()[0] as caller:
                running = [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]
                caller.sendall(str(len(running)).encode())
                del running
