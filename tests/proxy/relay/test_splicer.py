"""Pieces told by their bytes are those that would have been told parsed: whatever comes, and wherever it is cut."""

from __future__ import annotations

import itertools
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocol import sse
from proxy.relay import Relay, Splicer
from proxy.relay.memo import Memo
from tests.depth import examples
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT, WHOLE, body, completed
from tests.proxy.relay.strict import accept_alike, comparable, finish, ownership
from tests.samples import load_stream, stream_names

LIMIT = 2000


def parsed(frames: list[bytes]) -> tuple[Relay, Splicer, bytes]:
    return spliced(frames, remember_after=0)


def spliced(chunks: list[bytes], *, remember_after: int = 1) -> tuple[Relay, Splicer, bytes]:
    relay = Relay(ownership())
    splicer = Splicer(relay, LIMIT, remember_after=remember_after)
    return (
        relay,
        splicer,
        b"".join([*(sse.joined(splicer.feed(chunk)) for chunk in chunks), sse.joined(splicer.flush())]),
    )


def accept_same(chunks: list[bytes], others: list[bytes] | None = None) -> bytes:
    """Fail unless a stream is told alike parsed and remembered, as it is cut and in another way; return that."""
    one, parsing, told = parsed(chunks)
    for pieces in (chunks, others or chunks):
        other, splicer, again = spliced(pieces)
        assert comparable(again) == comparable(told)
        assert type(splicer.failure) is type(parsing.failure)
        accept_alike(one, other)
    return told


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


# Streams of any kind.

