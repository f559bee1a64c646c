"""Keys of requests: which one counts, what never is one, and what else a request says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.sources import KEY_SOURCES
from proxy.recognition.keys import MAX_KEY, RequestMarks, read_marks
from proxy.recognition.tools import hashed_key, tools_digest


def put(source: str, value: str, headers: dict[str, str], body: dict[str, Any]) -> None:
    if source.startswith("body.metadata."):
        body.setdefault("metadata", {})[source.removeprefix("body.metadata.")] = value
    elif source.startswith("body."):
        body[source.removeprefix("body.")] = value
    else:
        headers[source.replace("*", "other")] = value


@pytest.mark.parametrize("place", range(len(KEY_SOURCES)))
def test_the_first_that_is_present_counts(place: int):
    headers, body = dict[str, str](), dict[str, Any]()
    for source in KEY_SOURCES[place:]:
        put(source, f"key of {source}", headers, body)
    marks = read_marks({name.title(): value for name, value in headers.items()}, body)
    assert marks.key == f"key of {KEY_SOURCES[place]}"
    assert marks.key_source == KEY_SOURCES[place]
    assert len(marks.other_keys) >= len(KEY_SOURCES) - place - 2


def test_the_order_is_a_setting():
    headers = {"x-session-id": "a", "x-chat": "b"}
    assert read_marks(headers, {}, ["x-chat", "x-session-id"]).key == "b"
    assert read_marks(headers, {}, []).key == ""


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"thread-id": "x" * (MAX_KEY + 1)}, {}),
        ({"thread-id": "  "}, {}),
        ({}, {"metadata": "x", "session_id": ["x"], "prompt_cache_key": None}),
        ({}, {"metadata": {"thread_id": {"a": "x"}, "session_id": True}}),
        ({"x-openwebui-user-id": "x"}, {"user": "x", "safety_identifier": "y"}),
    ],
)
def test_what_is_no_key(headers: dict[str, str], body: dict[str, Any]):
    assert read_marks(headers, body).key == ""


def test_end_users_are_parted_by_each_field():
    said = [({"x-openwebui-user-id": "a"}, {}), ({"helicone-user-id": "a"}, {}), ({}, {"user": "a"})]
    said += [
        ({}, {"safety_identifier": "a"}),
        ({}, {}),
        ({}, {"user": "b"}),
        ({}, {"user": "a", "safety_identifier": "a"}),
    ]
    users = [read_marks(headers, body).end_user for headers, body in said]
    assert len(set(users)) == len(said)
    assert users[4] == ""


def test_a_temporary_chat_a_refusal_and_a_retry():
    assert read_marks({"X-OpenWebUI-Chat-Id": "local:abc"}, {}).is_temporary
    assert read_marks({"X-Branchline-Record": "Off"}, {}).is_off
    assert read_marks({"X-Stainless-Retry-Count": "2"}, {}).retries == 2
    for text in ("", "x", "-1", "1.5", "²", "9" * 20):
        assert read_marks({"X-Stainless-Retry-Count": text}, {}).retries == 0
    assert read_marks({}, {}) == RequestMarks()


def test_tools_are_told_by_their_names_in_either_api():
    chat = [
        {"type": "function", "function": {"name": "f", "description": "x"}},
        {"type": "custom", "custom": {"name": "g"}},
    ]
    responses = [{"type": "custom", "name": "g"}, {"type": "function", "name": "f", "parameters": {}}]
    assert tools_digest(chat) == tools_digest(responses) != b""
    assert tools_digest([{"type": "web_search"}]) not in (b"", tools_digest(chat))
    assert tools_digest(None) == tools_digest([]) == tools_digest("x") == b""
    assert tools_digest([None, {"function": 7}]) != b""


def test_a_stored_key_does_not_tell_the_key():
    assert hashed_key(b"a" * 32, "") == b""
    assert len(hashed_key(b"a" * 32, "key")) == 16
    assert hashed_key(b"a" * 32, "key") != hashed_key(b"b" * 32, "key")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["metadata", "session_id", "prompt_cache_key", "user", "safety_identifier"]


@given(
    st.dictionaries(st.sampled_from(["thread-id", "x-a-session-id", "x-stainless-retry-count"]), st.text(max_size=300)),
    st.dictionaries(st.sampled_from(NAMES), json_values),
)
def test_no_request_is_too_strange(headers: dict[str, str], body: dict[str, Any]):
    assert len(read_marks(headers, body).key) <= MAX_KEY
