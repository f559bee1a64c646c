from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.item import (
    as_text,
    complete_item,
    fill_part,
    is_empty,
    is_whole_message,
    merged,
    opened,
    type_name,
    visible,
)
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT
from tests.proxy.relay.strict import ITEMS, accept_item

#: Items whose other required fields are the server's alone to know.
UNGUESSABLE = {"computer_call_output", "additional_tools", "program", "program_output", "mcp_approval_response"}


def completed(item: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    item = {"id": "ours", "call_id": "call_1", **copy.deepcopy(item)}
    complete_item(item, status)
    accept_item(item, announced=status == "in_progress")
    return item


@pytest.mark.parametrize("status", ["completed", "incomplete", "in_progress"])
@pytest.mark.parametrize("kind", sorted(ITEMS.keys() - UNGUESSABLE))
def test_an_item_of_which_only_the_type_is_known_becomes_one_that_clients_take(kind, status):
    completed({"type": kind}, status)


@pytest.mark.parametrize("item", [MESSAGE, CALL, REASONING, {"type": "strange", "id": "x", "status": "odd", "n": 1.5}])
def test_a_complete_item_stays_as_it_is(item):
    before = copy.deepcopy(item)
    complete_item(item, "completed")
    assert item == before


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"type": "strange"}, "strange"),
        ({"role": "assistant"}, "message"),
        ({"arguments": "{}"}, "function_call"),
        ({"type": 5}, "message"),
    ],
)
def test_an_item_without_a_type_is_what_its_fields_say(item, kind):
    assert type_name(item) == kind


@pytest.mark.parametrize("content", ["Hello", ["Hello"], [{"text": "Hello"}], [{"type": "text", "text": "Hello"}, 5]])
def test_a_messages_text_may_come_in_other_shapes(content):
    assert completed({"type": "message", "content": content})["content"] == [TEXT]


def test_reasoning_loses_the_nulls_that_open_responses_refuses():
    empty = {"type": "reasoning", "summary": None, "content": None, "encrypted_content": None, "status": None}
    assert completed(empty).keys() == {"id", "call_id", "type", "summary"}


def test_arguments_that_come_as_an_object_become_their_json():
    assert completed({**CALL, "arguments": {"city": "Paris"}})["arguments"] == '{"city":"Paris"}'


@pytest.mark.parametrize(
    ("item", "status", "result"),
    [
        ({"type": "message", "status": None}, "completed", "completed"),
        ({"type": "message", "status": "in_progress"}, "completed", "completed"),
        ({"type": "message", "status": "in_progress"}, "incomplete", "incomplete"),
        ({"type": "message", "status": "incomplete"}, "completed", "incomplete"),
        ({"type": "message", "status": "done"}, "completed", "completed"),
        ({"type": "image_generation_call", "status": "generating"}, "completed", "generating"),
        ({"type": "image_generation_call"}, "incomplete", "failed"),
        ({"type": "apply_patch_call"}, "incomplete", "in_progress"),
    ],
)
def test_a_status_is_kept_where_it_is_legal_and_chosen_where_it_is_not(item, status, result):
    assert completed(item, status)["status"] == result


def test_an_optional_status_is_not_invented():
    assert "status" not in completed({"type": "reasoning"})
    assert completed({"type": "reasoning", "status": "odd"})["status"] == "completed"


def test_defaults_are_not_shared_between_items():
    one, two = completed({"type": "mcp_list_tools"}), completed({"type": "mcp_list_tools"})
    one["tools"].append({"name": "look"})
    assert two["tools"] == []


def test_a_part_gets_the_lists_that_clients_require():
    part: dict[str, Any] = {"text": "Hello", "logprobs": None}
    fill_part(part, "output_text")
    assert part == TEXT


def test_an_unknown_part_stays_as_it_is():
    part = {"type": "output_audio", "data": "AA"}
    fill_part(part, "output_text")
    assert part == {"type": "output_audio", "data": "AA"}


def test_an_opened_item_is_empty_and_running_and_leaves_the_original_alone():
    assert opened(CALL) == {**CALL, "arguments": "", "status": "in_progress"}
    assert opened(MESSAGE)["content"] == []
    assert opened(REASONING) == {**REASONING, "summary": []}
    assert MESSAGE["content"] == [TEXT]


@pytest.mark.parametrize(
    ("kind", "shown", "there"), [("reasoning", False, False), ("reasoning", True, True), ("compaction", False, True)]
)
def test_only_reasoning_hides_its_sealed_content(kind, shown, there):
    item = {"type": kind, "encrypted_content": "sealed"}
    assert ("encrypted_content" in visible(item, show_encrypted=shown)) is there
    assert "encrypted_content" in item


def test_merging_lets_the_later_version_win_where_it_says_something():
    earlier = {"a": 1, "b": [1], "c": "x", "d": 1, "e": True}
    assert merged(earlier, {"a": 2, "b": [], "c": None, "e": False, "f": None}) == {
        "a": 2,
        "b": [1],
        "c": "x",
        "d": 1,
        "e": False,
        "f": None,
    }


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (None, ""), (5, "5"), ({"a": None}, '{"a":null}')])
def test_anything_can_stand_where_a_text_belongs(value, text):
    assert as_text(value) == text


def test_only_messages_are_ever_empty():
    assert is_empty({"type": "message", "content": [{**TEXT, "text": ""}]})
    assert not is_empty({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]})
    assert not is_empty({"type": "message", "content": [{"type": "output_audio"}]})
    assert not is_empty({"type": "function_call"})


PARTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"type": st.sampled_from(["output_text", "text", "refusal", None])},
    optional={
        "text": st.sampled_from(["hi", "", None, 1]),
        "annotations": st.sampled_from([[], [1], None, {}]),
        "logprobs": st.sampled_from([[], None]),
        "more": st.none(),
    },
)
#: Messages of an answer, and what is nearly one.
MESSAGES = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["msg_1", "", None]),
        "type": st.sampled_from(["message", "message", "reasoning", None]),
        "role": st.sampled_from(["assistant", "user", None, 1]),
        "status": st.sampled_from(["completed", "completed", "in_progress", "incomplete", None]),
        "content": st.one_of(st.just("hi"), st.none(), st.lists(st.one_of(PARTS, st.just("hi")), max_size=2)),
    },
    optional={"phase": st.sampled_from(["final", None])},
)


@given(MESSAGES, st.sampled_from(["completed", "incomplete"]))
def test_a_message_that_looks_whole_has_nothing_to_complete(item, status):
    whole = copy.deepcopy(item)
    complete_item(whole, status)
    if is_whole_message(item):
        assert whole == item
        assert not is_empty(whole)


def test_a_whole_message_is_known_at_a_glance():
    part = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    assert is_whole_message(whole)
    assert not is_whole_message({**whole, "content": [part, part]})
