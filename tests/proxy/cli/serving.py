"""A running `branchline serve`: what it prints, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio import StreamReader
from multiprocessing.process import BaseProcess

from tests.processes import fork

#: Seconds after which something that was waited for does not come any more.
PATIENCE_SECONDS = 90.0


class Process:
    """A process that runs on its own, with what a process of asyncio has. stdout, stderr: what it writes."""

    def __init__(self, process: BaseProcess, stdout: StreamReader, stderr: StreamReader) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stdout = stdout
        self.stderr = stderr
        self._process = process

    @classmethod
    async def start(cls, *arguments: str, **variables: str) -> Process:
        """Start `branchline` with these arguments and environment variables; warnings are errors."""
        (stdout, told), (stderr, complained) = os.pipe(), os.pipe()
        process = fork(arguments, {**variables, "PYTHONWARNINGS": "error"}, told, complained)
        os.close(told)
        os.close(complained)
        return cls(process, await _read_from(stdout), await _read_from(stderr))

    @property
    def returncode(self) -> int | None:
        """Its exit status, -N if signal N ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def wait(self) -> int | None:
        """Wait for its end and return its exit status."""
        await asyncio.to_thread(self._process.join)
        return self.returncode


def bulk_workers(served: Served) -> list[str]:
    """The processes for large requests that a server has started, in their order."""
    return re.findall(r"bulk worker \d+ \(process (\d+)\) is ready", served.log)


async def _read_from(descriptor: int) -> StreamReader:
    reader = StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb"))
    return reader


class Served:
    """A running `branchline serve`; `block` is what it printed, `url` the base URL in it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.block = ""
        self._log = b""
        self._more = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, *arguments: object, **variables: str) -> Served:
        """Start it and wait for the block that it prints; warnings are errors."""
        process = await Process.start("serve", *map(str, arguments), **variables)
        served = cls(process)
        while "OPENAI_BASE_URL" not in served.block:
            line = await process.stdout.readline()
            if not line:
                await served.end()
                raise AssertionError(served.log)
            served.block += line.decode()
        return served

    @property
    def url(self) -> str:
        """The base URL, with its /v1."""
        return self.block.partition('base_url = "')[2].partition('"')[0]

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return self._log.decode()

    async def logged(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has so many matches, and return them all."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._more:
            await self._more.wait_for(lambda: len(re.findall(pattern, self.log)) >= times or self._listening.done())
        found = re.findall(pattern, self.log)
        assert len(found) >= times, self.log
        return found

    async def end(self) -> tuple[int | None, str]:
        """Return exit status and standard error, after waiting for the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            if not self.process.stdout.at_eof():
                self.block += (await self.process.stdout.read()).decode()
            await self._listening
            await self.process.wait()
        return self.process.returncode, self.log

    async def kill(self) -> None:
        """End it, if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.end()

    async def _listen(self) -> None:
        try:
            while data := await self.process.stderr.read(65_536):
                async with self._more:
                    self._log += data
                    self._more.notify_all()
        finally:
            async with self._more:
                self._more.notify_all()
