"""Client connection: aiohttp's, with limits of its own, errors in our envelope, and word of the client's leaving.

a head        has `head_seconds` from its first byte, else 408
an answer     that nobody reads ends the connection after `unread_seconds`
too many      one that waits for a request makes room, the oldest first; where none does, 503
a half-close  (the client sends no more and still reads) is no leaving; see `ClientConnection.eof_received`
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy.http.keys import REQUEST_ID
from proxy.protocol.errors import (
    ApiError,
    BadRequest,
    InternalError,
    RequestTimeout,
    error_body,
)
from storage import random_hex

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.http.passed import Passed

#: What a client that may have left is sent before its answer has begun: any client must be able to read one
#: (RFC 9110, 15.2), and one that is gone resets the connection.
_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: First and longest pause between two looks whether it did, in seconds.
FIRST_LOOK = 0.001
LONGEST_LOOK_PAUSE = 1.0
#: Descriptors that a process needs beside those of its clients and their turns.
RESERVED_DESCRIPTORS = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may take. most: connections at a time; head_seconds, unread_seconds: see above.

    error_format: of errors, as in `errors.format`.
    """

    most: int
    head_seconds: float
    unread_seconds: float
    error_format: str


class ClientConnection(web.RequestHandler):
    """One client's connection. Its requests are answered one after the other.

    sent: what another process has received on it before. passed: what that knows of it. on_answer: called once, when
    its first answer begins, or when the client has left before.
    """

    __slots__ = (
        "_head_timer",
        "_heads",
        "_limits",
        "_on_answer",
        "_only_reads",
        "_passed",
        "_sent",
        "on_leave",
        "probe",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        limits: ConnectionLimits,
        sent: bytes = b"",
        passed: Passed | None = None,
        on_answer: Callable[[], object] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(server, **settings)
        self._limits = limits
        self._sent = sent
        self._passed = passed
        self._on_answer = on_answer
        self._head_timer: asyncio.TimerHandle | None = None
        #: Requests before the one whose head `_head_timer` is for.
        self._heads = -1
        #: The client sends no more.
        self._only_reads = False
        #: Called once, when the client goes while its request is answered; None where nobody has to know.
        self.on_leave: Callable[[], object] | None = None
        #: Sends something that the client of an answer that has begun overlooks; None where nothing can be sent.
        self.probe: Callable[[], object] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a whole request."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def has_next(self) -> bool:
        """Whether another request has come behind the one that is answered."""
        return bool(self._messages)

    def stop_reading(self) -> int:
        """Leave to another process what is still to come; return the descriptor of the connection."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        transport.pause_reading()
        descriptor: int = transport.get_extra_info("socket").fileno()
        return descriptor

    def read_no_more(self) -> None:
        """Answer this request, and no other: what comes behind it can't be told apart."""
        self.close()
        if self.transport is not None:
            self.transport.resume_reading()

    def take_passed(self) -> Passed | None:
        """Return what another process knows of the request that begins; nothing for one that follows."""
        passed = self._passed
        if passed is not None:
            self._passed = None
        return passed

    def note_answer(self) -> None:
        """Tell whoever has passed the connection on that its answer begins, or that nobody waits for one."""
        if (told := self._on_answer) is not None:
            self._on_answer = None
            told()

    def let_go(self) -> None:
        """Forget the connection, which another process has: it is closed here only."""
        self.on_leave = None
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with what has come already."""
        super().connection_made(transport)
        if sent := self._sent:
            self._sent = b""
            self.data_received(sent)

    async def caught_up(self) -> None:
        """Return when the client has read enough of what it was sent. Raises ConnectionError if it has gone."""
        await self._drain_helper()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever answers; nothing is cancelled that does not ask for it."""
        super().connection_lost(exc)
        self.note_answer()
        if self._head_timer is not None:
            self._head_timer.cancel()
        if (leave := self.on_leave) is not None:
            self.on_leave = None
            leave()

    def data_received(self, data: bytes) -> None:
        """Give a head that has begun its time."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is not None and not waiter.done() and self._heads != self._request_count and self.transport:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._heads = self._request_count
            self._head_timer = self._loop.call_later(self._limits.head_seconds, self._check_head)

    def _check_head(self) -> None:
        self._head_timer = None
        if self.is_waiting and self._heads == self._request_count:
            self.refuse(RequestTimeout("The head of the request did not arrive in time."))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Tell whether the connection stays: a client that sends no more may still read its answer.

        One that has closed its connection looks the same at first, but resets it when it is sent anything; so it is
        sent something that it overlooks, and a reset is watched for.
        """
        if self._upgraded or self._force_close or self.transport is None:
            return False
        request = self._current_request
        if request is None and not self._messages and not self.is_waiting:
            # the request has been taken, or its answer given: which of them, its task knows as soon as it has run
            self._loop.call_soon(self._end_unless_asked)
            return True
        if not self._is_asked_for_answers():
            return False
        if request is not None and request.writer.output_size and self.probe is None:
            return False
        if not self._only_reads:
            # it is told again when the library reads on
            self._only_reads = True
            self._look_for_reset(FIRST_LOOK)
        return True

    def _end_unless_asked(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing() and (self.is_waiting or not self.eof_received()):
            transport.close()

    def _is_asked_for_answers(self) -> bool:
        """Whether there are whole requests to answer, of clients that understand what they are sent meanwhile."""
        if self._messages:
            message, payload = self._messages[-1]
            return payload.is_eof() and getattr(message, "version", HttpVersion10) >= HttpVersion11
        request = self._current_request
        return request is not None and request.content.is_eof() and request.version >= HttpVersion11

    def is_reset(self) -> bool:
        """Tell whether a client that sends no more has gone altogether, also before the next look would find it out."""
        transport = self.transport
        if not self._only_reads or transport is None or transport.is_closing():
            return False
        is_gone = bool(transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if is_gone:
            # the error is told once
            transport.abort()
        return is_gone

    def _look_for_reset(self, pause: float, *, probed: bool = False) -> None:
        transport = self.transport
        if transport is None or transport.is_closing() or self.is_reset():
            return
        probed = probed or self._send_probe(transport)
        if self.is_reset():
            # from the same machine the reset comes at once
            return
        again = partial(self._look_for_reset, min(2 * pause, LONGEST_LOOK_PAUSE), probed=probed)
        self._loop.call_later(pause, again)

    def _send_probe(self, transport: asyncio.Transport) -> bool:
        request = self._current_request
        if request is None:
            return False
        if not request.writer.output_size:
            transport.write(_STILL_THERE)
        elif self.probe is not None:
            self.probe()
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, in our envelope where the library made it, and see that it is read."""
        # asked of an abstract class it would take three times as long
        if isinstance(resp, Exception) and isinstance(resp, web.HTTPException):
            resp = self._in_envelope(request, resp)
        done = await super().finish_response(request, resp, start_time)
        self.probe = None
        if self._only_reads and not self._messages:
            # nothing more can be asked
            self._close = True
        transport = self.transport
        if transport is not None and (left := transport.get_write_buffer_size()):
            self._loop.call_later(self._limits.unread_seconds, self._check_read, transport, left)
        return done

    def _check_read(self, transport: asyncio.Transport, before: int) -> None:
        left = transport.get_write_buffer_size()
        if left >= before:
            log.info("a client that does not read its answer is cut off")
            transport.abort()
        elif left:
            self._loop.call_later(self._limits.unread_seconds, self._check_read, transport, left)

    def _in_envelope(self, request: web.BaseRequest, exc: web.HTTPException) -> web.Response:
        error = BadRequest(f"{exc.reason}.")
        error.status = exc.status
        request_id = request[REQUEST_ID] = request.get(REQUEST_ID) or new_request_id()
        return self._answer(error, request_id)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is not HTTP, or to what nobody else answered. Quotes nothing of the request."""
        if isinstance(exc, HttpProcessingError):
            # not its text: it quotes the request, which may hold a key
            log.info("malformed request: %s", type(exc).__name__)
        else:
            log.error("a request failed outside of its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        response = self._answer(_error_for(status, exc), new_request_id())
        response.force_close()
        return response

    def _answer(self, error: ApiError, request_id: str) -> web.Response:
        body = error_body(error, request_id, self._limits.error_format)
        headers = {**error.headers, "x-request-id": request_id, hdrs.SERVER: "branchline"}
        return web.Response(body=body, status=error.status, headers=headers, content_type="application/json")

    def refuse(self, error: ApiError) -> None:
        """Answer what was no request, and close the connection."""
        if self.transport is not None:
            self.transport.write(_raw(self._answer(error, new_request_id())))
        self.force_close()


def client_connection(request: web.Request) -> ClientConnection:
    """Return the connection that a request came on."""
    connection = request.protocol
    if not isinstance(connection, ClientConnection):
        raise TypeError("the application is served by another runner")
    return connection


def most_connections(wanted: int) -> int:
    """Return how many connections this process has descriptors for: each turn has one more, to the model server.

    wanted: the system is asked for that many first; it gives what its hard limit allows.
    """
    needed = 2 * wanted + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            # macOS has a limit below its hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, (soft - RESERVED_DESCRIPTORS) // 2)


def new_request_id() -> str:
    """Return `req_` + 32 hex digits."""
    return f"req_{random_hex(32)}"


def _error_for(status: int, exc: BaseException | None) -> ApiError:
    if isinstance(exc, LineTooLong):
        return BadRequest("The head of the request has a line that is too long.", code="invalid_request_head")
    if status < 500:
        return BadRequest("The request is not valid HTTP.", code="invalid_request_head")
    return InternalError("The server had an error while processing your request.")


def _raw(answer: web.Response) -> bytes:
    head = [
        f"HTTP/1.1 {answer.status} {answer.reason}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    body = answer.body if isinstance(answer.body, bytes) else b""
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "Connection: close", "\r\n"]).encode() + body
