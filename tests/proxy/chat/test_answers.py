"""Answers of Chat Completions, in one piece and in chunks: both are the same items and the same record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.answer import CHAT_LIMITS, ChatLimits, Completion, read_completion, response_fields
from proxy.chat.chunks import ChunkReader
from tests.proxy.chat import chunked

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def answer(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m-1",
        "choices": [{"index": i, "finish_reason": "stop", **choice} for i, choice in enumerate(choices)],
        "system_fingerprint": "fp_1",
        **more,
    }


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, **more}}


def read(value: Any) -> Completion:
    return read_completion(orjson.dumps(value), mint=lambda: "call_new")


def stream(*pieces: bytes, limits: ChatLimits = CHAT_LIMITS) -> Completion:
    reader = ChunkReader(limits, mint=lambda: "call_new")
    for piece in pieces:
        reader.feed(piece)
    return reader.finish()


def frames(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


def delta(fields: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": index, "delta": fields, **more}]}


def test_a_plain_answer():
    completion = read(answer(said("Hello!", refusal=None, annotations=[]), usage=USAGE))
    (choice,) = completion.choices
    assert choice.items[0].chat is None
    assert choice.bare_items == [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
            "status": "completed",
        }
    ]
    assert response_fields(completion, choice) == {
        "status": "completed",
        "incomplete_details": None,
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        },
        "chat": {"id": "chatcmpl-1", "system_fingerprint": "fp_1", "finish_reason": "stop"},
        "model": "m-1",
        "created_at": 1_700_000_000,
    }


@pytest.mark.parametrize(
    ("reason", "details"),
    [
        ("length", {"reason": "max_output_tokens"}),
        ("content_filter", {"reason": "content_filter"}),
        (None, None),
    ],
)
def test_an_answer_that_was_cut_is_incomplete(reason: str | None, details: dict[str, str] | None):
    (choice,) = read(answer({**said("Hel"), "finish_reason": reason})).choices
    assert (choice.status, choice.incomplete_details) == ("incomplete", details)
    assert choice.bare_items[-1]["status"] == "incomplete"


def test_each_choice_has_its_own_items():
    completion = read(answer(said("a"), said("b")))
    assert [choice.bare_items[0]["content"][0]["text"] for choice in completion.choices] == ["a", "b"]


def test_logprobs_are_with_their_text():
    tokens = [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]
    (choice,) = read(answer({**said("Hi"), "logprobs": {"content": tokens, "refusal": None}})).choices
    assert choice.bare_items[0]["content"][0]["logprobs"] == tokens


def test_what_is_said_aloud_is_a_part():
    audio = {"id": "audio_1", "data": "UklG", "transcript": "Hi", "expires_at": 1}
    (choice,) = read(answer(said(None, audio=audio))).choices
    assert choice.bare_items[0]["content"] == [{"type": "output_audio", **audio}]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"[]", "no choices"),
        (b'{"error":{"message":"x"}}', "an error"),
        (b'{"choices":[]}', "no message"),
        (b'{"choices":[1,{"message":"x"}]}', "no message"),
        (orjson.dumps({"choices": [said("x")] * 129}), "more choices than are taken down"),
        (orjson.dumps({"choices": [said(None, tool_calls=[{}] * 1025)]}), "more calls than are taken down"),
    ],
)
def test_what_is_no_answer_yields_none_and_says_so(body: bytes, problem: str):
    completion = read_completion(body)
    assert (completion.choices, completion.problem) == ([], problem)


def test_an_answer_that_is_too_large_yields_none():
    small = replace(CHAT_LIMITS, max_bytes=50)
    assert read_completion(orjson.dumps(answer(said("x" * 50))), small).problem == "larger than what is taken down"
    assert stream(frames(delta({"content": "x" * 50})), limits=small).problem == "larger than what is taken down"
    short = replace(CHAT_LIMITS, max_event_bytes=20)
    assert stream(frames(delta({"content": "x" * 50})), limits=short).choices == []


def test_calls_are_told_apart_by_their_index():
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}
    completion = stream(
        frames(
            delta({"role": "assistant", "content": None, "tool_calls": [first]}),
            delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
            delta({"tool_calls": [second]}),
            delta({"tool_calls": [{"index": 1, "id": "other", "function": {"name": None, "arguments": "{}"}}]}),
            delta({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
            delta({}, finish_reason="tool_calls"),
        )
    )
    calls = completion.choices[0].bare_items
    assert [(call["call_id"], call["name"], call["arguments"]) for call in calls] == [
        ("call_1", "f", '{"a":1}'),
        ("call_2", "g", "{}"),
    ]


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
def test_without_an_index_of_its_own_a_new_id_begins_a_new_call(index: dict[str, Any]):
    def part(call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": name} if name else {})}
        return delta({"tool_calls": [{**index, **({"id": call_id} if call_id else {}), "function": function}]})

    completion = stream(
        frames(part("call_1", "f", '{"a"'), part(None, None, ":1}"), part("call_2", "g", "{"), part(None, None, "}"))
    )
    calls = completion.choices[0].bare_items
    assert [(call["call_id"], call["name"], call["arguments"]) for call in calls] == [
        ("call_1", "f", '{"a":1}'),
        ("call_2", "g", "{}"),
    ]


def test_a_stream_that_breaks_off_is_an_incomplete_answer():
    (choice,) = stream(b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\ndata: {"cho').choices
    assert choice.status == "incomplete"
    assert choice.bare_items[0]["content"][0]["text"] == "Hel"


def test_the_usage_comes_in_a_chunk_of_its_own():
    completion = stream(frames(delta({"content": "x"}, finish_reason="stop"), {"choices": [], "usage": USAGE}))
    assert completion.usage is not None
    assert completion.usage["total_tokens"] == 15


def test_a_body_that_is_no_stream_is_read_as_what_it_is():
    body = orjson.dumps(answer(said("Hello!")))
    assert stream(b"  ", body[:3], body[3:]) == read_completion(body)
    assert stream(orjson.dumps({"error": {"message": "x"}})).problem == "an error"


@pytest.mark.parametrize(
    "body", [b"", b"data: [DONE]\n\n", b"data: x\n\n", b"data: 7\n\ndata: {}\n\n", b"hello there, you"]
)
def test_a_stream_without_chunks_yields_nothing_and_says_so(body: bytes):
    assert stream(body) == Completion(problem="no chunks")


def test_long_texts_in_many_pieces_are_joined_once():
    detail = {"index": 0, "type": "reasoning.text", "text": "x" * 10}
    piece = b"data: %b\n\n" % orjson.dumps(delta({"reasoning_details": [detail]}))
    completion = stream(*[piece] * 30_000)
    assert len(completion.choices[0].bare_items[0]["content"][0]["text"]) == 300_000


texts = st.text(max_size=8)
calls = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.text(min_size=1, max_size=4), "arguments": texts}),
    }
)
spoken: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts | st.none()},
    optional={
        "refusal": texts,
        "reasoning_content": texts,
        "reasoning": texts,
        "tool_calls": st.lists(calls, min_size=1, max_size=3, unique_by=orjson.dumps),
        "audio": st.fixed_dictionaries(
            {"id": texts, "data": texts, "transcript": texts, "expires_at": st.integers(0, 9)}
        ),
        "annotations": st.lists(st.fixed_dictionaries({"type": texts, "x": texts}), min_size=1, max_size=2),
    },
)
choices = st.builds(
    lambda message, reason: {"message": message, "finish_reason": reason},
    spoken,
    st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
)


@given(st.lists(choices, min_size=1, max_size=3), st.data())
def test_a_streamed_answer_is_the_answer_for_every_cut(found: list[dict[str, Any]], data: st.DataObject):
    whole = answer(*found, usage=USAGE)
    body = frames(*chunked.play(whole, data.draw(st.randoms())))
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    body = body.replace(b"\n", end)
    assert stream(*cut(body, data)) == read(whole)


@given(
    st.binary(max_size=200)
    | st.lists(st.dictionaries(st.sampled_from(["choices", "usage", "id"]), st.just([{}]))).map(
        lambda chunks: frames(*chunks)
    ),
    st.data(),
)
def test_no_stream_is_too_strange(body: bytes, data: st.DataObject):
    stream(*cut(body, data))


NAMES = ["index", "delta", "message", "content", "tool_calls", "function", "id", "audio", "name", "arguments"]
NAMES += ["function_call", "reasoning_details", "type", "text", "logprobs", "finish_reason", "custom", "input"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=14,
)


@given(st.lists(json_values, max_size=5))
def test_no_chunk_is_too_strange(found: list[Any]):
    stream(frames(*[{"choices": [choice], "usage": choice, "model": choice} for choice in found]))
    read_completion(orjson.dumps({"choices": found, "usage": found, "id": found}))


def cut(body: bytes, data: st.DataObject) -> Iterator[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    for start, stop in zip([0, *places], [*places, len(body)], strict=True):
        yield body[start:stop]
