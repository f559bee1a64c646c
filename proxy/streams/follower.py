"""Event log follower: a response's events from its log, and on from there while it still runs, wherever that is.

A reader first catches up by itself; from then on one task looks into all logs that anybody of this process waits for,
in one round trip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.auth.caller import CALLER
from proxy.http.delivery import HttpDelivery
from proxy.http.keys import CONFIG
from proxy.protocol import ids, sse
from proxy.protocol.errors import BadRequest
from proxy.protocol.params import asks_encrypted
from proxy.relay.replay import Replay, end_of_broken_run
from proxy.runtime.tasks import Backoff, Tasks
from proxy.streams.event_log import LOG_PAGE_BYTES, split_frames
from storage import EventBatch, EventPage, EventQuery, ResponseNotFound, StoreError

if TYPE_CHECKING:
    from aiohttp import web

    from storage import Store

logger = logging.getLogger(__name__)

#: Seconds between two looks at the logs.
POLL_SECONDS = 0.05
#: Seconds that a reader waits for a log to be begun, and since when its response may have been known at most, as far
#: as the clocks of two replicas agree.
LOG_GRACE_SECONDS = 0.5
FRESH_SECONDS = 60.0
#: Numbers of events have no more digits.
MAX_DIGITS = 15

#: Those that read the logs of events.
FOLLOWERS: AppKey[Followers] = AppKey("followers")


class Broken(Exception):
    """What was told can't be continued: the log was begun anew or is gone, or this server stops."""


class Followers:
    """All readers of logs in this process. keepalive_seconds: silence that a stream may have.

    ordinary_logs: the events of ordinary streams are kept too (`streams.keep`), from a moment after they were sent.
    """

    def __init__(self, store: Store, keepalive_seconds: float, *, ordinary_logs: bool = False) -> None:
        self.store = store
        self.ordinary_logs = ordinary_logs
        self._keepalive_seconds = keepalive_seconds
        self._waiting: dict[EventQuery, list[asyncio.Future[EventPage]]] = {}
        self._streams: set[HttpDelivery] = set()
        self._wanted = asyncio.Event()
        self._stopped = False

    def __len__(self) -> int:
        """How many streams are told from logs."""
        return len(self._streams)

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[Followers]:
        """Look into the logs for as long as the context lasts."""
        async with (
            tasks.periodic("reading of event logs", POLL_SECONDS, self._poll, logger, when=self._wanted),
            tasks.periodic("keep-alive of followed streams", self._keepalive_seconds / 3, self._keep_alive, logger),
        ):
            try:
                yield self
            finally:
                self.stop()

    def stop(self) -> None:
        """Break off every reader that waits, now and from now on: its client goes on at another replica."""
        self._stopped = True
        for query in list(self._waiting):
            self._tell(query, Broken("The server is stopping."))

    @asynccontextmanager
    async def stream(self, delivery: HttpDelivery) -> AsyncIterator[HttpDelivery]:
        """Keep a client's stream alive for as long as the context lasts."""
        self._streams.add(delivery)
        try:
            yield delivery
        finally:
            self._streams.discard(delivery)

    async def next(self, query: EventQuery) -> EventPage:
        """Wait for something new in a log, or its end. Raises ResponseNotFound, Broken, Unavailable."""
        if self._stopped:
            raise Broken("The server is stopping.")
        future: asyncio.Future[EventPage] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(query, []).append(future)
        self._wanted.set()
        page = await future
        # who waits for a large event fetches it, nobody else waits meanwhile
        return page if page.batches or page.is_whole else await self.store.events.read(query, LOG_PAGE_BYTES)

    async def _poll(self) -> None:
        self._forget_the_gone()
        queries = list(self._waiting)
        pages = await self.store.events.read_all(queries, LOG_PAGE_BYTES)
        for query, page in zip(queries, pages, strict=True):
            if isinstance(page, StoreError) or page.batches or not page.is_whole or page.ended or not page.running:
                self._tell(query, page)
        if not self._waiting:
            self._wanted.clear()

    def _forget_the_gone(self) -> None:
        for query, futures in list(self._waiting.items()):
            futures[:] = [future for future in futures if not future.done()]
            if not futures:
                del self._waiting[query]

    def _tell(self, query: EventQuery, answer: EventPage | Exception) -> None:
        for future in self._waiting.pop(query, []):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _keep_alive(self) -> None:
        for delivery in list(self._streams):
            await delivery.keep_alive(self._keepalive_seconds)


