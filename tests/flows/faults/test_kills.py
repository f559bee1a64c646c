"""`kill -9` of the proxy, of its Valkey, and of both: nothing that a client had been told is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

HEADERS = {"Authorization": "Bearer sk-alice"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A proxy in a process of its own, with its embedded Valkey and the built-in model."""

    process: asyncio.subprocess.Process
    url: str
    http: aiohttp.ClientSession

    @property
    def valkey_pid(self) -> int:
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

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
async def running_server(data: Path, port: int) -> AsyncIterator[Server]:
    command = ["-m", "proxy", "serve", "--port", str(port), "--upstream", "echo", "--data-dir", str(data)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with aiohttp.ClientSession() as http:
        server = Server(process, f"http://127.0.0.1:{port}", http)
        try:
            await server.ready()
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass
class Told:
    """What clients were told: response ids, and the inputs of each conversation in order."""

    responses: list[str]
    turns: dict[str, list[str]]

    async def talk(self, server: Server, stop: asyncio.Event) -> None:
        """Take turns until told to stop or the server does not answer; note each answer that came."""
        conversation = await server.call("POST", "/v1/conversations")
        if conversation is None:
            return
        said = self.turns[conversation["id"]] = []
        while not stop.is_set():
            text = f"turn {len(said)}"
            body = {"model": "echo", "input": text, "conversation": conversation["id"]}
            answer = await server.call("POST", "/v1/responses", body)
            if answer is None or answer["status"] != "completed":
                return
            self.responses.append(answer["id"])
            said.append(text)

    async def check(self, server: Server) -> None:
        """Everything that was told is there, once, whole and in order; the last turn may have gone unheard."""
        for response_id in self.responses:
            assert (await server.call("GET", f"/v1/responses/{response_id}"))["status"] == "completed"
        for conversation, said in self.turns.items():
            items: list[Any] = []
            after = ""
            while True:
                path = f"/v1/conversations/{conversation}/items?order=asc&limit=100{after}"
                page = await server.call("GET", path)
                items += page["data"]
                if not page["has_more"]:
                    break
                after = f"&after={page['last_id']}"
            assert [item["role"] for item in items] == ["user", "assistant"] * (len(items) // 2)
            heard = [item["content"][0]["text"] for item in items[::2]]
            assert heard[: len(said)] == said
            assert len(heard) <= len(said) + 1


async def no_invariant_is_broken(data: Path) -> None:
    """Run the checker as its user does, beside the server or without one."""
    command = [sys.executable, "-m", "proxy", "fsck", "--data-dir", str(data)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    assert b": all is well" in told


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child process through /proc")
@pytest.mark.parametrize("victims", [("proxy",), ("valkey",), ("proxy", "valkey")], ids="+".join)
async def test_nothing_that_a_client_was_told_is_lost(tmp_path: Path, victims: tuple[str, ...]):
    told = Told([], {})
    port = free_port()
    for _ in range(2):
        async with running_server(tmp_path, port) as server:
            stop = asyncio.Event()
            clients = [asyncio.create_task(told.talk(server, stop)) for _ in range(4)]
            goal = len(told.responses) + 20
            while len(told.responses) < goal:  # noqa: ASYNC110 (the goal is counted by four tasks)
                await asyncio.sleep(0.01)
            pids = {"proxy": server.process.pid, "valkey": server.valkey_pid}
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            if victims == ("valkey",):
                # the proxy restarts it, and turns under way wait for it
                await server.ready()
            stop.set()
            await asyncio.gather(*clients)
            if victims == ("valkey",):
                await told.check(server)
    async with running_server(tmp_path, port) as server:
        await told.check(server)
        await no_invariant_is_broken(tmp_path)
    await no_invariant_is_broken(tmp_path)
    assert len(told.responses) >= 40
