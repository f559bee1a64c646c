"""Processes of a measurement: started and ended, what they take of processor and memory as the kernel counts it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from pathlib import Path

from storage.embedded import find_binary

#: How long a server may take to be there, and to be gone.
START_SECONDS = 60.0
STOP_SECONDS = 30.0

#: Ports that no system chooses by itself, for a server or for a connection to one: so nothing comes in between.
_PORTS = range(10_000, 30_480)
#: Of these each process has its own, as far as there are enough.
_PORTS_OF_PROCESS = 320
_port_numbers = count()


def free_port() -> int:
    """Return such a port, see `free_ports`."""
    (port,) = free_ports(1)
    return port


def free_ports(number: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, and that nobody else is given until a server does."""
    found: list[int] = []
    while len(found) < number:
        port = _PORTS[(os.getpid() * _PORTS_OF_PROCESS + next(_port_numbers)) % len(_PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


@contextmanager
def command(
    *arguments: str, variables: Mapping[str, str] | None = None, folder: Path | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own; ends it, and what it started, at the end.

    variables: added to the environment. folder: its working directory. log: gets what it prints.
    """
    with (log or Path(os.devnull)).open("wb") as output:
        started = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(variables or {})},
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, 9)
            started.wait()


def process(module: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run one of our own modules in this interpreter."""
    return command(sys.executable, "-m", module, *arguments)


@contextmanager
def valkey() -> Iterator[tuple[str, int]]:
    """Run a Valkey that keeps nothing on disk; gives its URL and process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        with command(*arguments) as server:
            yield f"redis://127.0.0.1:{port}", server.pid


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads that a process ever had.

    The kernel's clock of the process, in nanoseconds (`clock_getcpuclockid(3)`, which Python does not have):
    `/proc/PID/stat` counts hundredths of a second, `/proc/PID/task` only the threads that still live.
    """
    return time.clock_gettime((~pid << 3) | 2)


def give_way(pid: int, niceness: int) -> None:
    """Give a process less priority than all others have; 0 is this one.

    Where Linux shares processors out by session (`sched_autogroup_enabled`, which most distributions set), a niceness
    counts only within a session. So it is given to the session too, if that is the process's own and ends with it.
    """
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    leader = pid or os.getpid()
    # a kernel without such sessions has no such file
    if os.getsid(pid) == leader and (session := Path(f"/proc/{leader}/autogroup")).exists():
        session.write_text(str(niceness))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run. Linux only."""
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


def memory_bytes(pid: int, kind: str = "VmRSS") -> int:
    """Return how much memory a process has resident, or has had at most (`VmHWM`). Linux only."""
    match = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


async def listening(url: str, started: subprocess.Popen[bytes] | None = None) -> None:
    """Return once something listens at `http://HOST:PORT`. Raises TimeoutError, or ChildProcessError if it ended."""
    host, _, port = url.removeprefix("http://").partition(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            if started is not None and started.poll() is not None:
                raise ChildProcessError(f"ended with status {started.returncode} before it listened") from None
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens at {url}") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def until(holds: Callable[[], bool]) -> None:
    """Return once something holds. Raises TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        await asyncio.sleep(0.05)
