"""Compaction: a summary in the place of history, made here or by the model server, opened wherever it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest
from agents import Agent, OpenAIResponsesCompactionSession, OpenAIResponsesModel, RunConfig, Runner, SQLiteSession

from proxy.compaction.summary import INSTRUCTIONS
from proxy.config.settings import Secret
from proxy.echo import build_response
from proxy.echo.events import play
from proxy.echo.replies import Answer
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import settled
from tests.flows.witness import Reading, accept_response, accept_stored
from tests.items import kinds, user
from tests.upstream import CUT, HANG, Reply, Step

COMPACT = "/v1/responses/compact"
KEY = Secret("k" * 32)
#: A text of about 1,500 tokens.
LONG = "word " * 1500
MANAGED: dict[str, Any] = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
TRIGGER = {"type": "compaction_trigger"}

ALICE = {"Authorization": "Bearer sk-alice"}

Start = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def start(start_proxy: StartProxy) -> AsyncIterator[Start]:
    """Start a proxy with a key for what it seals, unless told otherwise."""

    async def start_with_key(**changes: Any) -> Proxy:
        return await start_proxy(**{"sealing": {"key": KEY}, **changes})

    return start_with_key  # type: ignore[return-value]


@pytest.fixture
async def proxy(start: Start) -> Proxy:
    """A proxy before a model server that knows nothing of compaction."""
    return await start()


def answer(text: str) -> dict[str, Any]:
    said = Answer(text, [], "", is_cut=False, input_tokens=100, output_tokens=10, reasoning_tokens=0)
    return build_response({"model": "echo"}, said)


def says(text: str, *steps: Step) -> Reply:
    """An answer of the model, streamed. steps: go before its last event."""
    events = list(play(answer(text)))
    return Reply.sse([*events[:-1], *steps, events[-1]])


def sent(proxy: Proxy, at: int = -1) -> list[str]:
    """A request's input by its texts; a summary's as `<text>`; other items by their type."""
    names = []
    for item in proxy.upstream.requests[at].json["input"]:
        text = "".join(part["text"] for part in item.get("content", [])) or item["type"]
        if text.startswith("<conversation_summary>"):
            assert item["role"] == "user"
            text = f"<{text.splitlines()[3]}>"
        names.append(text if text != INSTRUCTIONS else "SUMMARISE")
    return names


async def turn(proxy: Proxy, text: Any, *, stream: bool = False, key: str = "sk-alice", **fields: Any) -> Any:
    """Run one turn and return its response, streamed ones as a strict client read them."""
    body = {"model": "echo", "input": text, **fields}
    if stream:
        async with Reading(proxy, body) as reading:
            return await reading.end()
    status, response = await proxy.call("POST", "/v1/responses", body, key=key)
    assert status == 200, response
    accept_response(response)
    return response


async def refused(proxy: Proxy, body: Any, path: str = "/v1/responses", key: str = "sk-alice") -> tuple[Any, ...]:
    status, answered = await proxy.call("POST", path, {"model": "echo", **body}, key=key)
    return status, answered["code"], answered["error"]["param"]


async def compacted(proxy: Proxy, *, stream: bool = False) -> tuple[Any, Any]:
    """A chain of two turns of which the second compacts: both responses."""
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"))
    return first, await turn(proxy, "go on", stream=stream, previous_response_id=first["id"], **MANAGED)


# By a turn.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_over_the_threshold_goes_on_with_a_summary_of_what_was_before(proxy: Proxy, stream: bool):
    first, second = await compacted(proxy, stream=stream)
    assert kinds(second["output"]) == ["compaction", "assistant"]
    summary, asked = proxy.upstream.requests[-2].json, proxy.upstream.requests[-1].json
    assert sent(proxy, -2) == [LONG, first["output"][0]["content"][0]["text"], "SUMMARISE"]
    assert (summary["model"], summary["store"], summary["max_output_tokens"]) == ("echo", False, 8192)
    assert "tools" not in summary
    assert sent(proxy) == ["<SUM>", "go on"]
    assert "context_management" not in asked
    assert "I saw 1 earlier item." in second["output"][1]["content"][0]["text"]
    assert second["usage"]["input_tokens"] > 100
    await accept_stored(proxy, second)


@pytest.mark.parametrize("stream", [False, True])
async def test_later_turns_send_what_the_compacting_one_sent_and_the_store_keeps_all(proxy: Proxy, stream: bool):
    conversation = (await proxy.call("POST", "/v1/conversations", {}))[1]["id"]
    for text in ("one", LONG):
        await turn(proxy, text, conversation=conversation)
    proxy.upstream.script(says("SUM"))
    await turn(proxy, "go on", stream=stream, conversation=conversation, **MANAGED)
    body = proxy.upstream.requests[-1].body
    await turn(proxy, "and on", conversation=conversation, **MANAGED)
    assert sent(proxy) == ["<SUM>", "go on", 'You said: "go on" (I saw 1 earlier item.)', "and on"]
    start = body.index(b'"input":')
    assert body[start:-2] in proxy.upstream.requests[-1].body
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation}/items?order=asc&limit=100")
    expected = ["user", "assistant"] * 2 + ["user", "compaction", "assistant", "user", "assistant"]
    assert kinds(page["data"]) == expected


async def test_a_turn_under_the_threshold_is_left_alone(proxy: Proxy):
    first = await turn(proxy, "short")
    second = await turn(proxy, "go on", previous_response_id=first["id"], **MANAGED)
    assert kinds(second["output"]) == ["assistant"]
    assert "context_management" not in proxy.upstream.requests[-1].json
    assert len(proxy.upstream.requests) == 2


async def test_what_a_turn_asks_is_never_summarised(proxy: Proxy):
    response = await turn(proxy, LONG, **MANAGED)
    assert kinds(response["output"]) == ["assistant"]
    assert sent(proxy) == [LONG]


async def test_a_call_goes_on_with_its_output(proxy: Proxy):
    tools = [{"type": "function", "name": "look", "parameters": {}}]
    first = await turn(proxy, LONG)
    second = await turn(proxy, "call look x", previous_response_id=first["id"], tools=tools)
    call = second["output"][0]
    assert call["type"] == "function_call"
    proxy.upstream.script(says("SUM"))
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    third = await turn(proxy, [result], previous_response_id=second["id"], tools=tools, **MANAGED)
    assert sent(proxy, -2)[-2:] == ["call look x", "SUMMARISE"]
    assert sent(proxy) == ["<SUM>", "function_call", "function_call_output"]
    fourth = await turn(proxy, "on", previous_response_id=third["id"], tools=tools)
    assert sent(proxy)[:3] == ["<SUM>", "function_call", "function_call_output"]
    assert fourth["status"] == "completed"


async def test_messages_of_the_system_stay_as_they_are(proxy: Proxy):
    first = await turn(proxy, [{"role": "system", "content": "Rules."}, user(LONG)])
    proxy.upstream.script(says("SUM"))
    second = await turn(proxy, "go on", previous_response_id=first["id"], **MANAGED)
    assert sent(proxy) == ["Rules.", "<SUM>", "go on"]
    proxy.upstream.script(says("SUM2"))
    third = await turn(proxy, LONG, previous_response_id=second["id"], **MANAGED)
    assert sent(proxy, -2)[:2] == ["Rules.", "<SUM>"]
    assert sent(proxy) == ["Rules.", "<SUM2>", LONG]
    assert third["output"][0]["type"] == "compaction"


async def test_a_turn_in_the_background_compacts_too(proxy: Proxy):
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"))
    body = {"model": "echo", "input": "go on", "previous_response_id": first["id"], "background": True, **MANAGED}
    _, queued = await proxy.call("POST", "/v1/responses", {**body, "stream": False})
    assert queued["status"] == "queued"
    await proxy.upstream.wait_for_requests(3)
    response = queued
    while response["status"] in ("queued", "in_progress"):
        _, response = await proxy.call("GET", f"/v1/responses/{queued['id']}")
    assert kinds(response["output"]) == ["compaction", "assistant"]
    assert sent(proxy) == ["<SUM>", "go on"]


async def test_an_unstored_turn_of_a_websocket_is_gone_on_from_its_summary(proxy: Proxy):
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=ALICE) as socket:

        async def create(text: str, **fields: Any) -> dict[str, Any]:
            await socket.send_json(
                {"type": "response.create", "model": "echo", "store": False, "input": text, **fields}
            )
            while True:
                event = await socket.receive_json()
                if event["type"] == "response.completed":
                    response: dict[str, Any] = event["response"]
                    return response

        first = await create(LONG)
        proxy.upstream.script(says("SUM"))
        second = await create("go on", previous_response_id=first["id"], **MANAGED)
        assert kinds(second["output"]) == ["compaction", "assistant"]
        await create("and on", previous_response_id=second["id"])
    assert sent(proxy) == ["<SUM>", "go on", 'You said: "go on" (I saw 1 earlier item.)', "and on"]


async def test_a_stateless_client_sends_the_item_back_and_may_drop_all_before_it(proxy: Proxy):
    asked = [user(LONG), {"role": "assistant", "content": "Yes."}, user("go on")]
    proxy.upstream.script(says("SUM"))
    response = await turn(proxy, asked, store=False, **MANAGED)
    assert sent(proxy) == ["<SUM>", "go on"]
    for before in (asked, []):
        await turn(proxy, [*before, *response["output"], user("and on")], store=False, **MANAGED)
        assert sent(proxy) == ["<SUM>", "go on", 'You said: "go on" (I saw 1 earlier item.)', "and on"]


async def test_the_configured_model_and_text_make_the_summary(start: Start):
    proxy = await start(compaction={"model": "small", "instructions": "Be brief.", "max_summary_tokens": 99})
    await compacted(proxy)
    body = proxy.upstream.requests[-2].json
    assert (body["model"], body["max_output_tokens"]) == ("small", 99)
    assert sent(proxy, -2)[-1] == "Be brief."
    assert proxy.upstream.requests[-1].json["model"] == "echo"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_summary_that_is_refused_does_not_fail_the_turn(proxy: Proxy, stream: bool):
    first = await turn(proxy, LONG)
    proxy.upstream.script(Reply.json(429, {"error": {"message": "slow down"}}))
    second = await turn(proxy, "go on", stream=stream, previous_response_id=first["id"], **MANAGED)
    assert kinds(second["output"]) == ["assistant"]
    assert sent(proxy)[0] == LONG


async def test_a_summary_that_breaks_off_fails_only_a_stream(proxy: Proxy):
    first = await turn(proxy, LONG)
    fields = {"previous_response_id": first["id"], **MANAGED}
    proxy.upstream.script(says("SUM", CUT))
    assert kinds((await turn(proxy, "go on", **fields))["output"]) == ["assistant"]
    proxy.upstream.script(says("SUM", CUT))
    async with Reading(proxy, {"input": "go on", **fields}) as reading:
        while not reading.events or reading.events[-1]["type"] != "response.failed":
            reading.events.append(await reading._frame())
    failed = reading.events[-1]["response"]
    assert (failed["status"], failed["output"]) == ("failed", [])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_summary_is_asked_for_again_without_the_seal_that_is_refused_in_its_stream(proxy: Proxy, stream: bool):
    thought = {"type": "reasoning", "id": "rs_up", "summary": [], "encrypted_content": "gAAAAA"}
    said = answer("Hm.")
    proxy.upstream.script(Reply.json(200, {**said, "output": [thought, *said["output"]]}))
    first = await turn(proxy, LONG)
    error = {"type": "error", "code": "invalid_encrypted_content", "message": "It could not be verified."}
    proxy.upstream.script(Reply.sse([error]), says("SUM"))
    second = await turn(proxy, "go on", stream=stream, previous_response_id=first["id"], **MANAGED)
    assert kinds(second["output"]) == ["compaction", "assistant"]
    assert sent(proxy, -3) == [LONG, "reasoning", "Hm.", "SUMMARISE"]
    assert sent(proxy, -2) == [LONG, "Hm.", "SUMMARISE"]
    assert sent(proxy) == ["<SUM>", "go on"]


async def test_a_summary_in_two_responses_of_one_stream_is_all_of_it(proxy: Proxy):
    first = await turn(proxy, LONG)
    proxy.upstream.script(Reply.sse([*play(answer("One half")), *play(answer("and the other"))]))
    await turn(proxy, "go on", previous_response_id=first["id"], **MANAGED)
    summary = proxy.upstream.requests[-1].json["input"][0]
    assert "One half\n\nand the other" in summary["content"][0]["text"]


async def test_a_refusal_after_the_compaction_was_told_ends_the_stream(proxy: Proxy):
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"), Reply.json(429, {"error": {"message": "slow down"}}))
    failed = await turn(proxy, "go on", stream=True, previous_response_id=first["id"], **MANAGED)
    assert (failed["status"], kinds(failed["output"])) == ("failed", ["compaction"])
    assert failed["error"]["message"] == "slow down"
    again = await turn(proxy, "on", previous_response_id=first["id"])
    assert again["status"] == "completed"


async def test_a_json_answer_after_a_compaction_is_told_as_a_stream(proxy: Proxy):
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"), Reply.json(200, answer("Here.")))
    second = await turn(proxy, "go on", stream=True, previous_response_id=first["id"], **MANAGED)
    assert kinds(second["output"]) == ["compaction", "assistant"]
    assert second["output"][1]["content"][0]["text"] == "Here."


async def test_a_compaction_is_told_before_its_summary_is_written(proxy: Proxy):
    first = await turn(proxy, LONG)
    gate = asyncio.Event()
    proxy.upstream.script(says("SUM", gate))
    body = {"input": "go on", "previous_response_id": first["id"], **MANAGED}
    async with Reading(proxy, body) as reading:
        while not reading.events or reading.events[-1]["type"] != "response.compaction.compacting":
            reading.events.append(await reading._frame())
        gate.set()
        await reading.end()
    told = [event["type"].removeprefix("response.") for event in reading.events]
    assert told[:5] == ["created", "in_progress", "output_item.added", "compaction.compacting", "output_item.done"]
    assert told.count("in_progress") == 1
    assert [event["output_index"] for event in reading.events if "output_index" in event][:4] == [0, 0, 0, 1]


async def test_openai_s_own_reader_takes_the_stream(proxy: Proxy):
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"))
    async with proxy.client().responses.stream(
        model="echo", input="go on", previous_response_id=first["id"], **MANAGED
    ) as stream:
        seen = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.compaction.compacting" in seen
    assert [item.type for item in final.output] == ["compaction", "message"]


async def test_a_client_that_leaves_while_a_summary_is_written_leaves_nothing_behind(start: Start):
    proxy = await start(turns={"lock_wait_seconds": 10.0})
    before = [user(LONG), {"role": "assistant", "content": "Yes."}]
    conversation = (await proxy.call("POST", "/v1/conversations", {"items": before}))[1]["id"]
    proxy.upstream.script(says("SUM", HANG))
    body = {"model": "echo", "input": "go on", "stream": True, "conversation": conversation, **MANAGED}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=ALICE) as answered:
        async for line in answered.content:
            if b"compacting" in line:
                break
        answered.close()
    await proxy.upstream.client_left.wait()
    await settled(proxy)
    await turn(proxy, "again", conversation=conversation)
    assert sent(proxy) == [LONG, "Yes.", "again"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"context_management": {}}, (400, "invalid_type", "context_management")),
        ({"context_management": ["x"]}, (400, "invalid_type", "context_management[0]")),
        (
            {"context_management": [{"type": "compaction", "compact_threshold": "9"}]},
            (400, "invalid_type", "context_management[0].compact_threshold"),
        ),
        (
            {"context_management": [{"type": "compaction", "compact_threshold": 999}]},
            (400, "integer_below_min_value", "context_management[0].compact_threshold"),
        ),
        ({"input": [TRIGGER, user("x")]}, (400, "invalid_value", "input[0]")),
        ({"input": [TRIGGER]}, (400, None, "input")),
    ],
)
async def test_what_a_turn_asks_wrongly_is_refused(proxy: Proxy, fields: Any, expected: tuple[Any, ...]):
    assert await refused(proxy, {"input": "x", **fields}) == expected
    assert proxy.upstream.requests == []


# On demand.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trigger_makes_a_response_of_the_compaction_alone(proxy: Proxy, stream: bool):
    first = await turn(proxy, "remember 42")
    proxy.upstream.script(says("SUM"))
    asked = [user("and 43"), TRIGGER]
    second = await turn(proxy, asked, stream=stream, previous_response_id=first["id"])
    assert (second["status"], kinds(second["output"])) == ("completed", ["compaction"])
    assert sent(proxy) == ["remember 42", first["output"][0]["content"][0]["text"], "and 43", "SUMMARISE"]
    assert (second["model"], second["usage"]["total_tokens"]) == ("echo", 110)
    _, page = await proxy.call("GET", f"/v1/responses/{second['id']}/input_items?order=asc")
    assert kinds(page["data"]) == ["user", "assistant", "user"]
    await turn(proxy, "what?", previous_response_id=second["id"])
    assert sent(proxy) == ["<SUM>", "what?"]


async def test_a_trigger_whose_summary_fails_is_an_error(proxy: Proxy):
    proxy.upstream.script(Reply.json(429, {"error": {"message": "slow down"}}))
    assert await refused(proxy, {"input": [user("x"), TRIGGER], "stream": True}) == (429, None, None)
    proxy.upstream.script(says(""))
    assert await refused(proxy, {"input": [user("x"), TRIGGER]}) == (502, "upstream_error", None)
    cut = {**answer("SUM"), "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    proxy.upstream.script(Reply.json(200, cut))
    status, body = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": [user("x"), TRIGGER]})
    assert (status, body["code"]) == (502, "upstream_error")
    assert "compaction.max_summary_tokens" in body["message"]


# What is left of the history.


async def test_a_call_before_a_compaction_needs_no_output(proxy: Proxy):
    foreign = {"type": "compaction", "encrypted_content": "gAAAAA"}
    calls = [{"type": "function_call", "call_id": f"call_{i}", "name": "look", "arguments": "{}"} for i in (1, 2)]
    items = [user("one"), calls[0], foreign]
    conversation = (await proxy.call("POST", "/v1/conversations", {"items": items}))[1]["id"]
    await turn(proxy, "two", conversation=conversation)
    assert sent(proxy) == ["compaction", "two"]
    await proxy.call("POST", f"/v1/conversations/{conversation}/items", {"items": [calls[1]]})
    assert await refused(proxy, {"input": "three", "conversation": conversation}) == (400, None, "input")


async def test_truncation_never_leaves_a_summary_out(start: Start):
    proxy = await start(models={"windows": {"echo": 4000}})
    _, second = await compacted(proxy)
    third = await turn(proxy, LONG, previous_response_id=second["id"])
    await turn(proxy, LONG, previous_response_id=third["id"], truncation="auto")
    assert (sent(proxy)[0], sent(proxy)[-1]) == ("<SUM>", LONG)
    assert "go on" not in sent(proxy)


async def test_a_history_over_the_window_is_cut_before_it_is_summarised(start: Start):
    proxy = await start(models={"windows": {"echo": 3000}}, compaction={"max_summary_tokens": 500})
    first = await turn(proxy, LONG)
    proxy.upstream.script(says("SUM"))
    asked = {"previous_response_id": first["id"], "truncation": "auto"}
    await turn(proxy, [user("two"), {"role": "assistant", "content": "Yes."}, user("three")], **asked, **MANAGED)
    assert sent(proxy, -2) == ["two", "Yes.", "SUMMARISE"]


# Items that come back.


async def test_an_item_of_another_caller_or_of_another_key_is_refused_by_its_path(start: Start, proxy: Proxy):
    _, second = await compacted(proxy)
    item = second["output"][0]
    asked = {"input": [user("a"), {**item, "id": "cmp_x"}, user("b")]}
    expected = (400, "invalid_encrypted_content", "input[1].encrypted_content")
    assert await refused(proxy, asked, key="sk-mallory") == expected
    broken = {"input": [{**item, "id": "cmp_y", "encrypted_content": item["encrypted_content"][:-8] + "AAAAAAAA"}]}
    assert (await refused(proxy, broken))[1:] == ("invalid_encrypted_content", "input[0].encrypted_content")
    rotated = await start(sealing={"key": Secret("r" * 32)})
    assert (await refused(rotated, {**asked, "store": False}))[2] == "input[1].encrypted_content"
    assert await refused(rotated, {"input": "x", "previous_response_id": second["id"]}) == (
        400,
        "invalid_encrypted_content",
        "previous_response_id",
    )
    assert rotated.upstream.requests == []


async def test_without_the_item_that_can_t_be_read_a_conversation_goes_on(start: Start, proxy: Proxy):
    conversation = (await proxy.call("POST", "/v1/conversations", {}))[1]["id"]
    await turn(proxy, LONG, conversation=conversation)
    proxy.upstream.script(says("SUM"))
    response = await turn(proxy, "go on", conversation=conversation, **MANAGED)
    rotated = await start(sealing={"key": Secret("r" * 32)})
    assert (await refused(rotated, {"input": "x", "conversation": conversation}))[2] == "conversation"
    item = response["output"][0]["id"]
    assert (await rotated.call("DELETE", f"/v1/conversations/{conversation}/items/{item}"))[0] == 200
    await turn(rotated, "x", conversation=conversation)
    assert len(sent(rotated)) == 5
    assert sent(rotated)[0] == LONG


async def test_an_item_by_reference_is_opened(proxy: Proxy):
    _, second = await compacted(proxy)
    await turn(proxy, [{"type": "item_reference", "id": second["output"][0]["id"]}, user("x")])
    assert sent(proxy) == ["<SUM>", "go on", "x"]


async def test_somebody_else_s_item_goes_on_as_it_is(proxy: Proxy):
    foreign = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAA"}
    first = await turn(proxy, [user("a"), foreign, user("b")])
    assert proxy.upstream.requests[-1].json["input"][1] == {"type": "compaction", "encrypted_content": "gAAAAA"}
    await turn(proxy, "c", previous_response_id=first["id"])
    assert [item["type"] for item in proxy.upstream.requests[-1].json["input"]] == ["message", "compaction"] + [
        "message"
    ] * 3


async def test_a_native_server_gets_what_the_client_asks_and_its_item_is_kept(start: Start):
    proxy = await start(compaction={"upstream": "native"})
    first = await turn(proxy, LONG)
    native = {"id": "cmp_up", "type": "compaction", "encrypted_content": "gAAAAA"}
    whole = answer("Yes.")
    proxy.upstream.script(Reply.json(200, {**whole, "output": [native, *whole["output"]]}))
    asked = [user("go on"), TRIGGER]
    second = await turn(proxy, asked, previous_response_id=first["id"], **MANAGED)
    body = proxy.upstream.requests[-1].json
    assert body["context_management"] == MANAGED["context_management"]
    assert (len(body["input"]), body["input"][-1]) == (4, TRIGGER)
    assert kinds(second["output"]) == ["compaction", "assistant"]
    await turn(proxy, "on", previous_response_id=second["id"])
    assert sent(proxy) == ["go on", "compaction", "Yes.", "on"]


# The endpoint.


async def test_a_window_is_compacted_here_where_the_model_server_can_t(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input=[{"role": "system", "content": "Rules."}, user("one")])  # type: ignore[list-item]
    second = await client.responses.create(model="echo", input="two", previous_response_id=first.id)
    proxy.upstream.script(says("SUM"))
    window = await client.responses.compact(model="echo", previous_response_id=second.id, instructions="Keep names.")
    assert [request.path_qs for request in proxy.upstream.requests[-2:]] == [COMPACT, "/v1/responses"]
    assert proxy.upstream.requests[-2].json["instructions"] == "Keep names."
    assert len(proxy.upstream.requests[-2].json["input"]) == 5
    assert proxy.upstream.requests[-1].json["instructions"] == "Keep names."
    assert window.object == "response.compaction"
    assert window.usage.total_tokens == 110
    output = [item.model_dump(warnings=False) for item in window.output]
    assert kinds(output) == ["user", "user", "compaction"]
    assert [item["content"][0]["text"] for item in output[:2]] == ["one", "two"]
    asked: Any = [*(item.model_dump(exclude_unset=True, warnings=False) for item in window.output), user("three")]
    third = await client.responses.create(model="echo", input=asked)
    assert sent(proxy) == ["one", "two", "Rules.", "<SUM>", "three"]
    await client.responses.create(model="echo", input="four", previous_response_id=third.id)
    assert sent(proxy)[:5] == ["one", "two", "Rules.", "<SUM>", "three"]
    proxy.upstream.script(says("SUM2"))
    again = await client.responses.compact(model="echo", previous_response_id=third.id)
    assert "/v1/responses" == proxy.upstream.requests[-1].path_qs == proxy.upstream.requests[-2].path_qs
    assert kinds([item.model_dump(warnings=False) for item in again.output]) == ["user"] * 3 + ["compaction"]


async def test_a_window_is_the_whole_input_too_and_a_conversation_s(proxy: Proxy):
    conversation = (await proxy.call("POST", "/v1/conversations", {"items": [user("one")]}))[1]["id"]
    proxy.upstream.script(says("SUM"), says("SUM"))
    _, window = await proxy.call("POST", COMPACT, {"model": "m", "conversation": conversation, "input": "two"})
    assert kinds(window["output"]) == ["user", "user", "compaction"]
    _, window = await proxy.call("POST", COMPACT, {"model": "m", "input": [user("one"), *window["output"], user("z")]})
    assert sent(proxy)[-3:] == ["<SUM>", "z", "SUMMARISE"]
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation}/items")
    assert len(page["data"]) == 1
    await turn(proxy, "x", conversation=conversation)


async def test_a_window_goes_to_the_model_server_that_can_compact_it(proxy: Proxy):
    first = await turn(proxy, "one")
    native = {"id": "cmp_up", "type": "compaction", "encrypted_content": "gAAAAA"}
    theirs = {"id": "resp_1", "object": "response.compaction", "created_at": 1, "output": [native], "usage": {}}
    proxy.upstream.script(Reply.json(200, theirs), path=COMPACT)
    body = {"model": "echo", "input": "two", "previous_response_id": first["id"], "prompt_cache_key": "k"}
    assert await proxy.call("POST", COMPACT, body) == (200, theirs)
    asked = proxy.upstream.requests[-1].json
    assert asked.keys() == {"model", "input", "prompt_cache_key"}
    assert sent(proxy)[::2] == ["one", "two"]


@pytest.mark.parametrize("reply", [Reply.json(404, {"detail": "Not Found"}), Reply.raw(405, "text/plain", b"no")])
async def test_that_the_model_server_can_t_is_remembered(proxy: Proxy, reply: Reply):
    proxy.upstream.script(reply, path=COMPACT)
    for _ in range(2):
        assert (await proxy.call("POST", COMPACT, {"model": "m", "input": "x"}))[0] == 200
    assert [request.path_qs for request in proxy.upstream.requests].count(COMPACT) == 1


async def test_an_error_of_the_model_server_is_the_answer(proxy: Proxy):
    missing = {"error": {"message": "The model 'm' does not exist.", "code": "model_not_found", "param": "model"}}
    proxy.upstream.script(Reply.json(404, missing), path=COMPACT)
    assert await refused(proxy, {"input": "x"}, COMPACT) == (404, "model_not_found", "model")
    assert len(proxy.upstream.requests) == 1


@pytest.mark.parametrize("mode", ["own", "native"])
async def test_who_compacts_can_be_configured(start: Start, mode: str):
    proxy = await start(compaction={"upstream": mode})
    status, _ = await proxy.call("POST", COMPACT, {"model": "m", "input": "x"})
    paths = [request.path_qs for request in proxy.upstream.requests]
    assert (status, paths) == ((200, ["/v1/responses"]) if mode == "own" else (404, [COMPACT]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": None, "input": "x"}, (400, "missing_required_parameter", "model")),
        ({}, (400, None, "input")),
        ({"input": [TRIGGER]}, (400, None, "input")),
        ({"previous_response_id": "resp_x"}, (400, "previous_response_not_found", "previous_response_id")),
        (
            {"previous_response_id": "resp_x", "conversation": "conv_x"},
            (400, "mutually_exclusive_parameters", None),
        ),
        ({"conversation": "conv_x"}, (404, None, None)),
        ({"input": [{"id": "msg_x"}]}, (404, None, "input")),
    ],
)
async def test_a_window_that_is_not_there_is_refused(proxy: Proxy, body: Any, expected: tuple[Any, ...]):
    assert await refused(proxy, body, COMPACT) == expected
    assert proxy.upstream.requests == []


async def test_the_agents_session_compacts_and_goes_on(proxy: Proxy):
    client = proxy.client()
    model = OpenAIResponsesModel(model="gpt-echo", openai_client=client)
    agent: Agent[Any] = Agent(name="Parrot", model=model)
    run = RunConfig(tracing_disabled=True)
    with closing(SQLiteSession("s")) as kept:
        session = OpenAIResponsesCompactionSession(
            "s", kept, client=client, model="gpt-echo", should_trigger_compaction=lambda _: True
        )
        for text in ("one", "two"):
            proxy.upstream.script(says(f"Re {text}"), says(f"SUM {text}"))
            await Runner.run(agent, text, session=session, run_config=run)
        items: Any = await session.get_items()
        assert kinds(items) == ["user", "user", "compaction"]
        result = await Runner.run(agent, "three", session=session, run_config=run)
    assert "three" in result.final_output
    assert any(name == "<SUM two>" for request in range(-3, 0) for name in sent(proxy, request))


async def test_a_summary_is_not_the_user_s_message_in_the_next_window(proxy: Proxy):
    _, second = await compacted(proxy)
    proxy.upstream.script(says("SUM2"))
    _, window = await proxy.call("POST", COMPACT, {"model": "echo", "previous_response_id": second["id"]})
    assert kinds(window["output"]) == ["user", "compaction"]
    assert window["output"][0]["content"][0]["text"] == "go on"
