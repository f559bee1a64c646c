"""What can be wrong with a store, each as a context: it is so while the context lasts, and well again after it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias, cast

from redis.exceptions import RedisError

from benchmarks.faults.injector import Link
from benchmarks.faults.world import USER, ValkeyProcess, World

StoreFault: TypeAlias = Callable[[World], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def fine(_world: World) -> AsyncIterator[None]:
    """Nothing is wrong."""
    yield


@asynccontextmanager
async def paused(world: World) -> AsyncIterator[None]:
    """It does not answer; what it was asked it does later."""
    world.store.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        world.store.signal(signal.SIGCONT)


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """It was killed, and comes back with what it had."""
    world.store.kill()
    try:
        yield
    finally:
        await world.store.start()


@asynccontextmanager
async def lost(world: World) -> AsyncIterator[None]:
    """All connections to it are reset, and new ones too."""
    with _spoiled(world, Link.refuse):
        yield


@asynccontextmanager
async def unanswered(world: World) -> AsyncIterator[None]:
    """It does what it is asked, and its answers are lost."""
    with _spoiled(world, Link.swallow):
        yield


@contextmanager
def _spoiled(world: World, spoil: Callable[[Link], None]) -> Iterator[None]:
    for replica in world.replicas:
        spoil(replica.link)
    try:
        yield
    finally:
        for replica in world.replicas:
            replica.link.restore()


@asynccontextmanager
async def read_only(world: World) -> AsyncIterator[None]:
    """It is the replica of a primary that it can't reach (READONLY)."""
    async with world.store.client() as admin:
        await admin.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            await admin.replicaof("NO", "ONE")


@asynccontextmanager
async def full_memory(world: World) -> AsyncIterator[None]:
    """It has reached its `maxmemory` (OOM)."""
    async with world.store.client() as admin:
        await admin.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            await admin.config_set("maxmemory", "0")


@asynccontextmanager
async def full_disk(world: World) -> AsyncIterator[None]:
    """Its append-only file can't grow any more (MISCONF)."""
    async with world.store.client() as admin:
        # with `always` a server that can't write ends at once: that is what `killed` does
        await admin.config_set("appendfsync", "everysec")
        pid, none = world.store.pid, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_append_only_bytes(world), resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, none)
            while (await admin.info("persistence"))["aof_last_write_status"] != "ok":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await admin.config_set("appendfsync", "always")


def _append_only_bytes(world: World) -> int:
    return max(one.stat().st_size for one in (world.store.folder / "appendonlydir").glob("*.incr.aof"))


@asynccontextmanager
async def busy(world: World) -> AsyncIterator[None]:
    """A script of somebody else's keeps it busy (BUSY)."""
    async with world.store.client() as admin, world.store.client() as other:
        await admin.config_set("busy-reply-threshold", "50")
        running = asyncio.ensure_future(other.eval("while true do end", 0))
        try:
            yield
        finally:
            while not running.done():
                with contextlib.suppress(RedisError):
                    await admin.script_kill()
                await asyncio.sleep(0.02)
            await asyncio.gather(running, return_exceptions=True)
            await admin.config_set("busy-reply-threshold", "5000")


@asynccontextmanager
async def no_permission(world: World) -> AsyncIterator[None]:
    """Its user may do nothing any more (NOPERM)."""
    async with world.store.client() as admin:
        await admin.acl_setuser(USER, enabled=True, categories=["-@all"])
        try:
            yield
        finally:
            await admin.acl_setuser(USER, enabled=True, categories=["+@all"])


async def add_standby(world: World) -> None:
    """Run a second server that has all that the store has: what `failover` needs."""
    standby = world.standby = ValkeyProcess(world.store.folder / "standby")
    standby.folder.mkdir()
    await standby.start()
    async with standby.client() as follower:
        await follower.replicaof("127.0.0.1", world.store.port)
        while (await follower.info("replication")).get("master_link_status") != "up":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def failover(world: World) -> AsyncIterator[None]:
    """Its standby has become the primary; its address leads there, and open connections to the old one."""
    old, new = world.store, world.standby
    if new is None:
        raise ValueError("a failover needs a standby")
    async with old.client() as leader, new.client() as follower:
        # nothing is lost by it: writing is paused until the other has everything
        await cast(Any, leader).execute_command("FAILOVER")
        while (await follower.info("replication"))["role"] != "master":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    world.store, world.standby = new, None
    for replica in world.replicas:
        replica.link.target = new.port
    try:
        yield
    finally:
        old.kill()
