"""Event logs: what a streamed response told its client, kept for a while, so that it can be told again.

One log a response, written by whoever runs it, read by anybody and from anywhere, while it grows and afterwards. The
store does not look into the events: they are bytes, in batches, counted from 0.

Who may write is decided by the response where there is a record of it: `token` while it is unfinished, and from its
commit on whoever holds the lock `EventLog.lock` with that token. That lock also says that somebody is about to
write; it is renewed like any other, and goes with the last batch or with `release`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from storage.client.channel import Argument, uncopied
from storage.client.keyspace import Keyspace
from storage.client.pieces import again_if_torn, cut, read_piece
from storage.client.scripts import Call, Scripts
from storage.client.staging import BRING_ATTEMPTS, STAGED_SECONDS
from storage.errors import StoreError, Unavailable, Unstaged
from storage.partitions import partition_of
from storage.records import Lease

#: Put before a response's id in the name of its log's lock.
LOCK_PREFIX = "~"
#: Where the frames are among the arguments of a batch.
FRAMES_AT = 4
#: Bytes of events that go out in one round trip.
TRIP_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EventLog:
    """One log, as its writer knows it.

    token: of the response that was accepted before it ran; '' for an ordinary stream, which only one process can write.
    """

    owner: str
    response_id: str
    token: str = ""

    @property
    def lock(self) -> str:
        """The name of its writer's lock."""
        return f"{LOCK_PREFIX}{self.response_id}"

    @property
    def holder(self) -> str:
        """The value of its writer's lock."""
        return self.token or self.response_id


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events that follow each other. first_number: of the first. frames: all of them, as they go out."""

    first_number: int
    count: int
    frames: bytes

    @property
    def next_number(self) -> int:
        """The number of the event that comes after it."""
        return self.first_number + self.count


@dataclass(frozen=True, slots=True)
class EventQuery:
    """What a reader wants: the events of a response from a number on."""

    owner: str
    response_id: str
    first_number: int


@dataclass(frozen=True, slots=True)
class EventPage:
    """What a log holds from an event on. The first batch may begin before the event that was asked for.

    generation: changes when the log is begun anew; '' when there is none, and none will come. running: somebody may
    still write. ended: nothing follows. status: the response's; '' while there is no record of it.
    is_whole: what comes next does not lie in pieces; what does only `read` brings.
    A log that has not ended and is not running will never end.
    """

    batches: list[EventBatch]
    generation: str
    running: bool
    ended: bool
    status: str
    is_whole: bool = True

    @property
    def kept(self) -> bool:
        """Whether there is a log, or will be one."""
        return self.generation != ""


class CallBatcher:
    """Calls that wait for each other: those that come while some are on their way go together, in one round trip.

    limit_bytes: of the arguments that go together, unless one has more by itself.
    """

    def __init__(self, scripts: Scripts, limit_bytes: int) -> None:
        self._scripts = scripts
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[Call, int, asyncio.Future[list[Any]]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, call: Call, size: int) -> list[Any]:
        """Run a script; size: of its arguments, in bytes. Raises what `Scripts.run` raises."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, size, future))
        if self._task is None:
            self._task = asyncio.create_task(self._go())
        return await future

    async def _go(self) -> None:
        try:
            while self._waiting:
                await self._go_once()
        finally:
            self._task = None

    async def _go_once(self) -> None:
        calls: list[Call] = []
        futures: list[asyncio.Future[list[Any]]] = []
        room = self._limit_bytes
        while self._waiting and (room >= self._waiting[0][1] or not calls):
            call, size, future = self._waiting.popleft()
            calls.append(call)
            futures.append(future)
            room -= size
        replies: Sequence[list[Any] | Exception]
        try:
            replies = await self._scripts.run_all(calls)
        except Exception as error:
            replies = [error] * len(calls)
        for future, reply in zip(futures, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


class EventLogs:
    """Logs of any owner's responses."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._batcher = CallBatcher(keyspace.scripts, TRIP_BYTES)

    def lease(self, log: EventLog) -> Lease:
        """Return the writer's lock, to renew it for as long as the log is written."""
        return Lease(partition_of(log.response_id), log.lock, log.holder)

    async def append(
        self, log: EventLog, batch: EventBatch, *, ttl_seconds: float, lease_seconds: float, last: bool
    ) -> bool:
        """Put a batch at the end, in a round trip that it may share; a repeat changes nothing. The first one begins it.

        A batch of more than a portion is brought before, in pieces, one a round trip: others come in between.

        ttl_seconds: how long the log lives on. lease_seconds: how long its writer counts as running. last: nothing
        follows. Returns False when the right to write is lost, or the log does not end where the batch begins: then
        nothing was written. Raises Unavailable.
        """
        whole = batch.frames
        arguments: list[Argument] = [log.owner, log.token, batch.first_number, batch.count, whole, int(last)]
        arguments += [_seconds(ttl_seconds), log.holder, round(lease_seconds * 1000)]
        call = Call("append_events", self._keys(log), arguments, log.response_id)
        if len(whole) <= self._keyspace.portion.bytes:
            (written,) = await self._batcher.run(call, len(whole))
            return bool(written)
        pieces = list(cut(whole, self._keyspace.portion, 0))
        arguments[FRAMES_AT] = ""
        arguments += [len(pieces), len(whole)]
        for _ in range(BRING_ATTEMPTS):
            await self._bring(log, batch.first_number, pieces)
            with suppress(Unstaged):
                (written,) = await self._batcher.run(call, 0)
                return bool(written)
        raise Unavailable("what was staged is gone")

    async def _bring(self, log: EventLog, first_number: int, pieces: Sequence[bytes]) -> None:
        """Bring a batch that is more than one command takes, where the log takes it. Raises Unavailable."""
        for number, piece in enumerate(pieces):
            arguments: list[Argument] = [log.token, first_number, number, uncopied(piece), STAGED_SECONDS]
            call = Call("bring_events", self._keys(log), arguments, log.response_id)
            (there,) = await self._batcher.run(call, len(piece))
            if there <= number:
                # the batch's own call finds out why
                return

    async def claim(self, log: EventLog, *, ttl_seconds: float, lease_seconds: float, empty: bool = False) -> bool:
        """Become the writer of an unfinished response's log, in place of whoever was; it is begun if there is none.

        empty: drop what it holds. Returns False when the token is not the response's, or the response is finished:
        then nothing was changed. Raises Unavailable.
        """
        arguments: list[Argument] = [log.owner, log.token, int(empty), _seconds(ttl_seconds)]
        arguments.append(round(lease_seconds * 1000))
        (claimed,) = await self._scripts.run(Call("claim_events", self._keys(log), arguments, log.response_id))
        return bool(claimed)

    async def release(self, log: EventLog) -> None:
        """Give up writing: a log that has not ended will not go on. Raises Unavailable."""
        keys = self._keyspace.keys(log.response_id)
        await self._scripts.run(Call("release_turn", [keys.lock(log.lock)], [log.holder]))

    async def read(self, query: EventQuery, limit_bytes: int) -> EventPage:
        """Return what is there from an event on, in one round trip; no more batches once limit_bytes are reached.

        A batch that lies in pieces takes a round trip for each of them. Raises ResponseNotFound (also for another
        owner's), Unavailable.
        """
        return await self._read_whole(query, limit_bytes)

    @again_if_torn
    async def _read_whole(self, query: EventQuery, limit_bytes: int) -> EventPage:
        batches, generation, *rest = await self._scripts.run(self._read(query, limit_bytes))
        whole: list[Any] = []
        for following, count, frames, *pieces in batches:
            read = await self._read_pieces(query, generation, *pieces) if pieces else frames
            whole.append((following, count, read))
        return _page(whole, generation, *rest)

    async def _read_pieces(self, query: EventQuery, generation: bytes, place: int, count: int) -> bytes:
        keys = self._keyspace.keys(query.response_id)
        names = [keys.events(query.response_id), keys.event_pieces(query.response_id)]
        numbers = range(place, place + count)
        calls = [Call("read_piece_of_log", names, [query.owner, generation, number]) for number in numbers]
        return b"".join([await read_piece(self._scripts, call, "an event") for call in calls])

    async def read_all(self, queries: Sequence[EventQuery], limit_bytes: int) -> list[EventPage | StoreError]:
        """Read several logs in one round trip (one a node on a cluster). limit_bytes: of each. Raises Unavailable.

        Nobody waits for what another one's log has in pieces: such a page ends before it, and is not whole.
        """
        replies = await self._scripts.run_all([self._read(query, limit_bytes) for query in queries])
        return [reply if isinstance(reply, StoreError) else _page(*reply) for reply in replies]

    def _read(self, query: EventQuery, limit_bytes: int) -> Call:
        keys = self._keyspace.keys(query.response_id)
        lock = keys.lock(f"{LOCK_PREFIX}{query.response_id}")
        names = [keys.head, keys.response(query.response_id), keys.events(query.response_id), lock]
        return Call("read_events", names, [query.owner, query.first_number, limit_bytes], query.response_id)

    def _keys(self, log: EventLog) -> list[str]:
        keys = self._keyspace.keys(log.response_id)
        written = [keys.events(log.response_id), keys.lock(log.lock), keys.event_pieces(log.response_id)]
        return [keys.response(log.response_id), *written]


def _page(batches: Sequence[Sequence[Any]], generation: bytes, running: int, ended: int, status: bytes) -> EventPage:
    found: list[EventBatch] = []
    for following, count, frames, *pieces in batches:
        if pieces:
            facts = generation.decode(), bool(running)
            return EventPage(found, *facts, ended=False, status=status.decode(), is_whole=False)
        found.append(EventBatch(following - count, count, frames))
    return EventPage(found, generation.decode(), bool(running), bool(ended), status.decode())


def _seconds(seconds: float) -> int:
    """Return a time to live as Redis takes it: it refuses 0."""
    return max(1, round(seconds))
