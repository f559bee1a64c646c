"""Streams that are told again: from the log, from any event on, while they run and afterwards, wherever that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.http.keys import STORE
from proxy.protocol import ids, sse
from proxy.streams.follower import FOLLOWERS
from storage import EventBatch, EventLog, new_partition, partition_of
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection
from tests.flows.streams import read_stream
from tests.flows.talk import new_conversation
from tests.flows.witness import accept_events
from tests.proxy.relay.streams import WHOLE
from tests.upstream import CUT, Reply

ALL = {"streams": {"keep": "all"}}
ALICE = {"Authorization": "Bearer sk-alice"}
LEASE = 30.0
ONE_TWO_THREE = {"input": "one two three"}


def events_in(stream: bytes) -> list[bytes]:
    """The frames of a whole stream without comments, after checking its end."""
    frames = [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1]]
    told = [frame for frame in frames if not frame.startswith(b":")]
    assert told.pop() == sse.DONE
    return told


def body_of(frame: bytes) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(frame.partition(b"\ndata: ")[2])
    return body


def stream_url(proxy: Proxy, response_id: str, starting_after: int | str | None = None) -> str:
    after = "" if starting_after is None else f"&starting_after={starting_after}"
    return f"{proxy.url}/v1/responses/{response_id}?stream=true{after}"


async def resume(proxy: Proxy, response_id: str, starting_after: int | None = None) -> bytes:
    """Read a response's events to the end."""
    async with proxy.http.get(stream_url(proxy, response_id, starting_after), headers=ALICE) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        return await answer.read()


async def first_events(answer: aiohttp.ClientResponse, count: int) -> list[bytes]:
    """Read that many events of an open stream."""
    frames: list[bytes] = []
    while len(frames) < count:
        frame = await answer.content.readuntil(b"\n\n")
        frames += [] if frame.startswith(b":") else [frame]
    return frames


