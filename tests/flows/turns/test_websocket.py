"""WebSocket mode: the protocol, its limits, and what happens when one side leaves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType

from proxy.turns.running import TURNS
from proxy.websocket.connections import CONNECTIONS
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection, said
from tests.flows.streams import OPENING, answer_after
from tests.flows.talk import items_of, new_conversation, settled
from tests.flows.witness import accept_stored
from tests.upstream import CUT, HANG, Reply


async def test_a_connection_carries_turn_after_turn_with_the_events_of_a_stream(proxy: Proxy):
    async with Connection(proxy) as connection:
        first = await connection.turn(input="one")
        await accept_stored(proxy, first)
        second = await connection.turn(input="two", previous_response_id=first["id"])
        assert said(second) == 'You said: "two" (I saw 2 earlier items.)'
        assert second["previous_response_id"] == first["id"]
        await accept_stored(proxy, second)


async def test_a_long_answer_arrives_as_it_is_made(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        assert (await connection.until("response.output_text.delta"))["delta"] == "Once upon"
        gate.set()
        await connection.until("response.completed")


async def test_what_must_not_be_sent_is_ignored(proxy: Proxy):
    async with Connection(proxy) as connection:
        response = await connection.turn(
            input="hi", stream=True, background=True, stream_options={"include_obfuscation": False}, generate=True
        )
    assert response["background"] is False
    sent = proxy.upstream.requests[0].json
    assert sent["stream"] is True
    assert sent.keys().isdisjoint({"type", "stream_id", "generate", "background", "stream_options"})


async def test_headers_and_query_go_along_but_not_those_of_the_connection(proxy: Proxy):
    headers = {"Authorization": "Bearer sk-alice", "X-Team": "red", "Idempotency-Key": "same-for-all"}
    url = f"{proxy.url}/v1/responses?api-version=7"
    async with proxy.http.ws_connect(url, headers=headers) as socket:
        await socket.send_json({"type": "response.create", "model": "echo", "input": "hi"})
        await socket.receive()
    request = (await proxy.upstream.wait_for_requests(1))[0]
    assert request.path_qs == "/v1/responses?api-version=7"
    assert (request.headers["X-Team"], request.headers["Authorization"]) == ("red", "Bearer sk-alice")
    names = {name.lower() for name in request.headers}
    assert names.isdisjoint({"upgrade", "idempotency-key"})
    assert not [name for name in names if name.startswith("sec-websocket")]


@pytest.mark.parametrize(
    ("changes", "headers", "status"),
    [
        ({"auth": {"mode": "api_keys", "api_keys": {"alice": "0" * 64}}}, {"Authorization": "Bearer sk-bob"}, 401),
        ({"websocket": {"enabled": False}}, {}, 426),
        ({}, {"Origin": "https://elsewhere.example"}, 403),
    ],
)
async def test_an_upgrade_is_refused_like_any_request(
    start_proxy: StartProxy, changes: Any, headers: dict[str, str], status: int
):
    proxy = await start_proxy(**changes)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=headers)
    assert refusal.value.status == status


async def test_a_request_without_upgrade_finds_no_list(proxy: Proxy):
    status, answer = await proxy.call("GET", "/v1/responses")
    assert (status, answer["code"]) == (405, "method_not_allowed")


async def test_half_a_handshake_is_a_bad_request(proxy: Proxy):
    headers = {"Authorization": "Bearer sk-alice", "Upgrade": "websocket", "Connection": "Upgrade"}
    async with proxy.http.get(f"{proxy.url}/v1/responses", headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_turns_of_a_lane_follow_each_other_while_other_lanes_go_on(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="slow", stream_id="a")
        await connection.until("response.output_text.delta")
        await connection.create(input="next", stream_id="a")
        other = await connection.turn(input="quick", stream_id="b.2_-")
        assert said(other).startswith('You said: "quick"')
        assert said(await connection.turn(input="plain")).startswith('You said: "plain"')
        assert len(proxy.upstream.requests) == 3
        gate.set()
        assert (await connection.until("response.completed"))["stream_id"] == "a"
        assert said(await connection.answer("a")).startswith('You said: "next"')


async def test_only_so_many_turns_run_at_a_time_and_the_others_wait(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"max_in_flight": 2})
    gates = [asyncio.Event(), asyncio.Event()]
    proxy.upstream.script(*map(answer_after, gates))
    async with Connection(proxy) as connection:
        for lane in ("a", "b"):
            await connection.create(input="slow", stream_id=lane)
            await connection.until("response.output_text.delta")
        await connection.create(input="waits", stream_id="c")
        await connection.send(type="shows that the other message was read")
        await connection.until("error")
        assert len(proxy.upstream.requests) == 2
        gates[0].set()
        assert (await connection.until("response.completed"))["stream_id"] == "a"
        assert said(await connection.answer("c")).startswith('You said: "waits"')
        gates[1].set()
        await connection.until("response.completed")


async def test_a_connection_has_so_many_lanes_and_no_more(proxy: Proxy):
    async with Connection(proxy) as connection:
        for number in range(32):
            await connection.turn(input="hi", stream_id=f"lane-{number}")
        error = await connection.refused(input="hi", stream_id="one-more")
        assert (error["status"], error["code"]) == (400, "websocket_stream_limit_reached")
        assert "(32)" in error["message"]
        await connection.turn(input="hi", stream_id="lane-0")
        await connection.turn(input="hi")


@pytest.mark.parametrize("stream_id", ["", "a" * 257, "a b", "ä", 7, ["a"]])
async def test_a_lane_s_name_is_checked(proxy: Proxy, stream_id: Any):
    async with Connection(proxy) as connection:
        await connection.create(input="hi", stream_id=stream_id)
        message = await connection.next()
        assert "stream_id" not in message
        assert (message["error"]["code"], message["error"]["param"]) == ("invalid_stream_id", "stream_id")
        await connection.turn(input="hi", stream_id="a" * 256)


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_type", None),
        ("{}", "invalid_type", "type"),
        ('{"type": "session.update"}', "invalid_value", "type"),
        ('{"type": "response.create", "input": 7}', "invalid_type", "input"),
        ('{"type": "response.create", "generate": "no"}', "invalid_type", "generate"),
        ('{"type": "response.create", "input": ' + "[" * 200 + "]" * 200 + "}", "json_too_deep", None),
        ('{"type": "response.create", "input": "hi", "conversation": "conv_0"}', None, None),
    ],
)
async def test_what_can_t_be_done_is_an_error_and_the_connection_goes_on(
    proxy: Proxy, text: str, code: str | None, param: str | None
):
    async with Connection(proxy) as connection:
        await connection.socket.send_str(text)
        message = await connection.next()
        assert (message["type"], message["error"]["code"], message["error"]["param"]) == ("error", code, param)
        assert message["status"] == (400 if code else 404)
        assert message["error"]["type"] == "invalid_request_error"
        await connection.turn(input="hi")


async def test_a_message_may_come_as_bytes(proxy: Proxy):
    async with Connection(proxy) as connection:
        await connection.socket.send_bytes(b'{"type": "response.create", "model": "echo", "input": "hi"}')
        await connection.answer()


async def test_a_message_over_the_limit_is_told_so_and_ends_the_connection(start_proxy: StartProxy):
    proxy = await start_proxy(server={"max_json_bytes": 2000})
    async with Connection(proxy) as connection:
        await connection.turn(input="x" * 1900)
        await connection.create(input="x" * 2000)
        assert await connection.closed() == 1009
    assert connection.received[-1]["error"]["code"] == "websocket_message_too_large"


async def test_steering_is_refused_with_its_input(proxy: Proxy):
    async with Connection(proxy) as connection:
        await connection.send(type="response.steer", previous_response_id="resp_0", input="faster")
        message = await connection.next()
        assert (message["type"], message["error"]["code"]) == ("response.steer.failed", "steering_not_supported")
        assert message["steer"] == {"previous_response_id": "resp_0", "input": "faster"}


async def test_an_upstream_s_refusal_is_an_error_with_its_status_and_headers(proxy: Proxy):
    error = {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}
    proxy.upstream.script(Reply.json(429, {"error": error}, {"Retry-After": "2"}))
    async with Connection(proxy) as connection:
        told = await connection.refused(input="hi", stream_id="a")
        assert told == {**error, "status": 429, "headers": {"retry-after": "2"}}
        await connection.turn(input="hi", stream_id="a")


async def test_an_error_in_the_middle_is_nested_and_the_response_fails(proxy: Proxy):
    failure = {"type": "error", "code": "server_is_overloaded", "message": "busy", "param": None}
    proxy.upstream.script(Reply.sse([*OPENING, failure], done=False))
    async with Connection(proxy) as connection:
        await connection.create(input="hi", stream_id="a")
        told = await connection.until("error")
        assert told["error"] == {"type": "server_error", **{k: failure[k] for k in ("code", "message", "param")}}
        failed = await connection.next()
        assert (failed["type"], failed["sequence_number"]) == ("response.failed", told["sequence_number"] + 1)
        assert {told["stream_id"], failed["stream_id"]} == {"a"}


async def test_an_upstream_that_breaks_off_fails_the_response_and_not_the_connection(proxy: Proxy):
    proxy.upstream.script(Reply.sse([*OPENING, CUT], done=False))
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        assert (await connection.until("response.failed"))["response"]["error"]["code"] == "server_error"
        await connection.turn(input="again")


async def test_conversations_and_branches_work_as_over_http(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Connection(proxy) as connection:
        first = await connection.turn(input="one", conversation=conversation)
        assert first["conversation"] == {"id": conversation}
        await connection.turn(input="two", conversation={"id": conversation})
        fork = {"id": conversation, "fork_from": first["output"][0]["id"], "branch": "draft"}
        drafted = await connection.turn(input="other two", conversation=fork)
        assert drafted["conversation"] == {"id": conversation, "branch": "draft"}
        more = await connection.turn(input="three", conversation={"id": conversation, "branch": "draft"})
        assert "I saw 4 earlier items" in said(more)
    texts = [item["content"][0]["text"] for item in await items_of(proxy, conversation)]
    assert texts[::2] == ["one", "two"]


async def test_two_lanes_on_one_conversation_don_t_run_at_once(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="slow", conversation=conversation, stream_id="a")
        await connection.until("response.output_text.delta")
        error = await connection.refused(input="at once", conversation=conversation, stream_id="b")
        assert (error["status"], error["code"]) == (400, "conversation_locked")
        gate.set()
        await connection.until("response.completed")


@pytest.mark.parametrize("rule", ["keep", "finish", "discard"])
async def test_a_client_that_leaves_gets_the_rule_for_all_of_its_turns(start_proxy: StartProxy, rule: str):
    proxy = await start_proxy(turns={"on_disconnect": rule})
    conversations = [await new_conversation(proxy) for _ in range(2)]
    gate = asyncio.Event()
    proxy.upstream.script(*(answer_after(gate) if rule == "finish" else Reply.sse([*OPENING, HANG]) for _ in "ab"))
    async with Connection(proxy) as connection:
        for lane, conversation in zip("ab", conversations, strict=True):
            await connection.create(input="hi", conversation=conversation, stream_id=lane)
            await connection.until("response.output_text.delta")
            await connection.create(input="never", conversation=conversation, stream_id=lane)
    if rule != "finish":
        await proxy.upstream.client_left.wait()
    gate.set()
    await settled(proxy)
    statuses = {"keep": ["completed", "incomplete"], "finish": ["completed", "completed"], "discard": []}[rule]
    for conversation in conversations:
        assert [item["status"] for item in await items_of(proxy, conversation)] == statuses
    assert len(proxy.upstream.requests) == 2


async def test_a_client_that_vanishes_without_a_word_is_noticed(proxy: Proxy):
    proxy.upstream.script(Reply.sse([*OPENING, HANG]))
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        await connection.until("response.output_text.delta")
        transport = connection.socket._conn.transport
        assert transport is not None
        transport.abort()
        await proxy.upstream.client_left.wait()
        await settled(proxy)


async def test_a_server_that_stops_lets_turns_finish_and_then_goes_away(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as busy, Connection(proxy) as idle:
        await busy.create(input="hi", stream_id="a")
        await busy.until("response.output_text.delta")
        await busy.create(input="waits", stream_id="a")
        await busy.turn(input="shows that the other message was read")
        stopping = asyncio.create_task(proxy.runner.cleanup())
        assert await idle.closed() == 1001
        gate.set()
        assert (await busy.until("response.completed"))["stream_id"] == "a"
        assert (await busy.until("error"))["error"]["code"] == "server_stopping"
        assert await busy.closed() == 1001
        await stopping


async def test_a_server_that_can_t_wait_any_longer_tells_what_there_is(start_proxy: StartProxy):
    proxy = await start_proxy(server={"shutdown_timeout_seconds": 0.1})
    proxy.upstream.script(Reply.sse([*OPENING, HANG]))
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        await connection.until("response.output_text.delta")
        stopping = asyncio.create_task(proxy.runner.cleanup())
        response = (await connection.until("response.incomplete"))["response"]
        assert said(response) == "Once upon"
        assert await connection.closed() == 1001
        await stopping


async def test_a_connection_that_is_too_old_is_told_so_and_closed(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"max_seconds": 0.2})
    async with Connection(proxy) as connection:
        assert await connection.closed() == 1001
    error = connection.received[-1]
    assert (error["status"], error["error"]["code"]) == (400, "websocket_connection_limit_reached")
    assert "Create a new websocket connection to continue." in error["error"]["message"]


async def test_a_turn_that_runs_when_its_connection_gets_too_old_still_ends(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"max_seconds": 1000.0, "ping_seconds": 10_000.0})
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="hi", stream_id="a")
        await connection.until("response.output_text.delta")
        await connection.create(input="waits", stream_id="a")
        assert await nagged(connection) == {}
        (held,) = proxy.app[CONNECTIONS]._open
        await held.watch(time.monotonic() + 1000.0)
        while "code" not in (told := (await nagged(connection))):
            pass
        assert told["code"] == "websocket_connection_limit_reached"
        gate.set()
        await connection.until("response.completed")
        refused = await connection.next()
        assert (refused["stream_id"], refused["error"]["code"]) == ("a", "websocket_connection_limit_reached")
        assert await connection.closed() == 1001
    assert connection.received[-1]["error"]["code"] == "websocket_connection_limit_reached"


async def nagged(connection: Connection) -> Any:
    """Warm something up, again and again: a refusal, or nothing of interest."""
    await connection.create(stream_id="b", generate=False)
    while (message := await connection.next())["type"] not in ("error", "response.completed"):
        pass
    return message.get("error", {})


async def test_pings_are_answered_and_a_silent_client_is_pinged(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"ping_seconds": 0.05})
    async with Connection(proxy, autoping=False) as connection:
        await connection.socket.ping(b"there?")
        kinds: dict[WSMsgType, Any] = {}
        while len(kinds) < 2:
            message = await connection.socket.receive()
            kinds[message.type] = message.data
            if message.type is WSMsgType.PING:
                await connection.socket.pong(message.data)
    assert kinds == {WSMsgType.PING: b"", WSMsgType.PONG: b"there?"}


async def test_a_client_that_gives_no_sign_of_life_is_cut_off(start_proxy: StartProxy):
    proxy = await start_proxy(websocket={"ping_seconds": 0.05}, server={"unread_seconds": 0.1})
    async with Connection(proxy, autoping=False) as connection:
        while (message := await connection.socket.receive()).type is WSMsgType.PING:
            pass
        assert message.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert connection.socket.close_code == 1006


async def test_a_client_that_does_not_read_is_cut_off_and_its_turn_ends(start_proxy: StartProxy):
    proxy = await start_proxy(server={"unread_seconds": 0.3}, websocket={"ping_seconds": 30})
    flood = {**OPENING[2], "delta": "x" * 1_000_000}
    proxy.upstream.script(Reply.sse([*OPENING, *[flood] * 40, HANG]))
    async with Connection(proxy) as connection:
        protocol = connection.socket._conn.protocol
        assert protocol is not None
        await connection.create(input="hi")
        await connection.until("response.created")
        protocol.pause_reading()
        await proxy.upstream.client_left.wait()
        await settled(proxy)
        assert not proxy.app[TURNS]._running
        protocol.resume_reading()


@pytest.mark.parametrize(("compression", "agreed"), [(True, 15), (False, 0)])
async def test_messages_are_compressed_if_both_want_it(start_proxy: StartProxy, compression: bool, agreed: int):
    proxy = await start_proxy(websocket={"compression": compression})
    async with Connection(proxy, compress=15) as connection:
        assert connection.socket.compress == agreed
        assert "word" * 5000 in said(await connection.turn(input="word" * 5000))


async def test_a_message_that_grows_too_large_when_unpacked_is_refused(start_proxy: StartProxy):
    proxy = await start_proxy(server={"max_json_bytes": 100_000})
    async with Connection(proxy, compress=15) as connection:
        await connection.create(input="x" * 5_000_000)
        assert await connection.closed() == 1009


async def test_events_that_are_kept_can_be_read_again_over_http(start_proxy: StartProxy):
    proxy = await start_proxy(streams={"keep": "all"})
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        last = await connection.until("response.completed")
    url = f"{proxy.url}/v1/responses/{last['response']['id']}?stream=true"
    async with proxy.http.get(url, headers={"Authorization": "Bearer sk-alice"}) as answer:
        frames = (await answer.read()).split(b"\n\n")
    told = [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in frames if frame.startswith(b"event: ")]
    assert told == connection.received
