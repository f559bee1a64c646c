"""Bodies in chunks: what is taken past the parser is what the parser would have given, wherever the reads are cut."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.upstream.chunks import Chunks
from proxy.upstream.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    """Takes everything."""

    def write(self, data: Any) -> None: ...

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Kept:
    """What came of a body: its bytes, and how it ended."""

    def __init__(self) -> None:
        self.body = b""
        self.end_is = ""

    def data(self, chunk: bytes) -> None:
        assert chunk
        assert not self.end_is
        self.body += chunk

    def end(self) -> None:
        self.end_is = "whole"

    def failed(self, error: Exception) -> None:
        self.end_is = "failed"


class Played(NamedTuple):
    """What came of an answer. fit: its connection can be used again. parsed: bytes of its body that the parser saw."""

    body: bytes
    end_is: str
    fit: bool
    parsed: int


async def played(reads: list[bytes], *, at_once: bool) -> Played:
    """Play what a server sends to a consumer, who comes with the head or, so that the parser sees all, at the end."""
    wire, kept = Wire(30.0, lambda _: None), Kept()
    wire.connection_made(Transport())
    sending = asyncio.ensure_future(wire.send(b"POST / HTTP/1.1\r\n\r\n", [], 0))
    await asyncio.sleep(0)
    is_there = False
    for read in reads:
        wire.data_received(read)
        if at_once and not is_there and wire.message is not None:
            is_there = True
            wire.consume(kept)
    if not at_once and wire.message is not None:
        wire.consume(kept)
    if wire.message is None:
        sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    parsed = wire.content.total_bytes
    fit = wire.finish()
    wire.connection_lost(None)
    return Played(kept.body, kept.end_is, fit, parsed)


def chunk(content: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(content), extension, content)


CONTENT = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"\r\n", b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"data: x\n\n", b"a" * 300, b"5\r\n"]),
)
CHUNK = st.one_of(
    CONTENT.map(chunk),
    CONTENT.map(chunk),
    CONTENT.map(lambda content: chunk(content, b";x=1")),
    CONTENT.map(lambda content: b"0%x\r\n%b\r\n" % (len(content), content)),
    CONTENT.map(lambda content: b"%X\r\n%b\r\n" % (len(content), content)),
)
#: What is no chunk, or not only one.
ODD = st.sampled_from(
    [
        b"\r\n",
        b"3\r\nabcd\r\n",
        b"4\r\nabc\r\n",
        b"z\r\n",
        b"-1\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n",
        b"0\r\n\r\n",
        b"+3\r\nabc\r\n",
    ]
)
HEADS = st.sampled_from(
    [
        HEAD,
        HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD,
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"chunked\r\n", b"chunked\r\nX: 3\r\n"),
        HEAD.replace(b"chunked\r\n", b"chunked\n"),
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """Draw what a server sends, read by read: mostly a chunk each, or cut anywhere."""
    pieces = [draw(HEADS), *draw(st.lists(CHUNK, max_size=8))]
    if draw(st.integers(0, 3)) == 0:
        pieces.insert(draw(st.integers(1, len(pieces))), draw(ODD))
    pieces += draw(st.sampled_from([[b"0\r\n\r\n"], [b"0\r\nX: 1\r\n\r\n"], []]))
    if draw(st.booleans()):
        return pieces
    whole = b"".join(pieces)
    places = sorted(draw(st.lists(st.integers(1, len(whole)), max_size=5)))
    return [piece for start, end in itertools.pairwise([0, *places, len(whole)]) if (piece := whole[start:end])]


@given(answers())
@example([HEAD + b"3\r\nab", b"c\r\n3\r\nabc\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"])
@example([HEAD, b"3\r\nabc\r\n3\r\n", b"\r\n\r\r\n", b"3\r\nabc\r\n0\r\n\r\n"])
@example([HEAD[:-1], b"\n3\r\nabc\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"])
@example([HEAD, b"0\r\n\r\n0\r\n\r\n"])
@example([HEAD, b"3\r\nabcde", b"0\r\n\r\n"])
@example([HEAD.replace(b"\r\n", b"\n") + b"11\r\na\r\n\r\n1\r\nx\r\n", b"1\r\ny\r\n", b"\r\n0\r\n\r\n"])
@example([HEAD, b"-1\r\n", b"0\r\n\r\n"])
def test_a_body_arrives_as_the_parser_would_give_it(reads: list[bytes]):
    async def play() -> None:
        taken, parsed = [await played(reads, at_once=way) for way in (True, False)]
        assert (taken.end_is, taken.fit) == (parsed.end_is, parsed.fit)
        # of a body that fails only who was there from the beginning has anything
        assert taken.body == parsed.body or parsed.end_is == "failed"

    asyncio.run(play())


@pytest.mark.parametrize("size", [1, 15, 16, 255, 256, 5000, 70_000])
def test_whole_chunks_are_taken_past_the_parser(size: int):
    async def parsed(*reads: bytes) -> int:
        answer = await played([*reads, b"0\r\n\r\n"], at_once=True)
        assert (answer.end_is, answer.fit) == ("whole", True)
        assert answer.body == content * b"".join(reads).count(one)
        return answer.parsed

    content = b"a" * size
    one = chunk(content)
    assert asyncio.run(parsed(HEAD, one, one)) == 0
    # what comes with the head is the parser's, and what was cut
    assert asyncio.run(parsed(HEAD + one, one * 3, one + one[:-1], one[-1:], one)) == 2 * size


def test_what_was_cut_is_the_parsers_and_the_next_chunk_is_not():
    chunks = Chunks(HEAD)
    assert chunks.split(b"3\r\nabc\r\n4\r\nab") == (b"abc", b"4\r\nab")
    assert chunks.take(b"3\r\nabc\r\n") == b""
    assert chunks.split(b"cd\r\n") == (b"", b"cd\r\n")
    assert chunks.take(b"3\r\nabc\r\n") == b"abc"


@pytest.mark.parametrize("odd", [b"0\r\n\r\n", b"3;x\r\nabc\r\n", b"3\r", b"z"])
def test_after_what_is_not_plain_all_is_the_parsers(odd: bytes):
    chunks = Chunks(HEAD)
    assert chunks.split(odd) == (b"", odd)
    assert chunks.take(b"3\r\nabc\r\n") == b""
    assert chunks.split(b"3\r\nabc\r\n") == (b"", b"3\r\nabc\r\n")
