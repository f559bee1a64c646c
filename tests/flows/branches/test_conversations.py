"""Conversations and their items, driven by the official client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.flows.conftest import Proxy


async def test_a_conversation_is_created_read_updated_and_deleted(proxy: Proxy):
    client = proxy.client()
    created = await client.conversations.create(metadata={"topic": "sea"})
    assert created.id.startswith("conv_")
    assert created.metadata == {"topic": "sea"}
    assert await client.conversations.retrieve(created.id) == created
    updated = await client.conversations.update(created.id, metadata={"mood": "calm"})
    assert updated.metadata == {"topic": "sea", "mood": "calm"}
    deleted = await client.conversations.delete(created.id)
    assert deleted.model_dump() == {"id": created.id, "object": "conversation.deleted", "deleted": True}
    with pytest.raises(openai.NotFoundError) as error:
        await client.conversations.retrieve(created.id)
    assert error.value.code is None
    assert f"Conversation with id '{created.id}' not found." in error.value.message


@pytest.mark.parametrize("body", [None, {}, {"items": []}, {"items": None, "metadata": None}])
async def test_a_conversation_needs_no_body(proxy: Proxy, body: Any):
    status, conversation = await proxy.call("POST", "/v1/conversations", body)
    assert (status, conversation["metadata"]) == (200, {})


async def test_a_null_deletes_a_metadata_key_and_clears_a_title(proxy: Proxy):
    _, made = await proxy.call("POST", "/v1/conversations", {"metadata": {"a": "1", "b": "2"}, "title": "T"})
    body = {"metadata": {"a": None}, "title": None}
    status, after = await proxy.call("PATCH", f"/v1/conversations/{made['id']}", body)
    assert (status, after["metadata"], after["title"]) == (200, {"b": "2"}, None)


async def test_items_come_back_in_request_order_and_newest_first_in_the_list(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    texts = [f"message {i}" for i in range(20)]
    made = await client.conversations.items.create(
        conversation.id, items=[{"role": "user", "content": text} for text in texts]
    )
    assert [item.content[0].text for item in made.data] == texts  # type: ignore[union-attr,index]
    listed = [item.content[0].text async for item in client.conversations.items.list(conversation.id, limit=7)]  # type: ignore[union-attr,index]
    assert listed == texts[::-1]


async def test_stored_items_have_the_form_that_openai_gives_them(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations")
    items = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "from_the_future", "x_future": {"a": [], "b": {}}},
    ]
    status, page = await proxy.call("POST", f"/v1/conversations/{conversation['id']}/items", {"items": items})
    assert status == 200
    user, assistant, call, future = page["data"]
    part = {"type": "output_text", "text": "x", "annotations": [], "logprobs": []}
    assert user | {"id": 0} == {
        "id": 0,
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
    }
    assert assistant["content"] == [part]
    assert (call["status"], call["id"][:3]) == ("completed", "fc_")
    assert future["x_future"] == {"a": [], "b": {}}
    assert (page["first_id"], page["last_id"], page["has_more"]) == (user["id"], future["id"], False)


async def test_an_empty_list_has_null_ids(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations")
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation['id']}/items")
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_deleting_an_item_answers_the_conversation_and_removes_just_that_item(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create(items=[{"role": "user", "content": t} for t in "abc"])
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    answer = await client.conversations.items.delete(items[1].id, conversation_id=conversation.id)  # type: ignore[arg-type]
    assert answer.id == conversation.id
    assert answer.model_dump()["deleted"] is True
    assert answer.model_dump()["branch"] == "MAIN"
    left = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert [item.id for item in left] == [items[0].id, items[2].id]
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve(items[1].id, conversation_id=conversation.id)  # type: ignore[arg-type]


async def test_a_listing_shows_newest_activity_first_and_filters(proxy: Proxy):
    ids = []
    for title, project in (("a", "p1"), ("b", "p2"), ("c", "p1")):
        body = {"title": title, "project_id": project, "referrer": f"from-{title}"}
        ids.append((await proxy.call("POST", "/v1/conversations", body))[1]["id"])
    await proxy.call("POST", f"/v1/conversations/{ids[0]}/items", {"items": [{"role": "user", "content": "hi"}]})
    _, page = await proxy.call("GET", "/v1/conversations")
    assert [one["title"] for one in page["data"]] == ["a", "c", "b"]
    _, page = await proxy.call("GET", "/v1/conversations?project_id=p1&limit=1")
    assert ([one["title"] for one in page["data"]], page["has_more"]) == (["a"], True)
    _, page = await proxy.call("GET", f"/v1/conversations?project_id=p1&after={page['next_cursor']}")
    assert ([one["title"] for one in page["data"]], page["has_more"]) == (["c"], False)
    _, page = await proxy.call("GET", "/v1/conversations?referrer=from-b")
    assert [one["title"] for one in page["data"]] == ["b"]
    _, page = await proxy.call("GET", "/v1/conversations", key="sk-bob")
    assert page["data"] == []


async def test_all_of_a_callers_conversations_are_deleted_and_nobody_elses(proxy: Proxy):
    for key in ("sk-alice", "sk-alice", "sk-bob"):
        await proxy.call("POST", "/v1/conversations", key=key)
    _, answer = await proxy.call("DELETE", "/v1/conversations")
    assert answer == {"object": "conversations.deleted", "deleted": True, "deleted_count": 2}
    _, page = await proxy.call("GET", "/v1/conversations")
    assert page["data"] == []
    _, page = await proxy.call("GET", "/v1/conversations", key="sk-bob")
    assert len(page["data"]) == 1


LONG = "x" * 70
MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {LONG: "v"}}, "metadata", "property_name_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "string_above_max_length"),
        ({"metadata": {"k": 1}}, "metadata", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"title": "t" * 257}, "title", "string_above_max_length"),
        ({"title": 3}, "title", "invalid_type"),
        ({"referrer": LONG}, "referrer", "string_above_max_length"),
        ({"items": [MESSAGE] * 21}, "items", "array_above_max_length"),
        ({"items": "hi"}, "items", "invalid_type"),
        ({"items": [7]}, "items[0]", "invalid_type"),
        ({"items": [MESSAGE, {"content": "hi"}]}, "items[1].role", "missing_required_parameter"),
        ({"items": [{"role": "user"}]}, "items[0].content", "missing_required_parameter"),
        ({"items": [{"role": "user", "content": 7}]}, "items[0].content", "invalid_type"),
        ({"items": [{"role": "user", "content": ["x"]}]}, "items[0].content[0]", "invalid_type"),
        ({"items": [{**MESSAGE, "id": "item_wrong"}]}, "items[0].id", "invalid_value"),
        ({"items": [{**MESSAGE, "id": "msg_ä"}]}, "items[0].id", "invalid_value"),
        ({"items": [{**MESSAGE, "id": "msg_" + LONG}]}, "items[0].id", "string_above_max_length"),
        ({"items": [{"type": 5}]}, "items[0].type", "invalid_type"),
        ({"items": [{"type": "function_call", "call_id": []}]}, "items[0].call_id", "invalid_type"),
        ({"items": [{"id": 5}]}, "items[0].id", "invalid_type"),
        ({"items": [{"type": "item_reference"}]}, "items[0].id", "missing_required_parameter"),
    ],
)
async def test_bad_input_is_refused_with_the_path_of_the_field(proxy: Proxy, body: Any, param: str, code: str):
    status, answer = await proxy.call("POST", "/v1/conversations", body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert answer["error"]["type"] == "invalid_request_error"
    assert (await proxy.call("GET", "/v1/conversations"))[1]["data"] == []


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=0", "limit", "integer_below_min_value"),
        ("limit=101", "limit", "integer_above_max_value"),
        ("limit=x", "limit", "invalid_type"),
        ("order=up", "order", "invalid_value"),
    ],
)
async def test_bad_paging_is_refused(proxy: Proxy, query: str, param: str, code: str):
    _, conversation = await proxy.call("POST", "/v1/conversations")
    for path in (f"/v1/conversations/{conversation['id']}/items", "/v1/conversations"):
        status, answer = await proxy.call("GET", f"{path}?{query}")
        assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"items": []}, "empty_array"),
        ({"items": [MESSAGE] * 21}, "array_above_max_length"),
    ],
)
async def test_items_create_wants_1_to_20_items(proxy: Proxy, body: Any, code: str):
    _, conversation = await proxy.call("POST", "/v1/conversations")
    status, answer = await proxy.call("POST", f"/v1/conversations/{conversation['id']}/items", body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "items", code)


async def test_an_update_wants_metadata_or_one_of_our_fields(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations")
    path = f"/v1/conversations/{conversation['id']}"
    for body, code in (({}, "missing_required_parameter"), ({"metadata": None}, "invalid_type")):
        status, answer = await proxy.call("POST", path, body)
        assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "metadata", code)


async def test_known_items_are_references_and_the_stored_original_wins(proxy: Proxy):
    _, first = await proxy.call("POST", "/v1/conversations", {"items": [MESSAGE]})
    _, page = await proxy.call("GET", f"/v1/conversations/{first['id']}/items")
    original = page["data"][0]
    _, second = await proxy.call("POST", "/v1/conversations")
    path = f"/v1/conversations/{second['id']}/items"
    probe = {"role": "user", "content": "something else", "id": original["id"]}
    _, page = await proxy.call("POST", path, {"items": [probe]})
    assert page["data"] == [original]
    status, answer = await proxy.call("POST", path, {"items": [MESSAGE, {"id": original["id"]}]})
    assert (status, answer["error"]["code"]) == (400, "item_already_in_conversation")
    status, answer = await proxy.call("POST", path, {"items": [{"id": original["id"]}, {"id": "msg_unknown"}]})
    assert (status, answer["error"]["code"]) == (404, None)
    _, page = await proxy.call("GET", path)
    assert page["data"] == [original]


INPUT = "'input_text', 'input_image', and 'input_file'"
OUTPUT = "'output_text' and 'refusal'"


@pytest.mark.parametrize(
    ("role", "part", "supported"),
    [
        ("user", {"type": "output_text", "text": "x"}, INPUT),
        ("user", {"type": "refusal", "refusal": "x"}, INPUT),
        ("system", {"type": "output_text", "text": "x"}, INPUT),
        ("developer", {"type": "output_text", "text": "x", "annotations": []}, INPUT),
        ("assistant", {"type": "input_text", "text": "x"}, OUTPUT),
        ("assistant", {"type": "input_image", "image_url": "https://x"}, OUTPUT),
    ],
)
async def test_parts_that_no_model_takes_from_their_role_are_not_stored(
    proxy: Proxy, role: str, part: Any, supported: str
):
    """Stored, every later turn would be refused for it."""
    own = {"type": "output_text" if role == "assistant" else "input_text", "text": "ok"}
    items = [MESSAGE, {"type": "message", "role": role, "content": [own, part]}]
    _, conversation = await proxy.call("POST", "/v1/conversations")
    for path in ("/v1/conversations", f"/v1/conversations/{conversation['id']}/items"):
        status, answer = await proxy.call("POST", path, {"items": items})
        assert (status, answer["error"]["param"]) == (400, "items[1].content[1]")
        assert answer["error"]["code"] == "invalid_value"
        assert answer["error"]["message"] == f"Invalid value: '{part['type']}'. Supported values are: {supported}."
    assert (await proxy.call("GET", f"/v1/conversations/{conversation['id']}/items"))[1]["data"] == []


async def test_parts_of_types_that_nobody_knows_are_stored(proxy: Proxy):
    parts = [{"type": "x_hologram", "data": "x"}, {"type": "input_text", "text": "ok"}]
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [{"role": "user", "content": parts}]})
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation['id']}/items")
    assert page["data"][0]["content"] == parts


async def test_a_foreign_a_deleted_and_an_unknown_conversation_are_told_apart_by_nothing(proxy: Proxy):
    _, mine = await proxy.call("POST", "/v1/conversations")
    _, gone = await proxy.call("POST", "/v1/conversations", key="sk-bob")
    await proxy.call("DELETE", f"/v1/conversations/{gone['id']}", key="sk-bob")
    unknown = "conv_" + "0" * 48
    for method, tail, body in (
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [MESSAGE]}),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
    ):
        answers = set()
        for conversation_id in (mine["id"], gone["id"], unknown):
            status, answer = await proxy.call(method, f"/v1/conversations/{conversation_id}{tail}", body, key="sk-bob")
            answer.pop("request_id")
            answers.add((status, str(answer).replace(conversation_id, "ID")))
        assert len(answers) == 1
        assert answers.pop()[0] == 404


async def test_an_unknown_cursor_is_404_and_never_a_first_page(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [MESSAGE]})
    status, answer = await proxy.call("GET", f"/v1/conversations/{conversation['id']}/items?after=msg_nope")
    assert (status, answer["error"]["param"]) == (404, "after")
    assert answer["error"]["message"] == "No item found with id 'msg_nope'"
    status, answer = await proxy.call("GET", "/v1/conversations?after=conv_nope")
    assert (status, answer["error"]["param"]) == (404, "after")


async def test_ids_that_are_none_are_refused_in_the_path(proxy: Proxy):
    status, answer = await proxy.call("GET", "/v1/conversations/nope")
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "conversation_id", "invalid_value")
    status, answer = await proxy.call("GET", f"/v1/conversations/conv_{LONG}")
    assert (status, answer["error"]["code"]) == (400, "string_above_max_length")


async def test_main_is_the_branch_and_there_is_no_other(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [MESSAGE]})
    path = f"/v1/conversations/{conversation['id']}/items"
    for branch in ("MAIN", "main"):
        _, page = await proxy.call("GET", f"{path}?branch={branch}")
        assert len(page["data"]) == 1
        body = {"model": "echo", "input": "hi", "conversation": {"id": conversation["id"], "branch": branch}}
        assert (await proxy.call("POST", "/v1/responses", {**body, "store": False}))[0] == 200
    status, answer = await proxy.call("GET", f"{path}?branch=draft")
    assert (status, answer["error"]["param"]) == (404, "branch")
    body = {"model": "echo", "input": "hi", "conversation": {"id": conversation["id"], "branch": "draft"}}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["error"]["param"]) == (404, "branch")
    status, answer = await proxy.call("POST", f"{path}?branch=draft", {"items": [MESSAGE]})
    assert (status, answer["error"]["param"]) == (404, "branch")
