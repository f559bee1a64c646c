"""A history has a length that a turn may have; nothing makes a longer one, and what is too long is refused at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.conftest import StartProxy
from tests.flows.talk import new_conversation, respond


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_a_conversation_gets_no_more_items_than_a_turn_may_have(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_history_items": 5})
    conversation = await new_conversation(proxy)
    path = f"/v1/conversations/{conversation}/items"
    assert (await proxy.call("POST", path, {"items": [user("a")] * 4}))[0] == 200
    status, answer = await proxy.call("POST", path, {"items": [user("b")] * 2})
    assert (status, answer["code"]) == (400, "history_too_long")
    assert (await proxy.call("POST", path, {"items": [user("b")]}))[0] == 200


async def test_a_turn_on_too_many_items_is_refused_and_leaves_the_conversation_free(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_history_items": 3})
    conversation = await new_conversation(proxy)
    first = await respond(proxy, conversation=conversation)
    second = await respond(proxy, conversation=conversation)
    for source in ({"conversation": conversation}, {"previous_response_id": second["id"]}):
        refused = await respond(proxy, expect=400, **source)
        assert refused["code"] == "history_too_long"
    assert (await respond(proxy, previous_response_id=first["id"]))["status"] == "completed"
    await proxy.call("DELETE", f"/v1/conversations/{conversation}/items/{second['output'][0]['id']}")
    await respond(proxy, conversation=conversation)


async def test_a_turn_on_too_many_bytes_is_refused(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_history_bytes": 10_000})
    conversation = await new_conversation(proxy)
    await respond(proxy, conversation=conversation, input="x" * 10_000)
    assert (await respond(proxy, expect=400, conversation=conversation))["code"] == "history_too_long"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instructions", "x" * 2_000),
        ("tools", [{"type": "function", "name": "f", "description": "x" * 2_000, "parameters": {"maximum": 10**30}}]),
        ("text", {"format": {"type": "json_schema", "name": "s", "schema": {"title": "x" * 2_000}}}),
    ],
)
async def test_a_response_repeats_only_so_much(start_proxy: StartProxy, name: str, value: Any):
    proxy = await start_proxy(turns={"max_settings_bytes": 2_000})
    conversation = await new_conversation(proxy)
    refused = await respond(proxy, expect=400, conversation=conversation, user="me", **{name: value})
    assert (refused["code"], refused["error"]["param"]) == ("settings_too_large", name)
    first = (await respond(proxy, conversation=conversation))["output"][0]["id"]
    path = f"/v1/conversations/{conversation}/items/{first}/regenerate"
    status, answer = await proxy.call("POST", path, {"user": "me", name: value})
    assert (status, answer["code"]) == (400, "settings_too_large")
    # long texts are items, which may be as long as a body
    await respond(proxy, conversation=conversation, instructions="x" * 1_000, input="x" * 10_000)


async def test_a_message_of_a_websocket_too(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_settings_bytes": 2_000})
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses") as socket:
        await socket.send_json({"type": "response.create", "model": "m", "input": "a", "instructions": "x" * 2_000})
        refused = await socket.receive_json()
        assert (refused["type"], refused["status"]) == ("error", 400)
        assert (refused["error"]["code"], refused["error"]["param"]) == ("settings_too_large", "instructions")


async def test_a_turn_brings_only_so_many_items(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_input_items": 2})
    refused = await respond(proxy, expect=400, input=[user("a")] * 3)
    assert (refused["code"], refused["error"]["param"]) == ("array_above_max_length", "input")
    await respond(proxy, input=[user("a")] * 2)
