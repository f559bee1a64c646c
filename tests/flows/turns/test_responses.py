"""Turns: what the upstream is sent, what the client gets, what is kept."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import items_of, respond, sent, stored_keys
from tests.items import texts
from tests.upstream import Reply


async def test_a_conversation_grows_turn_by_turn_and_the_upstream_sees_all_of_it(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    for i in range(3):
        response = await client.responses.create(model="echo", input=f"turn {i}", conversation=conversation.id)
        assert response.conversation is not None
        assert response.conversation.id == conversation.id
    sent = proxy.upstream.requests[-1].json
    assert len(sent["input"]) == 5
    assert [item["role"] for item in sent["input"]] == ["user", "assistant"] * 2 + ["user"]
    assert sent["store"] is False
    assert "conversation" not in sent
    assert len(await items_of(proxy, conversation.id)) == 6
    assert "I saw 4 earlier items" in response.output_text


async def test_history_bytes_are_the_same_from_turn_to_turn(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    for i in range(3):
        await client.responses.create(model="echo", input=f"turn {i}", conversation=conversation.id)
    bodies = [request.body for request in proxy.upstream.requests]
    prefix = bodies[1][: bodies[1].rindex(b"]")]
    assert bodies[2].startswith(prefix)


@pytest.mark.parametrize("stream", [False, True])
async def test_previous_response_id_chains_without_a_conversation(proxy: Proxy, stream: bool):
    client = proxy.client()
    previous = None
    for i in range(4):
        result: Any = await client.responses.create(
            model="echo", input=f"turn {i}", previous_response_id=previous, stream=stream
        )
        response = [event async for event in result][-1].response if stream else result
        assert response.previous_response_id == previous
        assert response.conversation is None
        previous = response.id
    sent = proxy.upstream.requests[-1].json
    assert len(sent["input"]) == 7
    assert "previous_response_id" not in sent
    _, raw = await proxy.call("GET", f"/v1/responses/{previous}")
    assert "conversation" not in raw


@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]])
@pytest.mark.parametrize("in_conversation", [False, True])
async def test_what_was_answered_is_what_is_read_again(proxy: Proxy, include: list[Any], in_conversation: bool):
    client = proxy.client()
    text = {"type": "output_text", "text": "h\u00e4 \u2028", "annotations": [], "logprobs": []}
    message = {"type": "message", "role": "assistant", "status": "completed", "content": [text], "extra": 2**70}
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    told = {"object": "response", "model": "m", "status": "completed", "later": {"output": [1.0]}}
    place: Any = {"conversation": (await client.conversations.create()).id} if in_conversation else {}
    for output in ([message], [thought, message], []):
        proxy.upstream.script(Reply.raw(200, "application/json", json.dumps({**told, "output": output}).encode()))
        asked: Any = {"model": "m", "input": "hi", "include": include, **place}
        answered = (await client.responses.with_raw_response.create(**asked)).content
        response_id = json.loads(answered)["id"]
        again = (await client.responses.with_raw_response.retrieve(response_id, include=include)).content
        assert json.loads(again) == json.loads(answered)
        hides = thought in output and not include
        assert (again == answered) is not hides


async def test_a_stored_response_is_read_listed_and_deleted(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input="one", instructions="Be brief.")
    second = await client.responses.create(model="echo", input="two", previous_response_id=first.id)
    assert (await client.responses.retrieve(second.id)).model_dump() == second.model_dump()
    items = [item async for item in client.responses.input_items.list(second.id, order="asc", limit=2)]
    assert [item.role for item in items] == ["user", "assistant", "user"]  # type: ignore[union-attr]
    await client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.retrieve(second.id)
    assert f"Response with id '{second.id}' not found." in missing.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="echo", input="x", previous_response_id=second.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    status, answer = await proxy.call("GET", f"/v1/responses/{first.id}")
    assert (status, answer["instructions"]) == (200, "Be brief.")


async def test_instructions_are_never_inherited(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input="one", instructions="Be brief.", metadata={"a": "b"})
    second = await client.responses.create(model="echo", input="two", previous_response_id=first.id)
    assert (second.instructions, second.metadata) == (None, {})
    assert "instructions" not in proxy.upstream.requests[-1].json


async def test_a_chain_into_a_conversation_is_a_snapshot_and_leaves_it_alone(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    first = await client.responses.create(model="echo", input="in", conversation=conversation.id)
    await client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "X"}])
    branches = [
        await client.responses.create(model="echo", input=name, previous_response_id=first.id) for name in ("a", "b")
    ]
    for branch, request in zip(branches, proxy.upstream.requests[-2:], strict=True):
        assert branch.conversation is None
        assert "X" not in texts(request.json["input"])
        assert len(request.json["input"]) == 3
    assert len(await items_of(proxy, conversation.id)) == 3
    await client.responses.create(model="echo", input="on", conversation=conversation.id)
    assert texts(sent(proxy))[2:] == ["X", "on"]


async def test_chains_of_a_deleted_conversation_go_on(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    first = await client.responses.create(model="echo", input="in", conversation=conversation.id)
    await client.conversations.delete(conversation.id)
    second = await client.responses.create(model="echo", input="on", previous_response_id=first.id)
    third = await client.responses.create(model="echo", input="on", previous_response_id=second.id)
    assert "I saw 4 earlier items" in third.output_text


async def test_items_of_a_deleted_conversation_are_not_found_by_their_ids(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create(items=[{"role": "user", "content": "gone"}])
    item: Any = (await items_of(proxy, conversation.id))[0]
    first = await client.responses.create(model="echo", input="in", conversation=conversation.id)
    await client.conversations.delete(conversation.id)
    for reference in (item["id"], first.output[0].id):
        body = {"model": "echo", "input": [{"type": "item_reference", "id": reference}]}
        assert (await proxy.call("POST", "/v1/responses", body))[0] == 404
        assert (await proxy.call("POST", "/v1/conversations", {"items": body["input"]}))[0] == 404
    mine: Any = {**item, "content": [{"type": "input_text", "text": "mine"}]}
    await client.responses.create(model="echo", input=[mine])
    assert texts(sent(proxy)) == ["mine"]
    # a chain of one of its responses still knows them, and what it adds can be referred to
    second = await client.responses.create(model="echo", input=[item], previous_response_id=first.id)
    assert texts(sent(proxy))[:1] == ["gone"]
    assert len(proxy.upstream.requests[-1].json["input"]) == 3
    later: Any = {"type": "item_reference", "id": second.output[0].id}
    await client.responses.create(model="echo", input=[later])


async def test_both_kinds_of_state_at_once_are_refused(proxy: Proxy):
    status, answer = await proxy.call(
        "POST", "/v1/responses", {"model": "echo", "conversation": "conv_1", "previous_response_id": "resp_1"}
    )
    assert (status, answer["error"]["code"]) == (400, "mutually_exclusive_parameters")
    assert proxy.upstream.requests == []


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"conversation": "conv_" + "0" * 48}, 404, None, None),
        ({"conversation": {"id": "conv_" + "0" * 48}}, 404, None, None),
        ({"conversation": "nope"}, 400, "invalid_value", "conversation"),
        ({"conversation": "conv_" + "0" * 60}, 400, "string_above_max_length", "conversation"),
        ({"conversation": {}}, 400, "missing_required_parameter", "conversation.id"),
        ({"conversation": 7}, 400, "invalid_type", "conversation"),
        ({"conversation": {"id": "", "branch": "draft"}}, 400, "missing_required_parameter", "conversation.id"),
        ({"conversation": {"id": None, "fork_from": "msg_1"}}, 400, "missing_required_parameter", "conversation.id"),
        ({"conversation": {"id": "", "at": "resp_1"}}, 400, "missing_required_parameter", "conversation.id"),
        ({"input": [{"type": "item_reference", "id": ""}]}, 400, "missing_required_parameter", "input[0].id"),
        ({"previous_response_id": "resp_" + "0" * 50}, 400, "previous_response_not_found", "previous_response_id"),
        ({"previous_response_id": "resp ä"}, 400, "invalid_value", "previous_response_id"),
        ({"previous_response_id": 7}, 400, "invalid_type", "previous_response_id"),
        ({"store": "yes"}, 400, "invalid_type", "store"),
        ({"stream": 1}, 400, "invalid_type", "stream"),
        ({"include": "x"}, 400, "invalid_type", "include"),
        ({"metadata": {"a": 1}}, 400, "invalid_type", "metadata"),
        ({"background": True, "store": False}, 400, "invalid_value", "store"),
        ({"input": 7}, 400, "invalid_type", "input"),
        ({"input": [{"type": "item_reference", "id": "msg_nope"}]}, 404, None, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
            400,
            "invalid_value",
            "input[0].content[0]",
        ),
        ({"input": [{"id": "msg_nope"}]}, 404, None, "input"),
        ({"input": [{"role": "user", "content": "a", "id": "msg_1"}] * 2}, 400, None, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, 400, None, "input"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}]}, 400, None, "input"),
    ],
)
async def test_bad_turns_are_refused_before_the_upstream_is_called(
    proxy: Proxy, body: Any, status: int, code: str | None, param: str | None
):
    got, answer = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": "hi", **body})
    assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)
    assert proxy.upstream.requests == []


async def test_an_assistant_s_text_goes_to_the_model_under_the_assistant_s_type_at_once_and_later(proxy: Proxy):
    said = {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}
    first = await respond(proxy, input=[said, {"role": "user", "content": "hi"}])
    at_once = proxy.upstream.requests[-1].json["input"][0]["content"]
    await respond(proxy, input="and?", previous_response_id=first["id"])
    assert at_once == [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}]
    assert proxy.upstream.requests[-1].json["input"][0]["content"] == at_once


@pytest.mark.parametrize("conversation", ["", None, {"id": ""}, {"id": None, "branch": ""}])
async def test_what_is_empty_is_absent(proxy: Proxy, conversation: Any):
    first = await respond(proxy, conversation=conversation, previous_response_id="")
    assert "conversation" not in first
    assert first["previous_response_id"] is None
    # the kinds of state exclude each other only where both are there
    second = await respond(proxy, conversation=conversation, previous_response_id=first["id"])
    items = [{"id": "", "role": "user", "content": "a"}, {"id": "", "type": "message", "role": "user", "content": "b"}]
    third = await respond(proxy, input=items, previous_response_id=second["id"])
    given = proxy.upstream.requests[-1].json["input"]
    assert (third["status"], len(given), len({item["id"] for item in given})) == ("completed", 6, 6)
    _, made = await proxy.call("POST", "/v1/conversations", {"items": items})
    _, page = await proxy.call("POST", f"/v1/conversations/{made['id']}/items", {"items": items})
    assert len({item["id"] for item in page["data"]}) == 2


async def test_unstored_turns_leave_nothing_and_cannot_be_continued(proxy: Proxy):
    client = proxy.client()
    response = await client.responses.create(model="echo", input="hi", store=False)
    assert response.id.startswith("resp_")
    assert response.model_dump()["store"] is False
    assert await stored_keys(proxy) == []
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="echo", input="x", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    reference: Any = {"type": "item_reference", "id": response.output[0].id}
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(model="echo", input=[reference])
    assert "Items are not persisted when `store` is set to false." in missing.value.message


@pytest.mark.parametrize("append", [False, True])
async def test_unstored_turns_use_a_conversation_and_are_appended_only_if_configured(
    start_proxy: StartProxy, append: bool
):
    proxy = await start_proxy(conversations={"append_unstored": append})
    client = proxy.client()
    conversation = await client.conversations.create(items=[{"role": "user", "content": "before"}])
    response = await client.responses.create(model="echo", input="hi", store=False, conversation=conversation.id)
    assert "I saw 1 earlier item" in response.output_text
    assert len(await items_of(proxy, conversation.id)) == (3 if append else 1)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    await client.responses.create(model="echo", input="again", conversation=conversation.id)


async def test_a_tool_round_works_in_a_conversation(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    tools: Any = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    first = await client.responses.create(model="echo", input="call look", conversation=conversation.id, tools=tools)
    call = first.output[-1]
    assert call.type == "function_call"
    status, answer = await proxy.call(
        "POST", "/v1/responses", {"model": "echo", "input": "and?", "conversation": conversation.id}
    )
    message = answer["error"]["message"]
    assert (status, message.startswith(f"No tool output found for function call {call.call_id}. ")) == (400, True)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    second = await client.responses.create(model="echo", input=[result], conversation=conversation.id, tools=tools)
    assert "42" in second.output_text
    assert [item["type"] for item in await items_of(proxy, conversation.id)] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]


async def test_references_resolve_across_conversations_and_responses(proxy: Proxy):
    client = proxy.client()
    one = await client.responses.create(model="echo", input="first")
    conversation = await client.conversations.create(items=[{"role": "user", "content": "second"}])
    item: Any = (await items_of(proxy, conversation.id))[0]
    references: Any = [
        {"type": "item_reference", "id": one.output[0].id},
        {"id": item["id"]},
        {"role": "user", "content": "third"},
    ]
    again = await client.responses.create(model="echo", input=references)
    got = sent(proxy)
    assert [one["type"] for one in got] == ["message"] * 3
    assert got[0]["id"] == one.output[0].id
    assert texts(got[1:]) == ["second", "third"]
    more = await client.responses.create(model="echo", input="x", previous_response_id=again.id)
    assert "I saw 4 earlier items" in more.output_text
    for key, body in (("sk-bob", references[:1]), ("sk-bob", references[1:2])):
        status, _ = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": body}, key=key)
        assert status == 404


async def test_items_that_the_history_has_are_not_sent_twice(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input="one")
    replay: Any = [first.output[0].model_dump(), {"role": "user", "content": "two"}]
    await client.responses.create(model="echo", input=replay, previous_response_id=first.id)
    assert len(proxy.upstream.requests[-1].json["input"]) == 3


async def test_encrypted_reasoning_is_asked_for_kept_and_shown_only_on_request(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    first = await client.responses.create(
        model="echo", input="think", conversation=conversation.id, reasoning={"effort": "low"}
    )
    assert "reasoning.encrypted_content" in proxy.upstream.requests[-1].json["include"]
    assert first.output[0].type == "reasoning"
    assert first.output[0].encrypted_content is None
    # the echo model refuses sealed reasoning under another id than its own
    second = await client.responses.create(
        model="echo",
        input="again",
        conversation=conversation.id,
        reasoning={"effort": "low"},
        include=["reasoning.encrypted_content"],
    )
    assert second.output[0].encrypted_content  # type: ignore[union-attr]
    sent = proxy.upstream.requests[-1].json["input"][1]
    assert sent["encrypted_content"]
    assert "id" not in sent
    hidden = await client.responses.retrieve(second.id)
    shown = await client.responses.retrieve(second.id, include=["reasoning.encrypted_content"])
    assert hidden.output[0].encrypted_content is None  # type: ignore[union-attr]
    assert shown.output[0].encrypted_content == second.output[0].encrypted_content  # type: ignore[union-attr]
    for include, has in (("", False), ("?include[]=reasoning.encrypted_content", True)):
        _, page = await proxy.call("GET", f"/v1/conversations/{conversation.id}/items{include}")
        sealed = [bool(one.get("encrypted_content")) for one in page["data"] if one["type"] == "reasoning"]
        assert sealed == [has, has]


async def test_a_model_without_encrypted_reasoning_is_asked_again_without_it(proxy: Proxy):
    error = {"message": "Encrypted content is not supported with this model.", "param": "include"}
    proxy.upstream.script(Reply.json(400, {"error": {**error, "type": "invalid_request_error", "code": None}}))
    client = proxy.client()
    for _ in range(2):
        await client.responses.create(model="gpt-plain", input="hi")
    asked = ["include" in request.json for request in proxy.upstream.requests]
    assert asked == [True, False, False]


async def test_unknown_fields_and_items_reach_the_upstream_untouched(proxy: Proxy):
    body = {
        "model": "echo",
        "input": [{"type": "x_new", "x": {"a": [], "b": {}}}, {"role": "user", "content": "hi", "x_tag": [1.5]}],
        "x_future": {"a": [], "b": None},
        "background": False,
    }
    status, _ = await proxy.call("POST", "/v1/responses?beta=true", body)
    assert status == 200
    request = proxy.upstream.requests[-1]
    assert request.path_qs == "/v1/responses?beta=true"
    assert request.json["x_future"] == {"a": [], "b": None}
    assert "background" not in request.json
    assert request.json["input"][0]["x"] == {"a": [], "b": {}}
    assert request.json["input"][1]["x_tag"] == [1.5]


async def test_images_and_files_are_kept_whole(proxy: Proxy):
    client = proxy.client()
    parts: Any = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 2_000_000, "detail": "low"},
    ]
    conversation = await client.conversations.create()
    first = await client.responses.create(
        model="echo", input=[{"role": "user", "content": parts}], conversation=conversation.id
    )
    assert "1 image" in first.output_text
    await client.responses.create(model="echo", input="and?", conversation=conversation.id)
    assert proxy.upstream.requests[-1].json["input"][0]["content"] == parts


async def test_a_history_of_10000_items_is_injected_whole_and_in_order(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"max_input_items": 10_000})
    client = proxy.client()
    first = await client.responses.create(
        model="echo", input=[{"role": "user", "content": f"n{i}"} for i in range(10_000)]
    )
    await client.responses.create(model="echo", input="last", previous_response_id=first.id)
    got = texts(sent(proxy))
    assert got[:10_000] == [f"n{i}" for i in range(10_000)]
    assert len(got) == 10_002


async def test_responses_that_are_no_background_ones_cannot_be_cancelled_or_resumed(proxy: Proxy):
    client = proxy.client()
    response = await client.responses.create(model="echo", input="hi")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.cancel(response.id)
    assert "Cannot cancel a synchronous response." in refused.value.message
    status, answer = await proxy.call("GET", f"/v1/responses/{response.id}?stream=true")
    assert (status, answer["error"]["param"]) == (400, "stream")
    for method, tail in (("POST", "/cancel"), ("GET", ""), ("GET", "/input_items"), ("DELETE", "")):
        status, answer = await proxy.call(method, f"/v1/responses/{response.id}{tail}", key="sk-bob")
        assert (status, answer["error"]["code"]) == (404, None)
