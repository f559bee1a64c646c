"""A model server for tests: real HTTP on 127.0.0.1, answering as scripted, else as the echo model.

    async with ScriptedUpstream() as upstream:
        config = UpstreamConfig(url=upstream.url)                 # http://127.0.0.1:PORT/v1
        upstream.script(Reply.sample("llama.cpp-plain-stream"))   # the next answer of POST /v1/responses
        ...                                                       # drive the proxy
        assert upstream.requests[0].json["store"] is False

Answers are queued per path and used once each; where no answer is left the echo model answers.

    Reply.json(200, {"id": "resp_1", ...})                        JSON with Content-Length
    Reply.json(429, {"error": {...}}, {"Retry-After": "2"})       the same with headers
    Reply.sse([created, delta, completed])                        one frame, one write an event; then [DONE]
    Reply.sse([...], done=False, event_names=False)               without [DONE], without `event:` lines
    Reply.raw(200, "text/plain", b"body")                         any bytes
    Reply.raw(200, "text/event-stream", chunks=[b"da", b"ta: "])  written in exactly these pieces
    Reply.sample("llama.cpp-plain-stream", chunk_bytes=7)         a recording of tests/upstream_samples
    Reply.redirect("/elsewhere", 307)
    Reply.json(...).compressed("gzip")                            also deflate, zstd

Between the events of `sse` and the chunks of `raw` may stand

    gate = asyncio.Event()     waits until the test sets it
    CUT                        breaks the connection off, without a proper end of the body
    HANG                       sends nothing more until the client leaves

Like real ones it refuses what a model would not take, before any of that: `upstream.rules` (`tests.model_rules`). A
test about something else that real servers refuse sets `upstream.rules.strict = False`.

The status line and headers go out with the first bytes (`b""` sends them alone), so that a list that begins
with `gate` or `HANG` keeps the client waiting for the head. Whenever a client leaves before the end of an
answer, `upstream.client_left` is set: `await upstream.client_left.wait()`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

import orjson
import zstandard
from aiohttp import web

from proxy.echo import create_echo_app
from proxy.protocol import sse
from tests.model_rules import ModelRules
from tests.samples import load_sample

if TYPE_CHECKING:
    from multidict import CIMultiDict

RESPONSES = "/v1/responses"

#: Seconds after which waiting for requests is a failed test.
PATIENCE_SECONDS = 20.0


class Break(Enum):
    """What can go wrong in the middle of an answer."""

    CUT = "cut"
    HANG = "hang"


CUT = Break.CUT
HANG = Break.HANG

#: Bytes to write, an event to wait for, or a break.
Step = bytes | asyncio.Event | Break


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived; `body` after any Content-Encoding was undone."""

    method: str
    path_qs: str
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One scripted answer; make it with the class methods."""

    status: int
    headers: Mapping[str, str]
    steps: Sequence[Step]

    @classmethod
    def json(cls, status: int, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """Answer `body` as JSON."""
        return cls.raw(status, "application/json", orjson.dumps(body), headers=headers)

    @classmethod
    def sse(
        cls,
        events: Sequence[Mapping[str, Any] | Step],
        *,
        done: bool = True,
        event_names: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Answer a stream: objects become frames, named after their `type`; other steps stay as they are."""
        steps = [_frame(event, event_names) if isinstance(event, Mapping) else event for event in events]
        if done:
            steps.append(sse.DONE)
        return cls.raw(200, "text/event-stream; charset=utf-8", chunks=steps, headers=headers)

    @classmethod
    def raw(
        cls,
        status: int,
        content_type: str,
        body: bytes = b"",
        *,
        chunks: Sequence[Step] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Answer `body` with Content-Length; or `chunks`, each written on its own, without one."""
        if chunks is not None:
            return cls(status, {"Content-Type": content_type, **(headers or {})}, chunks)
        length = {"Content-Length": str(len(body))}
        return cls(status, {"Content-Type": content_type, **length, **(headers or {})}, [body])

    @classmethod
    def sample(cls, name: str, *, chunk_bytes: int | None = None) -> Reply:
        """Answer as the recording `name`, in pieces of `chunk_bytes`; streams else in one piece a frame."""
        recorded = load_sample(name)
        if chunk_bytes is not None:
            starts = range(0, len(recorded.body), chunk_bytes)
            pieces = [recorded.body[start : start + chunk_bytes] for start in starts]
        elif recorded.content_type.startswith("text/event-stream"):
            pieces = [frame + b"\n\n" for frame in recorded.body.split(b"\n\n") if frame]
        else:
            return cls.raw(recorded.status, recorded.content_type, recorded.body)
        return cls.raw(recorded.status, recorded.content_type, chunks=pieces)

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Reply:
        """Answer a redirect to `location`."""
        return cls.raw(status, "text/plain", headers={"Location": location})

    def compressed(self, encoding: str) -> Reply:
        """Return this answer with its body compressed as `encoding` and written in one piece."""
        body = _compress(encoding, b"".join(step for step in self.steps if isinstance(step, bytes)))
        length = {"Content-Length": str(len(body))}
        return replace(self, headers={**self.headers, "Content-Encoding": encoding, **length}, steps=[body])


class ScriptedUpstream:
    """A running model server; see the module's text."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        #: Set when a client left before its answer was complete.
        self.client_left = asyncio.Event()
        #: Awaited before each answer.
        self.thinks: Callable[[], Awaitable[None]] | None = None
        #: What it refuses.
        self.rules = ModelRules()
        self._scripts: defaultdict[str, deque[Reply]] = defaultdict(deque)
        self._arrived = asyncio.Condition()
        app = create_echo_app()
        app.middlewares.insert(0, self._middleware())
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Base URL, ending in `/v1`."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    def script(self, *replies: Reply, path: str = RESPONSES) -> None:
        """Queue the next answers of `path` (with its `/v1`, without query), whatever the method."""
        self._scripts[path].extend(replies)

    async def wait_for_requests(self, count: int) -> list[Recorded]:
        """Wait until `count` requests have arrived in all and return them. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    def _middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def record_and_answer(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            body = await self._record(request)
            asked = orjson.loads(body) if request.path.startswith(RESPONSES) and body else {}
            if (refusal := self.rules.refusal(asked)) is not None:
                status, answer = refusal
                return web.json_response(answer, status=status)
            replies = self._scripts[request.path]
            reply = replies.popleft() if replies else None
            try:
                if self.thinks is not None:
                    await self.thinks()
                if reply is None:
                    return await handler(request)
                self.rules.note_answer(str(asked.get("model")), b"".join(_bytes_of(reply)))
                return await _play(reply, request)
            except (asyncio.CancelledError, ConnectionError):
                self.client_left.set()
                raise

        return record_and_answer

    async def _record(self, request: web.Request) -> bytes:
        body = await request.read()
        async with self._arrived:
            self.requests.append(Recorded(request.method, request.path_qs, request.headers.copy(), body))
            self._arrived.notify_all()
        return body


def _bytes_of(reply: Reply) -> list[bytes]:
    return [step for step in reply.steps if isinstance(step, bytes)]


async def _play(reply: Reply, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    for step in reply.steps:
        match step:
            case bytes():
                await _write(response, request, step)
            case asyncio.Event():
                await step.wait()
            case Break.CUT:
                _cut(request)
                return response
            case Break.HANG:
                await asyncio.Event().wait()
    await _write(response, request, b"")
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, request: web.Request, piece: bytes) -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write(piece)
    # A few turns of the loop let a client in the same process read this piece before the next is written.
    for _ in range(4):
        await asyncio.sleep(0)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _frame(event: Mapping[str, Any], event_names: bool) -> bytes:
    data = orjson.dumps(event)
    return sse.encode(event["type"], data) if event_names else b"data: %b\n\n" % data


def _compress(encoding: str, body: bytes) -> bytes:
    if encoding == "zstd":
        return zstandard.ZstdCompressor().compress(body)
    wbits = {"gzip": 31, "deflate": zlib.MAX_WBITS}[encoding]
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(body) + packer.flush()