#: The insides of JSON strings, right and wrong, as bytes.
SAID = st.sampled_from(
    [
        *(
            b"",
            b" word",
            b"a",
            b"12",
            b" two words",
            "é日本 \U0001f600".encode(),
            "\xa0\u2028\x7f".encode(),
            b"x" * 300,
        ),
        *(rb"\n", rb"\"", rb"\\", rb"\"}", rb"\",\"logprobs\":[]", rb"\u00e9", rb"\u0041", rb"\/", rb"\ud83d\ude00"),
        *(rb"\u001f", rb"\b\f\r\t", rb"\ud83d", rb"\ude00", rb"x\ud83d", rb"\ude00y", b"data: x", b"[DONE]"),
        # no JSON
        *(b'"', b"\\", rb"\x", rb"\u12", b"\x01", b"\xff", b"\xed\xa0\xbd", b"\xc0\x80", b'","delta":"y', b'"}'),
    ]
)
NUMBERS = st.sampled_from(
    [b"7", b"8", b"10", b"0", b"-1", b"07", b"1e2", b"99999999999999999999", b"null", b"x", b"1 "]
)
LISTS = st.sampled_from(
    [b"[]", b"[]", b"null", b'[{"token":"a","logprob":-0.10,"bytes":[97]}]', b'[{"a": 1.50}]', b"[", b'[{"delta":"x"}]']
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a server's way to write a piece."""
    kind = draw(
        st.sampled_from(["output_text", "function_call_arguments", "reasoning_summary_text", "audio.transcript"])
    )
    fields = [b'"type":"response.%b.delta"' % kind.encode(), b'"delta":"%(delta)b"']
    optional = [
        *(b'"sequence_number":%(number)b', b'"obfuscation":"%(padding)b"', b'"logprobs":%(list)b', b'"item_id":"up"'),
        *(
            b'"output_index":0',
            b'"content_index":0',
            b'"summary_index":1',
            b'"content_index":%(count)d',
            b'"logprobs":[]',
        ),
        *(b'"x":{"delta":"in"}', b'"delta":"twice"', b'"response_id":"resp_up"', b'"y":"\\"delta\\":\\"z\\""'),
    ]
    fields += draw(st.lists(st.sampled_from(optional), max_size=6, unique=True))
    fields = draw(st.permutations(fields))
    colon, comma = draw(st.sampled_from([(b":", b","), (b": ", b", "), (b" : ", b"\t,")]))
    data = comma.join(field.replace(b'":', b'"' + colon, 1) for field in fields)
    name = draw(
        st.sampled_from([b"", b"", b"event: response.%b.delta\n" % kind.encode(), b"event:x\n", b": hi\n", b"id: 7\n"])
    )
    data_field = draw(st.sampled_from([b"data: ", b"data:", b"data: "]))
    end = draw(st.sampled_from([b"", b"", b"\nevent: late", b"\nid: 1", b" "]))
    return {"frame": name + data_field + b"{" + data + b"}" + end + b"\n\n"}


#: What else comes in between.
ELSE = st.sampled_from(
    [
        b": ping\n\n",
        b"\n",
        b'data: {"type":"ping"}\n\n',
        b"data: [DONE]\n\n",
        b"data: nonsense\n\n",
        b'data: {"type":"response.broken\n\n',
        b"data: " + b"x" * LIMIT + b"\n\n",
        *(
            b"data: %b\n\n" % orjson.dumps(event)
            for event in (
                WHOLE[0],
                WHOLE[1],
                body("output_item.added", 0, item={**MESSAGE, "id": "up", "content": []}),
                body("output_item.added", 0, item={**CALL, "id": "up", "arguments": ""}),
                body("output_item.added", 0, item={**REASONING, "id": "up", "summary": []}),
                body("content_part.added", 0, "up", content_index=0, part={**TEXT, "text": ""}),
                body("output_text.delta", 0, "up", content_index=1, delta="other part"),
                body("output_text.delta", 1, "two", content_index=0, delta="other item"),
                body("output_text.done", 0, "up", content_index=0, text=""),
                body("output_item.done", 0, item={**MESSAGE, "id": "up"}),
                completed(MESSAGE, CALL),
            )
        ),
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream, frame by frame: runs of pieces of one or two shapes, and anything in between."""
    ways = draw(st.lists(shapes(), min_size=1, max_size=2))
    frames: list[bytes] = [draw(ELSE) for _ in range(draw(st.integers(0, 3)))]
    plain = draw(st.booleans())
    said = st.sampled_from([b" word", b"a", rb"\n", "é".encode()]) if plain else SAID
    numbers = itertools.count(draw(st.integers(0, 12)))
    for _ in range(draw(st.integers(1, 12))):
        choice = draw(st.integers(0, 9))
        if choice == 0:
            frames.append(draw(ELSE))
            continue
        number = next(numbers)
        values = {
            b"delta": draw(said),
            b"number": b"%d" % number if choice < 9 else draw(NUMBERS),
            b"padding": draw(st.sampled_from([b"aZ9", b"x", b""])) if choice < 9 else draw(SAID),
            b"list": draw(LISTS),
            b"count": number,
        }
        frames.append(draw(st.sampled_from(ways))["frame"] % values)
    line_end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    return [frame.replace(b"\n", line_end) for frame in frames]


@settings(max_examples=examples(200), deadline=None)
@given(frames=streams(), places=st.lists(st.integers(0, 5000), max_size=6))
def test_what_is_told_and_kept_does_not_depend_on_memos_or_cuts(frames: list[bytes], places: list[int]):
    accept_same(frames, cut(b"".join(frames), places))


@pytest.mark.parametrize("name", stream_names())
def test_a_real_servers_stream_is_told_alike(name: str):
    stream = load_stream(name).body
    accept_same([stream], cut(stream, list(range(0, len(stream), 97))))


# What is remembered.

OPENAI = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    b'"item_id":"up","output_index":0,"content_index":0,"delta":"%b","logprobs":[],"obfuscation":"aZ3"}\n\n'
)
VLLM = (
    b'event: response.output_text.delta\ndata: {"content_index":0,"delta":"%b","item_id":"up","logprobs":[],'
    b'"output_index":0,"sequence_number":%d,"type":"response.output_text.delta"}\n\n'
)
VLLM_COUNTING = VLLM.replace(b'"content_index":0', b'"content_index":%d')
LLAMA_CPP = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"up","delta":"%b"}\n\n'
)
SGLANG = (
    b'data: {"type": "response.output_text.delta", "sequence_number": %d, "item_id": "up", "output_index": 0, '
    b'"content_index": 0, "delta": "%b", "logprobs": []}\r\n\r\n'
)
LOGPROBS = OPENAI.replace(b"[]", b'[{"token":"%b","logprob":-0.10,"top_logprobs":[]}]')
ARGUMENTS = (
    b'data: {"delta":"%b","item_id":"up","output_index":0,"sequence_number":%d,'
    b'"type":"response.function_call_arguments.delta"}\n\n'
)
AUDIO = b'data: {"type":"response.audio.delta","delta":"%b","response_id":"resp_up","sequence_number":%d}\n\n'


def frame(shape: bytes, number: int, piece: bytes) -> bytes:
    """Return a piece in a shape: numbers for its `%d`, the piece for its `%b`."""
    values = [number if place == b"%d" else piece for place in re.findall(rb"%[db]", shape)]
    return shape % tuple(values)


#: Two items that are announced at position 0; only one of them is of the type that pieces speak of.
ANNOUNCED = [
    b"data: %b\n\n" % orjson.dumps(body("output_item.added", 0, item=item))
    for item in ({**MESSAGE, "id": "up", "content": []}, {**CALL, "id": "up", "arguments": ""})
]


def memo_of(shape: bytes, *, ahead: int = 0) -> Memo | None:
    """Return the memo of a shape after four pieces. ahead: by how much the server's numbers are more than ours."""
    relay = Relay(ownership())
    for each in ANNOUNCED:
        relay.feed(*sse.SseDecoder(LIMIT).feed(each))
    memo = None
    for number in range(1, 5):
        data = frame(shape, number + ahead, b" word")
        (event,) = sse.SseDecoder(LIMIT).feed(data)
        told = sse.joined(relay.feed(event))
        memo = relay.memo_of((data, bytes(event.data)), told) or memo
    return memo


def remembered(shape: bytes, pieces: list[bytes]) -> int:
    """Return how many of some pieces are told without being parsed, after four that are."""
    memo, frames = memo_of(shape), list[sse.FrameBytes]()
    if memo is not None and memo.holds:
        memo.splice(b"".join(frame(shape, number, piece) for number, piece in enumerate(pieces, 5)), 0, LIMIT, frames)
    return len(frames)


@pytest.mark.parametrize(
    "shape",
    [OPENAI, VLLM, VLLM_COUNTING, LLAMA_CPP, SGLANG, LOGPROBS, ARGUMENTS, AUDIO, OPENAI.replace(b"\n", b"\r\n")],
)
@pytest.mark.parametrize("piece", [b" more", b"", rb"a\nb\"c\\", "日本".encode(), rb"\u00e9\/", b"x" * 500])
def test_the_shapes_of_servers_are_remembered(shape: bytes, piece: bytes):
    assert remembered(shape, [piece, b"next"]) == 2
    accept_same([*ANNOUNCED, *(frame(shape, number, piece) for number in range(1, 12))])


PLAIN = OPENAI.replace(b',"obfuscation":"aZ3"', b"")


@pytest.mark.parametrize("shape", [PLAIN, VLLM, LLAMA_CPP, SGLANG, ARGUMENTS, PLAIN.replace(b"item_id", b"100%%")])
@pytest.mark.parametrize("ahead", [0, 3])
def test_a_plain_piece_alone_is_told_as_with_others(shape: bytes, ahead: int):
    alone, other = memo_of(shape, ahead=ahead), memo_of(shape, ahead=ahead)
    assert alone is not None
    assert other is not None
    number = 5 + ahead
    for piece in (b" more", b"a", "日本".encode(), b"100%d", b"x" * 500):
        told: list[sse.FrameBytes] = []
        data = frame(shape, number, piece)
        assert other.splice(data, 0, LIMIT, told) == len(data)
        assert [alone.tell(data)] == told
        number += 1
    for piece in (b"", rb"\n", rb"\u00e9", b'"', b"\\", b"\xff", b"\x01", "\u2028".encode()):
        assert alone.tell(frame(shape, number, piece)) == b""
    data = frame(shape, number, b"a")
    for odd in (data * 2, data[:-1], data + b"\n", data.replace(b"delta", b"detla"), b"", data[-40:]):
        assert alone.tell(odd) == b""
    # nothing was noted of these
    assert alone.tell(data)


@pytest.mark.parametrize(
    "piece", [rb"\ud83d", rb"\x", b'"', b"\xff", b"\x01", b"\\", rb"\u12", b'","delta":"', b"a\nb"]
)
def test_what_is_no_whole_string_is_parsed(piece: bytes):
    for shape in (OPENAI, VLLM, LLAMA_CPP):
        assert remembered(shape, [b"right", piece, b"right"]) == 1
        accept_same([frame(shape, number, b"a" if number != 6 else piece) for number in range(1, 12)])


@pytest.mark.parametrize(
    ("right", "other"),
    [
        (b'"output_index":0', b'"output_index":1'),
        (b'"item_id":"up"', b'"item_id":"two"'),
        (b'"sequence_number":%d', b'"sequence_number":0%d'),
        (b'"sequence_number":%d', b'"sequence_number":%d.5'),
        (b'"sequence_number":%d', b'"sequence_number":"%d"'),
        (b'"obfuscation":"aZ3"', b'"obfuscation":null'),
        (b'"logprobs":[]', b'"logprobs":[{"token":"a"}]'),
        (b'"logprobs":[]', b'"logprobs":[],"delta":"twice"'),
        (b"event: response", b"event: other"),
    ],
)
def test_what_is_not_exactly_of_the_shape_is_parsed(right: bytes, other: bytes):
    stranger = frame(OPENAI.replace(right, other), 7, b"other")
    stream = [frame(OPENAI, number, b"a") for number in range(1, 7)]
    accept_same([*stream, stranger, *stream])


def test_a_field_inside_of_another_or_in_a_text_is_not_taken_for_it():
    for odd in (b'"x":{"delta":"in","sequence_number":5},', b'"x":"\\"delta\\":\\"y\\"",', b'"delta":"first",'):
        shape = OPENAI.replace(b'{"type"', b"{" + odd + b'"type"')
        accept_same([frame(shape, number, b"a%d" % number) for number in range(1, 9)])
    assert remembered(OPENAI.replace(b'{"type"', b'{"delta":"first","type"'), [b"a"]) == 0


def test_pieces_go_where_the_last_ones_without_an_index_went():
    pieces = [frame(LLAMA_CPP, number, b"a") for number in range(6)]
    other = frame(LLAMA_CPP.replace(b'"item_id"', b'"content_index":5,"item_id"'), 6, b"b")
    accept_same([*pieces, other, *pieces])


def test_texts_at_the_same_time_keep_to_their_shapes():
    other = OPENAI.replace(b'"output_index":0', b'"output_index":1').replace(b'"up"', b'"two"')
    stream = [frame((OPENAI, other)[number % 2], number, b"%d" % number) for number in range(1, 20)]
    accept_same(stream, [b"".join(stream)])


def test_pieces_before_what_cannot_be_read_are_not_lost():
    pieces = [frame(OPENAI, number, b"a") for number in range(1, 7)]
    for broken in (b'data: {"type":"response.x\n\n', b"data: " + b"x" * LIMIT + b"\n\n", b"data: " + b"x" * LIMIT):
        relay, splicer, told = spliced([b"".join([*pieces, broken, *pieces])])
        assert splicer.failure is not None
        assert sse.joined(splicer.feed(pieces[0])) == b""
        events, outcome = finish(relay, told)
        assert outcome.items[0]["content"][0]["text"] == "aaaaaa"
        assert [event["delta"] for event in events if "delta" in event] == ["a"] * 6


def test_an_event_over_the_limit_is_refused_in_a_known_shape_too():
    for shape, size in itertools.product((OPENAI, PLAIN), (LIMIT - 200, LIMIT, LIMIT + 1)):
        accept_same([frame(shape, number, b"a" * (size if number == 9 else 1)) for number in range(1, 12)])
