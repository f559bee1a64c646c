"""Another server is asked until the first output of the one before, and not for what others would refuse as well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from proxy.services import SERVICES
from proxy.upstream.standing import MAX_FAILURES
from tests.flows.conftest import Proxy
from tests.flows.streams import OPENING, Stream, answer_after, delta, read_stream
from tests.flows.talk import items_of, new_conversation, post, respond, settled
from tests.flows.upstreams.conftest import WAYS, Several, StartSeveral, says, take, text_of, told_in
from tests.upstream import CUT, HANG, Reply

TWO = {"first": {"models": ["m"]}, "second": {"models": ["m"]}, "rest": {"models": ["*"]}}
CREATED = OPENING[0]
RUNNING = {"type": "response.in_progress", "response": CREATED["response"]}
SEARCH = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "web_search_call"}}
QUEUED = {"type": "response.queued", "response": CREATED["response"]}
ERROR = {"code": "server_error", "message": "Out of memory."}


def failed(error: Any = ERROR, **fields: Any) -> dict[str, Any]:
    return {"id": "r1", "object": "response", "status": "failed", "error": error, "output": [], **fields}


REFUSALS = {str(status): Reply.json(status, {"error": {"message": "No."}}) for status in (429, 500, 502, 503, 504)}
STREAMED = {
    "error at once": Reply.sse([{"type": "error", **ERROR}]),
    "error": Reply.sse([CREATED, QUEUED, RUNNING, {"type": "error", **ERROR}]),
    "failed": Reply.sse([CREATED, RUNNING, {"type": "response.failed", "response": failed()}]),
    "failed for the load": Reply.sse(
        [CREATED, {"type": "response.failed", "response": failed({"code": "rate_limit_exceeded", "message": "Slow."})}]
    ),
    "bare": Reply.raw(200, "text/event-stream", chunks=[b'data: {"error": {"message": "CUDA", "code": 500}}\n\n']),
    "no event": Reply.sse([CUT]),
    "cut": Reply.sse([CREATED, RUNNING, CUT]),
    "ended": Reply.sse([CREATED], done=False),
    "silent": Reply.sse([CREATED, HANG]),
    "unreadable": Reply.raw(200, "text/event-stream", chunks=[b"event: response.created\ndata: {nonsense\n\n"]),
}
WHOLE = {
    "failed": Reply.json(200, failed()),
    "no response": Reply.json(200, {"error": ERROR}),
    "no JSON": Reply.raw(200, "application/json", b"{nonsense"),
    "no object": Reply.json(200, []),
    "cut": Reply.raw(200, "application/json", chunks=[b'{"id"', CUT]),
    "no head": Reply.raw(200, "application/json", chunks=[CUT]),
    "silent": Reply.raw(200, "application/json", chunks=[HANG]),
    "redirect": Reply.redirect("/elsewhere"),
    "unfinished": Reply.json(200, {**failed(None), "status": "in_progress"}),
}
ENDING = {"plain": WHOLE, "background": WHOLE}
KINDS = {
    f"{way} {kind}": (way, reply) for way in WAYS for kind, reply in {**REFUSALS, **ENDING.get(way, STREAMED)}.items()
}


async def two(start_several: StartSeveral, **first: Any) -> Several:
    """Two servers of one model; the first is waited for 300 ms."""
    return await start_several(**{**TWO, "first": {"models": ["m"], "read_timeout_seconds": 0.3, **first}})


@pytest.mark.parametrize(("way", "reply"), KINDS.values(), ids=KINDS.keys())
async def test_the_next_server_answers_where_one_fails_before_its_output(
    start_several: StartSeveral, way: str, reply: Reply
):
    several = await two(start_several)
    several.servers["first"].script(reply)
    several.servers["second"].script(says("from the second", way))
    response = await take(several, way, model="m")
    assert (response["status"], text_of(response), response["error"]) == ("completed", "from the second", None)
    assert several.asked() == ["first", "second"]
    assert several.question("first") == several.question("second")
    _, stored = await several.proxy.call("GET", f"/v1/responses/{response['id']}")
    assert stored["output"] == response["output"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://upstream.invalid/v1"])
async def test_the_next_server_answers_where_one_can_not_be_reached(start_several: StartSeveral, way: str, url: str):
    several = await two(start_several, url=url)
    response = await take(several, way, model="m")
    assert response["status"] == "completed"
    assert several.asked() == ["second"]


@pytest.mark.parametrize(
    "events",
    [
        [*OPENING, {"type": "error", **ERROR}],
        [*OPENING, {"type": "response.failed", "response": failed()}],
        [*OPENING, CUT],
        [
            CREATED,
            OPENING[1],
            {"type": "response.output_item.added", "output_index": 1, "item": {"type": "web_search_call"}},
            CUT,
        ],
    ],
    ids=["error", "failed", "cut", "search"],
)
@pytest.mark.parametrize("way", ["stream", "websocket", "background stream"])
async def test_nobody_else_is_asked_after_the_first_output(start_several: StartSeveral, way: str, events: list[Any]):
    several = await two(start_several)
    several.servers["first"].script(Reply.sse(events))
    response = await take(several, way, model="m")
    assert response.get("status", "failed") == "failed"
    assert several.asked() == ["first"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 501])
async def test_a_refusal_of_the_request_is_the_clients_to_know(start_several: StartSeveral, way: str, status: int):
    several = await two(start_several)
    several.servers["first"].script(Reply.json(status, {"error": {"message": "No.", "code": "whatever"}}))
    answer = await take(several, way, model="m")
    assert answer["error"]["message"] == "No."
    assert several.asked() == ["first"]


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "Too long."},
        {"code": "invalid_prompt", "message": "Not that."},
        {"code": "image_too_large", "message": "Too large."},
        {"code": 400, "type": "BadRequestError", "message": "Bad."},
        {"type": "invalid_request_error", "message": "Bad."},
    ],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_for_the_requests_reasons_is_too(start_several: StartSeveral, way: str, error: dict[str, Any]):
    several = await two(start_several)
    if way in ("plain", "background"):
        reply = Reply.json(200, failed(error))
    else:
        reply = Reply.sse([CREATED, {"type": "response.failed", "response": failed(error)}])
    several.servers["first"].script(reply)
    response = await take(several, way, model="m")
    assert (response["status"], response["error"]["message"]) == ("failed", error["message"])
    assert several.asked() == ["first"]


@pytest.mark.parametrize("way", WAYS)
async def test_each_server_is_asked_once_and_the_last_ones_failure_is_told(start_several: StartSeveral, way: str):
    several = await start_several(**TWO)
    for name in ("first", "second"):
        several.servers[name].script(*[Reply.json(503, {"error": {"message": f"{name} is busy."}})] * 3)
    answer = await take(several, way, model="m")
    assert answer["error"]["message"] == "second is busy."
    assert several.asked() == ["first", "second"]


async def test_a_failed_turn_leaves_nothing(start_several: StartSeveral):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    for name in ("first", "second"):
        several.servers[name].script(Reply.json(503, {}))
    await respond(several.proxy, model="m", conversation=conversation, expect=503)
    assert await items_of(several.proxy, conversation) == []
    await respond(several.proxy, model="m", conversation=conversation)


async def test_what_the_client_was_told_stands(start_several: StartSeveral):
    """One response, under one id, without a gap: whoever reads the stream sees nothing of the change."""
    several = await start_several(**TWO)
    several.servers["first"].script(STREAMED["error"])
    several.servers["second"].script(says("hello", "stream"))
    conversation = await new_conversation(several.proxy)
    told = told_in(await read_stream(several.proxy, {"model": "m", "input": "hi", "conversation": conversation}))
    kinds = [event["type"] for event in told]
    assert kinds.count("response.created") == kinds.count("response.completed") == 1
    assert "error" not in kinds
    assert len({event["response"]["id"] for event in told if "response" in event}) == 1
    assert [item["role"] for item in await items_of(several.proxy, conversation)] == ["user", "assistant"]


async def test_nobody_else_is_asked_for_a_client_that_left(start_several: StartSeveral):
    several = await start_several(**TWO)
    gate = asyncio.Event()
    several.servers["first"].script(Reply.sse([CREATED, RUNNING, gate, {"type": "error", **ERROR}]))
    async with Stream(several.proxy, {"model": "m"}) as stream:
        await stream.until("response.in_progress")
    await several.servers["first"].client_left.wait()
    gate.set()
    await settled(several.proxy)
    assert several.asked() == ["first"]
    assert server(several.proxy, "first").standing.is_good


async def test_a_turn_that_goes_on_without_its_client_goes_on_elsewhere_too(start_several: StartSeveral):
    several = await start_several(**TWO, settings={"turns": {"on_disconnect": "finish"}})
    gate = asyncio.Event()
    several.servers["first"].script(Reply.sse([CREATED, RUNNING, gate, {"type": "error", **ERROR}]))
    conversation = await new_conversation(several.proxy)
    async with Stream(several.proxy, {"model": "m", "conversation": conversation}) as stream:
        await stream.until("response.in_progress")
    gate.set()
    await settled(several.proxy)
    assert several.asked() == ["first", "second"]
    assert len(await items_of(several.proxy, conversation)) == 2


def server(proxy: Proxy, name: str) -> Any:
    return next(one for one in proxy.app[SERVICES].upstreams if one.name == name)


async def test_after_three_failures_in_a_row_a_server_comes_last_for_ten_seconds(
    start_several: StartSeveral, caplog: pytest.LogCaptureFixture
):
    several = await start_several(**TWO)
    now = 0.0
    server(several.proxy, "first").standing._clock = lambda: now
    several.servers["first"].script(*[Reply.json(503, {})] * (MAX_FAILURES + 1))
    with caplog.at_level(logging.WARNING):
        for turn in range(1, MAX_FAILURES + 3):
            await respond(several.proxy, model="m")
            assert several.asked().count("first") == min(turn, MAX_FAILURES)
    assert caplog.text.count("upstream first: passed over for 10 s") == 1
    # it is still asked where the others fail as well
    several.servers["second"].script(Reply.json(503, {}))
    await respond(several.proxy, model="m", expect=503)
    assert several.asked().count("first") == MAX_FAILURES + 1
    now = 10.5
    await respond(several.proxy, model="m")
    assert several.asked().count("first") == MAX_FAILURES + 2
    several.servers["first"].script(*[Reply.json(503, {})] * MAX_FAILURES)
    for _ in range(MAX_FAILURES - 1):
        await respond(several.proxy, model="m")
    assert server(several.proxy, "first").standing.is_good


def kept(found: list[Any]) -> Callable[..., Any]:
    """What keeps every model call that is made, for a look at its attempts."""

    def keep(call: Any) -> Any:
        found.append(call)
        return call

    return keep


async def test_every_attempt_is_on_record(start_several: StartSeveral, monkeypatch: pytest.MonkeyPatch):
    several = await start_several(
        {"turns": {"max_seconds": 20.0}},
        refused={"models": ["m"], "url": "http://127.0.0.1:1/v1"},
        busy={"models": ["m"]},
        silent={"models": ["m"], "read_timeout_seconds": 0.2},
        cut={"models": ["m"]},
        nonsense={"models": ["m"]},
        in_band={"models": ["m"]},
        good={"models": ["m"]},
    )
    several.servers["busy"].script(Reply.json(429, {}))
    several.servers["silent"].script(Reply.sse([CREATED, HANG]))
    several.servers["cut"].script(Reply.sse([CREATED, CUT]))
    several.servers["nonsense"].script(STREAMED["unreadable"])
    several.servers["in-band"].script(STREAMED["error"])
    calls: list[Any] = []
    services = several.proxy.app[SERVICES]
    keep = kept(calls)
    made = type(services).model_call
    monkeypatch.setattr(type(services), "model_call", lambda self, *given: keep(made(self, *given)))
    await read_stream(several.proxy, {"model": "m", "input": "hi"})
    attempts = calls[0].record.attempts
    assert [(one.upstream, one.status) for one in attempts] == [
        ("refused", "connect"),
        ("busy", "429"),
        ("silent", "timeout"),
        ("cut", "cut"),
        ("nonsense", "malformed"),
        ("in-band", "in_band"),
        ("good", "200"),
    ]
    assert [one.head == 0.0 for one in attempts] == [True, True, *[False] * 5]
    assert [one.output == 0.0 for one in attempts] == [*[True] * 6, False]
    assert all(one.sent <= one.ended for one in attempts)
    last = attempts[-1]
    assert last.sent <= last.head <= last.output <= last.ended
    assert {one.model for one in attempts} == {"m"}


async def test_what_one_server_objects_to_says_nothing_of_the_next(start_several: StartSeveral):
    several = await start_several(**TWO)
    refuse = {"message": "Unknown parameter: 'include'.", "param": "include", "code": "unknown_parameter"}
    several.servers["first"].script(Reply.json(400, {"error": refuse}), Reply.json(503, {}))
    await respond(several.proxy, model="m", input="hi")
    assert several.asked() == ["first", "first", "second"]
    assert "include" not in several.question("first")
    assert "include" in several.question("second")


async def test_a_refusal_under_a_200_is_asked_again_at_the_same_server_first(start_several: StartSeveral):
    several = await start_several(**TWO)
    refuse = {"message": "Unknown parameter: 'include'.", "param": "include", "code": "unknown_parameter"}
    several.servers["first"].script(
        Reply.sse([CREATED, {"type": "error", **refuse}]), Reply.sse([CREATED, {"type": "error", **ERROR}])
    )
    several.servers["second"].script(says("hello", "stream"))
    told = told_in(await read_stream(several.proxy, {"model": "m", "input": "hi"}))
    assert text_of(told[-1]["response"]) == "hello"
    assert several.asked() == ["first", "first", "second"]
    assert "include" in several.question("second")


async def test_a_summary_is_written_by_the_next_server_too(start_several: StartSeveral):
    several = await start_several(**TWO, settings={"compaction": {"upstream": "own"}})
    several.servers["first"].script(STREAMED["cut"], STREAMED["error"])
    several.servers["second"].script(says("a summary", "stream"), says("hello", "plain"))
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "long " * 1500},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and?"},
        ],
        "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    }
    answer = await post(several.proxy, "/v1/responses", body, None)
    assert answer.status == 200
    assert [item["type"] for item in answer.json["output"]] == ["compaction", "message"]


async def test_a_failover_is_logged_by_name(start_several: StartSeveral, caplog: pytest.LogCaptureFixture):
    several = await two(start_several, url="http://127.0.0.1:1/v1?key=secret")
    with caplog.at_level(logging.WARNING):
        await respond(several.proxy, model="m")
    assert "upstream first failed (connect), second is asked" in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert "secret" not in caplog.text


async def test_an_answer_that_is_waited_for_does_not_hold_the_other_server(start_several: StartSeveral):
    several = await start_several(**TWO)
    gate = asyncio.Event()
    several.servers["first"].script(answer_after(gate))
    async with Stream(several.proxy, {"model": "m"}) as stream:
        await stream.until(delta("")["type"])
        gate.set()
        await stream.rest()
    assert several.asked() == ["first"]
