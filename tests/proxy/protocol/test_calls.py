from __future__ import annotations

from typing import Any

import pytest

from proxy.protocol.calls import call_key, mark_of


def item(kind: str, call_id: Any = "call_1", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, **fields}


@pytest.mark.parametrize(
    ("given", "mark"),
    [
        (item("function_call"), "+call_1"),
        (item("custom_tool_call", status="completed"), "+call_1"),
        (item("function_call", status="incomplete"), "~call_1"),
        (item("function_call", name="exempt"), "~call_1"),
        (item("local_shell_call"), "~call_1"),
        (item("program"), "~call_1"),
        (item("strange_call"), "~call_1"),
        (item("function_call_output"), "-call_1"),
        (item("custom_tool_call_output", status="incomplete"), "-call_1"),
        (item("local_shell_call_output"), ""),
        (item("strange_output"), ""),
        (item("strange_response"), ""),
        ({"type": "message", "role": "user"}, ""),
        (item("function_call", ""), ""),
        (item("function_call_output", None), ""),
        (item("web_search_call", 5), ""),
    ],
)
def test_what_an_item_is_to_the_pairing_of_calls_and_outputs(given, mark):
    assert str(mark_of(given, frozenset({"exempt"}))) == mark


@pytest.mark.parametrize("call_id", ["call 1", "c" * 129, "à", "\x00", "\ud800", "a\nb"])
def test_a_call_id_that_the_store_can_not_name_is_named_by_its_hash(call_id):
    key = call_key(call_id)
    assert key.startswith("sha256:")
    assert key == call_key(call_id) != call_key(call_id + "x")
    assert mark_of(item("function_call", call_id)).key == mark_of(item("function_call_output", call_id)).key == key


@pytest.mark.parametrize("call_id", ["call_1", "c" * 128, "!~"])
def test_any_other_call_id_is_its_own_name(call_id):
    assert call_key(call_id) == call_id
