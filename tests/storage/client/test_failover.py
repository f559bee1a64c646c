"""Failovers of real servers under load: what was acknowledged is still there, at the new primary."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.processes import free_ports
from storage import ConversationNotFound, Reason, Safeguards, Store, Unavailable
from storage.client.connection import connect, find_followed, open_channel
from storage.client.named import NamedServer
from tests.storage.builders import OWNER, PREFIX, RETENTION_SECONDS, draft
from tests.storage.servers import SentinelWorld, run_sentinel, run_valkey

TIMEOUT_SECONDS = 3.0
WRITERS = 3


@asynccontextmanager
async def store_at(url: str, min_replicas: int, *, on_disk: bool = False) -> AsyncIterator[Store]:
    """Give a store that follows its primary."""
    store = Store.connect(
        url,
        prefix=PREFIX,
        timeout_seconds=TIMEOUT_SECONDS,
        max_connections=4,
        retention_seconds=RETENTION_SECONDS,
        safeguards=Safeguards(None, min_replicas, on_disk),
    )
    following = asyncio.create_task(store.follow_primary())
    try:
        yield store
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


class Writers:
    """Write conversations until told to stop, and note when each was acknowledged."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.acknowledged: dict[str, float] = {}
        self.refused: list[Unavailable] = []
        self._stopped = False
        self._tasks = [asyncio.create_task(self._write()) for _ in range(WRITERS)]

    async def _write(self) -> None:
        while not self._stopped:
            made = draft()
            try:
                await self.store.conversations.create(OWNER, made, [])
            except Unavailable as error:
                self.refused.append(error)
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[made.id] = asyncio.get_running_loop().time()

    async def until(self, number: int) -> None:
        """Wait until so many more were acknowledged."""
        goal = len(self.acknowledged) + number
        while len(self.acknowledged) < goal:  # noqa: ASYNC110 (counted by several tasks)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def lost(self, since: float = 0.0) -> list[str]:
        """Return what was acknowledged from then on and is not there."""
        gone = []
        for one, at in self.acknowledged.items():
            try:
                await self.store.conversations.read(OWNER, one)
            except ConversationNotFound:
                if at >= since:
                    gone.append(one)
        return gone


async def fail_over(world: SentinelWorld, kind: str) -> float:
    """Have another server become the primary; return when its switch began, as anybody hears it from Sentinel."""
    async with Redis(port=world.sentinel) as client, client.pubsub() as news:
        await news.psubscribe("+switch-master")
        await news.get_message(timeout=5.0)
        if kind == "killed":
            world.primary.kill()
        else:
            await client.execute_command("SENTINEL", "FAILOVER", "main")
        while not await news.get_message(timeout=1.0):
            pass
        return asyncio.get_running_loop().time()


@pytest.mark.parametrize("kind", ["graceful", "killed"])
async def test_a_failover_under_load_loses_nothing(kind: str, tmp_path: Path):
    with run_sentinel(tmp_path, replicas=2) as world:
        # a Sentinel that is not there is no trouble while another one is
        url = world.url.replace("//", "//127.0.0.1:1,")
        async with store_at(url, 1) as safe, store_at(url, 0) as fast, asyncio.timeout(50):
            careful, quick = Writers(safe), Writers(fast)
            await asyncio.gather(careful.until(30), quick.until(30))
            began = await fail_over(world, kind)
            await asyncio.gather(careful.until(30), quick.until(30))
            await asyncio.gather(careful.stop(), quick.stop())
            assert await careful.lost() == [], "with min_replicas = 1 nothing that was acknowledged is lost"
            assert await quick.lost(began) == [], "without it nothing that was acknowledged after the switch began"
            assert all(isinstance(error, Unavailable) for error in careful.refused + quick.refused)
            assert max(quick.acknowledged.values()) > began


async def test_where_no_sentinel_can_be_heard_that_is_told():
    store = Store.connect(
        "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main",
        prefix=PREFIX,
        timeout_seconds=TIMEOUT_SECONDS,
        max_connections=4,
        retention_seconds=RETENTION_SECONDS,
    )
    with pytest.raises(Unavailable) as refused:
        await store.follow_primary()
    assert refused.value.reason is Reason.AWAY
    await store.close()


# --- replicas that have to have a write ---------------------------------------------------------------------------


async def test_without_enough_replicas_a_write_is_not_told_as_done():
    port, other = free_ports(2)
    local = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
    with (
        run_valkey(*local, "--port", str(port)) as server,
        run_valkey(*local, "--port", str(other), "--replicaof", f"127.0.0.1 {port}") as replica,
    ):
        async with store_at(server.url, 1) as store, Redis(port=port) as client:
            while not (await client.info("replication"))["connected_slaves"]:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)
            await store.conversations.create(OWNER, draft(), [])
            await store.condition.look()
            os.kill(replica.process.pid, signal.SIGSTOP)
            made = draft()
            with pytest.raises(Unavailable) as refused:
                await store.conversations.create(OWNER, made, [])
            assert (refused.value.reason, refused.value.unsure) == (Reason.REPLICAS, True)
            # reading needs no replica, and a repeat waits for them as well though it writes nothing
            assert (await store.conversations.read(OWNER, made.id)).id == made.id
            repeat = asyncio.create_task(store.conversations.create(OWNER, made, []))
            done, _ = await asyncio.wait([repeat], timeout=0.3)
            assert not done
            os.kill(replica.process.pid, signal.SIGCONT)
            await repeat
            await store.condition.look()


async def test_a_name_that_leads_elsewhere_is_followed_though_the_old_server_goes_on(monkeypatch: pytest.MonkeyPatch):
    (port,) = free_ports(1)
    leads_to = ["127.0.0.1"]
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        return await look_up(leads_to[0] if host == "store.example" else host, *rest, **options)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    servers = [("--port", str(port), "--bind", address) for address in ("127.0.0.1", "127.0.0.2")]
    with run_valkey(*servers[0]), run_valkey(*servers[1]):
        client = connect(f"redis://store.example:{port}", timeout_seconds=TIMEOUT_SECONDS, max_connections=4)
        named = NamedServer("store.example", port, look_seconds=0.02)
        channel = open_channel(client, timeout_seconds=TIMEOUT_SECONDS, max_connections=4, followed=named)
        following = asyncio.create_task(named.follow())
        await channel.exchange([("SET", "where", "first")])
        await asyncio.sleep(0.1)
        assert await channel.exchange([("GET", "where")]) == [b"first"]
        leads_to[0] = "127.0.0.2"
        async with asyncio.timeout(10):
            while await channel.exchange([("GET", "where")]) != [None]:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)
        # what can't be looked up leads nowhere else
        leads_to[0] = "no such name"
        await asyncio.sleep(0.1)
        assert await channel.exchange([("SET", "where", "second")]) == [b"OK"]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await channel.close()


@pytest.mark.parametrize(
    ("url", "is_followed"),
    [
        ("redis://store.example", True),
        ("rediss://store.example:6380/1", True),
        ("redis://10.0.0.1", False),
        ("redis://[::1]:6379", False),
        ("unix:///run/valkey.sock", False),
        ("redis+cluster://store.example", False),
    ],
)
async def test_names_are_followed_and_addresses_are_not(url: str, is_followed: bool):
    assert isinstance(find_followed(connect(url, timeout_seconds=1, max_connections=1)), NamedServer) is is_followed
