"""Event log writer: a stream's events kept in the store, in batches, so that they can be told again.

At most one write per `BATCH_SECONDS` or `BATCH_BYTES` and stream. A run that another one came before goes on in the
log that it left: what it would write is compared, frame by frame, and skipped as long as it is the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from proxy.protocol import sse
from proxy.runtime.tasks import Backoff
from storage import EventBatch, EventLog, EventQuery, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.protocol.request import TurnRequest
    from proxy.services import Services

logger = logging.getLogger(__name__)

#: How long events wait for others to be written with, and how many bytes do not wait. Those of ordinary streams wait
#: longer: they have a client, who does not read them from the log.
BATCH_SECONDS = 0.05
ORDINARY_BATCH_SECONDS = 0.2
BATCH_BYTES = 64 * 1024
#: Seconds that the events of a turn are kept after the last one only because somebody watched it.
WATCHED_LOG_SECONDS = 60.0
#: Bytes that may wait for a store that can't be reached; over that the log is given up.
MAX_WAITING_BYTES = 32 * 1024 * 1024
#: Seconds for which the last batch is tried again, and the pause between two attempts.
CLOSING_SECONDS = 5.0
RETRY_SECONDS = 0.5
#: Bytes of a log that are read at a time.
LOG_PAGE_BYTES = 1024 * 1024

_END = b"\n\n"


class EventLogWriter:
    """Writes one response's log, as a sink of its turn's frames; it holds the log's lock from the first to `end`.

    It never fails a run: what can't be written is logged, and then missing. Around a run of a response that was
    accepted before, enter it as a context, which finds what an earlier run has written.
    """

    def __init__(self, services: Services, log: EventLog, retention_seconds: float | None = None) -> None:
        self._events = services.store.events
        self._leases = services.leases
        self._log = log
        self._lease = self._events.lease(log)
        self._retention_seconds = retention_seconds or services.config.streams.retention_seconds
        # a log must outlive the longest silence of its upstream
        self._running_seconds = self._retention_seconds + services.config.upstream.read_timeout_seconds
        self._batch_seconds = BATCH_SECONDS if log.token else ORDINARY_BATCH_SECONDS
        #: What an earlier run wrote, frame by frame, and how much of it this run has written too.
        self._earlier: list[bytes] = []
        self._matched = 0
        self._differs = False
        self._number = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        #: What is being written, until it is known to be there; and whether nothing follows it.
        self._batch: EventBatch | None = None
        self._is_last = False
        self._closing = False
        self._failing = False
        #: Whether the log's lock may be this run's.
        self._holds = False
        self._over = False

    async def __aenter__(self) -> Self:
        """Claim the log of a response that was accepted before it runs. Raises Unavailable."""
        if self._log.token:
            if await self._claim(empty=False):
                await self._read_earlier()
            else:
                self._over = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Let go of the log: what has not been written by now is missing."""
        self._stop_timer()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._leases.forget(self._lease)
        if self._holds and not self._over:
            try:
                await self._events.release(self._log)
            except Unavailable:
                logger.warning("log of %s is left to its lease: the store can't be reached", self._log.response_id)
        self._over = True

    async def write(self, frames: bytes) -> None:
        """Keep whole frames, soon; end the log with the last ones. Waits for the store only then, or when many bytes
        are due.
        """
        if not self.push(frames):
            await self.caught_up()

    def push(self, frames: bytes) -> bool:
        """Keep whole frames, soon; return False when the store has to be waited for: many bytes are due, or the end."""
        self._closing = self._closing or frames.endswith(sse.DONE)
        if not self._over:
            self._add(frames.removesuffix(sse.DONE))
        if self._closing:
            return False
        if self._waiting:
            self._start_timer(self._batch_seconds)
        return not self._is_behind

    async def caught_up(self) -> None:
        """Return when few bytes are due or the store can't be reached; after the last frames when they are there."""
        if self._closing:
            await self._close()
            return
        while self._is_behind:
            self._stop_timer()
            await self._flush()
        if self._waiting:
            self._start_timer(self._batch_seconds)

    async def secure(self) -> None:
        """Return when the log has what was written, or can't have it now.

        A run that dies after its commit is not made again: all but the end that its response tells must be there.
        """
        while (self._waiting or self._batch) and not (self._failing or self._over):
            self._stop_timer()
            await self._flush()

    @property
    def _is_behind(self) -> bool:
        return self._waiting_bytes >= BATCH_BYTES and not (self._failing or self._over)

    async def _close(self) -> None:
        self._stop_timer()
        backoff = Backoff(RETRY_SECONDS, RETRY_SECONDS, CLOSING_SECONDS, cut_last=True)
        while (self._waiting or self._batch) and not self._over:
            await self._flush()
            if self._failing and not await backoff.pause():
                self._give_up("the store can't be reached")

    # --- what an earlier run wrote ------------------------------------------------------------------------------------

    async def _claim(self, *, empty: bool) -> bool:
        claimed = await self._events.claim(
            self._log, ttl_seconds=self._running_seconds, lease_seconds=self._leases.seconds, empty=empty
        )
        if claimed:
            self._hold()
        return claimed

    async def _read_earlier(self) -> None:
        while True:
            query = EventQuery(self._log.owner, self._log.response_id, len(self._earlier))
            page = await self._events.read(query, LOG_PAGE_BYTES)
            if not page.batches:
                return
            for batch in page.batches:
                self._earlier += split_frames(batch.frames)

    def _add(self, frames: bytes) -> None:
        if self._matched < len(self._earlier):
            frames = self._without_earlier(frames)
        if frames:
            self._waiting.append(frames)
            self._waiting_bytes += len(frames)

    def _without_earlier(self, frames: bytes) -> bytes:
        """Return what the log lacks; all of this run's frames, if they differ from what it has."""
        fresh = split_frames(frames)
        while fresh and self._matched < len(self._earlier):
            if fresh[0] != self._earlier[self._matched]:
                self._differs = True
                fresh = self._earlier[: self._matched] + fresh
                self._earlier, self._matched, self._number = [], 0, 0
                break
            del fresh[0]
            self._matched += 1
            self._number += 1
        return b"".join(fresh)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float) -> None:
        if self._timer is None and not self._over:
            loop = asyncio.get_running_loop()
            # all writers at the same moments: so that they share their round trips
            self._timer = loop.call_at((loop.time() // seconds + 1) * seconds, self._start_flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_flush(self) -> None:
        self._timer = None
        # one that still runs starts the timer anew
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        """Write what waits, or what was tried before: unchanged, because that may have arrived."""
        async with self._writing:
            if self._over or not (self._batch or self._waiting):
                return
            if self._batch is None:
                frames = b"".join(self._waiting)
                self._batch = EventBatch(self._number, frames.count(_END), frames)
                self._is_last = self._closing
                self._waiting, self._waiting_bytes = [], 0
            try:
                await self._append(self._batch, last=self._is_last)
            except Unavailable as error:
                self._failing = True
                if len(self._batch.frames) + self._waiting_bytes > MAX_WAITING_BYTES:
                    self._give_up(error.subject)
            else:
                self._failing = False
                self._batch = None
            if not self._closing and (self._failing or self._waiting):
                self._start_timer(RETRY_SECONDS if self._failing else self._batch_seconds)

    async def _append(self, batch: EventBatch, *, last: bool) -> None:
        allowed = not self._differs or await self._claim(empty=True)
        if allowed:
            self._differs = False
            allowed = await self._events.append(
                self._log,
                batch,
                ttl_seconds=self._retention_seconds if last else self._running_seconds,
                lease_seconds=self._leases.seconds,
                last=last,
            )
        if not allowed:
            self._give_up("the log is not this run's any more")
            return
        self._number = batch.next_number
        if last:
            self._over = True
            self._leases.forget(self._lease)
        else:
            self._hold()

    def _hold(self) -> None:
        self._holds = True
        self._leases.hold(self._lease)

    def _give_up(self, reason: str) -> None:
        logger.warning("events of %s are not kept any further: %s", self._log.response_id, reason)
        self._over = True
        self._leases.forget(self._lease)


class StreamLog:
    """The log of an ordinary stream, begun when its turn has an id: a sink of the turn's frames, and its observer.

    It may lack the latest events until it ends: a run that dies before that is not made again. retention_seconds: for
    which it is kept, None for `streams.retention_seconds`.
    """

    needs_id = False

    def __init__(self, services: Services, owner: str, retention_seconds: float | None = None) -> None:
        self._services = services
        self._owner = owner
        self._retention_seconds = retention_seconds
        self._writer: EventLogWriter | None = None

    def begun(self) -> None:
        """Nothing to do yet."""

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        """Begin the log."""
        self._writer = EventLogWriter(self._services, EventLog(self._owner, response_id), self._retention_seconds)

    def moved(self, response_id: str) -> None:
        """Begin the log of the new id; nothing was written yet."""
        self._writer = EventLogWriter(self._services, EventLog(self._owner, response_id), self._retention_seconds)

    async def storing(self, attempt: int) -> None:
        """Nothing has to wait."""

    def left(self) -> None:
        """Go on: the client may come back."""

    async def ended(self, end: object) -> None:
        """Let go of the log."""
        if self._writer is not None:
            await self._writer.end()

    async def write(self, frames: bytes) -> None:
        """Keep whole frames, soon; return once the last ones are there."""
        if self._writer is not None:
            await self._writer.write(frames)

    def push(self, frames: bytes) -> bool:
        """Keep whole frames, soon; return whether the store keeps up."""
        return self._writer is None or self._writer.push(frames)

    async def caught_up(self) -> None:
        """Return when the store has caught up; once the last frames are there, if they were pushed."""
        if self._writer is not None:
            await self._writer.caught_up()

    async def secure(self) -> None:
        """Do nothing: a run that dies is not made again, so that its log need not be whole."""


def stream_log(services: Services, owner: str, request: TurnRequest) -> StreamLog | None:
    """Return the log of an ordinary stream; None where its events are not kept (`streams.keep`)."""
    keeps = services.config.streams.keep == "all" and request.stream and request.stored
    return StreamLog(services, owner) if keeps else None


def watched_log(services: Services, owner: str, request: TurnRequest) -> StreamLog | None:
    """Return the log of a turn that somebody watches; None where its events are kept anyway, or it has none."""
    lacks = services.config.streams.keep != "all" and request.stream and request.stored and not request.background
    return StreamLog(services, owner, WATCHED_LOG_SECONDS) if lacks else None


def split_frames(frames: bytes) -> list[bytes]:
    """Return whole frames one by one."""
    return [frame + _END for frame in frames.split(_END)[:-1]]
