"""Servers in processes of their own, which a test may kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp

from tests.processes import start_server

HEADERS = {"Authorization": "Bearer sk-alice"}


@dataclass
class Server:
    """A proxy in a process of its own."""

    process: BaseProcess
    url: str
    http: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def valkey_pid(self) -> int:
        """The process of its embedded Valkey."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer's JSON, or None if there was no successful answer."""
        try:
            async with self.http.request(method, self.url + path, json=body, headers=HEADERS) as response:
                return await response.json() if response.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def ready(self) -> None:
        """Wait until the store is there."""
        async with asyncio.timeout(30):
            while await self.call("GET", "/readyz") is None:  # noqa: ASYNC110 (another process: there is no event)
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running_server(port: int, *options: str, **settings: str) -> AsyncIterator[Server]:
    """Run a server that is ready, and kill it at the end.

    options: of `branchline serve`; settings: environment variables without their `BRANCHLINE_`.
    """
    variables = {f"BRANCHLINE_{name}": value for name, value in settings.items()}
    process = start_server(["--port", str(port), *options], variables)
    async with aiohttp.ClientSession() as http:
        server = Server(process, f"http://127.0.0.1:{port}", http)
        try:
            await server.ready()
            yield server
        finally:
            process.kill()
            process.join()
            process.close()
