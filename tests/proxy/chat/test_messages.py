"""Messages as items, row by row, and back: whatever an app sends can be made again just so."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.compose import ChatItem
from proxy.chat.patches import difference, patched
from proxy.chat.read import message_items, read_messages
from proxy.chat.write import write_messages

Message = dict[str, Any]


def items_of(*messages: Any) -> list[dict[str, Any]]:
    return [one.item for one in read_messages(messages, mint=lambda: "call_new")]


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": [], **more}


ROWS: dict[str, tuple[Message, list[dict[str, Any]]]] = {
    "system": (
        {"role": "system", "content": "Be brief."},
        [{"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}],
    ),
    "developer": (
        {"role": "developer", "content": "Be brief."},
        [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}],
    ),
    "user": (
        {"role": "user", "content": "hi", "name": "bob"},
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    ),
    "parts": (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "https://e.example/a.png", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:…"}},
            ],
        },
        [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "see"},
                    {"type": "input_image", "image_url": "https://e.example/a.png", "detail": "low"},
                    {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:…"},
                ],
            }
        ],
    ),
    "assistant": (
        {"role": "assistant", "content": "Hello!", "refusal": None},
        [{"type": "message", "role": "assistant", "content": [text("Hello!")]}],
    ),
    "refusal": (
        {"role": "assistant", "content": None, "refusal": "No."},
        [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    ),
    "reasoning_content": (
        {"role": "assistant", "reasoning_content": "hm", "content": "Yes."},
        [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [text("Yes.")]},
        ],
    ),
    "reasoning_details": (
        {
            "role": "assistant",
            "reasoning": "hm",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0},
                {"type": "reasoning.encrypted", "data": "gAAA", "index": 1},
            ],
            "content": "Yes.",
        },
        [
            {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}],
                "encrypted_content": "gAAA",
            },
            {"type": "message", "role": "assistant", "content": [text("Yes.")]},
        ],
    ),
    "tool_calls": (
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "x"}, "extra_content": {"a": 1}},
            ],
        },
        [
            {"type": "message", "role": "assistant", "content": [text("Looking.")]},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": "x"},
        ],
    ),
    "tool": (
        {"role": "tool", "tool_call_id": "call_1", "content": "out"},
        [{"type": "function_call_output", "call_id": "call_1", "output": "out"}],
    ),
    "tool with parts": (
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "out"}]},
        [{"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "out"}]}],
    ),
    "function_call": (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        [{"type": "function_call", "call_id": "call_cb63644afa740e19881c7789", "name": "f", "arguments": "{}"}],
    ),
    "audio": (
        {"role": "assistant", "audio": {"id": "audio_1"}},
        [{"type": "message", "role": "assistant", "content": [{"type": "output_audio", "id": "audio_1"}]}],
    ),
    "annotations": (
        {
            "role": "assistant",
            "content": "Yes.",
            "annotations": [{"type": "url_citation", "url_citation": {"url": "https://e.example/", "title": "E"}}],
        },
        [
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    text("Yes.", annotations=[{"type": "url_citation", "url": "https://e.example/", "title": "E"}])
                ],
            }
        ],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_row(row: str):
    message, items = ROWS[row]
    status = {"status": "completed"}
    assert items_of(message) == [item if item["type"] == "reasoning" else {**item, **status} for item in items]
    assert write_messages(read_messages([message])) == [message]


def test_what_most_apps_send_leaves_nothing_beside_its_items():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "out"},
        {"role": "assistant", "content": "Hello!"},
    ]
    assert [one.chat for one in read_messages(messages)] == [None] * 5


def test_a_legacy_output_belongs_to_the_call_before_it():
    calls = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": f'{{"a":{i}}}'}}
        for i in range(2)
    ]
    output = {"role": "function", "name": "f", "content": "1"}
    messages = [calls[0], output, calls[1], output]
    first, its, second, other = (one.item["call_id"] for one in read_messages(messages))
    assert (first, second) == (its, other)
    assert first != second
    assert write_messages(read_messages(messages)) == messages
    # the call is stored already, and its output is all that is new
    (new,) = read_messages(messages, only=[3])
    assert new.item["call_id"] == second
    assert items_of(output)[0]["call_id"] == "call_new"


def test_the_output_of_a_custom_tool_is_one_of_a_custom_tool():
    call = {"id": "call_1", "type": "custom", "custom": {"name": "g", "input": "x"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "out"},
    ]
    assert items_of(*messages)[1]["type"] == "custom_tool_call_output"
    (new,) = read_messages(messages, only=[1])
    assert new.item["type"] == "custom_tool_call_output"


def test_messages_that_follow_each_other_stay_apart():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "Looking."}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    thought = {"role": "assistant", "reasoning_content": "hm", "content": None}
    for messages in ([said, called], [thought, said], [called, called], [said, said], [thought, called, said]):
        assert write_messages(read_messages(messages)) == messages


def test_what_is_no_message_yields_nothing():
    assert items_of(None, 1, "x", [], {"role": "user", "content": "hi"})[0]["content"][0]["text"] == "hi"
    assert items_of(None, 1, "x", []) == []


def test_what_no_item_says_is_kept_up_to_a_limit():
    (taken,) = read_messages([{"role": "user", "content": "hi", "images": "x" * 10**6}])
    assert taken.chat is None
    assert write_messages([taken]) == [{"role": "user", "content": "hi"}]


def test_items_of_the_responses_api_are_messages_too():
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": "out"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [text("A."), text("B.")]},
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert write_messages(ChatItem(item) for item in items) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "reasoning_content": "hm", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "out"},
        {"role": "assistant", "content": [{"type": "text", "text": "A."}, {"type": "text", "text": "B."}]},
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(max_size=6)
parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"cache_control": json_values}),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": texts}),
    st.fixed_dictionaries(
        {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts}, optional={"detail": texts})}
    ),
    st.fixed_dictionaries(
        {"type": st.just("file"), "file": st.fixed_dictionaries({}, optional={"file_id": texts, "x": json_values})}
    ),
    st.fixed_dictionaries({"type": st.just("input_audio"), "input_audio": json_values}),
    json_values,
)
functions = st.fixed_dictionaries({"name": texts, "arguments": texts | json_values}, optional={"x": json_values})
tool_calls = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": functions}, optional={"id": texts, "index": st.integers(0, 3)}
    ),
    st.fixed_dictionaries(
        {"id": texts, "type": st.just("custom"), "custom": st.fixed_dictionaries({"name": texts, "input": texts})}
    ),
    json_values,
)
contents = texts | st.none() | st.lists(parts, max_size=3) | json_values
messages = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "developer", "critic"]), "content": contents},
        optional={"name": texts, "x": json_values},
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            "content": contents,
            "refusal": texts | st.none(),
            "reasoning_content": texts | st.none(),
            "reasoning": texts | json_values,
            "reasoning_details": st.lists(json_values, max_size=2) | json_values,
            "tool_calls": st.lists(tool_calls, max_size=3) | st.none(),
            "function_call": functions | st.none(),
            "audio": st.fixed_dictionaries({"id": texts}, optional={"data": texts, "x": json_values}) | json_values,
            "annotations": st.lists(json_values, max_size=2) | json_values,
            "name": texts,
        },
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": texts, "content": contents}),
    st.fixed_dictionaries({"role": st.just("function"), "name": texts | st.none(), "content": contents}),
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "audio", "x"]), json_values, max_size=4),
)


@given(st.lists(messages, max_size=5))
def test_messages_are_made_again_just_as_they_were(sent: list[Message]):
    taken = read_messages(sent)
    again = [ChatItem(orjson.loads(orjson.dumps(item)), orjson.loads(orjson.dumps(chat))) for item, chat in taken]
    assert orjson.dumps(write_messages(again), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        sent, option=orjson.OPT_SORT_KEYS
    )
    assert [len(message_items(message)) > 0 for message in sent] == [True] * len(sent)


@given(json_values, json_values)
def test_a_patch_makes_one_value_of_another(ours: Any, theirs: Any):
    patch = difference(ours, theirs)
    assert (patched(ours, patch) if patch else ours) == theirs


@given(json_values, json_values, json_values)
def test_a_patch_on_another_value_does_no_harm(ours: Any, theirs: Any, other: Any):
    if patch := difference(ours, theirs):
        patched(other, patch)


class Counted(dict[str, Any]):
    """A message that counts how often it is looked into."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        Counted.looks += 1
        return super().get(key, default)


def test_many_outputs_of_unknown_calls_are_read_in_one_pass():
    looks = []
    for many in (50, 500):
        Counted.looks = 0
        read_messages([Counted(role="tool", tool_call_id=f"c{number}", content="x") for number in range(many)])
        looks.append(Counted.looks)
    assert looks[1] <= looks[0] * 11
