"""`kill -9` of the proxy, of its Valkey, and of both: nothing that a client had been told is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_port
from tests.flows.servers import Server, running_server
from tests.processes import run


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
    told = await asyncio.to_thread(run, "fsck", "--data-dir", data)
    assert told.returncode == 0, told.stdout
    assert ": all is well" in told.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child process through /proc")
@pytest.mark.parametrize("victims", [("proxy",), ("valkey",), ("proxy", "valkey")], ids="+".join)
async def test_nothing_that_a_client_was_told_is_lost(tmp_path: Path, victims: tuple[str, ...]):
    told = Told([], {})
    port = free_port()
    for _ in range(2):
        async with running_server(port, "--upstream", "echo", "--data-dir", str(tmp_path)) as server:
            stop = asyncio.Event()
            clients = [asyncio.create_task(told.talk(server, stop)) for _ in range(4)]
            goal = len(told.responses) + 20
            while len(told.responses) < goal:  # noqa: ASYNC110 (the goal is counted by four tasks)
                await asyncio.sleep(0.01)
            pids = {"proxy": server.pid, "valkey": server.valkey_pid}
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            if victims == ("valkey",):
                # the proxy restarts it, and turns under way wait for it
                await server.ready()
            stop.set()
            await asyncio.gather(*clients)
            if victims == ("valkey",):
                await told.check(server)
    async with running_server(port, "--upstream", "echo", "--data-dir", str(tmp_path)) as server:
        await told.check(server)
        await no_invariant_is_broken(tmp_path)
    await no_invariant_is_broken(tmp_path)
    assert len(told.responses) >= 40