@asynccontextmanager
async def following(proxy: Proxy, response_id: str, after: int | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
    async with proxy.http.get(stream_url(proxy, response_id, after), headers=ALICE) as answer:
        assert answer.status == 200, await answer.text()
        yield answer


def id_in(frame: bytes) -> str:
    response_id: str = body_of(frame)["response"]["id"]
    return response_id


def gated(events: int = 6) -> tuple[asyncio.Event, Reply]:
    """An answer that waits after some events until the gate opens."""
    gate = asyncio.Event()
    return gate, Reply.sse([*WHOLE[:events], gate, *WHOLE[events:]])


async def write_log(proxy: Proxy, events: list[dict[str, Any]], **response: Any) -> EventLog:
    """Write the log of a stream that has begun and is not over, as another replica would; there is no response yet."""
    response_id = ids.new_response_id(new_partition(), stored=True)
    log = EventLog(await owner_of(proxy), response_id)
    told = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    if told:
        told[0]["response"] = {**told[0]["response"], "id": response_id, **response}
    await append(proxy, log, told, 0)
    return log


async def append(proxy: Proxy, log: EventLog, events: list[dict[str, Any]], first: int) -> None:
    frames = b"".join(sse.encode(event["type"], orjson.dumps(event)) for event in events)
    batch = EventBatch(first, len(events), frames)
    store = proxy.app[STORE]
    assert await store.events.append(log, batch, ttl_seconds=100, lease_seconds=LEASE, last=False)


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks run until it holds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def owner_of(proxy: Proxy) -> str:
    """What the store calls the caller."""
    conversation = await new_conversation(proxy)
    owner = await proxy.redis.hget(f"branchline:{{{partition_of(conversation)}}}:partition", "owner")
    assert owner
    return owner.decode() if isinstance(owner, bytes) else owner


async def test_a_stream_is_told_again_byte_by_byte_by_any_replica(start_proxy: StartProxy):
    one, other = await start_proxy(**ALL), await start_proxy()
    told = await read_stream(one, ONE_TWO_THREE)
    response_id = id_in(events_in(told)[0])
    for proxy in (one, other):
        assert await resume(proxy, response_id) == told
        assert await resume(proxy, response_id) == told


async def test_any_event_can_be_gone_on_from(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    events = events_in(await read_stream(proxy, ONE_TWO_THREE))
    assert len(events) > 8
    for number in range(len(events) + 1):
        assert events_in(await resume(proxy, id_in(events[0]), number)) == events[number + 1 :]
    assert await resume(proxy, id_in(events[0]), 10**15 - 1) == sse.DONE


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", "٣", "9" * 400])
async def test_what_is_no_sequence_number_is_refused(start_proxy: StartProxy, value: str):
    proxy = await start_proxy(**ALL)
    response_id = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    async with proxy.http.get(stream_url(proxy, response_id, value), headers=ALICE) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"], error["code"]) == (400, "starting_after", "invalid_value")


async def test_an_empty_starting_after_means_all(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    told = await read_stream(proxy, ONE_TWO_THREE)
    async with proxy.http.get(stream_url(proxy, id_in(events_in(told)[0]), ""), headers=ALICE) as answer:
        assert await answer.read() == told


async def test_a_client_that_left_a_conversation_finds_the_rest_at_another_replica(start_proxy: StartProxy):
    one, other = await start_proxy(**ALL), await start_proxy(**ALL)
    gate, reply = gated()
    one.upstream.script(reply)
    conversation = await new_conversation(one)
    body = {"model": "m", "input": "hi", "stream": True, "conversation": conversation}
    async with one.http.post(f"{one.url}/v1/responses", json=body, headers=ALICE) as answer:
        seen = await first_events(answer, 3)
    response_id = id_in(seen[0])
    async with following(other, response_id) as whole, following(other, response_id, 2) as rest:
        assert await first_events(whole, 6) == seen + await first_events(rest, 3)
        gate.set()
        tails = await whole.read(), await rest.read()
    assert tails[0] == tails[1]
    events = events_in(await resume(one, response_id))
    assert events[6:] == events_in(tails[0])
    accept_events([body_of(frame) for frame in events])
    assert body_of(events[-1])["type"] == "response.completed"
    _, page = await one.call("GET", f"/v1/conversations/{conversation}/items")
    assert [item["status"] for item in page["data"] if item["type"] == "message"] == ["completed", "completed"]


async def test_events_can_be_followed_before_the_turn_has_a_record(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    gate, reply = gated(1)
    proxy.upstream.script(reply)
    body = {"model": "m", "input": "hi", "stream": True}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=ALICE) as answer:
        (created,) = await first_events(answer, 1)
        async with following(proxy, id_in(created), 0) as rest:
            status, _ = await proxy.call("GET", f"/v1/responses/{id_in(created)}")
            assert status == 404
            gate.set()
            assert events_in(await rest.read()) == events_in(await answer.read())


async def test_events_of_ordinary_streams_are_not_kept_by_default(proxy: Proxy):
    response_id = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    status, body = await proxy.call("GET", f"/v1/responses/{response_id}?stream=true")
    assert (status, body["error"]["param"]) == (400, "stream")
    assert not [key async for key in proxy.redis.scan_iter("*events*")]


@pytest.mark.parametrize("body", [{"stream": False}, {"store": False}])
async def test_only_streams_that_are_stored_are_kept(start_proxy: StartProxy, body: dict[str, Any]):
    proxy = await start_proxy(**ALL)
    await read_stream(proxy, {**ONE_TWO_THREE, **body})
    assert not [key async for key in proxy.redis.scan_iter("*events*")]


async def test_events_of_others_are_like_unknown_ones(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    gate, reply = gated()
    finished = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    proxy.upstream.script(reply)
    body = {"model": "m", "input": "hi", "stream": True}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=ALICE) as answer:
        running = id_in((await first_events(answer, 1))[0])
        async with following(proxy, running) as followed:
            await first_events(followed, 1)
        answers = []
        for known in (finished, running, ids.new_response_id(new_partition(), stored=True)):
            status, error = await proxy.call("GET", f"/v1/responses/{known}?stream=true", key="sk-mallory")
            assert status == 404
            answers.append({**error["error"], "message": error["error"]["message"].replace(known, "ID")})
        assert answers[0] == answers[1] == answers[2]
        gate.set()
        await answer.read()


@pytest.mark.parametrize("flag", ["abc", "yes", "2", "tru"])
async def test_a_boolean_of_the_query_that_is_none_is_refused(start_proxy: StartProxy, flag: str):
    proxy = await start_proxy(**ALL)
    response_id = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    status, answer = await proxy.call("GET", f"/v1/responses/{response_id}?stream={flag}")
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "stream", "invalid_value")
    assert flag in answer["error"]["message"]


@pytest.mark.parametrize(
    ("flag", "streams"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False), ("", False)]
)
async def test_a_boolean_of_the_query_is_read_in_any_case(start_proxy: StartProxy, flag: str, *, streams: bool):
    proxy = await start_proxy(**ALL)
    response_id = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    async with proxy.http.get(f"{proxy.url}/v1/responses/{response_id}?stream={flag}", headers=ALICE) as answer:
        assert answer.status == 200
        assert (answer.content_type == "text/event-stream") is streams


async def test_the_log_of_a_deleted_response_is_gone(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    response_id = id_in(events_in(await read_stream(proxy, ONE_TWO_THREE))[0])
    await proxy.call("DELETE", f"/v1/responses/{response_id}")
    status, _ = await proxy.call("GET", f"/v1/responses/{response_id}?stream=true")
    assert status == 404


async def test_logs_live_as_long_as_configured(start_proxy: StartProxy):
    proxy = await start_proxy(streams={"keep": "all", "retention_seconds": 50.0})
    events_in(await read_stream(proxy, ONE_TWO_THREE))
    (key,) = [key async for key in proxy.redis.scan_iter("*events*")]
    assert 40 < await proxy.redis.ttl(key) <= 50


async def test_a_run_that_died_ends_as_failed(start_proxy: StartProxy):
    proxy = await start_proxy()
    log = await write_log(proxy, WHOLE[:5])
    async with following(proxy, log.response_id) as followed:
        seen = await first_events(followed, 5)
        await proxy.app[STORE].events.release(log)
        rest = events_in(await followed.read())
    (last,) = [body_of(frame) for frame in rest]
    assert (last["type"], last["sequence_number"], last["response"]["id"]) == ("response.failed", 5, log.response_id)
    assert (last["response"]["status"], last["response"]["error"]["code"]) == ("failed", "server_error")
    assert events_in(await resume(proxy, log.response_id)) == seen + rest


@pytest.mark.parametrize(
    ("status", "kind"),
    [("failed", "response.failed"), ("cancelled", "response.incomplete"), ("completed", "response.completed")],
)
@pytest.mark.parametrize("logged", [0, 5])
async def test_a_log_without_an_end_ends_as_its_response_did(
    start_proxy: StartProxy, status: str, kind: str, logged: int
):
    proxy = await start_proxy(**ALL)
    response = body_of(events_in(await read_stream(proxy, ONE_TWO_THREE))[-1])["response"]
    # the run that wrote the log died between its commit and its last event
    partition = f"branchline:{{{partition_of(response['id'])}}}"
    await proxy.redis.delete(f"{partition}:events:{response['id']}")
    log = EventLog(await owner_of(proxy), response["id"])
    stored = {key: value for key, value in {**response, "status": status}.items() if key != "output"}
    await proxy.redis.hset(f"{partition}:response:{response['id']}", mapping={"body": orjson.dumps(stored)})
    told = [{**event, "sequence_number": number} for number, event in enumerate(WHOLE[:logged])]
    if told:
        await append(proxy, log, told, 0)
        await proxy.app[STORE].events.release(log)
    else:
        key = f"{partition}:events:{response['id']}"
        await proxy.redis.xadd(key, {"owner": log.owner, "generation": "g"}, id="0-1")
        await proxy.redis.expire(key, 100)
    events = [body_of(frame) for frame in events_in(await resume(proxy, response["id"]))]
    assert [event["sequence_number"] for event in events] == list(range(max(logged, 1) + 1))
    assert events[0]["type"] == "response.created"
    assert events[-1] == {
        "type": kind,
        "response": {**response, "status": status},
        "sequence_number": max(logged, 1),
    }


async def test_a_log_that_is_begun_anew_breaks_off_whoever_was_told_of_it(start_proxy: StartProxy):
    proxy = await start_proxy()
    log = await write_log(proxy, WHOLE[:3])
    async with following(proxy, log.response_id) as followed:
        await first_events(followed, 3)
        key = f"branchline:{{{partition_of(log.response_id)}}}:events:{log.response_id}"
        async with proxy.redis.pipeline() as together:
            together.delete(key)
            together.xadd(key, {"owner": log.owner, "generation": "another"}, id="0-1")
            frames = b"".join(sse.encode("x", b"{}") for _ in range(5))
            together.xadd(key, {"events": 5, "frames": frames, "last": 1}, id="5-0")
            together.expire(key, 100)
            await together.execute()
        with pytest.raises(aiohttp.ClientPayloadError):
            await followed.read()
    await proxy.app[STORE].events.release(log)


async def test_silence_is_bridged_by_comments(start_proxy: StartProxy):
    proxy = await start_proxy(server={"keepalive_seconds": 0.1})
    log = await write_log(proxy, WHOLE[:1])
    async with following(proxy, log.response_id, 0) as followed:
        for _ in range(3):
            assert (await followed.content.readuntil(b"\n\n")).startswith(b": ")
        await append(proxy, log, [{**WHOLE[1], "sequence_number": 1}], 1)
        assert body_of((await first_events(followed, 1))[0])["sequence_number"] == 1
    await proxy.app[STORE].events.release(log)


async def test_followers_that_leave_are_forgotten_and_the_others_go_on(start_proxy: StartProxy):
    proxy = await start_proxy()
    log = await write_log(proxy, WHOLE[:2])
    followers = proxy.app[FOLLOWERS]
    async with following(proxy, log.response_id) as staying:
        await first_events(staying, 2)
        async with following(proxy, log.response_id) as leaving:
            await first_events(leaving, 2)
            leaving.close()
        await until(lambda: len(followers._streams) == 1)
        await append(proxy, log, [{**WHOLE[2], "sequence_number": 2}], 2)
        assert len(await first_events(staying, 1)) == 1
        await until(lambda: sum(map(len, followers._waiting.values())) == 1)
    await proxy.app[STORE].events.release(log)


async def test_a_server_that_stops_breaks_followers_off(start_proxy: StartProxy):
    proxy = await start_proxy(server={"shutdown_timeout_seconds": 60.0})
    log = await write_log(proxy, WHOLE[:2])
    async with following(proxy, log.response_id) as followed:
        await first_events(followed, 2)
        stopping = asyncio.create_task(proxy.runner.cleanup())
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ClientPayloadError):
                await followed.read()
            await stopping
    other = await start_proxy()
    await other.app[STORE].events.release(log)
    assert body_of(events_in(await resume(other, log.response_id, 1))[0])["type"] == "response.failed"


async def test_an_upstream_that_breaks_off_is_told_again_as_it_was(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    proxy.upstream.script(Reply.sse([*WHOLE[:6], CUT], done=False))
    told = await read_stream(proxy, ONE_TWO_THREE)
    assert body_of(events_in(told)[-1])["type"] == "response.failed"
    assert await resume(proxy, id_in(events_in(told)[0])) == told


async def test_a_refused_turn_leaves_no_log(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    proxy.upstream.script(Reply.json(429, {"error": {"message": "slow down"}}))
    status, _ = await proxy.call("POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
    assert status == 429
    assert not [key async for key in proxy.redis.scan_iter("*resp_*")]


async def test_a_turn_over_a_websocket_is_resumed_over_http(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    gate, reply = gated()
    proxy.upstream.script(reply)
    async with Connection(proxy) as connection:
        await connection.create(input="hi")
        created = await connection.until("response.created")
    async with following(proxy, created["response"]["id"]) as followed:
        gate.set()
        events = [body_of(frame) for frame in events_in(await followed.read())]
    accept_events(events)
    assert events[0] == created
    assert events[-1]["type"] == "response.completed"


async def test_openai_s_client_resumes(start_proxy: StartProxy):
    proxy = await start_proxy(**ALL)
    client = proxy.client()
    gate, reply = gated(7)
    proxy.upstream.script(reply)
    stream = await client.responses.create(model="m", input="hi", stream=True)
    seen: list[Any] = [await anext(stream) for _ in range(4)]
    await stream.close()
    response_id = seen[0].response.id
    resumed = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    gate.set()
    seen += [event async for event in resumed]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    async with client.responses.stream(response_id=response_id) as helper:
        again: list[Any] = [event async for event in helper]
        final = await helper.get_final_response()
    assert len(again) == len(seen)
    assert (
        final.output_text == seen[-1].response.output_text == (await client.responses.retrieve(response_id)).output_text
    )
    async with client.responses.stream(response_id=response_id, starting_after=3) as helper:
        assert [event.sequence_number async for event in helper] == list(range(4, len(seen)))
