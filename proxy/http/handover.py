"""Handover: a request that would hold everybody up is given, with its connection, to a process that is there for such.

Parsing, checking, hashing and storing megabytes or thousands of items takes the interpreter for tens of milliseconds at
a time, in threads too. There is no way to do that beside others but in another process. It is given

    large      what its Content-Length says is large, before its body is read
    hidden     what only turns out to be large when it is read, or undone from its coding
    crowded    what is not large, but has very many objects
    heavy      what is small, but goes on with a history that is large, which is known (`HeavyHistories`), or found out
               when it begins to be read

What is ordinary never comes here. The other process answers as this one would have, under the id that the request got
here and with what is known of it (`Passed`); its client's next request comes here again, over a new
connection. Until the answer begins the request stays open here too: if the process ends before, its client is told so.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.connection import client_connection
from proxy.http.keys import NOTES, REQUEST_ID
from proxy.http.passed import Passed
from proxy.http.quotas import ALLOWANCE
from proxy.protocol.errors import ServiceUnavailable
from storage import HistoryLimit, partition_of

#: Bytes from which on a body is large.
LARGE_BODY_BYTES = 256 * 1024
#: Bytes up to which nobody counts what is in a body, and objects from which on it is crowded: some 20 ms of work.
UNCOUNTED_BYTES, CROWDED_OBJECTS = 32 * 1024, 1_000

#: Bytes and items of a history from which on a turn on it takes long: some 5 ms each MiB, or each 2,000 items.
HEAVY_HISTORY_BYTES, HEAVY_HISTORY_ITEMS = 4 * 1024 * 1024, 4_000
#: The same as what a turn reads that may be given away.
MOST_HISTORY = HistoryLimit(HEAVY_HISTORY_ITEMS, HEAVY_HISTORY_BYTES)
#: How many such histories are remembered.
MOST_HEAVY = 10_000

#: Takes a connection: its descriptor, what is known of its request, and all that was received there. Returns True as
#: soon as the answer begins or the client has left, False if it was not taken, or will not be answered.
TakeConnection: TypeAlias = Callable[[int, Passed, Sequence[bytes]], Awaitable[bool]]

#: What is said once before the body, or framed differently there.
_NOT_PASSED = frozenset({b"expect", b"content-length", b"transfer-encoding"})


class Handover(Protocol):
    """The processes that requests are given to."""

    async def find(self, owner: str) -> TakeConnection | None:
        """Return what takes a request of this owner, once it is there; None where it is to be handled here."""
        ...


#: Where requests are given to; not set where all are handled here.
HANDOVER: web.AppKey[Handover] = web.AppKey("handover")
#: The running requests that another process counts, by their tasks: it was given them, or has given them here.
COUNTED_ELSEWHERE: web.AppKey[set[object]] = web.AppKey("counted_elsewhere", set)


class HeavyHistories:
    """Where histories lie that take long to read, join and send: found out by the first turns there. most: of them."""

    def __init__(self, most: int = MOST_HEAVY) -> None:
        self._most = most
        self._partitions: OrderedDict[str, None] = OrderedDict()

    def note(self, subject: str, items: int, size: int) -> None:
        """Note how many items and bytes of history a turn had that went on with a conversation or a response."""
        if size >= HEAVY_HISTORY_BYTES or items >= HEAVY_HISTORY_ITEMS:
            self.remember(subject)

    def remember(self, subject: str) -> None:
        """Note that a conversation or a response has such a history."""
        partition = partition_of(subject)
        self._partitions[partition] = None
        self._partitions.move_to_end(partition)
        if len(self._partitions) > self._most:
            self._partitions.popitem(last=False)

    def know(self, subject: str) -> bool:
        """Tell whether a conversation or a response lies where such a history was found."""
        return bool(self._partitions) and partition_of(subject) in self._partitions


#: The histories that were found to be large by this process.
HEAVY_HISTORIES: web.AppKey[HeavyHistories] = web.AppKey("heavy_histories", HeavyHistories)


def is_heavy(body: bytes) -> bool:
    """Whether a body takes long: it is large, or crowded."""
    if len(body) >= LARGE_BODY_BYTES:
        return True
    return len(body) > UNCOUNTED_BYTES and body.count(b"{") > CROWDED_OBJECTS


async def hand_over(request: web.Request, body: Sequence[bytes] | None = None) -> None:
    """Give a request to another process. This returns only if none takes it; else it ends as if its client had left.

    body: all of it as it was sent, undone from its chunks; None if it is not read: then what has come goes along.
    Raises ServiceUnavailable.
    """
    handover, connection = request.app.get(HANDOVER), client_connection(request)
    if handover is None or connection.has_next:
        return
    take = await handover.find(request[CALLER].owner)
    if take is None:
        return
    # first: this lets the connection read on
    sent = body if body is not None else list(iter(request.content.read_nowait, b""))
    descriptor = connection.stop_reading()
    length = request.content_length if body is None else sum(map(len, body))
    notes = request[NOTES]
    passed = Passed(request[REQUEST_ID], notes.began, request.get(ALLOWANCE))
    # told by who answers
    trace, notes.is_told, notes.trace = notes.trace, True, None
    with counted_elsewhere(request):
        is_answered = await take(descriptor, passed, [_head_of(request, length or 0), *sent])
    if not is_answered:
        notes.is_told, notes.trace = False, trace
        # what is still to come of the body has lost its beginning
        connection.read_no_more()
        message = "The process that answers large requests could not take this one, or has ended; please retry."
        lost = ServiceUnavailable(message, code="server_busy")
        lost.headers = {**lost.headers, hdrs.CONNECTION: "close"}
        raise lost
    connection.let_go()
    raise asyncio.CancelledError


@contextmanager
def counted_elsewhere(request: web.Request, *, is_so: bool = True) -> Iterator[None]:
    """Do not count a request here for as long as the context lasts."""
    passed, task = request.app[COUNTED_ELSEWHERE], asyncio.current_task()
    if is_so:
        passed.add(task)
    try:
        yield
    finally:
        passed.discard(task)


def _head_of(request: web.Request, length: int) -> bytes:
    """Return the head of a request as it came, with the length of its body as that is passed on."""
    major, minor = request.version
    lines = [f"{request.method} {request.raw_path} HTTP/{major}.{minor}".encode("utf-8", "surrogateescape")]
    lines += [b"%b: %b" % field for field in request.raw_headers if field[0].lower() not in _NOT_PASSED]
    return b"\r\n".join([*lines, b"%b: %d" % (hdrs.CONTENT_LENGTH.encode(), length), b"\r\n"])
