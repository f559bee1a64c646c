import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wire import MessageReader, WireError


def read(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Heads and bodies of what is whole."""
    found: list[tuple[bytes, bytes]] = []
    heads: list[bytes] = []
    bodies: list[bytes] = []

    def end() -> None:
        found.append((heads.pop(), b"".join(bodies)))
        bodies.clear()

    reader = MessageReader(heads.append, bodies.append, end)
    for piece in pieces:
        reader.feed(piece)
    return found


def chunked(body: bytes, sizes: list[int]) -> bytes:
    written, at = b"", 0
    for size in sizes:
        if part := body[at : at + size]:
            written += b"%x;name=value\r\n%s\r\n" % (len(part), part)
        at += size
    rest = body[at:]
    return written + (b"%X\r\n%s\r\n" % (len(rest), rest) if rest else b"") + b"0\r\nTrailer: 1\r\n\r\n"


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.none() | st.lists(st.integers(1, 9), max_size=4)), max_size=4),
    st.lists(st.integers(1, 30), max_size=30),
)
def test_messages_are_read_whole_wherever_they_are_cut(messages: list[tuple[bytes, list[int] | None]], cuts: list[int]):
    wire, expected = b"", []
    for body, sizes in messages:
        if sizes is None:
            head = b"HTTP/1.1 200 OK\r\nX: 1\r\ncontent-length: %d" % len(body)
            wire += head + b"\r\n\r\n" + body
        else:
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
            wire += head + b"\r\n\r\n" + chunked(body, sizes)
        expected.append((head, body))
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(wire[at : at + cut])
        at += cut
    assert read([*pieces, wire[at:]]) == expected


def test_requests_without_a_body_and_answers_that_have_none_end_with_their_head():
    request, answer = b"GET / HTTP/1.1\r\nHost: x", b"HTTP/1.1 204 No Content"
    assert read([request + b"\r\n\r\n" + answer + b"\r\n\r\n"]) == [(request, b""), (answer, b"")]


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
    ],
    ids=["an answer without a length", "a size without an end"],
)
def test_what_is_not_understood_is_refused(wire: bytes):
    with pytest.raises(WireError):
        read([wire])
