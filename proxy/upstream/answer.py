"""Model answer: what a model server answers to a turn, its body pulled or pushed, and what of its head goes on."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from aiohttp import hdrs

from proxy.context.budget import OMITTED
from proxy.protocol import sse
from proxy.protocol.errors import BadGateway
from proxy.protocol.json_size import most_levels
from proxy.protocol.origin import AnswerOrigin
from proxy.telemetry.records import MALFORMED, Attempt
from proxy.upstream.body import ending_of, parse_json_answer, push_chunks
from proxy.upstream.headers import response_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

    from proxy.upstream.client import Upstream
    from proxy.upstream.pool import UpstreamAnswer
    from proxy.upstream.wire import Consumer

#: The header that says which of several model servers answers.
ANSWERED_BY = "x-branchline-upstream"
#: Bytes of a body that are looked at to tell what it is.
_MAX_START_BYTES = 4096
#: Bytes of a body that are kept for who pulls it, before the model server has to wait.
_READ_AHEAD_BYTES = 128 * 1024


class ModelAnswer:
    """A 2xx answer of the model server, its body unread. omitted: items of the history that the model was not shown.

    attempt: notes how it ends.
    Its body is pulled, piece by piece, until it is asked to be pushed. A context: at its end the connection goes back,
    or is closed if the answer was not read to its end.
    """

    def __init__(self, answer: UpstreamAnswer, upstream: Upstream, attempt: Attempt, model: str, omitted: int) -> None:
        self._answer = answer
        self._upstream = upstream
        self._omitted = omitted
        #: The request that it answers.
        self.attempt = attempt
        #: What it is told with, None if that is how it comes.
        self.origin: AnswerOrigin | None = None
        if upstream.is_named and ((alias := upstream.alias(model)) or upstream.mark):
            self.origin = AnswerOrigin(model if alias else "", upstream.mark)
        self._room = upstream.max_response_bytes
        self._consumer: Consumer | None = None
        #: How large an event of a stream may be.
        self.max_event_bytes = upstream.max_event_bytes
        #: What came and was not pulled yet, how much that is, and who waits for more.
        self._pieces: deque[bytes] = deque()
        self._kept_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        #: How deep the JSON object is at most that was read.
        self.most_levels = math.inf
        self._is_full = self._begun = self._over = self._ends = False
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.release(ends=self._ends)
        self.attempt.end()

    def expect_end(self) -> None:
        """Know that nothing but the body's end is still to come: the connection is kept if it comes soon."""
        self._ends = True

    @property
    def headers(self) -> MutableMapping[str, str]:
        """What of its headers goes on to the client, with how many items the model was not shown."""
        headers = response_headers(self._answer.headers)
        if self._upstream.is_named:
            headers[ANSWERED_BY] = self._upstream.name
        if self._omitted:
            headers[OMITTED] = str(self._omitted)
        return headers

    async def is_stream(self, *, expected: bool) -> bool:
        """Return whether it is a stream of events, as its first bytes tell, whatever its head says.

        expected: what it is if neither tells. Raises BadGateway, GatewayTimeout.
        """
        start, found = b"", None
        while found is None and len(start) < _MAX_START_BYTES and (chunk := await self._next()):
            start = (start + chunk).lstrip(b" \t\r\n")
            found = sse.is_stream(start)
        if start:
            self._pieces.appendleft(start)
            self._kept_bytes += len(start)
        if found is not None:
            return found
        untold = not self._answer.headers.get(hdrs.CONTENT_TYPE)
        return self._answer.content_type == "text/event-stream" or (untold and expected)

    async def read(self) -> bytes:
        """Return the whole body. Raises BadGateway, GatewayTimeout."""
        return bytes(await self._collect())

    async def _collect(self) -> bytearray:
        # it grows where it is: pieces that are joined are there twice for a moment
        body = bytearray()
        while chunk := await self._next():
            body += chunk
            if self._over and self._failure is None and not self._pieces:
                break
        return body

    def _measured(self, body: bytearray) -> bytearray:
        self.most_levels = most_levels(body)
        return body

    async def read_json(self) -> dict[str, Any]:
        """Return the JSON object that the whole body is. Raises BadGateway, GatewayTimeout."""
        try:
            # handed over, not kept
            return parse_json_answer(self._measured(await self._collect()))
        except BadGateway:
            self.attempt.spoil(MALFORMED)
            raise

    async def chunks(self, patience: Callable[[], float | None] = lambda: None) -> AsyncIterator[bytes]:
        """Yield the bytes of a stream as they arrive, cut anywhere.

        patience: tells for how many seconds more bytes are waited for; None: for as long as the upstream may be
        silent. Raises BadGateway (also for an answer over `upstream.max_response_bytes`), GatewayTimeout, but nothing
        once patience is limited.
        """
        while chunk := await self._next(patience()):
            yield chunk

    def push(self, consumer: Consumer) -> None:
        """Give what comes of the body to a consumer from now on, what has come at once; it fails with an ApiError."""
        self._consumer = consumer
        while self._pieces:
            consumer.data(self._pieces.popleft())
        self._kept_bytes, self._is_full = 0, False
        self.hold(held=False)
        try:
            self._begin()
        except BadGateway as failure:
            self.failed(failure)
        if self._over:
            self._tell_over()

    def hold(self, *, held: bool) -> None:
        """Let the model server wait, or go on."""
        self._answer.hold(held=held)

    # How the body comes (`wire.Consumer`).

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._room -= len(chunk)
        if self._room < 0:
            self.failed(BadGateway("The upstream's answer is too large.", code="upstream_response_too_large"))
        elif self._consumer is not None:
            self._consumer.data(chunk)
        elif not self._over:
            self._pieces.append(chunk)
            self._kept_bytes += len(chunk)
            if self._kept_bytes > _READ_AHEAD_BYTES:
                self._is_full = True
                self.hold(held=True)
            self._wake()

    def end(self) -> None:
        """Know that the body is complete."""
        self._over = True
        self._tell_over()

    def failed(self, error: Exception) -> None:
        """Know that no more of the body comes."""
        if not self._over:
            self._over, self._failure = True, error
            self.attempt.spoil(ending_of(error))
            self._tell_over()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        # most answers that are no stream have come with their head
        if self._consumer is not None or (whole := self._answer.take_whole()) is None:
            push_chunks(self._answer, self)
        elif len(whole) > self._room:
            self.data(whole)
        else:
            self._over = True
            if whole:
                self._pieces.append(whole)
                self._kept_bytes += len(whole)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tell_over(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            self._wake()
        elif self._failure is None:
            consumer.end()
        else:
            consumer.failed(self._failure)

    async def _next(self, seconds: float | None = None) -> bytes:
        """Return the next bytes of the body, b'' at its end, or when they have not come within some `seconds`."""
        if not self._begun:
            self._begin()
        while not (self._pieces or self._over):
            self._waiter = asyncio.get_running_loop().create_future()
            if seconds is None:
                await self._waiter
            elif not (await asyncio.wait([self._waiter], timeout=seconds))[0]:
                return b""
        if self._pieces:
            chunk = self._pieces.popleft()
            self._kept_bytes -= len(chunk)
            if self._is_full:
                self._is_full = False
                self.hold(held=False)
            return chunk
        if self._failure is not None and seconds is None:
            raise self._failure
        return b""
