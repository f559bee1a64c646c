"""A running `branchline serve`: what it prints, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE

from tests.processes import ROOT, environment

#: Seconds after which something that was waited for does not come any more.
PATIENCE_SECONDS = 40.0


class Served:
    """A running `branchline serve`; `block` is what it printed, `url` the base URL in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.block = ""
        self._log = b""
        self._more = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, *arguments: object, **variables: str) -> Served:
        """Start it and wait for the block that it prints; warnings are errors."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "proxy", "serve", *map(str, arguments)),
            stdout=PIPE,
            stderr=PIPE,
            env={**environment(), **variables},
            cwd=ROOT,
        )
        served = cls(process)
        assert process.stdout
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
            if self.process.stdout and not self.process.stdout.at_eof():
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
        assert self.process.stderr
        try:
            while data := await self.process.stderr.read(65_536):
                async with self._more:
                    self._log += data
                    self._more.notify_all()
        finally:
            async with self._more:
                self._more.notify_all()
