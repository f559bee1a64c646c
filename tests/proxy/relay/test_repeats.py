"""Texts that an event says again: what is left of its bytes says the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.repeats import put_back, take_out
from proxy.relay.text import DELTAS, OUTPUT_TEXT, Text

ARGUMENTS = DELTAS["response.function_call_arguments.delta"]
#: Few characters, those that JSON writes in a way of its own among them, so that texts often are alike.
TEXTS = st.text('ab"\\:,{}\n ü€\U0001f600', max_size=8) | st.just('","text":"a')
VALUES = st.recursive(
    TEXTS | st.integers(-(2**53), 2**53) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", 'a"text', "arguments", "b"]), inner)
    ),
    max_leaves=12,
)


def told(text: str, stream: Any = OUTPUT_TEXT, pieces: int = 1) -> Text:
    made = Text(stream, 0)
    size = max(1, -(-len(text) // pieces))
    for at in range(0, len(text), size):
        made.add(text[at : at + size])
    return made


def read_without(data: bytes, *texts: Text) -> Any:
    left = bytearray(data)
    marks = take_out(left, texts)
    return put_back(orjson.loads(left), marks)


@given(VALUES, st.lists(TEXTS, max_size=3), st.booleans(), st.integers(1, 3))
def test_what_is_left_says_the_same(value: Any, texts: list[str], spaced: bool, pieces: int):
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 if spaced else None)
    streams = (OUTPUT_TEXT, ARGUMENTS, OUTPUT_TEXT)
    again = [told(text, stream, pieces) for text, stream in zip(texts, streams, strict=False)]
    assert read_without(data, *again) == value


@given(VALUES, TEXTS, st.integers(0, 40))
def test_what_is_no_json_does_not_become_it(value: Any, text: str, at: int):
    broken = bytearray(orjson.dumps({"text": text, "value": value}))
    del broken[at : at + 1]
    try:
        expected = orjson.loads(broken)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            read_without(bytes(broken), told(text))
    else:
        assert read_without(bytes(broken), told(text)) == expected


def test_a_text_is_taken_out_wherever_it_is_said():
    text = "größer\n" * 30_000
    part = {"type": "output_text", "text": text}
    body = {"type": "response.completed", "response": {"output": [{"content": [part, part]}]}, "text": text + "x"}
    data = bytearray(orjson.dumps(body))
    marks = take_out(data, [told(text, pieces=7)])
    assert len(data) < len(text.encode()) * 1.2
    assert put_back(orjson.loads(data), marks) == body


def test_half_a_pair_is_looked_for_in_vain():
    text = Text(OUTPUT_TEXT, 0)
    text.add_bytes("a\ud83d".encode("utf-8", "surrogatepass"))
    data = bytearray(b'{"text":"a"}')
    assert take_out(data, [text]) == {}
    assert data == b'{"text":"a"}'
