"""Histories: what is stored goes back to a model in the form in which it takes it, and every conversation can go on.

The model server of these tests refuses what real ones refuse (`tests.model_rules`); each test names one of its reasons.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import items_of, new_conversation
from tests.model_rules import refuse
from tests.upstream import Reply

Item = dict[str, Any]
ALICE = {"Authorization": "Bearer sk-alice"}
SEAL = "gAAAAABo-thinker-0123456789abcdef"
SUMMARY = [{"type": "summary_text", "text": "I thought about it."}]
PLAIN_THOUGHT = [{"type": "reasoning_text", "text": "Let me see."}]


def user(text: str) -> Item:
    return {"role": "user", "content": text}


def said(text: str, item_id: str = "msg_up") -> Item:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": content}


def thought(seal: str | None = SEAL, **fields: Any) -> Item:
    item = {"type": "reasoning", "id": "rs_up", "summary": [], **fields}
    return item if seal is None else {**item, "encrypted_content": seal}


def call(call_id: str = "call_1", arguments: str = '{"city":"Rome"}', **fields: Any) -> Item:
    item = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "look", "status": "completed"}
    return {**item, "arguments": arguments, **fields}


def result(call_id: str = "call_1", output: str = "42") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def answers(*output: Item, status: str = "completed", **fields: Any) -> Reply:
    body = {"id": "resp_up", "object": "response", "status": status, "output": list(output), "usage": {}}
    return Reply.json(200, {**body, **fields})


async def turn(proxy: Proxy, text: Any, *output: Item, model: str = "thinker", **fields: Any) -> Any:
    """Take a turn; the model answers with `output`, or says "Well."."""
    proxy.upstream.script(answers(*(output or (said("Well."),))))
    status, response = await proxy.call("POST", "/v1/responses", {"model": model, "input": text, **fields})
    assert status == 200, response
    return response


def sent(proxy: Proxy, at: int = -1) -> list[Item]:
    items: list[Item] = proxy.upstream.requests[at].json["input"]
    return items


def kinds(items: list[Item]) -> list[str]:
    return [item.get("role") or item["type"] for item in items]


async def delete(proxy: Proxy, conversation: str, item: Item, query: str = "") -> None:
    status, answer = await proxy.call("DELETE", f"/v1/conversations/{conversation}/items/{item['id']}{query}")
    assert status == 200, answer


async def add(proxy: Proxy, conversation: str, *items: Item) -> tuple[int, Any]:
    return await proxy.call("POST", f"/v1/conversations/{conversation}/items", {"items": list(items)})


# Reasoning, and who made it.


async def test_a_seal_goes_to_the_model_that_made_it_and_to_no_other(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(summary=SUMMARY), said("1"), conversation=conversation)
    await turn(proxy, "two", conversation=conversation)
    assert sent(proxy)[1] == {"type": "reasoning", "encrypted_content": SEAL, "summary": SUMMARY}
    await turn(proxy, "three", conversation=conversation, model="other")
    assert sent(proxy)[1] == {"type": "reasoning", "summary": SUMMARY}
    assert len(proxy.upstream.requests) == 3
    await turn(proxy, "four", conversation=conversation)
    assert sent(proxy)[1]["encrypted_content"] == SEAL
    shown = await items_of(proxy, conversation, "&include[]=reasoning.encrypted_content")
    assert (shown[1]["encrypted_content"], shown[1]["summary"]) == (SEAL, SUMMARY)


async def test_sealed_reasoning_without_a_summary_is_nothing_to_another_model(proxy: Proxy):
    first = await turn(proxy, "one", thought(), said("1"))
    second = await turn(proxy, "two", previous_response_id=first["id"], model="other")
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]
    await turn(proxy, "three", previous_response_id=second["id"])
    assert kinds(sent(proxy))[:3] == ["user", "reasoning", "assistant"]


async def test_a_model_is_known_by_the_name_that_it_calls_itself(proxy: Proxy):
    proxy.upstream.script(answers(thought(), said("1"), model="thinker-2026-08-07"))
    _, first = await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": "one"})
    proxy.upstream.rules.strict = False
    await turn(proxy, "two", previous_response_id=first["id"], model="thinker-2026-08-07")
    assert sent(proxy)[1]["encrypted_content"] == SEAL


async def test_what_another_server_made_is_another_s(start_proxy: StartProxy):
    proxy, elsewhere = await start_proxy(), await start_proxy()
    first = await turn(proxy, "one", thought(), said("1"))
    await turn(elsewhere, "two", previous_response_id=first["id"])
    assert kinds(sent(elsewhere)) == ["user", "assistant", "user"]


async def test_the_maker_goes_along_when_an_item_is_named_elsewhere(proxy: Proxy):
    first = await turn(proxy, "one", thought(), said("1"))
    conversation = await new_conversation(proxy)
    named = [{"id": item["id"]} for item in first["output"]]
    assert (await add(proxy, conversation, *named))[0] == 200
    await turn(proxy, "two", conversation=conversation)
    assert kinds(sent(proxy)) == ["reasoning", "assistant", "user"]
    await turn(proxy, "three", conversation=conversation, model="other")
    assert kinds(sent(proxy)) == ["assistant", "user", "assistant", "user"]
    await turn(proxy, [*named, user("four")], model="other")
    assert kinds(sent(proxy)) == ["assistant", "user"]


async def test_the_maker_is_in_an_export_and_comes_back_with_it(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(), said("1"), conversation=conversation)
    one = f"{proxy.url}/v1/conversations/{conversation}"
    async with proxy.http.get(f"{one}/export", headers=ALICE) as answer:
        file = await answer.read()
    (noted,) = [line for line in map(orjson.loads, file.splitlines()) if line.get("note")]
    assert noted["item"]["encrypted_content"] == SEAL
    assert '"thinker"' in noted["note"]
    await proxy.call("DELETE", f"/v1/conversations/{conversation}")
    headers = {**ALICE, "Content-Type": "application/x-ndjson"}
    async with proxy.http.post(f"{proxy.url}/v1/conversations/import", data=file, headers=headers) as answer:
        assert answer.status == 201, await answer.text()
    for model, expected in (("thinker", ["user", "reasoning", "assistant"]), ("other", ["user", "assistant", "user"])):
        await turn(proxy, "two", conversation=conversation, model=model)
        assert kinds(sent(proxy))[:3] == expected


async def test_unstored_turns_on_a_websocket_know_who_made_what(proxy: Proxy):
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=ALICE) as socket:
        previous = None
        for text, model in (("one", "thinker"), ("two", "other"), ("three", "thinker")):
            proxy.upstream.script(answers(thought(f"seal-of-{model}"), said("1")))
            body = {"type": "response.create", "model": model, "input": text, "store": False}
            await socket.send_json(body | {"previous_response_id": previous})
            while (event := await socket.receive_json())["type"] != "response.completed":
                assert event["type"] != "error", event
            previous = event["response"]["id"]
    assert kinds(sent(proxy, 1)) == ["user", "assistant", "user"]
    assert kinds(sent(proxy, 2)) == ["user", "reasoning", "assistant", "user", "assistant", "user"]


async def test_a_lost_seal_is_left_out_after_the_first_refusal_and_what_is_made_later_is_sent(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(), said("1"), conversation=conversation)
    proxy.upstream.rules.lost_seals.add(SEAL)
    await turn(proxy, "two", thought("gAAAAABo-new-0123456789abcdef"), said("2"), conversation=conversation)
    assert len(proxy.upstream.requests) == 3
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]
    await turn(proxy, "three", conversation=conversation)
    assert len(proxy.upstream.requests) == 4
    assert kinds(sent(proxy)) == ["user", "assistant", "user", "reasoning", "assistant", "user"]


async def test_a_seal_that_is_refused_in_the_middle_of_an_answer_is_left_out_of_the_next(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(), said("1"), conversation=conversation)
    error = {"code": "invalid_encrypted_content", "message": f"The encrypted content {SEAL[:4]} could not be verified."}
    failed = {"id": "resp_up", "status": "failed", "error": error, "output": []}
    told = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "We"}
    proxy.upstream.script(Reply.sse([told, {"type": "response.failed", "response": failed}]))
    body = {"model": "thinker", "input": "two", "conversation": conversation}
    _, response = await proxy.call("POST", "/v1/responses", body)
    assert response["status"] == "failed"
    await turn(proxy, "two", conversation=conversation)
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "message",
    [
        "Reasoning input items can only be provided to a reasoning or computer use model. Remove reasoning items.",
        "unknown variant `reasoning`, expected one of `message`, `function_call`",
        "input[1]: unsupported item type 'reasoning'",
    ],
)
async def test_a_model_that_does_not_reason_is_asked_without_reasoning_and_remembered(proxy: Proxy, message: str):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(summary=SUMMARY), said("1"), conversation=conversation)
    proxy.upstream.script(Reply.json(*refuse(message)))
    for count in (3, 4):
        await turn(proxy, "two", conversation=conversation, model="plain")
        assert len(proxy.upstream.requests) == count
        assert "reasoning" not in kinds(sent(proxy))
    await turn(proxy, "three", conversation=conversation)
    assert "reasoning" in kinds(sent(proxy))


async def test_a_client_s_own_reasoning_is_the_client_s_to_put_right(proxy: Proxy):
    proxy.upstream.rules.plain_models.add("plain")
    own = [user("one"), thought(), said("1", "msg_1"), user("two")]
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "plain", "input": own})
    assert (status, len(proxy.upstream.requests)) == (400, 1)
    assert answer["message"].startswith("Reasoning input items")


async def test_readable_thoughts_go_back_to_their_maker_and_not_to_others(proxy: Proxy):
    first = await turn(proxy, "one", thought(None, content=PLAIN_THOUGHT), said("1"))
    second = await turn(proxy, "two", previous_response_id=first["id"])
    assert sent(proxy)[1] == first["output"][0]
    await turn(proxy, "three", previous_response_id=second["id"], model="other")
    assert "reasoning" not in kinds(sent(proxy))


@pytest.mark.parametrize("status", ["completed", "in_progress", None])
async def test_reasoning_goes_back_without_a_status(proxy: Proxy, status: str | None):
    first = await turn(proxy, "one", thought(status=status, summary=SUMMARY), said("1"))
    second = await turn(proxy, "two", previous_response_id=first["id"])
    assert "status" not in sent(proxy)[1]
    own = [thought(status=status), said("3", "msg_3"), user("four")]
    await turn(proxy, own, previous_response_id=second["id"])
    assert kinds(sent(proxy))[-3:] == ["reasoning", "assistant", "user"]


async def test_reasoning_that_is_only_an_id_is_not_sent(proxy: Proxy):
    first = await turn(proxy, "one", thought(None), said("1"))
    await turn(proxy, "two", previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]
    await turn(
        proxy, [user("a"), {"type": "reasoning", "id": "rs_theirs", "summary": []}, said("b", "msg_b"), user("c")]
    )
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]


@pytest.mark.parametrize("query", ["", "?mode=branch", "?mode=branch&cascade=true"])
@pytest.mark.parametrize("output", [(said("1"),), (call(),), (said("1"), call()), (said("1"), said("2", "msg_2"))])
async def test_reasoning_whose_follower_was_deleted_is_not_sent(proxy: Proxy, query: str, output: tuple[Item, ...]):
    conversation = await new_conversation(proxy)
    response = await turn(proxy, "one", thought(), *output, conversation=conversation)
    await delete(proxy, conversation, response["output"][1], query)
    called = "cascade" not in query and output[-1]["type"] == "function_call" and len(output) > 1
    await turn(proxy, [result(), user("two")] if called else "two", conversation=conversation)
    assert "reasoning" not in kinds(sent(proxy))
    await turn(proxy, "three", conversation=conversation)


async def test_reasoning_at_the_end_of_a_fork_is_not_sent(proxy: Proxy):
    conversation = await new_conversation(proxy)
    response = await turn(proxy, "one", thought(), said("1"), conversation=conversation)
    place = {"id": conversation, "fork_from": response["output"][0]["id"], "branch": "b"}
    await turn(proxy, "two", conversation=place)
    assert kinds(sent(proxy)) == ["user", "user"]


async def test_reasoning_that_a_client_has_brought_alone_waits_for_what_follows(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await add(proxy, conversation, user("one"), thought())
    await turn(proxy, "two", conversation=conversation)
    assert kinds(sent(proxy)) == ["user", "user"]
    other = await new_conversation(proxy)
    await add(proxy, other, user("one"), thought())
    await add(proxy, other, said("1", "msg_1"))
    await turn(proxy, "two", conversation=other)
    assert kinds(sent(proxy)) == ["user", "reasoning", "assistant", "user"]


async def test_a_compaction_that_another_model_can_t_read_stands_for_nothing(start_proxy: StartProxy):
    proxy = await start_proxy(compaction={"upstream": "native"})
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", conversation=conversation)
    compaction = {"type": "compaction", "id": "cmp_up", "encrypted_content": SEAL}
    await turn(proxy, "two", compaction, said("2"), conversation=conversation)
    await turn(proxy, "three", conversation=conversation)
    assert kinds(sent(proxy)) == ["user", "compaction", "assistant", "user"]
    await turn(proxy, "four", conversation=conversation, model="other")
    assert kinds(sent(proxy)) == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    proxy.upstream.rules.lost_seals.add(SEAL)
    await turn(proxy, "five", conversation=conversation)
    assert "compaction" not in kinds(sent(proxy))
    assert sent(proxy)[0]["content"][0]["text"] == "one"


# Calls and their outputs.


@pytest.mark.parametrize("stored_as", ["conversation", "previous_response_id"])
async def test_a_call_that_was_cut_is_kept_and_not_sent(proxy: Proxy, stored_as: str):
    conversation = await new_conversation(proxy)
    source = {"conversation": conversation} if stored_as == "conversation" else {}
    cut = call(arguments='{"city":"Ro', status="incomplete")
    details = {"incomplete_details": {"reason": "max_output_tokens"}}
    proxy.upstream.script(answers(said("1"), cut, status="incomplete", **details))
    _, first = await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": "one", **source})
    assert kinds(first["output"]) == ["assistant", "function_call"]
    source = source or {"previous_response_id": first["id"]}
    second = await turn(proxy, "two", **source)
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]
    _, page = await proxy.call("GET", f"/v1/responses/{second['id']}/input_items?order=asc")
    assert page["data"][2]["arguments"] == '{"city":"Ro'


@pytest.mark.parametrize("arguments", ['{"city":"Ro', "city=Rome", "{'city': 'Rome'}", '{"a":{"b":1}'])
async def test_arguments_that_are_no_json_never_go_out_as_a_call(proxy: Proxy, arguments: str):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", call(arguments=arguments), conversation=conversation)
    await turn(proxy, [result(output="error: no JSON"), user("two")], conversation=conversation)
    assert kinds(sent(proxy)) == ["user", "user"]
    await turn(proxy, "three", call("call_2", arguments), conversation=conversation)
    # nobody has to answer it
    await turn(proxy, "four", conversation=conversation)
    assert "function_call" not in kinds(sent(proxy))
    assert kinds(await items_of(proxy, conversation)).count("function_call") == 2


async def test_a_call_without_arguments_has_an_empty_object(proxy: Proxy):
    first = await turn(proxy, "one", call(arguments=""))
    await turn(proxy, [result()], previous_response_id=first["id"])
    assert sent(proxy)[1]["arguments"] == "{}"


@pytest.mark.parametrize("query", ["", "?mode=branch"])
@pytest.mark.parametrize("gone", ["output", "call"])
async def test_half_of_a_pair_is_kept_and_not_sent(proxy: Proxy, query: str, gone: str):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", call(), call("call_2"), conversation=conversation)
    await turn(proxy, [result(), result("call_2")], conversation=conversation)
    items = await items_of(proxy, conversation)
    await delete(proxy, conversation, items[3 if gone == "output" else 1], query)
    for text in ("two", "three"):
        await turn(proxy, text, conversation=conversation)
        pairs = [item["call_id"] for item in sent(proxy) if "call_id" in item]
        assert pairs == ["call_2", "call_2"]
    left = [item["type"] for item in await items_of(proxy, conversation) if item.get("call_id") == "call_1"]
    assert left == ["function_call" if gone == "output" else "function_call_output"]


@pytest.mark.parametrize("where", ["conversation", "previous_response_id"])
async def test_a_call_that_waits_is_asked_for_by_its_id_and_its_item_s(proxy: Proxy, where: str):
    conversation = await new_conversation(proxy)
    first = await turn(proxy, "one", call(), **({"conversation": conversation} if where == "conversation" else {}))
    source = {where: conversation if where == "conversation" else first["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": "two", **source})
    item = first["output"][0]["id"]
    start = f"No tool output found for function call call_1. It is item '{item}' of the stored history: send its output"
    assert (status, answer["message"].startswith(start)) == (400, True)
    if where == "conversation":
        assert answer["message"].endswith(f"(DELETE /v1/conversations/{conversation}/items/{item}).")
    await turn(proxy, [result(), user("two")], **source)


async def test_a_call_of_the_request_itself_that_waits_is_told_by_its_id_alone(proxy: Proxy):
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": [call(), user("two")]})
    assert (status, answer["message"]) == (400, "No tool output found for function call call_1.")


async def test_a_call_that_waits_can_be_deleted(proxy: Proxy):
    conversation = await new_conversation(proxy)
    first = await turn(proxy, "one", call(), conversation=conversation)
    await delete(proxy, conversation, first["output"][0])
    await turn(proxy, "two", conversation=conversation)
    assert kinds(sent(proxy)) == ["user", "user"]


@pytest.mark.parametrize("kind", ["computer_call", "shell_call", "apply_patch_call", "local_shell_call"])
async def test_other_calls_without_output_are_not_sent_either(proxy: Proxy, kind: str):
    fields: dict[str, Item] = {
        "computer_call": {"action": {"type": "screenshot"}, "pending_safety_checks": []},
        "shell_call": {"action": {"commands": ["ls"]}, "environment": None},
        "apply_patch_call": {"operation": {"type": "delete_file", "path": "a"}},
        "local_shell_call": {"action": {"type": "exec", "command": ["ls"], "env": {}}},
    }
    made = {"type": kind, "id": "x_up", "call_id": "call_1", "status": "completed", **fields[kind]}
    first = await turn(proxy, "one", made)
    await turn(proxy, "two", previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "user"]
    said_of_it: Any = [] if kind == "shell_call" else "x"
    output = {"type": f"{kind}_output", "call_id": "call_1", "output": said_of_it, "status": "completed"}
    await turn(proxy, [output, user("two")], previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", kind, f"{kind}_output", "user"]


async def test_a_call_of_an_async_tool_is_sent_without_output(proxy: Proxy):
    tools = [{"type": "function", "name": "look", "parameters": {}, "async": True}]
    first = await turn(proxy, "one", call(), tools=tools)
    await turn(proxy, "two", previous_response_id=first["id"], tools=tools)
    assert kinds(sent(proxy)) == ["user", "function_call", "user"]
    await turn(proxy, "two", previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "user"]


async def test_unpaired_calls_go_on_where_they_are_not_checked(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"check_tool_calls": False})
    proxy.upstream.rules.strict = False
    first = await turn(proxy, "one", call())
    await turn(proxy, [result("call_9"), user("two")], previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "function_call", "function_call_output", "user"]


# Outputs that name the function only.


async def test_an_output_without_a_call_id_is_for_the_one_call_of_its_name_that_waits(proxy: Proxy):
    first = await turn(proxy, "one", call(), call("call_2", name="other"))
    named = {"type": "function_call_output", "name": "look", "output": "42"}
    await turn(proxy, [named, result("call_2")], previous_response_id=first["id"])
    assert [item.get("call_id") for item in sent(proxy)] == [None, "call_1", "call_2", "call_1", "call_2"]
    assert "name" not in sent(proxy)[3]


@pytest.mark.parametrize("name", ["look", "nobody", None])
async def test_an_output_that_could_be_for_several_calls_is_refused(proxy: Proxy, name: str | None):
    first = await turn(proxy, "one", call(), call("call_2"))
    output = {"type": "function_call_output", "output": "42", **({"name": name} if name else {})}
    body = {"model": "thinker", "input": [output], "previous_response_id": first["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["code"]) == (400, "missing_required_parameter")
    assert answer["error"]["param"] == "input[0].call_id"
    assert len(proxy.upstream.requests) == 1


async def test_an_output_without_a_call_id_is_added_to_a_conversation_too(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", call(), conversation=conversation)
    named = {"type": "function_call_output", "name": "look", "output": "42"}
    status, page = await add(proxy, conversation, named)
    assert (status, page["data"][0]["call_id"]) == (200, "call_1")
    assert (await add(proxy, conversation, named))[1]["code"] == "missing_required_parameter"
    await turn(proxy, "two", conversation=conversation)
    created = {"items": [call("call_9"), {**named, "output": "43"}]}
    assert (await proxy.call("POST", "/v1/conversations", created))[0] == 200
    assert (await proxy.call("POST", "/v1/conversations", {"items": [named]}))[0] == 400


# The form of items.

PICTURE = {
    "type": "image_generation_call",
    "id": "ig_up",
    "status": "completed",
    "result": "aGVsbG8=",
    "action": "generate",
    "background": "opaque",
    "output_format": "png",
    "quality": "high",
    "size": "1024x1024",
    "revised_prompt": "A cat.",
}


async def test_a_picture_goes_back_without_what_is_only_of_answers(proxy: Proxy):
    first = await turn(proxy, "draw", PICTURE)
    assert first["output"][0]["revised_prompt"] == "A cat."
    await turn(proxy, "again", previous_response_id=first["id"])
    assert sent(proxy)[1].keys() == {"type", "id", "status", "result"}


async def test_a_picture_that_was_not_made_is_not_sent(proxy: Proxy):
    first = await turn(proxy, "draw", {**PICTURE, "result": None, "status": "failed"}, said("No."))
    await turn(proxy, "again", previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]


SHELL: list[Item] = [
    {
        "type": "shell_call",
        "id": "sh_up",
        "call_id": "call_1",
        "status": "completed",
        "action": {"commands": ["ls"]},
        "environment": None,
        "created_by": "model",
    },
    {
        "type": "shell_call_output",
        "id": "sho_up",
        "call_id": "call_1",
        "status": "completed",
        "max_output_length": 100,
        "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}, "created_by": "m"}],
        "created_by": "model",
    },
]


async def test_who_created_an_item_is_not_told_to_the_model(proxy: Proxy):
    first = await turn(proxy, "one", *SHELL, call(created_by="model"), conversation=await new_conversation(proxy))
    assert first["output"][0]["created_by"] == "model"
    await turn(proxy, [result()], previous_response_id=first["id"])
    assert b"created_by" not in proxy.upstream.requests[-1].body
    assert sent(proxy)[2]["output"][0]["outcome"] == {"type": "exit", "exit_code": 0}


async def test_a_computer_s_failure_is_no_status_of_an_input(proxy: Proxy):
    made = {"type": "computer_call", "id": "cu_up", "call_id": "call_1", "status": "completed"}
    first = await turn(proxy, "one", {**made, "action": {"type": "wait"}, "pending_safety_checks": []})
    output = {"type": "computer_call_output", "call_id": "call_1", "output": {}, "status": "failed"}
    await turn(proxy, [output], previous_response_id=first["id"])
    assert "status" not in sent(proxy)[2]


async def test_the_sources_of_a_search_are_sent_until_they_are_refused(proxy: Proxy):
    action = {"type": "search", "query": "cats", "sources": [{"type": "url", "url": "https://example.org"}]}
    search = {"type": "web_search_call", "id": "ws_up", "status": "completed", "action": action}
    first = await turn(proxy, "one", search, said("1"))
    await turn(proxy, "two", previous_response_id=first["id"])
    assert sent(proxy)[1]["action"] == action
    param = "input[1].action.sources"
    proxy.upstream.script(Reply.json(*refuse(f"Unknown parameter: '{param}'.", param, "unknown_parameter")))
    for count in (4, 5):
        await turn(proxy, "three", previous_response_id=first["id"])
        assert sent(proxy)[1]["action"] == {"type": "search", "query": "cats"}
        assert len(proxy.upstream.requests) == count


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("program", "cm"),
        ("program_output", "cmo"),
        ("multi_agent_call", "mac"),
        ("multi_agent_call_output", "maco"),
        ("agent_message", "amsg"),
        ("strange_thing", "strg"),
    ],
)
async def test_ids_have_the_prefixes_that_real_ones_have(proxy: Proxy, kind: str, prefix: str):
    made = {"type": kind, "id": f"{prefix}_up", "call_id": "call_1", "content": [{"type": "input_text", "text": "x"}]}
    first = await turn(proxy, "one", made, said("1"))
    assert first["output"][0]["id"].startswith(f"{prefix}_")
    assert len(first["output"][0]["id"]) > 50


async def test_an_item_of_an_unknown_type_that_never_had_an_id_is_sent_without_ours(proxy: Proxy):
    first = await turn(proxy, [{"type": "strange_thing", "x": 1}, user("one")])
    assert sent(proxy)[0] == {"type": "strange_thing", "x": 1}
    await turn(proxy, "two", previous_response_id=first["id"])
    assert sent(proxy)[0] == {"type": "strange_thing", "x": 1}


async def test_a_program_is_for_its_maker_and_its_calls_are_for_everybody(proxy: Proxy):
    caller = {"type": "program", "caller_id": "call_p"}
    program = {"type": "program", "id": "cm_up", "call_id": "call_p", "code": "look()", "fingerprint": "f"}
    first = await turn(proxy, "one", program, call(caller=caller))
    done = {"type": "program_output", "id": "cmo_up", "call_id": "call_p", "result": "42", "status": "completed"}
    output = {**result(), "caller": caller}
    second = await turn(proxy, [output], done, said("42"), previous_response_id=first["id"])
    await turn(proxy, "two", previous_response_id=second["id"])
    assert kinds(sent(proxy))[1:5] == ["program", "function_call", "function_call_output", "program_output"]
    await turn(proxy, "two", previous_response_id=second["id"], model="other")
    assert kinds(sent(proxy))[1:3] == ["function_call", "function_call_output"]
    assert not any("caller" in item for item in sent(proxy))


async def test_sealed_words_between_agents_are_for_their_maker(proxy: Proxy):
    sealed = {"type": "encrypted_content", "encrypted_content": SEAL}
    words = {"type": "agent_message", "id": "amsg_up", "author": "a", "recipient": "b"}
    parts = [{"type": "input_text", "text": "hello"}, sealed]
    first = await turn(proxy, "one", {**words, "content": parts}, {**words, "content": [sealed]}, said("1"))
    await turn(proxy, "two", previous_response_id=first["id"])
    assert [item.get("content") for item in sent(proxy)[1:3]] == [parts, [sealed]]
    await turn(proxy, "two", previous_response_id=first["id"], model="other")
    assert kinds(sent(proxy)) == ["user", "agent_message", "assistant", "user"]
    assert sent(proxy)[1]["content"] == parts[:1]


# Ids.


async def test_an_item_that_was_added_twice_is_sent_once(proxy: Proxy):
    first = await turn(proxy, "one")
    conversation = await new_conversation(proxy)
    named = {"id": first["output"][0]["id"]}
    status, page = await add(proxy, conversation, named, user("x"), named)
    assert (status, len(page["data"])) == (200, 3)
    await turn(proxy, "two", conversation=conversation)
    assert kinds(sent(proxy)) == ["assistant", "user", "user"]


async def test_a_new_id_twice_in_one_request_is_refused(proxy: Proxy):
    conversation = await new_conversation(proxy)
    twice = [{**user(text), "id": "msg_new"} for text in ("a", "b")]
    for status, answer in (
        await add(proxy, conversation, *twice),
        await proxy.call("POST", "/v1/conversations", {"items": twice}),
    ):
        assert (status, answer["code"], answer["error"]["param"]) == (400, "duplicate_item", "items[1].id")
        assert "msg_new" in answer["message"]
    assert await items_of(proxy, conversation) == []


@pytest.mark.parametrize("where", ["conversation", "previous_response_id"])
async def test_a_client_s_own_id_for_something_else_is_refused(proxy: Proxy, where: str):
    conversation = await new_conversation(proxy)
    first = await turn(
        proxy, [{**user("a"), "id": "msg_user"}], **({"conversation": conversation} if where == "conversation" else {})
    )
    source = {where: conversation if where == "conversation" else first["id"]}
    body = {"model": "thinker", "input": [{**user("b"), "id": "msg_user"}], **source}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["code"], answer["error"]["param"]) == (400, "duplicate_item", "input[0].id")
    assert "msg_user" in answer["message"]
    assert len(proxy.upstream.requests) == 1
    # the same again is the stored one
    await turn(proxy, [{**user("a"), "id": "msg_user"}, user("b")], **source)
    assert [item.get("content", [{}])[0].get("text") for item in sent(proxy)] == ["a", "Well.", "b"]


async def test_a_client_s_own_id_in_another_conversation_is_another_item(proxy: Proxy):
    for text in ("a", "b"):
        conversation = await new_conversation(proxy)
        await turn(proxy, [{**user(text), "id": "msg_1"}], conversation=conversation)
        assert sent(proxy)[0]["content"][0]["text"] == text


async def test_a_client_s_own_id_for_something_else_is_not_added(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await add(proxy, conversation, {**user("a"), "id": "msg_1"})
    status, answer = await add(proxy, conversation, {**user("b"), "id": "msg_1"})
    assert (status, answer["code"]) == (400, "duplicate_item")
    status, answer = await add(proxy, conversation, {**user("a"), "id": "msg_1"})
    assert (status, answer["code"]) == (400, "item_already_in_conversation")


async def test_an_id_that_was_minted_here_stands_for_its_item_whatever_comes_with_it(start_proxy: StartProxy):
    # where histories are recorded other words are the app's own edit, see tests/flows/recording
    proxy = await start_proxy(recording={"mode": "off"})
    first = await turn(proxy, "one")
    changed = {**first["output"][0], "content": [{"type": "output_text", "text": "other"}]}
    await turn(proxy, [changed, user("two")])
    assert sent(proxy)[0] == first["output"][0]


# What is asked for here is not the client's fault.


FIELD_REFUSALS: list[tuple[int, Any]] = [
    refuse("Encrypted content is not supported with this model.", "include"),
    refuse("Encrypted content is not supported with this model."),
    (400, {"error": {"message": "unrecognized field", "param": "include[0]", "code": "unknown_parameter"}}),
    (
        422,
        {"detail": [{"loc": ["body", "include"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]},
    ),
    (422, {"detail": [{"loc": ["body", "include", 0], "msg": "Input should be 'x'", "type": "literal_error"}]}),
    (400, {"message": "the parameter `include` can't be used here", "type": "BadRequestError", "code": 400}),
    (400, {"error": 'json: unknown field "include"'}),
    (400, {"error": {"code": "include_not_supported", "message": "include is not supported"}}),
    (501, {"error": {"message": "include: not implemented"}}),
]


@pytest.mark.parametrize(("status", "refusal"), FIELD_REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_is_never_told_of_an_include_that_it_did_not_send(
    proxy: Proxy, status: int, refusal: Any, stream: bool
):
    proxy.upstream.rules.refused_fields["include"] = (status, refusal)
    for count in (2, 3):
        await (streamed(proxy, "one") if stream else turn(proxy, "one"))
        assert len(proxy.upstream.requests) == count
        assert "include" not in proxy.upstream.requests[-1].json


async def streamed(proxy: Proxy, text: str) -> None:
    body = {"model": "thinker", "input": text, "stream": True}
    proxy.upstream.script(answers(said("Well.")))
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=ALICE) as answer:
        assert (answer.status, b"response.completed" in await answer.read()) == (200, True)


async def test_several_fields_are_taken_out_one_after_the_other(proxy: Proxy):
    for field in ("include", "store"):
        proxy.upstream.rules.refused_fields[field] = refuse(
            f"Unknown parameter: '{field}'.", field, "unknown_parameter"
        )
    for count in (3, 4):
        await turn(proxy, "one")
        assert len(proxy.upstream.requests) == count
        assert proxy.upstream.requests[-1].json.keys() == {"model", "input"}


async def test_a_field_is_remembered_for_its_model_only(proxy: Proxy):
    proxy.upstream.rules.refused_fields["include"] = refuse("no include", "include")
    await turn(proxy, "one")
    await turn(proxy, "one", model="other")
    assert len(proxy.upstream.requests) == 4


async def test_the_client_s_own_includes_stay_when_ours_is_refused(proxy: Proxy):
    proxy.upstream.script(Reply.json(*refuse("Encrypted content is not supported with this model.", "include")))
    await turn(proxy, "one", include=["web_search_call.results"])
    assert [request.json["include"] for request in proxy.upstream.requests] == [
        ["web_search_call.results", "reasoning.encrypted_content"],
        ["web_search_call.results"],
    ]


async def test_a_field_that_the_client_did_send_is_its_own_matter(proxy: Proxy):
    proxy.upstream.rules.refused_fields["include"] = refuse("no include", "include")
    body = {"model": "thinker", "input": "x", "include": ["reasoning.encrypted_content"]}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["message"], len(proxy.upstream.requests)) == (400, "no include", 1)


async def test_a_refusal_that_only_happens_to_use_the_word_is_told_and_not_remembered(proxy: Proxy):
    proxy.upstream.script(*[Reply.json(*refuse("Please include a longer text.", "input"))] * 2)
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": "x"})
    assert (status, answer["message"]) == (400, "Please include a longer text.")
    await turn(proxy, "one")
    assert "include" in proxy.upstream.requests[-1].json


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_refusals_about_something_else_are_told_at_once(proxy: Proxy, status: int):
    proxy.upstream.script(Reply.json(status, {"error": {"message": "You may not include or store that."}}))
    assert (await proxy.call("POST", "/v1/responses", {"model": "thinker", "input": "x"}))[0] == status
    assert len(proxy.upstream.requests) == 1


async def test_a_summary_is_asked_for_again_without_what_its_model_does_not_know(proxy: Proxy):
    for field in ("max_output_tokens", "store"):
        proxy.upstream.rules.refused_fields[field] = refuse(f"Unsupported parameter: {field}", field)
    proxy.upstream.script(answers(said("SUMMARY")))
    body = {"model": "thinker", "input": "word " * 50}
    status, answer = await proxy.call("POST", "/v1/responses/compact", body)
    assert (status, answer.get("error")) == (200, None)
    assert "max_output_tokens" not in proxy.upstream.requests[-1].json


# What the client is told of what it is to blame for.


async def test_a_place_in_the_input_is_counted_as_the_client_counts_it(proxy: Proxy):
    first = await turn(proxy, "one")
    own = [first["output"][0], user("two"), user("three")]
    place = "input[3].content[0].text"
    proxy.upstream.script(Reply.json(*refuse(f"Invalid '{place}': string too long.", place, "string_above_max_length")))
    body = {"model": "thinker", "input": own, "previous_response_id": first["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["error"]["param"]) == (400, "input[2].content[0].text")
    assert answer["message"] == "Invalid 'input[2].content[0].text': string too long."


async def test_a_place_of_a_validation_error_is_translated_too(proxy: Proxy):
    first = await turn(proxy, "one")
    detail = [{"loc": ["body", "input", 2, "content"], "msg": "Field required", "type": "missing"}]
    proxy.upstream.script(Reply.json(422, {"detail": detail}))
    body = {"model": "thinker", "input": [user("two")], "previous_response_id": first["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["message"]) == (422, "body.input[0].content: Field required")


@pytest.mark.parametrize("path", ["compact", "input_tokens"])
async def test_places_are_counted_in_the_same_way_at_other_endpoints(proxy: Proxy, path: str):
    first = await turn(proxy, "one")
    refusal = Reply.json(*refuse("Invalid 'input[2].content'.", "input[2].content"))
    proxy.upstream.script(refusal, path=f"/v1/responses/{path}")
    body = {"model": "thinker", "input": [user("two")], "previous_response_id": first["id"]}
    status, answer = await proxy.call("POST", f"/v1/responses/{path}", body)
    assert (status, answer["error"]["param"]) == (400, "input[0].content")
    assert answer["message"] == "Invalid 'input[0].content'."


@pytest.mark.parametrize("where", ["conversation", "previous_response_id"])
async def test_where_the_history_is_at_fault_the_stored_item_is_named_and_what_to_do(proxy: Proxy, where: str):
    conversation = await new_conversation(proxy)
    picture = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"}
    asked = [{"role": "user", "content": [picture]}]
    own = {"conversation": conversation} if where == "conversation" else {}
    first = await turn(proxy, asked, **own)
    _, page = await proxy.call("GET", f"/v1/responses/{first['id']}/input_items")
    item = page["data"][0]["id"]
    place = "input[0].content[0].image_url"
    refusal = refuse(f"Invalid '{place}': this model does not see.", place, "invalid_value")
    proxy.upstream.script(Reply.json(*refusal))
    source = {where: conversation if where == "conversation" else first["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "blind", "input": "two", **source})
    assert (status, answer["error"]["param"], answer["code"]) == (400, where, "invalid_value")
    assert f"item '{item}' of the stored history" in answer["message"]
    if where == "conversation":
        assert f"DELETE /v1/conversations/{conversation}/items/{item}" in answer["message"]
        await delete(proxy, conversation, {"id": item})
        await turn(proxy, "two", conversation=conversation, model="blind")


# Numbers.

LONG = "12345678901234567890123"


async def test_integers_beyond_64_bits_arrive_as_they_were_sent(proxy: Proxy):
    schema = f'{{"type":"object","properties":{{"n":{{"type":"integer","maximum":{LONG}}}}}}}'
    item = f'{{"type":"strange_thing","n":-{LONG}}}'
    tool = f'{{"type":"function","name":"f","parameters":{schema}}}'
    text = f'{{"model":"thinker","tools":[{tool}],"input":[{item},{{"role":"user","content":"x"}}]}}'
    headers = {**ALICE, "Content-Type": "application/json"}
    proxy.upstream.script(answers(said("1")))
    async with proxy.http.post(f"{proxy.url}/v1/responses", data=text, headers=headers) as answer:
        body = await answer.read()
    assert schema.encode() in proxy.upstream.requests[-1].body
    assert schema.encode() in body
    response = orjson.loads(body)["id"]
    for path in (response, f"{response}?stream=true"):
        async with proxy.http.get(f"{proxy.url}/v1/responses/{path}", headers=ALICE) as answer:
            assert answer.status == 400 or schema.encode() in await answer.read()
    await turn(proxy, "two", previous_response_id=response)
    assert item.encode() in proxy.upstream.requests[-1].body
    accepted = {"model": "thinker", "input": "x", "background": True, "tools": [orjson.Fragment(tool)]}
    proxy.upstream.script(answers(said("2")))
    async with proxy.http.post(f"{proxy.url}/v1/responses", data=orjson.dumps(accepted), headers=headers) as answer:
        assert answer.status == 200
    assert schema.encode() in (await proxy.upstream.wait_for_requests(3))[-1].body


@pytest.mark.parametrize("stream", [False, True])
async def test_integers_beyond_64_bits_that_a_model_answers_are_told_stored_and_sent_again(proxy: Proxy, stream: bool):
    item, tools = f'{{"type":"strange_thing","id":"st_1","n":-{LONG}}}', f'[{{"type":"strange","maximum":{LONG}}}]'
    end = f'{{"id":"r","object":"response","status":"completed","tools":{tools},"output":[{item}],"usage":{{}}}}'
    events = [
        f'{{"type":"response.output_item.done","output_index":0,"item":{item}}}',
        f'{{"type":"response.completed","response":{end}}}',
    ]
    chunks = [f"data: {event}\n\n".encode() for event in events]
    reply = Reply.raw(200, "text/event-stream", chunks=chunks) if stream else None
    proxy.upstream.script(reply or Reply.raw(200, "application/json", end.encode()))
    asked = {"model": "thinker", "input": "one", "stream": stream}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=asked, headers=ALICE) as answer:
        told = await answer.read()
    response = told[told.index(b'"resp_') + 1 :].split(b'"')[0].decode()
    async with proxy.http.get(f"{proxy.url}/v1/responses/{response}", headers=ALICE) as answer:
        shown = await answer.read()
    await turn(proxy, "two", previous_response_id=response)
    for body in (told, shown):
        assert f'"maximum":{LONG}'.encode() in body
    for body in (told, shown, proxy.upstream.requests[-1].body):
        assert f'"n":-{LONG}'.encode() in body


# The same bytes every time.


async def test_the_history_is_the_same_bytes_from_turn_to_turn(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await turn(proxy, "one", thought(status="completed"), call(created_by="m"), conversation=conversation)
    await turn(proxy, [result()], PICTURE, said("2"), conversation=conversation)
    await turn(proxy, "three", call("call_2", '{"x'), *SHELL[:1], conversation=conversation)
    for text in ("four", "five", "six"):
        await turn(proxy, text, conversation=conversation)
    bodies = [request.body for request in proxy.upstream.requests[-3:]]
    for before, after in pairwise(bodies):
        assert after.startswith(before[: before.rindex(b"]")])
    await turn(proxy, "seven", conversation=conversation, model="other")
    await turn(proxy, "eight", conversation=conversation, model="other")
    before, after = (request.body for request in proxy.upstream.requests[-2:])
    assert after.startswith(before[: before.rindex(b"]")])
