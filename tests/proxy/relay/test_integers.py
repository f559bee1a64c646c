"""Integers beyond 64 bits in what a model server answers: told, and kept for the store, digit by digit."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import items, sse
from proxy.protocol.sse import joined
from proxy.relay import Relay
from proxy.upstream.body import parse_json_answer
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT, body, completed
from tests.proxy.relay.strict import ownership

LONG = st.integers(min_value=2**64, max_value=10**60) | st.integers(min_value=-(10**60), max_value=-(2**63) - 1)
OUTPUT = (REASONING, MESSAGE, CALL, {"type": "strange_thing", "id": "st_1"}, {"type": "web_search_call", "id": "ws_1"})


def with_numbers(value: Any, numbers: list[int]) -> bytes:
    """Return a value as JSON, each text `#` in it replaced by the next number."""
    *pieces, last = orjson.dumps(value).split(b'"#"')
    told = [str(number).encode() for number in numbers]
    return b"".join(piece + number for piece, number in zip(pieces, told, strict=False)) + last


def stored(relay: Relay) -> bytes:
    assert relay.outcome is not None
    kept = [items.dump(item) for item in relay.outcome.items]
    return b"".join([*kept, orjson.dumps(relay.outcome.response)])


@given(item=st.sampled_from(OUTPUT), numbers=st.lists(LONG, min_size=9, max_size=9), mangled=st.booleans())
def test_they_are_told_and_kept_wherever_they_are_in_a_stream(item: Any, numbers: list[int], mangled: bool):
    numbered = {**item, "extra": {"of": ["#", "#"]}}
    bodies = [
        body("created", response={"id": "r", "tools": [{"type": "function", "name": "f", "parameters": {"max": "#"}}]}),
        body("output_item.added", 0, item=numbered, extra="#"),
        body("output_item.done", 0, item=numbered),
        body("strange.event", 0, said="#"),
        completed(numbered, more="#"),
    ]
    relay = Relay(ownership())
    frames, left = b"", list(numbers)
    for each in bodies:
        data = with_numbers(each, left)
        assert b"#" not in data
        if mangled:
            data = data[:-1] + b',"broken":NaN}'
        told = joined(relay.feed(sse.Event(None, data)))
        in_it = [str(number).encode() for number in left if str(number).encode() in data]
        if b"completed" not in data:
            assert all(number in told for number in in_it)
        frames += told
    assert relay.outcome is not None
    frames += joined(relay.closing(relay.outcome))
    for number in numbers[:2]:
        assert str(number).encode() in stored(relay)
        assert str(number).encode() in frames
    assert b"e+" not in frames


@given(numbers=st.lists(LONG, min_size=3, max_size=3), mangled=st.booleans())
def test_they_are_kept_in_a_json_answer(numbers: list[int], mangled: bool):
    answer = {"object": "response", "output": [{**CALL, "arguments": {"n": "#"}}, {**MESSAGE, "n": "#"}], "more": "#"}
    data = with_numbers(answer, numbers)
    relay = Relay(ownership())
    outcome = relay.complete(parse_json_answer(data[:-1] + b',"broken":NaN}' if mangled else data))
    assert outcome.items[0]["arguments"] == f'{{"n":{numbers[0]}}}'
    for number in numbers[1:]:
        assert str(number).encode() in stored(relay)
    assert all(
        str(number).encode() in joined(relay.replay(outcome)) + joined(relay.closing(outcome)) for number in numbers
    )


@pytest.mark.parametrize("field", ["delta", "arguments"])
def test_arguments_that_come_as_an_object_keep_them(field: str):
    end = "delta" if field == "delta" else "done"
    relay = Relay(ownership())
    relay.feed(sse.Event(None, orjson.dumps(body("output_item.added", 0, item={**CALL, "arguments": ""}))))
    event = with_numbers(body(f"function_call_arguments.{end}", 0, "fc_up", **{field: {"n": "#"}}), [10**30])
    relay.feed(sse.Event(None, event))
    relay.feed(sse.Event(None, orjson.dumps(completed())))
    assert relay.outcome is not None
    assert relay.outcome.items[0]["arguments"] == f'{{"n":{10**30}}}'


def test_parts_and_annotations_keep_them():
    part = {**TEXT, "annotations": [{"type": "strange", "at": "#"}]}
    relay = Relay(ownership())
    for event in (
        body("output_text.annotation.added", 0, content_index=0, annotation={"type": "strange", "at": "#"}),
        body("output_text.delta", 0, content_index=0, delta="Hello"),
        body("content_part.done", 0, content_index=0, part=part),
        completed(),
    ):
        relay.feed(sse.Event(None, with_numbers(event, [10**30])))
    assert str(10**30).encode() in stored(relay)