class LogReader:
    """One reader's way through one log. number: of the next event that it tells."""

    def __init__(self, followers: Followers, query: EventQuery, *, show_encrypted: bool) -> None:
        self._followers = followers
        self._store = followers.store
        self._owner = query.owner
        self._response_id = query.response_id
        self._number = query.first_number
        self._show_encrypted = show_encrypted
        self._generation = ""
        self._page: EventPage

    async def begin(self) -> None:
        """Read what there is. Raises ResponseNotFound, Unavailable, and BadRequest when no events are kept."""
        is_fresh = abs(ids.age_seconds(self._response_id)) < FRESH_SECONDS
        backoff = Backoff(POLL_SECONDS, POLL_SECONDS, LOG_GRACE_SECONDS if is_fresh else 0.0, cut_last=True)
        while True:
            # whoever was told the id a moment ago may be here before the first events are in the log
            try:
                self._page = await self._read()
            except ResponseNotFound:
                if not await backoff.pause():
                    raise
            else:
                late = self._followers.ordinary_logs and not self._page.kept
                if not (late and await backoff.pause()):
                    break
        if not self._page.kept:
            raise BadRequest(
                "This response was not created in background mode with stream=true, or its events are not kept any "
                "more, so it can't be streamed.",
                param="stream",
            )

    @property
    def waits(self) -> bool:
        """Whether there is nothing to tell yet."""
        return self._page.running and not (self._page.batches or self._page.ended)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield whole frames to the end of the stream, as they come. Raises Broken, StoreError."""
        while True:
            page = self._page
            if page.batches:
                yield self._take(page)
            if page.ended:
                yield sse.DONE
                return
            if page.batches:
                self._page = await self._read()
            elif page.running:
                self._page = await self._followers.next(self._query)
            else:
                yield await self._end()
                return

    @property
    def _query(self) -> EventQuery:
        return EventQuery(self._owner, self._response_id, self._number)

    async def _read(self) -> EventPage:
        return await self._store.events.read(self._query, LOG_PAGE_BYTES)

    def _take(self, page: EventPage) -> bytes:
        if self._generation and page.generation != self._generation:
            raise Broken("The events were begun anew.")
        self._generation = page.generation
        frames = frames_from(page.batches, self._number)
        self._number = page.batches[-1].next_number
        return frames

    async def _end(self) -> bytes:
        """Return the end that no writer has written, and none will."""
        try:
            stored = await self._store.responses.read(self._owner, self._response_id)
        except ResponseNotFound:
            page = await self._store.events.read(EventQuery(self._owner, self._response_id, 0), 1)
            if not page.batches:
                raise
            return end_of_broken_run(split_frames(page.batches[0].frames)[0], self._number)
        return Replay(stored, show_encrypted=self._show_encrypted).end(self._number)


async def follow(request: web.Request, response_id: str, starting_after: int = -1) -> web.StreamResponse:
    """Tell a response's events after one of them, to the end, as they were or will be told first.

    starting_after: number of an event, -1 for all. Raises ResponseNotFound, BadRequest, Unavailable before the
    first byte; later the connection is broken off, so that the client knows that something is missing.
    """
    followers = request.app[FOLLOWERS]
    query = EventQuery(request[CALLER].owner, response_id, starting_after + 1)
    reader = LogReader(followers, query, show_encrypted=asks_encrypted(request.query))
    await reader.begin()
    async with followers.stream(HttpDelivery(request, request.app[CONFIG].server.unread_seconds)) as delivery:
        if reader.waits:
            # the head goes out at once, however long the first event takes
            await delivery.send(sse.comment("events follow"))
        try:
            async for frames in reader.frames():
                if not await delivery.send(frames):
                    break
        except (Broken, StoreError) as reason:
            logger.info("the stream of %s was broken off: %s", response_id, type(reason).__name__)
            delivery.gone = True
            if request.transport is not None:
                request.transport.abort()
        return await delivery.finish()


def read_starting_after(query: Mapping[str, str]) -> int:
    """Return `starting_after`, -1 if it is not given. Raises BadRequest when it is no number of an event."""
    text = query.get("starting_after", "")
    if not text:
        return -1
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise BadRequest(
            "Invalid 'starting_after': expected the sequence number of an event, an integer of at least 0.",
            param="starting_after",
            code="invalid_value",
        )
    return int(text)


def frames_from(batches: Sequence[EventBatch], number: int) -> bytes:
    """Return the frames of batches from the event with that number on."""
    first = batches[0]
    told = number - first.first_number
    kept = b"".join(split_frames(first.frames)[told:]) if told > 0 else first.frames
    return kept + b"".join([batch.frames for batch in batches[1:]])
