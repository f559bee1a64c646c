"""Bodies pushed to whoever takes them as they arrive, beside the same bodies pulled."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from proxy.config.settings import UpstreamConfig
from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout
from proxy.upstream.body import UpstreamCut, iter_chunks, push_chunks
from proxy.upstream.client import Upstream, create_session
from tests.upstream import CUT, HANG, Reply, ScriptedUpstream

TEXT = b"text" * 50_000


class Taker:
    """Takes a body; `over` is done with what it failed of, None at its end."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data(self, chunk: bytes) -> None:
        assert not self.over.done()
        self.pieces.append(chunk)

    def end(self) -> None:
        self.over.set_result(None)

    def failed(self, error: Exception) -> None:
        self.over.set_result(error)


@pytest.fixture
async def to(upstream: ScriptedUpstream) -> AsyncIterator[Upstream]:
    config = UpstreamConfig(url=upstream.url, read_timeout_seconds=0.2)
    async with create_session(config) as session, Upstream(config, session, upstream.url) as client:
        yield client


async def pushed(to: Upstream) -> tuple[bytes, Exception | None]:
    taker = Taker()
    async with await to.create_response([b"{}"], {}) as answer:
        push_chunks(answer, taker)
        failure = await taker.over
    return b"".join(taker.pieces), failure


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "zstd"])
async def test_a_body_is_pushed_in_plain_whatever_its_coding(to: Upstream, upstream: ScriptedUpstream, coding: str):
    reply = Reply.raw(200, "text/plain", TEXT)
    upstream.script(reply if coding == "identity" else reply.compressed(coding))
    assert await pushed(to) == (TEXT, None)


async def test_an_unknown_coding_is_a_bad_gateway_before_anything_is_pushed(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "text/plain", b"x", headers={"Content-Encoding": "br"}))
    with pytest.raises(BadGateway):
        await pushed(to)


BREAKS = {
    "a cut": (Reply.raw(200, "text/plain", chunks=[b"half", CUT]), UpstreamCut),
    "silence": (Reply.raw(200, "text/plain", chunks=[b"half", HANG]), GatewayTimeout),
    "no gzip": (Reply.raw(200, "text/plain", b"not gzip", headers={"Content-Encoding": "gzip"}), UpstreamCut),
    "half a gzip": (
        Reply.raw(200, "text/plain", gzip.compress(TEXT, mtime=0)[:-3], headers={"Content-Encoding": "gzip"}),
        UpstreamCut,
    ),
    "rubbish after gzip, then a cut": (
        Reply.raw(
            200, "text/plain", chunks=[gzip.compress(b"half", mtime=0), b"x", CUT], headers={"Content-Encoding": "gzip"}
        ),
        UpstreamCut,
    ),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_pushed_body_fails_as_a_pulled_one_does(to: Upstream, upstream: ScriptedUpstream, name: str):
    reply, kind = BREAKS[name]
    upstream.script(reply, reply)
    pieces = []
    pulled: ApiError | None = None
    async with await to.create_response([b"{}"], {}) as answer:
        try:
            async for piece in iter_chunks(answer):
                pieces.append(piece)  # noqa: PERF401  # what came before it failed counts too
        except ApiError as failure:
            pulled = failure
    got, failed = await pushed(to)
    assert type(failed) is type(pulled) is kind
    assert (got, str(failed)) == (b"".join(pieces), str(pulled))
