"""Cluster channel: commands to the nodes of a Redis cluster, over redis-py's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.cluster import PRIMARY
from redis.utils import str_if_bytes

from storage.client.barrier import Barrier
from storage.client.channel import SCAN_COUNT, AnswerLost, Channel, Command, NoAnswerInTime, plain

#: Answers of a cluster that is about to find out whose a slot is.
_NOBODYS = (redis_errors.ClusterDownError, redis_errors.SlotNotCoveredError)
#: What a write raises on a connection that redis-py closes after another caller has taken it, which it does whenever it
#: learns the slots anew: of uvloop, of asyncio since CPython 3.13, of redis-py. Nothing was sent.
_CLOSED = (RuntimeError, TypeError, AttributeError)
#: Hash tags that are tried to find one for each primary.
MAX_TAGS = 1000


class SlotMoving(redis_errors.TryAgainError):
    """The keys are on their way to another node, and each of the two refused for too long: nothing was done."""


class ClusterChannel(Channel):
    """A cluster: each command goes to the node of its first key, all at the same time.

    redis-py sends each command over whichever connection to the node is free. It refuses a command for which there is
    none, so no more than `limit` are under way to a node; those to others don't wait for one that does not answer.

    barrier: what has to be answered behind the commands, on each node.
    """

    is_cluster = True

    def __init__(
        self, client: RedisCluster, *, limit: int, timeout_seconds: float, barrier: Barrier | None = None
    ) -> None:
        self._client = client
        self._barrier = barrier
        self._limit = limit
        self._rooms: dict[str, asyncio.Semaphore] = {}
        self._timeout_seconds = timeout_seconds
        #: Those that the URL names.
        self._named: dict[str, ClusterNode] = dict(client.nodes_manager.startup_nodes)
        for name in ("HSCAN", "ZSCAN", "XRANGE", "XREAD", "XREADGROUP"):
            # replies as a single server gives them, not as redis-py's clients shape them
            client.set_response_callback(name, _unshaped)

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        """Send all, one exchange a command, concurrently."""
        sent = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._know_nodes()
                nodes = {tag: self._client.get_node_from_key(tag) for tag in _tags_of(requests)}
                sent = True
                replies = list(await asyncio.gather(*(self._send(request) for request in requests)))
                if self._barrier is not None:
                    await asyncio.gather(*(self._pass(self._barrier, tag, node) for tag, node in nodes.items()))
                return replies
        except TimeoutError as error:
            if sent:
                raise NoAnswerInTime("no answer in time") from error
            raise

    async def _know_nodes(self, failed: str | None = None) -> None:
        """Have redis-py find the nodes if it does not know them. failed: the name of one that is not asked.

        redis-py asks one node after the other where the slots are, and then the first primary that it knows which
        commands there are. It would wait for ever for one that takes a connection and says nothing. So all are asked at
        the same time, and it knows a primary that answers before the others.
        """
        manager = self._client.nodes_manager
        if manager.default_node is None or failed is not None:
            nodes = {**self._named, **manager.nodes_cache}
            asked = [*nodes.values()]
            first, slots = await _first_to_answer([node for node in asked if node.name != failed])
            if first is not None:
                primaries = [nodes.get(one.name, one) for one in self._primaries_in(slots, first)]
                asked += primaries
                first, _ = await _first_to_answer([node for node in primaries if node.name != failed])
            if first is not None:
                manager.startup_nodes = {first.name: first}
                manager.nodes_cache = {first.name: first, **manager.nodes_cache}
            # redis-py ends the connections to those that it knows, which others use
            strangers = [node for node in asked if manager.nodes_cache.get(node.name) is not node]
            await asyncio.gather(*(node.disconnect_free_connections() for node in strangers))
        try:
            await self._client.initialize()
        except BaseException:
            manager.startup_nodes = {**self._named, **manager.nodes_cache}
            raise

    def _primaries_in(self, slots: Any, told_by: ClusterNode) -> list[ClusterNode]:
        """Return the nodes that a reply to CLUSTER SLOTS names first for slots; no name is the teller's own."""
        places = {(str_if_bytes(one[2][0]) or told_by.host, int(one[2][1])) for one in slots}
        return [ClusterNode(host, port, PRIMARY, **self._client.connection_kwargs) for host, port in places]

    async def _pass(self, barrier: Barrier, tag: str, node: ClusterNode | None) -> None:
        """Wait until the replicas of the node that was written to have what was written.

        Where a key is with another node by now, what the first one did may be lost.
        """
        now = self._client.get_node_from_key(tag)
        if node is None or now is None or now.name != node.name:
            raise AnswerLost("the key has moved to another node")
        commands = [PipelineCommand(i, *command) for i, command in enumerate(barrier.commands(tag))]
        try:
            async with self._room(node):
                await self._over_an_open_one(partial(node.execute_pipeline, commands))
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, *_CLOSED) as error:
            raise AnswerLost(*error.args) from error
        barrier.check([command.result for command in commands])

    async def _send(self, request: Command) -> Any:
        """Send a command; once more if its connection broke, or its slot is nobody's. So a node may do it twice.

        redis-py's own repeats are off: of what came before them it says nothing.
        """
        lost: AnswerLost | None = None
        try:
            reply = await self._send_once(request)
            if not isinstance(reply, _NOBODYS):
                return reply
        except AnswerLost as error:
            lost = error
        # not by the node that failed, if another can tell where the slots are
        failed = getattr(lost.__cause__, "last_failed_node_name", None) if lost else None
        try:
            await self._know_nodes(failed)
            reply = await self._send_once(request)
        except redis_errors.RedisClusterException as error:
            if lost is None:
                raise
            raise lost from error
        if lost is not None and isinstance(reply, Exception):
            # refused now, but done then perhaps
            raise lost from reply
        return reply

    async def _send_once(self, request: Command) -> Any:
        """Return the reply, be it an error. Raises AnswerLost."""
        tag, command = _tag_of(request), plain(request)
        node = self._client.get_node_from_key(tag) if tag else None
        try:
            async with self._room(node):
                return await self._over_an_open_one(partial(self._client.execute_command, *command))
        except (redis_errors.ResponseError, redis_errors.SlotNotCoveredError) as error:
            return error
        except redis_errors.ClusterError as error:
            return SlotMoving(*error.args)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, *_CLOSED) as error:
            # redis-py does not say whether it was sent
            raise AnswerLost(*error.args) from error

    async def _over_an_open_one(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Return what sending gives over a connection that was not closed meanwhile."""
        for _ in range(self._limit):
            try:
                return await send()
            except _CLOSED:
                # redis-py opens that one when it takes it again; all others to the node may be closed too
                continue
        return await send()

    def _room(self, node: ClusterNode | None) -> asyncio.Semaphore:
        """Return what the commands to a node share; None: those that name no key."""
        return self._rooms.setdefault(node.name if node is not None else "", asyncio.Semaphore(self._limit))

    async def tags(self) -> list[str]:
        """Return a tag for each primary. Raises what `exchange` raises."""
        async with asyncio.timeout(self._timeout_seconds):
            await self._know_nodes()
        primaries = {node.name for node in self._client.get_primaries()}
        tags: list[str] = []
        for number in range(MAX_TAGS):
            node = self._client.get_node_from_key(str(number))
            if node is not None and node.name in primaries:
                primaries.discard(node.name)
                tags.append(str(number))
            if not primaries:
                break
        return tags

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield matching keys, some 1,000 looked at a step, one primary after the other."""
        async with asyncio.timeout(self._timeout_seconds):
            await self._know_nodes()
        for node in self._client.get_primaries():
            # redis-py gives its own form of SCAN's reply: the cursor by the node's name
            cursor = 0
            while True:
                async with asyncio.timeout(self._timeout_seconds):
                    reply: Any = await self._client.scan(cursor, pattern, SCAN_COUNT, target_nodes=node)
                cursors, keys = reply
                if keys:
                    yield [key.decode() for key in keys]
                cursor = cursors[node.name]
                if cursor == 0:
                    break

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


async def _first_to_answer(nodes: Sequence[ClusterNode]) -> tuple[ClusterNode | None, Any]:
    """Return the node that is the first to say where the slots are, and what it says; None if none does."""
    asking = {asyncio.create_task(node.execute_command("CLUSTER SLOTS")): node for node in nodes}
    waiting, first = set(asking), None
    try:
        while waiting and first is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            first = next((task for task in done if task.exception() is None), None)
        return (asking[first], first.result()) if first else (None, None)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _tags_of(requests: Sequence[Command]) -> set[str]:
    """Return the hash tags of the first keys of scripts."""
    return {_tag_of(request) for request in requests if str(request[0]).startswith("EVAL")}


def _tag_of(request: Command) -> str:
    """Return the hash tag of a command's first key, nothing if it has none."""
    first = 3 if str(request[0]).startswith("EVAL") else 1
    key = next((part for part in request[first:] if isinstance(part, str) and "{" in part), "")
    return key.partition("{")[2].partition("}")[0]


def _unshaped(response: Any, **_: Any) -> Any:
    return response
