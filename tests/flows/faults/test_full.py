"""A disk and a memory that come to an end under a running server: refused before it falls over, read all the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_port
from tests.flows.servers import HEADERS, Server, running_server

MEBIBYTE = 1024 * 1024
DISK_BYTES, LEAST_BYTES = 64 * MEBIBYTE, 24 * MEBIBYTE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user can't mount a disk: a full disk is not tried")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with server.http.request(method, server.url + path, json=body, headers=HEADERS) as response:
        return response.status, await response.json()


async def until_store_is(server: Server, state: str) -> None:
    async with asyncio.timeout(20):
        while (await ask(server, "GET", "/readyz"))[1]["store"] != state:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)


async def refuses_what_is_new(server: Server, conversation: str) -> None:
    for path, body in (
        ("/v1/conversations", {}),
        (f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"model": "echo", "input": "hi"}),
        ("/v1/responses", {"model": "echo", "input": "hi", "conversation": conversation}),
        ("/v1/responses", {"model": "echo", "input": "hi", "background": True}),
    ):
        status, answer = await ask(server, "POST", path, body)
        assert (status, answer["error"]["code"]) == (507, "insufficient_storage"), path
        assert answer["error"]["message"].startswith("The store is full. Nothing was changed")


async def reads_and_deletes(server: Server, conversation: str, *, deletes: bool) -> None:
    status, items = await ask(server, "GET", f"/v1/conversations/{conversation}/items")
    assert (status, len(items["data"])) == (200, 2)
    other = (await ask(server, "GET", "/v1/conversations"))[1]["data"][0]["id"]
    status, _ = await ask(server, "DELETE", f"/v1/conversations/{other}")
    assert status == (200 if deletes else 507)


async def talk(server: Server) -> str:
    """Return a conversation with a turn in it, that was used last but one."""
    _, made = await ask(server, "POST", "/v1/conversations", {})
    body = {"model": "echo", "input": "hi", "conversation": made["id"]}
    assert (await ask(server, "POST", "/v1/responses", body))[0] == 200
    conversation: str = made["id"]
    for _ in range(2):
        await ask(server, "POST", "/v1/conversations", {})
    return conversation


def fill(folder: Path, free_bytes: int) -> None:
    """Leave so many bytes free."""
    state = os.statvfs(folder)
    with (folder / "ballast").open("ab") as ballast:
        size = ballast.tell() + state.f_bavail * state.f_frsize - free_bytes
        os.posix_fallocate(ballast.fileno(), 0, size)


async def test_a_disk_that_comes_to_an_end(small_disk: Path):
    settings = {"DATA_MIN_FREE_BYTES": str(LEAST_BYTES)}
    options = ("--upstream", "echo", "--data-dir", str(small_disk))
    async with running_server(free_port(), *options, **settings) as server:
        conversation = await talk(server)
        valkey = server.valkey_pid
        fill(small_disk, LEAST_BYTES // 2)
        await until_store_is(server, "full")
        await refuses_what_is_new(server, conversation)
        await reads_and_deletes(server, conversation, deletes=True)
        fill(small_disk, 4096)
        await asyncio.sleep(1.2)
        await refuses_what_is_new(server, conversation)
        await reads_and_deletes(server, conversation, deletes=False)
        assert server.valkey_pid == valkey, "it did not fall over"
        (small_disk / "ballast").unlink()
        await until_store_is(server, "ok")
        assert (await ask(server, "POST", "/v1/responses", {"model": "echo", "input": "hi"}))[0] == 200


async def test_a_memory_that_comes_to_an_end(tmp_path: Path):
    settings = {"DATA_MAX_MEMORY_BYTES": str(16 * MEBIBYTE)}
    options = ("--upstream", "echo", "--data-dir", str(tmp_path))
    async with running_server(free_port(), *options, **settings) as server:
        conversation = await talk(server)
        big = {"items": [{"role": "user", "content": "x" * (MEBIBYTE // 2)}]}
        statuses = []
        async with asyncio.timeout(20):
            while 507 not in statuses or (await ask(server, "GET", "/readyz"))[1]["store"] != "full":
                statuses.append((await ask(server, "POST", "/v1/conversations", big))[0])
        assert set(statuses) == {200, 507}
        await refuses_what_is_new(server, conversation)
        await reads_and_deletes(server, conversation, deletes=True)
