"""Cluster channel: exchanges with the nodes of a Redis cluster, each over a channel of its own.

A command goes to the node that has the slot of its first key; all for one node leave in one write. What a node says of
a slot that is elsewhere is followed. Such an answer, and that a slot is nobody's or on its way, means that nothing was
done; so does a connection that could not be made. What was sent over a connection that broke is sent once more, where
the slot is then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from redis import exceptions as redis_errors

from storage.client.channel import AnswerLost, Channel, Command, Unanswered
from storage.client.cluster.pursuit import EXCHANGE_ERRORS, FailedExchange, Pursuit, is_open
from storage.client.cluster.topology import Address, Topology


class ClusterChannel(Channel):
    """A cluster. open_node: makes the channel to a node, which repeats nothing by itself.

    timeout_seconds: for one exchange. A node that hangs holds up nothing but what is in its slots.
    """

    is_cluster = True

    def __init__(self, topology: Topology, open_node: Callable[[Address], Channel], *, timeout_seconds: float) -> None:
        self._topology = topology
        self._open_node = open_node
        self._timeout_seconds = timeout_seconds
        self._channels: dict[Address, Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        topology.on_change(self._leave)

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        """Send all, those to one node together and to all nodes at the same time; read all."""
        if not requests:
            return []
        if self._is_closed:
            raise redis_errors.ConnectionError("the channel is closed")
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        if not self._topology.primaries:
            await self._know(deadline)
        places: dict[Address | None, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(self._node_of(request), []).append(place)
        if len(places) == 1:
            ((address, _),) = places.items()
            return _replies_in(await self._exchange_at(address, requests, deadline))
        exchanges = [
            self._exchange_at(address, [requests[place] for place in some], deadline)
            for address, some in places.items()
        ]
        outcomes: list[Any] = [None] * len(requests)
        for some, found in zip(places.values(), await asyncio.gather(*exchanges), strict=True):
            for place, outcome in zip(some, found, strict=True):
                outcomes[place] = outcome
        return _replies_in(outcomes)

    async def tags(self) -> list[str]:
        """Return a tag for each primary. Raises what `exchange` raises."""
        await self._know(asyncio.get_running_loop().time() + self._timeout_seconds)
        return self._topology.tags()

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield matching keys, some 1,000 looked at a step, one primary after the other."""
        await self._know(asyncio.get_running_loop().time() + self._timeout_seconds)
        for address in self._topology.primaries:
            channel = self._topology.channel_to(address)
            try:
                async for keys in channel.scan(pattern):
                    yield keys
            finally:
                await channel.close()

    async def close(self) -> None:
        """Close every connection; what is under way fails, and what comes later."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._topology.forget(self._leave)
        self._leave(set(self._channels))
        await asyncio.gather(*self._closing)

    # --- nodes ------------------------------------------------------------------------------------------------------

    async def _know(self, deadline: float) -> None:
        if not self._topology.primaries:
            async with asyncio.timeout_at(deadline):
                await self._topology.refreshed()

    def _node_of(self, request: Command) -> Address | None:
        """Return which node a command is for: any, if it names no key."""
        key = _key_of(request)
        return self._topology.node_of(key) if key else self._topology.primaries[0]

    def _channel_to(self, address: Address) -> Channel:
        if self._is_closed:
            raise redis_errors.ConnectionError("the channel is closed")
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._open_node(address)
        return channel

    def _leave(self, addresses: set[Address]) -> None:
        """Close the channels to nodes; what is under way there is sent once more, elsewhere."""
        for address in addresses & self._channels.keys():
            closing = asyncio.create_task(self._channels.pop(address).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    # --- one node's commands ----------------------------------------------------------------------------------------

    async def _exchange_at(self, address: Address | None, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Return what becomes of commands that a node should do: replies, or FailedExchange."""
        outcomes = await self._send(address, commands)
        if undone := [place for place, outcome in enumerate(outcomes) if is_open(outcome)]:
            pursuits = [
                Pursuit(
                    self._topology, commands[place], partial(self._node_of, commands[place]), self._send_one, deadline
                )
                for place in undone
            ]
            following = [one.follow(address, outcomes[place]) for one, place in zip(pursuits, undone, strict=True)]
            for place, outcome in zip(undone, await asyncio.gather(*following), strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _send(self, address: Address | None, commands: Sequence[Command]) -> list[Any]:
        """Return replies, or FailedExchange for each."""
        if address is None:
            return [redis_errors.ClusterDownError("Hash slot not served")] * len(commands)
        try:
            return await self._channel_to(address).exchange(commands)
        except EXCHANGE_ERRORS as error:
            if isinstance(error, TimeoutError):
                # for those who come later
                self._topology.refresh(address)
            return [FailedExchange(error)] * len(commands)

    async def _send_one(self, address: Address | None, command: Command, asking: bool) -> Any:
        """Return the reply to a command, or FailedExchange. asking: whether the slot is not the node's own yet."""
        return (await self._send(address, [("ASKING",), command] if asking else [command]))[-1]


def _key_of(request: Command) -> str:
    """Return a command's first key, nothing if it has none. All keys of ours have a hash tag."""
    if str(request[0]).startswith("EVAL"):
        return str(request[3]) if request[2] else ""
    return next((part for part in request[1:] if isinstance(part, str) and "{" in part), "")


def _replies_in(outcomes: list[Any]) -> list[Any]:
    """Return replies, or raise what some exchanges have raised: that nothing was done only if none did anything."""
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, FailedExchange)]
    if not errors:
        return outcomes
    unanswered = [error for error in errors if isinstance(error, Unanswered)]
    if not unanswered and len(errors) < len(outcomes):
        raise AnswerLost("only some of the commands were answered") from errors[0]
    raise next(iter([*unanswered, *errors]))
