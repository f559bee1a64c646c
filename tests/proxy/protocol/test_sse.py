import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import sse
from proxy.protocol.sse import Event, EventTooLarge, SseDecoder
from tests.samples import load_sample, sample_names

LIMIT = 4 * 1024 * 1024


def decode(*chunks, limit=LIMIT):
    decoder = SseDecoder(limit)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.flush()


def decode_by_the_book(stream):
    """The standard's algorithm line by line, plus our rule that the end of the stream ends an event."""
    events: list[Event] = []
    data: list[bytes] = []
    name = None
    for line in [*re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        if not line:
            if data:
                events.append(Event(name, b"\n".join(data)))
            name, data = None, []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            data.append(value)
        if field == b"event":
            name = value.decode("utf-8", "replace") or None
    return events


def cut(stream, places):
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.sampled_from(
    b"|data: x|data:y|data|data:  \xc3\xa9|data : no|event: name|event:|event: |event: \xff|: hi|:|id: 7|x".split(b"|")
)
streams = st.builds(
    lambda bom, parts: bom + b"".join(line + end for line, end in parts),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef\xbb\xbf\xef\xbb\xbf"]),
    st.lists(st.tuples(lines, line_ends), max_size=12),
)


@given(streams, st.integers(0, 3), st.lists(st.integers(0, 500), max_size=8))
def test_events_do_not_depend_on_where_the_bytes_are_cut(stream, missing, places):
    stream = stream[: len(stream) - missing]
    assert decode(*cut(stream, places)) == decode_by_the_book(stream)


@given(streams)
def test_events_come_out_when_fed_byte_by_byte(stream):
    assert decode(*cut(stream, range(len(stream)))) == decode_by_the_book(stream)


@pytest.mark.parametrize("name", [name for name in sample_names() if name.endswith("stream")])
def test_recorded_streams_decode_to_one_event_per_frame(name):
    body = load_sample(name).body
    events = decode(body)
    assert len(events) == body.count(b"data: ") > 0
    assert all(event.data.startswith(b"{") and event.data.endswith(b"}") for event in events)


def test_an_event_is_delivered_as_soon_as_its_blank_line_arrives():
    decoder = SseDecoder(LIMIT)
    assert decoder.feed(b"event: a\ndata: 1\n") == []
    assert decoder.feed(b"\n") == [Event("a", b"1")]
    assert decoder.feed(b"data: 2\r") == []
    assert decoder.feed(b"\r") == [Event(None, b"2")]


def test_several_events_in_one_chunk_are_all_delivered():
    assert decode(b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n") == [Event("a", b"1"), Event("b", b"2")]


def test_data_lines_are_joined_with_a_line_feed():
    assert decode(b"data: a\ndata:b\r\ndata\rdata:  c\n\n") == [Event(None, b"a\nb\n\n c")]


def test_an_event_without_data_is_not_delivered_and_its_name_is_forgotten():
    assert decode(b"event: ping\n\ndata: x\n\n") == [Event(None, b"x")]


def test_the_last_name_of_a_frame_counts_and_an_empty_one_is_none():
    stream = b"event: a\nevent: b\ndata: 1\n\nevent:\ndata: 2\n\nevent: \ndata: 3\n\n"
    assert decode(stream) == [Event("b", b"1"), Event(None, b"2"), Event(None, b"3")]


def test_comments_ids_retries_and_unknown_fields_are_ignored():
    assert decode(b": hi\nid: 1\nretry: 5\nfoo: bar\ndata: x\n\n: ping\n\n") == [Event(None, b"x")]


def test_only_one_byte_order_mark_is_dropped_and_only_at_the_start():
    mark = b"\xef\xbb\xbf"
    assert decode(mark[:1], mark[1:2], mark[2:] + b"data: " + mark + b"\n\n") == [Event(None, mark)]


@pytest.mark.parametrize("rest", [b"event: a\ndata: 1", b"event: a\ndata: 1\n", b"event: a\r\ndata: 1\r\n"])
def test_the_end_of_the_stream_delivers_an_event_without_its_blank_line(rest):
    assert decode(rest) == [Event("a", b"1")]


def test_flush_delivers_an_event_once():
    decoder = SseDecoder(LIMIT)
    decoder.feed(b"data: x")
    assert decoder.flush() == [Event(None, b"x")]
    assert decoder.flush() == []


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_an_event_of_exactly_the_limit_passes_and_one_byte_more_is_refused(chunk_bytes):
    def feed(frame):
        stream = frame + b"\n\ndata: next\n\n"
        chunks = [stream[start : start + chunk_bytes] for start in range(0, len(stream), chunk_bytes)]
        return decode(*chunks, limit=100)

    assert len(feed(b"data: " + b"x" * 94)) == 2
    with pytest.raises(EventTooLarge, match="100 bytes"):
        feed(b"data: " + b"x" * 95)


def test_an_endless_event_is_refused_before_it_ends():
    decoder = SseDecoder(1000)
    for _ in range(10):
        decoder.feed(b"data: " + b"x" * 93 + b"\n")
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data:")


def test_a_cut_off_event_that_is_too_large_is_refused_at_the_end():
    assert decode(b"data: 1234\n", limit=10) == [Event(None, b"1234")]
    decoder = SseDecoder(10)
    decoder.feed(b"data: 12345")
    with pytest.raises(EventTooLarge):
        decoder.flush()


def test_a_large_event_in_small_chunks_takes_linear_time():
    def seconds(size):
        decoder, chunk = SseDecoder(2 * size), b"x" * 1024
        decoder.feed(b"data: ")
        started = time.process_time()
        for _ in range(size // 1024):
            decoder.feed(chunk)
        (event,) = decoder.feed(b"\n\n")
        assert len(event.data) == size
        return time.process_time() - started

    # Copying what has come with every chunk would move 32 GiB, which takes seconds.
    assert min(seconds(8 * 1024 * 1024) for _ in range(3)) < 0.5


@given(st.lists(st.tuples(st.from_regex(r"[a-z_.]{1,20}", fullmatch=True), st.binary(min_size=1))))
def test_encoded_events_decode_to_themselves(events):
    events = [Event(name, re.sub(rb"[\r\n]", b"", data)) for name, data in events]
    stream = b"".join(sse.encode(event.name, event.data) for event in events)
    assert decode(stream) == events


def test_a_frame_has_the_form_that_openai_sends():
    assert sse.encode("response.created", b'{"a":1}') == b'event: response.created\ndata: {"a":1}\n\n'


def test_a_name_with_line_ends_cannot_add_fields_to_the_frame():
    assert decode(sse.encode("a\ndata: forged\r\n\r\ndata: x", b"1")) == [Event("adata: forgeddata: x", b"1")]


def test_a_comment_is_invisible_to_a_decoder_and_keeps_its_lines():
    assert sse.comment("ping") == b": ping\n\n"
    assert sse.comment("") == b": \n\n"
    assert sse.comment("two\ndata: lines") == b": two\n: data: lines\n\n"


def test_the_end_marker_is_an_event_of_its_own():
    assert decode(sse.DONE) == [Event(None, b"[DONE]")]


LARGE = b"x" * 1_500_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    ("lines", "event"),
    [
        ([b"data: " + LARGE], Event(None, LARGE)),
        ([b"event: a", b"data: " + LARGE], Event("a", LARGE)),
        ([b"event: ", b"data: " + LARGE], Event(None, LARGE)),
        ([b"data: " + LARGE, b"event: a"], Event("a", LARGE)),
        ([b"data:" + LARGE, b"data: 2"], Event(None, LARGE + b"\n2")),
        ([b"id: 1", b"data: " + LARGE], Event(None, LARGE)),
        ([b": " + LARGE], None),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [262_144, 99_991, 1_500_010])
def test_a_large_event_is_read_as_a_small_one(lines: list[bytes], event: Event | None, end: bytes, chunk_bytes: int):
    small = b"data: 1"
    stream = b"".join(line + end for line in [small, b"", *lines, b"", small, b"", *lines, b"", small, b""])
    decoder = SseDecoder(2_000_000)
    found = [
        one for at in range(0, len(stream), chunk_bytes) for one in decoder.feed(stream[at : at + chunk_bytes])
    ] + decoder.flush()
    one = Event(None, b"1")
    wanted = [one, *([event] if event else []), one, *([event] if event else []), one]
    assert [(name, bytes(data)) for name, data in found] == wanted


def test_a_large_event_that_nobody_ends_is_there_at_the_end():
    decoder = SseDecoder(2_000_000)
    assert [
        found
        for at in range(0, len(LARGE), 100_000)
        for found in decoder.feed(b"data: " * (at == 0) + LARGE[at : at + 100_000])
    ] == []
    assert decoder.flush() == [Event(None, LARGE)]


def test_a_large_event_has_its_limit_and_what_came_before_it_is_not_lost():
    decoder = SseDecoder(1_200_000)
    pieces = [b"data: " + LARGE[:1_190_000], b"xx\n\ndata: 2\n\ndata: " + LARGE[:1_300_000]]
    assert decoder.feed(pieces[0]) == []
    with pytest.raises(EventTooLarge) as refusal:
        decoder.feed(pieces[1])
    assert [len(event.data) for event in refusal.value.events] == [1_190_002, 1]
