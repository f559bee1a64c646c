"""Unstored responses on a WebSocket: continued from their connection's memory, and warm-ups."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import orjson
import pytest
from openai.types.responses import FunctionToolParam

from proxy.websocket.connection import Connection as ServerSide
from proxy.websocket.connections import CONNECTIONS
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection, said
from tests.flows.streams import OPENING, answer_after
from tests.flows.talk import items_of, new_conversation
from tests.items import texts
from tests.upstream import Reply

NOT_FOUND = (400, "previous_response_not_found", "previous_response_id")
CALL = {"id": "fc_up", "type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"}
LOOK_UP: FunctionToolParam = {"type": "function", "name": "look_up", "parameters": {}, "strict": False}


def what(error: dict[str, Any]) -> tuple[Any, ...]:
    return error["status"], error["code"], error["param"]


def calling() -> Reply:
    """An answer that is one function call."""
    return Reply.json(200, {"id": "r", "object": "response", "status": "completed", "output": [CALL]})


async def input_texts(proxy: Proxy, response_id: str) -> list[str]:
    _, page = await proxy.call("GET", f"/v1/responses/{response_id}/input_items?order=asc")
    return texts(page["data"])


async def test_unstored_turns_follow_each_other_with_nothing_in_the_store(proxy: Proxy):
    async with Connection(proxy) as connection:
        response: dict[str, Any] = {}
        for number in range(4):
            source = {"previous_response_id": response["id"]} if response else {}
            response = await connection.turn(input=f"turn {number}", store=False, **source)
            assert said(response) == f'You said: "turn {number}" (I saw {2 * number} earlier item' + "s.)"
            assert (response["store"], response["previous_response_id"]) == (False, source.get("previous_response_id"))
            assert (await proxy.call("GET", f"/v1/responses/{response['id']}"))[0] == 404
    assert await proxy.redis.keys("*}:*") == []
    told = [item["content"][0]["text"] for item in proxy.upstream.requests[-1].json["input"]]
    assert told[::2] == [f"turn {number}" for number in range(4)]
    histories = [orjson.dumps(request.json["input"])[:-1] for request in proxy.upstream.requests]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(histories))


async def test_unstored_turns_ask_for_encrypted_reasoning_that_the_next_will_need(proxy: Proxy):
    reasoning = {"type": "reasoning", "id": "rs_up", "summary": [], "encrypted_content": "sealed"}
    message = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]}
    answer = {"id": "r", "object": "response", "status": "completed", "output": [reasoning, message]}
    proxy.upstream.script(Reply.json(200, answer))
    async with Connection(proxy) as connection:
        first = await connection.turn(input="think", store=False)
        assert "encrypted_content" not in first["output"][0]
        await connection.turn(input="on", store=False, previous_response_id=first["id"])
    asked, again = (request.json for request in proxy.upstream.requests)
    assert asked["include"] == ["reasoning.encrypted_content"]
    assert (again["input"][1]["encrypted_content"], "id" in again["input"][1]) == ("sealed", False)


async def test_what_is_unstored_is_known_to_its_connection_alone(proxy: Proxy):
    async with Connection(proxy) as one, Connection(proxy) as other:
        first = await one.turn(input="secret", store=False)
        assert what(await other.refused(input="hi", previous_response_id=first["id"])) == NOT_FOUND
        status, _ = await proxy.call("POST", "/v1/responses", {"input": "hi", "previous_response_id": first["id"]})
        assert status == 400
        await one.turn(input="go on", store=False, previous_response_id=first["id"])


async def test_only_the_latest_of_a_lane_is_known_and_other_lanes_may_fork_it(proxy: Proxy):
    async with Connection(proxy) as connection:
        first = await connection.turn(input="one", store=False, stream_id="a")
        forked = await connection.turn(input="other", store=False, stream_id="b", previous_response_id=first["id"])
        assert "I saw 2 earlier items" in said(forked)
        second = await connection.turn(input="two", store=False, stream_id="a", previous_response_id=first["id"])
        assert "I saw 2 earlier items" in said(second)
        assert what(await connection.refused(input="x", previous_response_id=first["id"])) == NOT_FOUND
        third = await connection.turn(input="three", store=False, stream_id="b", previous_response_id=forked["id"])
        assert "I saw 4 earlier items" in said(third)


async def test_a_refused_continuation_takes_its_parent_with_it_but_a_refused_fork_does_not(proxy: Proxy):
    orphan = [{"type": "function_call_output", "call_id": "call_unknown", "output": "42"}]
    async with Connection(proxy) as connection:
        first = await connection.turn(input="one", store=False, stream_id="a")
        source = {"store": False, "previous_response_id": first["id"]}
        for lane in ("b", None, "a"):
            assert what(await connection.refused(input=orphan, stream_id=lane, **source)) == (400, None, "input")
        assert what(await connection.refused(input="two", stream_id="a", **source)) == NOT_FOUND
        assert said(await connection.turn(input="anew", store=False, stream_id="a")).startswith('You said: "anew"')


async def test_a_model_server_s_refusal_takes_the_parent_too_unless_the_store_has_it(proxy: Proxy):
    async with Connection(proxy) as connection:
        for store in (False, True):
            first = await connection.turn(input="one", store=store)
            proxy.upstream.script(Reply.json(500, {"error": {"message": "broken"}}))
            source = {"store": store, "previous_response_id": first["id"]}
            assert (await connection.refused(input="two", **source))["status"] == 500
            if store:
                assert "I saw 2 earlier items" in said(await connection.turn(input="two", **source))
            else:
                assert what(await connection.refused(input="two", **source)) == NOT_FOUND


async def test_a_stored_turn_on_unstored_ones_stores_all_that_led_to_it(proxy: Proxy):
    async with Connection(proxy) as connection:
        stored = await connection.turn(input="one")
        first = await connection.turn(input="two", store=False, previous_response_id=stored["id"])
        second = await connection.turn(input="three", store=False, previous_response_id=first["id"])
        last = await connection.turn(input="four", previous_response_id=second["id"])
    assert "I saw 6 earlier items" in said(last)
    assert (await input_texts(proxy, last["id"]))[::2] == ["one", "two", "three", "four"]
    async with Connection(proxy) as connection:
        assert "I saw 8 earlier items" in said(await connection.turn(input="five", previous_response_id=last["id"]))
        assert "I saw 2 earlier items" in said(await connection.turn(input="too", previous_response_id=stored["id"]))


async def test_an_unstored_turn_of_a_conversation_can_be_continued_without_it(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Connection(proxy) as connection:
        await connection.turn(input="one", conversation=conversation)
        aside = await connection.turn(input="two", conversation=conversation, store=False)
        further = await connection.turn(input="three", store=False, previous_response_id=aside["id"])
        assert "I saw 4 earlier items" in said(further)
        assert "conversation" not in further
        assert len(await items_of(proxy, conversation)) == 2
        kept = await connection.turn(input="four", previous_response_id=further["id"])
    assert (await input_texts(proxy, kept["id"]))[::2] == ["one", "two", "three", "four"]
    assert len(await items_of(proxy, conversation)) == 2


async def test_what_was_appended_all_the_same_is_not_stored_twice(start_proxy: StartProxy):
    proxy = await start_proxy(conversations={"append_unstored": True})
    conversation = await new_conversation(proxy)
    async with Connection(proxy) as connection:
        aside = await connection.turn(input="one", conversation=conversation, store=False)
        kept = await connection.turn(input="two", previous_response_id=aside["id"])
    ids = [item["id"] for item in await items_of(proxy, conversation)]
    _, page = await proxy.call("GET", f"/v1/responses/{kept['id']}/input_items?order=asc")
    assert [item["id"] for item in page["data"]][:2] == ids


async def test_calls_are_paired_with_outputs_over_what_is_remembered(proxy: Proxy):
    proxy.upstream.script(calling())
    async with Connection(proxy) as connection:
        asked = await connection.turn(input="weather?", store=False, tools=[LOOK_UP])
        call_id = asked["output"][0]["call_id"]
        output = [{"type": "function_call_output", "call_id": call_id, "output": "rain"}]
        told = await connection.turn(input=output, store=False, previous_response_id=asked["id"])
        assert [item["type"] for item in proxy.upstream.requests[-1].json["input"]][1:] == [
            "function_call",
            "function_call_output",
        ]
        await connection.turn(input=output, store=False, previous_response_id=told["id"])


async def test_a_call_that_still_waits_for_its_output_is_refused(proxy: Proxy):
    proxy.upstream.script(calling())
    async with Connection(proxy) as connection:
        asked = await connection.turn(input="weather?", store=False, tools=[LOOK_UP])
        error = await connection.refused(input="never mind", store=False, previous_response_id=asked["id"])
        assert error["message"].startswith("No tool output found for function call call_1. It is item ")


async def test_items_that_the_client_sends_back_are_not_told_twice(proxy: Proxy):
    stored = (await proxy.call("POST", "/v1/responses", {"model": "echo", "input": "stored"}))[1]
    async with Connection(proxy) as connection:
        first = await connection.turn(input="one", store=False)
        again = [first["output"][0], {"type": "item_reference", "id": stored["output"][0]["id"]}, {"role": "user"}]
        again[2]["content"] = "two"
        await connection.turn(input=again, store=False, previous_response_id=first["id"])
    told = [item["content"][0]["text"] for item in proxy.upstream.requests[-1].json["input"]]
    assert told[0] == "one"
    assert told[1:3] == [said(first), said(stored)]
    assert told[3:] == ["two"]


async def test_what_is_remembered_has_a_limit_and_the_oldest_goes_first(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"max_cache_bytes": 20_000})
    async with Connection(proxy) as connection:
        kept = [
            await connection.turn(input="x" * size, store=False, stream_id=lane)
            for lane, size in (("a", 1_000), ("b", 3_000), ("c", 30_000))
        ]
        ids = [response["id"] for response in kept]
        assert what(await connection.refused(input="y", previous_response_id=ids[2])) == NOT_FOUND
        for known in ids[:2]:
            await connection.turn(input="y", previous_response_id=known)
        ids.append((await connection.turn(input="x" * 6_000, store=False, stream_id="d"))["id"])
        assert what(await connection.refused(input="y", previous_response_id=ids[0])) == NOT_FOUND
        for known in (ids[1], ids[3]):
            await connection.turn(input="y", previous_response_id=known)


async def test_a_client_that_has_seen_the_end_can_go_on_from_any_lane_at_once(proxy: Proxy):
    async with Connection(proxy) as connection:
        response = await connection.turn(input="turn 0", store=False)
        for number in range(1, 40):
            lane = f"lane-{number % 3}"
            await connection.create(input="x", store=False, stream_id=lane, previous_response_id=response["id"])
            response = (await connection.until("response.completed"))["response"]
            assert f"I saw {2 * number} earlier items" in said(response)


async def test_a_response_can_be_continued_from_another_lane_while_its_last_message_is_on_its_way(proxy: Proxy):
    gate = asyncio.Event()
    end = {"type": "response.completed", "response": {"padding": "x" * 20_000_000}}
    proxy.upstream.script(Reply.sse([*OPENING, gate, end]))
    async with Connection(proxy, max_msg_size=0) as connection:
        await connection.create(input="one", store=False, stream_id="a")
        first = (await connection.until("response.created"))["response"]["id"]
        await connection.until("response.output_text.delta")
        protocol = connection.socket._conn.protocol
        assert protocol is not None
        protocol.pause_reading()
        gate.set()
        (server_side,) = proxy.app[CONNECTIONS]._open
        assert isinstance(server_side, ServerSide)
        while not server_side._running["a"][0].status:
            await proxy.call("GET", "/healthz")
        await connection.create(input="two", store=False, stream_id="b", previous_response_id=first)
        await proxy.upstream.wait_for_requests(2)
        protocol.resume_reading()
        assert (await connection.until("response.completed"))["stream_id"] == "a"
        assert "I saw 2 earlier items" in said((await connection.until("response.completed"))["response"])


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_asks_nobody_and_can_be_continued(proxy: Proxy, store: bool):
    async with Connection(proxy) as connection:
        warm = await connection.turn(input="remember this", generate=False, store=store, stream_id="a")
        assert (warm["status"], warm["output"], warm["usage"]["total_tokens"]) == ("completed", [], 0)
        assert [event["type"] for event in connection.received] == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]
        assert proxy.upstream.requests == []
        status, _ = await proxy.call("GET", f"/v1/responses/{warm['id']}")
        assert status == (200 if store else 404)
        then = await connection.turn(input="go", store=store, stream_id="a", previous_response_id=warm["id"])
        assert said(then) == 'You said: "go" (I saw 1 earlier item.)'


async def test_a_warm_up_without_input_is_something_to_continue_too(proxy: Proxy):
    async with Connection(proxy) as connection:
        warm = await connection.turn(generate=False)
        assert said(await connection.turn(input="go", previous_response_id=warm["id"])).startswith('You said: "go"')


async def test_a_warm_up_in_a_conversation_appends_its_input(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Connection(proxy) as connection:
        await connection.turn(input="remember this", generate=False, conversation=conversation)
        assert [item["content"][0]["text"] for item in await items_of(proxy, conversation)] == ["remember this"]
        assert "I saw 1 earlier item." in said(await connection.turn(input="go", conversation=conversation))


async def test_a_warm_up_is_refused_like_a_turn(proxy: Proxy):
    async with Connection(proxy) as connection:
        error = await connection.refused(input="x", generate=False, previous_response_id="resp_0")
        assert what(error) == NOT_FOUND


async def test_lanes_wait_for_what_they_continue_only_if_it_is_their_own(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="slow", store=False, stream_id="a")
        started = await connection.until("response.output_text.delta")
        first = next(event["response"]["id"] for event in connection.received if "response" in event)
        source = {"store": False, "previous_response_id": first}
        assert started["stream_id"] == "a"
        assert what(await connection.refused(input="x", stream_id="b", **source)) == NOT_FOUND
        await connection.create(input="next", stream_id="a", **source)
        gate.set()
        await connection.until("response.completed")
        assert "I saw 2 earlier items" in said(await connection.answer("a"))
