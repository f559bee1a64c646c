"""Requests in the shapes that other clients send: the Vercel AI SDK, LangChain, Codex CLI. Sent raw."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import zstandard

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import items_of, new_conversation, respond, sent, stored_keys
from tests.flows.witness import Reading
from tests.items import kinds, texts
from tests.upstream import Reply

Item = dict[str, Any]

LOOK_UP: Item = {
    "type": "function",
    "name": "look_up",
    "description": "Tell the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
SEALED = ["reasoning.encrypted_content"]
THINKING: Item = {"reasoning": {"effort": "low", "summary": "auto"}}


def user(text: str) -> Item:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def reference(item: Item) -> Item:
    return {"type": "item_reference", "id": item["id"]}


def bare_call(item: Item) -> Item:
    """A function call as the AI SDK sends it again: in full, without its id."""
    return {key: item[key] for key in ("type", "call_id", "name", "arguments")}


def result(call: Item, output: str = "It rains.") -> Item:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": output}


async def streamed(proxy: Proxy, items: list[Item], **fields: Any) -> list[Item]:
    """Take a streamed turn and return its output."""
    async with Reading(proxy, {"input": items, **fields}) as reading:
        return list((await reading.end())["output"])


async def test_ai_sdk_refers_to_earlier_answers_instead_of_repeating_them(proxy: Proxy):
    history = [user("one")]
    for number in range(3):
        output = await streamed(proxy, history, **THINKING)
        assert kinds(output) == ["reasoning", "assistant"]
        history += [*map(reference, output), user(f"more {number}")]
    await streamed(proxy, history, **THINKING)
    got = sent(proxy)
    assert kinds(got) == ["user", "reasoning", "assistant"] * 3 + ["user"]
    assert [text for text in texts(got) if text.startswith("You said")] == [
        f'You said: "{text}" (I saw {3 * number} earlier items.)'
        for number, text in enumerate(("one", "more 0", "more 1"))
    ]


async def test_ai_sdk_repeats_function_calls_without_their_ids(proxy: Proxy):
    tools = {"tools": [LOOK_UP], "tool_choice": "auto", **THINKING}
    history = [user("call look_up Paris and call look_up Rome")]
    thought, *calls = await streamed(proxy, history, **tools)
    assert kinds(calls) == ["function_call"] * 2
    history += [reference(thought), *map(bare_call, calls), *map(result, calls)]
    thought, message = await streamed(proxy, history, **tools)
    assert "It rains." in message["content"][0]["text"]
    history += [reference(thought), reference(message), user("thanks")]
    await streamed(proxy, history, **tools)
    assert kinds(sent(proxy)) == [
        "user",
        "reasoning",
        *["function_call"] * 2,
        *["function_call_output"] * 2,
        "reasoning",
        "assistant",
        "user",
    ]


async def test_ai_sdk_refers_to_calls_that_the_provider_ran(proxy: Proxy):
    search = {
        "id": "ws_up",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "rain", "sources": []},
    }
    approval = {"id": "mcpr_up", "type": "mcp_approval_request", "server_label": "s", "name": "n", "arguments": "{}"}
    proxy.upstream.script(Reply.json(200, {"object": "response", "status": "completed", "output": [search, approval]}))
    output = await streamed(proxy, [user("search")])
    assert kinds(output) == ["web_search_call", "mcp_approval_request"]
    approved = {"type": "mcp_approval_response", "approval_request_id": output[1]["id"], "approve": True}
    await respond(proxy, input=[user("search"), *map(reference, output), approved])
    got = sent(proxy)
    assert got[1] == {**search, "id": output[0]["id"]}
    assert got[2] == {**approval, "id": output[1]["id"]}
    assert got[3]["approval_request_id"] == output[1]["id"]


async def test_ai_sdk_with_a_conversation_sends_what_is_new(proxy: Proxy):
    conversation = await new_conversation(proxy)
    for number in range(3):
        output = await streamed(proxy, [user(f"turn {number}")], conversation=conversation)
        assert f"I saw {2 * number} earlier item" in output[0]["content"][0]["text"]


async def test_ai_sdk_with_a_previous_response_still_refers_to_its_texts(proxy: Proxy):
    first = await respond(proxy, input=[user("one")])
    # items of the chain come again, as references and in full: the model gets each once
    again = [user("one"), reference(first["output"][0]), user("two")]
    await respond(proxy, input=again[1:], previous_response_id=first["id"])
    assert kinds(sent(proxy)) == ["user", "assistant", "user"]


async def test_ai_sdk_unstored_sends_reasoning_whole_under_the_ids_it_was_told(proxy: Proxy):
    unstored = {"store": False, "include": SEALED, **THINKING}
    history = [user("one")]
    for number in range(3):
        thought, message = await streamed(proxy, history, **unstored)
        assert thought["encrypted_content"]
        said = {"role": "assistant", "content": [{"type": "output_text", "text": message["content"][0]["text"]}]}
        history += [thought, {**said, "id": message["id"]}, user(f"more {number}")]
    await streamed(proxy, history, **unstored)
    assert kinds(sent(proxy)) == ["user", "reasoning", "assistant"] * 3 + ["user"]
    # the echo model, like OpenAI, refuses sealed reasoning under an id that is not its own
    assert [item["encrypted_content"] for item in sent(proxy) if item["type"] == "reasoning"] == [
        item["encrypted_content"] for item in history if item.get("type") == "reasoning"
    ]
    assert await stored_keys(proxy) == []


async def test_ai_sdk_references_of_another_caller_are_unknown(proxy: Proxy):
    output = await streamed(proxy, [user("mine")])
    body = {"model": "echo", "input": [reference(output[0])]}
    foreign = await proxy.call("POST", "/v1/responses", body, key="sk-bob")
    unknown = await proxy.call("POST", "/v1/responses", {**body, "input": [reference({"id": "msg_" + "0" * 50})]})
    for status, answer in (foreign, unknown):
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, None, "input")
    assert foreign[1]["error"]["message"].replace(output[0]["id"], "msg_" + "0" * 50) == unknown[1]["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_langchain_sends_the_whole_history_again_with_our_ids(proxy: Proxy, stream: bool):
    tools = {"tools": [LOOK_UP], **THINKING}

    async def turn() -> list[Item]:
        return (
            await streamed(proxy, history, **tools)
            if stream
            else (await respond(proxy, input=history, **tools))["output"]
        )

    history = [{"type": "message", **user("call look_up Paris")}]
    thought, call = await turn()
    bare_thought = {"type": "reasoning", "id": thought["id"], "summary": []}
    history += [bare_thought, {**bare_call(call), "id": call["id"]}, result(call)]
    second_thought, message = await turn()
    content = [{"type": "output_text", "text": message["content"][0]["text"], "annotations": []}]
    said = {"type": "message", "role": "assistant", "id": message["id"], "content": content}
    history += [{"type": "reasoning", "id": second_thought["id"], "summary": []}, said, user("thanks")]
    await turn()
    got = sent(proxy)
    assert kinds(got) == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "reasoning",
        "assistant",
        "user",
    ]
    # what LangChain left out is there again
    assert [item["summary"] for item in got if item["type"] == "reasoning"] == [
        thought["summary"],
        second_thought["summary"],
    ]
    assert all(item["encrypted_content"] for item in got if item["type"] == "reasoning")
    assert got[5] == message


async def test_langchain_names_an_image_by_its_id_alone(proxy: Proxy):
    image = {"id": "ig_up", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="}
    proxy.upstream.script(Reply.json(200, {"object": "response", "status": "completed", "output": [image]}))
    output = (await respond(proxy, input=[user("draw")]))["output"]
    named = {"type": "image_generation_call", "id": output[0]["id"]}
    await respond(proxy, input=[user("draw"), named, user("bigger")])
    assert sent(proxy)[1] == {**image, "id": output[0]["id"]}


async def test_langchain_takes_the_first_events_id_for_its_chain(proxy: Proxy):
    previous = None
    for number in range(3):
        body = {"input": [user(f"turn {number}")], "previous_response_id": previous}
        async with Reading(proxy, body) as reading:
            response = await reading.end()
        assert f"I saw {2 * number} earlier item" in response["output"][0]["content"][0]["text"]
        assert reading.events[0]["type"] == "response.created"
        previous = reading.events[0]["response"]["id"]
        assert previous.startswith("resp_")


async def test_langchain_replays_a_history_into_a_chain_that_has_it(proxy: Proxy):
    first = await respond(proxy, input=[user("one")], **THINKING)
    replay = [*first["output"], user("two")]
    second = await respond(proxy, input=replay, previous_response_id=first["id"], **THINKING)
    assert kinds(sent(proxy)) == ["user", "reasoning", "assistant", "user"]
    await respond(proxy, input=[*first["output"], *second["output"], user("three")], previous_response_id=second["id"])
    assert kinds(sent(proxy)) == ["user", "reasoning", "assistant"] * 2 + ["user"]


CODEX_HEADERS = {
    "Authorization": "Bearer sk-alice",
    "Accept": "text/event-stream",
    "Content-Type": "application/json",
    "User-Agent": "codex_cli_rs/0.60.1 (Ubuntu 24.4.0; x86_64) xterm",
    "originator": "codex_cli_rs",
    "session_id": "019a7f00-0000-7000-8000-000000000000",
    "conversation_id": "019a7f00-0000-7000-8000-000000000000",
    "OpenAI-Beta": "responses=experimental",
    "x-codex-turn-state": "opaque",
}


def codex_body(history: list[Item]) -> Item:
    return {
        "model": "echo",
        "instructions": "You are a coding agent.",
        "input": history,
        "tools": [LOOK_UP, {"type": "local_shell"}, {"type": "custom", "name": "apply_patch", "description": "Patch."}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": SEALED,
        "prompt_cache_key": "019a7f00-0000-7000-8000-000000000000",
        "text": {"verbosity": "low"},
    }


async def codex_turn(proxy: Proxy, history: list[Item], coding: str | None) -> list[Item]:
    """Take a turn as Codex does: collect the items as they get done, then look for the end."""
    data = orjson.dumps(codex_body(history))
    headers = dict(CODEX_HEADERS)
    if coding:
        data, headers["Content-Encoding"] = zstandard.ZstdCompressor().compress(data), coding
    async with proxy.http.post(f"{proxy.url}/v1/responses", data=data, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        lines = (await answer.read()).splitlines()
    events = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["usage"]["output_tokens_details"].keys() == {"reasoning_tokens"}
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def as_codex_replays(item: Item) -> Item:
    """Items go back without ids and status; reasoning with a null content."""
    replayed = {key: value for key, value in item.items() if key not in ("id", "status")}
    return {**replayed, "content": None} if item["type"] == "reasoning" else replayed


@pytest.mark.parametrize("coding", [None, "zstd"])
async def test_codex_keeps_its_own_history_and_the_proxy_none(proxy: Proxy, coding: str | None):
    history: list[Item] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
        {"type": "message", **user("call look_up Paris")},
    ]
    thought, call = await codex_turn(proxy, history, coding)
    history += [as_codex_replays(thought), as_codex_replays(call), result(call)]
    thought, message = await codex_turn(proxy, history, coding)
    assert "It rains." in message["content"][0]["text"]
    history += [as_codex_replays(thought), as_codex_replays(message), {"type": "message", **user("thanks")}]
    await codex_turn(proxy, history, coding)
    request = proxy.upstream.requests[-1]
    assert len(request.json["input"]) == len(history)
    assert [item.get("encrypted_content") for item in request.json["input"]] == [
        item.get("encrypted_content") for item in history
    ]
    expected = {key: value for key, value in codex_body([]).items() if key != "input"}
    assert {key: value for key, value in request.json.items() if key != "input"} == expected
    assert "Content-Encoding" not in request.headers
    for name, value in CODEX_HEADERS.items():
        assert request.headers[name] == value
    assert await stored_keys(proxy) == []


async def test_codex_sends_custom_tools_and_compactions(proxy: Proxy):
    history: list[Item] = [
        {"type": "message", **user("fix it")},
        {"type": "compaction", "encrypted_content": "gAAAA-opaque"},
        {"type": "custom_tool_call", "call_id": "call_patch", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "call_patch", "output": "ok"},
        {"type": "message", **user("go on")},
    ]
    await codex_turn(proxy, history, None)
    got = sent(proxy)
    assert kinds(got) == kinds(history)
    assert got[1]["encrypted_content"] == "gAAAA-opaque"


@pytest.mark.parametrize("name", ["aborted", "fco_6a7c1d1e-8f70-5b55-9d4e-1f0f6f3f2a11"])
async def test_codex_names_its_own_outputs_of_calls_that_were_aborted(proxy: Proxy, name: str):
    call = {"type": "function_call", "id": "fc_theirs", "call_id": "call_1", "name": "look_up", "arguments": "{}"}
    output = {"type": "function_call_output", "id": name, "call_id": "call_1", "output": "aborted"}
    await codex_turn(proxy, [user("hi"), call, output, user("go on")], None)
    assert [item.get("id") for item in sent(proxy)][1:3] == ["fc_theirs", name]


async def test_codex_answers_local_shell_calls_with_function_call_outputs(proxy: Proxy):
    history: list[Item] = [
        {"type": "message", **user("fix it")},
        {
            "type": "local_shell_call",
            "call_id": "call_shell",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        {"type": "function_call_output", "call_id": "call_shell", "output": "a.py"},
    ]
    proxy.upstream.script(Reply.sample("llama.cpp-plain-stream"))
    await codex_turn(proxy, history, None)
    assert kinds(sent(proxy)) == kinds(history)


async def test_codex_items_in_a_conversation_are_found_again(start_proxy: StartProxy):
    proxy = await start_proxy(conversations={"append_unstored": True})
    conversation = await new_conversation(proxy)
    async with Reading(proxy, {**codex_body([user("call look_up Paris")]), "conversation": conversation}) as reading:
        call = (await reading.end())["output"][-1]
    async with Reading(proxy, {**codex_body([result(call)]), "conversation": conversation}) as reading:
        assert "It rains." in (await reading.end())["output"][-1]["content"][0]["text"]
    assert kinds(await items_of(proxy, conversation)) == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "reasoning",
        "assistant",
    ]
