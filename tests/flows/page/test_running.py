"""Turns of the page: they run on the server whether the page stays or not, and any turn can be stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from proxy.http.body import read_json
from proxy.page.running import begin_turn, stop_turn
from proxy.protocol.request import read_request
from proxy.turns.running import TURNS
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.page.live import Live, live_path
from tests.flows.streams import OPENING, Stream, answer_after, read_stream
from tests.flows.talk import items_of, new_conversation, respond, settled
from tests.upstream import Reply


async def begin(request: web.Request) -> web.Response:
    """Begin a turn as the page does."""
    begun = await begin_turn(request, read_request(await read_json(request)))
    return web.json_response({"response": begun.response_id, "over": begun.is_over, "status": begun.status})


async def stop(request: web.Request) -> web.Response:
    """Stop one as the page does."""
    body = await read_json(request)
    return web.json_response(await stop_turn(request, body["conversation"], body["branch"], body["response"]))


ROUTES = [web.post("/ui/test/begin", begin), web.post("/ui/test/stop", stop)]


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    return await start_proxy(routes=ROUTES)


async def begin_on(proxy: Proxy, conversation: str, **body: Any) -> dict[str, Any]:
    body = {"model": "m", "input": "hi", "stream": True, "conversation": conversation, **body}
    status, begun = await proxy.call("POST", "/ui/test/begin", body)
    assert status == 200, begun
    return dict(begun)


async def stop_on(
    proxy: Proxy, conversation: str, response_id: str, branch: str = "", key: str = "sk-alice"
) -> tuple[int, Any]:
    body = {"conversation": conversation, "branch": branch, "response": response_id}
    return await proxy.call("POST", "/ui/test/stop", body, key=key)


async def texts_in(proxy: Proxy, conversation: str) -> list[str]:
    return [item["content"][0]["text"] for item in await items_of(proxy, conversation)]


# Begun


async def test_a_turn_goes_on_without_the_page_and_can_be_followed(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    begun = await begin_on(proxy, conversation)
    assert (begun["over"], begun["status"]) == (False, "")
    async with Live(proxy, live_path(conversation)) as page:
        running = await page.until("running")
        assert running["response"] == begun["response"]
        # from its beginning, though it was begun before
        assert await page.text("Once upon") == "Once upon"
        gate.set()
        assert (await page.until("done"))["status"] == "completed"
    assert await texts_in(proxy, conversation) == ["hi", "Once upon"]


async def test_a_turn_that_is_over_at_once_says_so(proxy: Proxy):
    conversation = await new_conversation(proxy)
    begun = await begin_on(proxy, conversation, model="echo", stream=False)
    assert (begun["over"], begun["status"]) == (True, "completed")


async def test_what_is_refused_before_the_model_answers_is_told_to_whoever_begins(proxy: Proxy):
    conversation = await new_conversation(proxy)
    refusal = {"error": {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found"}}
    proxy.upstream.script(Reply.json(404, refusal))
    status, answer = await proxy.call(
        "POST", "/ui/test/begin", {"model": "m", "input": "hi", "stream": True, "conversation": conversation}
    )
    assert (status, answer["error"]["message"]) == (404, "no such model")
    assert await items_of(proxy, conversation) == []
    await respond(proxy, conversation=conversation)


async def test_cookies_and_headers_of_the_browser_stay_here(proxy: Proxy):
    conversation = await new_conversation(proxy)
    headers = {"Authorization": "Bearer sk-alice", "Cookie": "branchline_session=secret", "User-Agent": "Browser"}
    body = {"model": "echo", "input": "hi", "stream": True, "conversation": conversation}
    async with proxy.http.post(f"{proxy.url}/ui/test/begin", json=body, headers=headers) as answer:
        assert answer.status == 200
    await settled(proxy)
    sent = proxy.upstream.requests[-1].headers
    assert "Cookie" not in sent
    assert "Browser" not in sent.get("User-Agent", "")
    assert sent["Authorization"] == "Bearer sk-alice"


# Stopped


async def test_a_stopped_turn_keeps_its_input_and_what_came_of_its_answer(proxy: Proxy):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(answer_after(asyncio.Event()))
    begun = await begin_on(proxy, conversation)
    async with Live(proxy, live_path(conversation)) as page:
        await page.text("Once upon")
        assert await stop_on(proxy, conversation, begun["response"]) == (200, True)
        done = await page.until("done")
    assert done["status"] == "incomplete"
    assert await texts_in(proxy, conversation) == ["hi", "Once upon"]
    # it is over, and the branch is free
    assert await stop_on(proxy, conversation, begun["response"]) == (200, False)
    await respond(proxy, conversation=conversation)


async def test_stopped_before_the_first_word_the_question_stays(proxy: Proxy):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([OPENING[0], asyncio.Event()]))
    begun = await begin_on(proxy, conversation)
    assert await stop_on(proxy, conversation, begun["response"]) == (200, True)
    await settled(proxy)
    assert await texts_in(proxy, conversation) == ["hi"]
    _, response = await proxy.call("GET", f"/v1/responses/{begun['response']}")
    assert (response["status"], response["output"]) == ("incomplete", [])


async def test_a_client_whose_turn_is_stopped_gets_the_end_of_its_stream(proxy: Proxy):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(answer_after(asyncio.Event()))
    async with Stream(proxy, {"conversation": conversation}) as client:
        created = await client.until("response.created")
        await client.until("response.output_text.delta")
        assert await stop_on(proxy, conversation, created["response"]["id"]) == (200, True)
        end = await client.until("response.incomplete")
    assert end["response"]["output"][0]["content"][0]["text"] == "Once upon"
    assert await texts_in(proxy, conversation) == ["hi", "Once upon"]


async def test_a_client_that_waits_for_json_gets_what_there_is(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(Reply.sse([*OPENING, asyncio.Event()]))
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        asking = asyncio.create_task(respond(proxy, conversation=conversation, model="m"))
        running = await page.until("running")
        # no frames are made for it, so there is nothing to follow
        assert not running["followable"]
        await proxy.upstream.wait_for_requests(1)
        assert await stop_on(proxy, conversation, running["response"]) == (200, True)
        response = await asking
    assert (response["status"], gate.is_set()) == ("incomplete", False)


async def test_stopped_before_the_model_server_said_anything(proxy: Proxy):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([asyncio.Event()]))
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        asking = asyncio.create_task(read_stream(proxy, {"conversation": conversation, "model": "m", "input": "hi"}))
        running = await page.until("running")
        await proxy.upstream.wait_for_requests(1)
        assert await stop_on(proxy, conversation, running["response"]) == (200, True)
        told = await asking
    assert [line for line in told.split(b"\n") if line.startswith(b"event: ")] == [
        b"event: response.created",
        b"event: response.in_progress",
        b"event: response.incomplete",
    ]
    assert await texts_in(proxy, conversation) == ["hi"]


async def test_a_turn_in_another_process_is_stopped(start_proxy: StartProxy):
    here, there = await start_proxy(routes=ROUTES), await start_proxy()
    conversation = await new_conversation(here)
    there.upstream.script(answer_after(asyncio.Event()))
    async with Live(here, live_path(conversation)) as page:
        await page.until("change")
        async with Stream(there, {"conversation": conversation}) as client:
            running = await page.until("running")
            await page.text("Once upon")
            assert await stop_on(here, conversation, running["response"], "MAIN") == (200, True)
            await client.until("response.incomplete")
        assert (await page.until("done"))["status"] == "incomplete"
    assert await texts_in(here, conversation) == ["hi", "Once upon"]


async def test_a_turn_that_nobody_watched_is_stopped_with_its_lock_s_renewal(start_proxy: StartProxy):
    here = await start_proxy(routes=ROUTES)
    there = await start_proxy(turns={"lock_lease_seconds": 1.0})
    conversation = await new_conversation(here)
    there.upstream.script(answer_after(asyncio.Event()))
    async with Stream(there, {"conversation": conversation}) as client:
        created = await client.until("response.created")
        await client.until("response.output_text.delta")
        assert await stop_on(here, conversation, created["response"]["id"]) == (200, True)
        await client.until("response.incomplete")


async def test_a_background_response_that_waits_is_cancelled_and_one_that_runs_stops(start_proxy: StartProxy):
    proxy = await start_proxy(routes=ROUTES, background={"concurrency": 1})
    one, other = await new_conversation(proxy), await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    running = await respond(proxy, conversation=one, background=True, model="m", stream=False)
    await proxy.upstream.wait_for_requests(1)
    waiting = await respond(proxy, conversation=other, background=True)
    assert await stop_on(proxy, other, waiting["id"]) == (200, True)
    assert (await proxy.call("GET", f"/v1/responses/{waiting['id']}"))[1]["status"] == "cancelled"
    async with Live(proxy, live_path(one)) as page:
        assert (await page.until("running"))["response"] == running["id"]
        assert await stop_on(proxy, one, running["id"]) == (200, True)
        assert (await page.until("done"))["status"] == "incomplete"


async def test_only_its_owner_stops_a_turn(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    begun = await begin_on(proxy, conversation)
    assert (await stop_on(proxy, conversation, begun["response"], key="sk-mallory"))[0] == 404
    assert await stop_on(proxy, conversation, "resp_other") == (200, False)
    assert not proxy.app[TURNS].stop("token:other", begun["response"])
    gate.set()
    await settled(proxy)
    assert (await proxy.call("GET", f"/v1/responses/{begun['response']}"))[1]["status"] == "completed"
