"""Topology: which node of a cluster has which slot, as the nodes themselves tell it.

It is asked for when nothing is known, and once more, in the background, whenever a node says that a slot is elsewhere,
or does not do what it should. Several nodes are asked at the same time and the first answer counts, so one that hangs
holds up nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from storage.client.dialer import Dialer
from storage.client.server_channel import ServerChannel

#: Host and port of a node.
Address: TypeAlias = tuple[str, int]

#: Seconds from one answer until the nodes are asked again.
REST_SECONDS = 0.2
#: Seconds that the known primaries have to answer until the nodes that the URL names are asked too.
NAMED_SECONDS = 0.5
#: Known primaries that are asked at a time.
MOST_ASKED = 8
#: Hash tags that are tried to find one for a primary.
MAX_TAGS = 1000

#: What a node is called that has no name in the cluster: it has the host of the one that was asked.
NAMELESS = ("", "?")


class Topology:
    """The slots of one cluster, shared by all channels to it.

    named: the nodes that the URL names; some may be replicas, or away. pool_of: what redis-py knows of a connection to
    a node. timeout_seconds: for one answer, its connection included.
    """

    def __init__(
        self, named: Sequence[Address], pool_of: Callable[[Address], ConnectionPool], *, timeout_seconds: float
    ) -> None:
        self._named = tuple(named)
        self._pool_of = pool_of
        self._timeout_seconds = timeout_seconds
        self._nodes: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        #: The nodes that have slots; none until they are known.
        self.primaries: tuple[Address, ...] = ()
        #: What opens connections to a node, and whether to a replica too. With TLS it is dear to make.
        self._dialers: dict[tuple[Address, bool], Dialer] = {}
        self._rare_tags: dict[Address, str] = {}
        #: Of the channels that are not closed.
        self._callbacks: list[Callable[[set[Address]], None]] = []
        self._refreshing: asyncio.Task[None] | None = None
        #: Nodes that are not to be believed, and when they were asked last, in the loop's time.
        self._failed: set[Address] = set()
        self._asked_at = float("-inf")

    def on_change(self, callback: Callable[[set[Address]], None]) -> None:
        """Have `callback` called with the nodes that are primaries no more, at once when that is known."""
        self._callbacks.append(callback)

    async def forget(self, callback: Callable[[set[Address]], None]) -> None:
        """Call `callback` no more; with the last one nothing is asked any more either."""
        self._callbacks.remove(callback)
        refreshing = self._refreshing
        if self._callbacks or refreshing is None or refreshing.get_loop() is not asyncio.get_running_loop():
            return
        if not refreshing.done():
            refreshing.cancel()
            await asyncio.wait([refreshing])

    def dialer_to(self, address: Address, *, any_role: bool = False) -> Dialer:
        """Return what opens connections to a node; as long as that is a primary, or else to any role."""
        dialer = self._dialers.get((address, any_role))
        if dialer is None:
            dialer = self._dialers[address, any_role] = Dialer(self._pool_of(address), any_role=any_role)
        return dialer

    def channel_to(self, address: Address, *, any_role: bool = False) -> ServerChannel:
        """Return a channel of one connection to a node, for who wants it for himself, and closes it."""
        dialer = self.dialer_to(address, any_role=any_role)
        return ServerChannel(dialer, limit=1, timeout_seconds=self._timeout_seconds)

    # --- what is known ----------------------------------------------------------------------------------------------

    def node_of(self, key: str) -> Address | None:
        """Return which node has the slot of a key; None: none that is known."""
        return self._nodes[key_slot(key.encode())]

    def tags(self) -> list[str]:
        """Return a hash tag for each primary, as far as one of the first `MAX_TAGS` numbers leads there."""
        found: dict[Address | None, str] = {None: ""}
        for number in range(MAX_TAGS):
            found.setdefault(self.node_of(str(number)), str(number))
            if len(found) > len(self.primaries):
                break
        return [tag for tag in found.values() if tag]

    def some_tag(self, address: Address) -> str:
        """Return a hash tag of a slot that a node has, another one each time: one may be on its way elsewhere."""
        rare = self._rare_tags.get(address)
        if rare is not None and self.node_of(rare) == address:
            return rare
        start = random.randrange(MAX_TAGS)
        most = 20 * REDIS_CLUSTER_HASH_SLOTS if address in self.primaries else 0
        for number in range(start, start + most):
            if self.node_of(str(number)) == address:
                if number >= start + MAX_TAGS:
                    # a node that has a few slots only: looking for one takes long
                    self._rare_tags[address] = str(number)
                return str(number)
        return str(start)

    def move(self, slot: int, address: Address) -> None:
        """Take note of what a node says: another one has a slot. How it is with other slots is asked for."""
        self._nodes[slot] = address
        if address not in self.primaries:
            self.primaries += (address,)
        self.refresh()

    # --- asking -----------------------------------------------------------------------------------------------------

    def refresh(self, failed: Address | None = None) -> None:
        """Have the nodes asked soon, in the background, and once at a time. failed: one that is not to be believed."""
        if failed is not None:
            self._failed.add(failed)
        if self._callbacks:
            self._refresh_soon()

    async def refreshed(self, failed: Address | None = None) -> None:
        """Wait until the nodes were asked. Raises redis-py's errors, or TimeoutError: none of them can tell."""
        if failed is not None:
            self._failed.add(failed)
        if not self._callbacks:
            raise redis_errors.ConnectionError("the channel is closed")
        refreshing = self._refresh_soon()
        await asyncio.wait([refreshing])
        if refreshing.cancelled():
            raise redis_errors.ConnectionError("the channel is closed")
        refreshing.result()

    def _refresh_soon(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if self._refreshing is None or self._refreshing.done() or self._refreshing.get_loop() is not loop:
            self._refreshing = loop.create_task(self._refresh())
            # whoever waits for it gets its error; nobody may
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._refreshing

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(min(self._asked_at + REST_SECONDS - loop.time(), REST_SECONDS))
        failed, self._failed = self._failed, set()
        try:
            self._learn(*await self._ask(failed))
        finally:
            self._asked_at = loop.time()

    async def _ask(self, failed: set[Address]) -> tuple[Address, Any]:
        """Return who was the first to answer, and what; those that failed are believed where nobody else answers."""
        believed = [address for address in self.primaries if address not in failed]
        asked = random.sample(believed, min(MOST_ASKED, len(believed)))
        others = [address for address in dict.fromkeys((*self._named, *failed)) if address not in asked]
        asking: set[asyncio.Task[tuple[Address, Any]]] = set()
        errors: list[BaseException] = []
        try:
            for addresses, seconds in ((asked, NAMED_SECONDS), (others, self._timeout_seconds)):
                asking |= {asyncio.create_task(self._ask_one(address)) for address in addresses}
                first = await _first_to_answer(asking, seconds, errors)
                if first is not None:
                    return first
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        # what a node said tells more than that another one could not be reached
        replies = [error for error in errors if isinstance(error, redis_errors.ResponseError)]
        raise next(iter([*replies, *errors]), TimeoutError("no node of the cluster answers"))

    async def _ask_one(self, address: Address) -> tuple[Address, Any]:
        channel = self.channel_to(address, any_role=True)
        try:
            (slots,) = await channel.exchange([("CLUSTER", "SLOTS")])
        finally:
            await channel.close()
        if isinstance(slots, Exception):
            raise slots
        if not slots:
            raise redis_errors.ClusterDownError("the node knows of no slots")
        return address, slots

    def _learn(self, told_by: Address, slots: Iterable[Sequence[Any]]) -> None:
        nodes: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        primaries: dict[Address, None] = {}
        for first, last, (host, port, *_), *_ in slots:
            name = host.decode() if host else ""
            address = (told_by[0] if name in NAMELESS else name, int(port))
            nodes[first : last + 1] = [address] * (last + 1 - first)
            primaries[address] = None
        gone = set(self.primaries).difference(primaries)
        self._nodes, self.primaries = nodes, tuple(primaries)
        if gone:
            self._dialers = {key: dialer for key, dialer in self._dialers.items() if key[0] not in gone}
            for callback in self._callbacks:
                callback(gone)


async def _first_to_answer(
    asking: set[asyncio.Task[tuple[Address, Any]]], seconds: float, errors: list[BaseException]
) -> tuple[Address, Any] | None:
    """Return the first answer in time, if any. Tasks that failed leave `asking`, and their errors are noted."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while asking and (left := deadline - loop.time()) > 0:
        done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            asking.discard(task)
            error = task.exception()
            if error is None:
                return task.result()
            errors.append(error)
    return None
