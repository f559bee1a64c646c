"""Traces: the spans of a turn as a collector gets them, and what goes on to the model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.app import create_app, create_runner
from proxy.config.settings import Config, Secret
from proxy.telemetry.lines import RequestLine
from proxy.telemetry.offering import start_telemetry
from proxy.telemetry.tracing import TelemetryUnavailable, create_tracing
from tests.flows.conftest import Proxy, configure
from tests.flows.connection import Connection
from tests.flows.streams import OPENING, read_stream
from tests.flows.talk import model_answer, new_conversation, respond
from tests.flows.telemetry.collector import Collector, Told
from tests.upstream import CUT, Reply, ScriptedUpstream

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE}-{SPAN}-01"

StartTraced = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as running:
        yield running


@pytest.fixture
async def start_traced(
    valkey_url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartTraced]:
    """Start proxies whose traces go to that collector, all sampled unless `OTEL_TRACES_SAMPLER` says otherwise."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    async with AsyncExitStack() as stack:
        client = Redis.from_url(valkey_url)
        stack.push_async_callback(client.aclose)
        await client.flushall()

        async def start(**changes: Any) -> Proxy:
            upstream = await stack.enter_async_context(ScriptedUpstream())
            base = {"redis": {"url": Secret(valkey_url)}, "upstream": {"url": upstream.url}, **changes}
            config = configure(Config(), base)
            app = create_app(config, start_telemetry(config))
            runner = create_runner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Proxy(f"http://{host}:{port}", app, upstream, http, client, runner, stack)

        yield start


@pytest.fixture
async def traced(start_traced: StartTraced) -> Proxy:
    return await start_traced()


def tree(spans: list[Told]) -> list[str]:
    """The names of a trace's spans, each with those above it."""
    by_id = {span.span_id: span for span in spans}

    def path(span: Told) -> str:
        above = by_id.get(span.parent)
        return f"{path(above)} > {span.name}" if above else span.name

    return sorted(path(span) for span in spans)


async def turn(proxy: Proxy, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Take a turn with further headers."""
    async with proxy.http.post(
        f"{proxy.url}/v1/responses",
        json={"model": "echo", "input": "words of mine", **body},
        headers={"Authorization": "Bearer sk-alice", **(headers or {})},
    ) as answer:
        return await answer.json(content_type=None)


POST = "POST /v1/responses"


async def test_a_turn_is_a_tree_of_spans(traced: Proxy, collector: Collector):
    conversation = await new_conversation(traced)
    await respond(traced, input="earlier", conversation=conversation)
    usage = {"input_tokens": 11, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 3}}
    traced.upstream.script(Reply.json(200, model_answer("hello", usage=usage, model="echo-1")))
    response = await turn(traced, conversation=conversation)
    await collector.until(POST, 2)
    spans = [span for span in collector.spans if span.trace_id == collector.named(POST)[-1].trace_id]
    assert tree(spans) == [
        POST,
        f"{POST} > chat echo",
        f"{POST} > turn.commit",
        f"{POST} > turn.commit > EVALSHA commit_turn",
        f"{POST} > turn.open",
        f"{POST} > turn.open > EVALSHA open_turn",
        f"{POST} > turn.prepare",
    ]
    named = {span.name: span for span in spans}
    assert {name: span.kind for name, span in named.items()} == {
        POST: "SERVER",
        "chat echo": "CLIENT",
        "turn.commit": "INTERNAL",
        "EVALSHA commit_turn": "CLIENT",
        "turn.open": "INTERNAL",
        "EVALSHA open_turn": "CLIENT",
        "turn.prepare": "INTERNAL",
    }
    root, chat = named[POST], named["chat echo"]
    assert root.parent == ""
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/responses",
        "http.response.status_code": 200,
    }
    name = traced.upstream.url.removeprefix("http://")
    assert chat.attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": name,
        "gen_ai.request.model": "echo",
        "gen_ai.request.stream": False,
        "gen_ai.conversation.id": conversation,
        "gen_ai.response.id": response["id"],
        "gen_ai.response.model": "echo-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "branchline.attempt": 1,
        "branchline.branch": "MAIN",
        "branchline.upstream": name,
        "server.address": "127.0.0.1",
    }
    opened = named["turn.open"].attributes
    assert (opened["branchline.history.items"], opened["branchline.lock.waited"]) == (2, 0)
    assert opened["branchline.history.bytes"] > 100
    assert named["EVALSHA commit_turn"].attributes["db.system.name"] == "redis"
    assert named["EVALSHA commit_turn"].attributes["db.operation.name"] == "commit_turn"
    for span in spans:
        assert root.began <= span.began <= span.ended <= root.ended
        assert span.resource["service.name"] == "branchline"
        assert not any(secret in repr(vars(span)) for secret in ("sk-alice", "words of mine", "hello", "token:"))


async def test_the_trace_of_the_caller_goes_on_and_reaches_the_model_server(traced: Proxy, collector: Collector):
    await turn(traced, headers={"traceparent": CALLER, "tracestate": "vendor=1"})
    spans = await collector.until(POST)
    named = {span.name: span for span in spans}
    assert {span.trace_id for span in spans} == {TRACE}
    assert named[POST].parent == SPAN
    sent = traced.upstream.requests[-1].headers
    assert sent["traceparent"] == f"00-{TRACE}-{named['chat echo'].span_id}-01"
    assert sent["tracestate"] == "vendor=1"


async def test_what_is_passed_through_continues_our_own_span(traced: Proxy, collector: Collector):
    await traced.call("GET", "/v1/models")
    (root,) = await collector.until("GET /v1/{tail}")
    assert traced.upstream.requests[-1].headers["traceparent"] == f"00-{root.trace_id}-{root.span_id}-01"


async def test_a_caller_that_may_not_decide_is_linked(start_traced: StartTraced, collector: Collector):
    proxy = await start_traced(traces={"remote_parent": "link"})
    await turn(proxy, headers={"traceparent": CALLER, "tracestate": "vendor=1"})
    root = (await collector.until(POST))[0]
    assert (root.parent, root.links) == ("", [(TRACE, SPAN)])
    assert root.trace_id != TRACE
    assert "tracestate" not in proxy.upstream.requests[-1].headers


async def test_what_is_not_sampled_has_no_spans_but_a_trace(traced: Proxy, collector: Collector):
    await turn(traced, headers={"traceparent": CALLER[:-2] + "00"})
    sent = traced.upstream.requests[-1].headers["traceparent"]
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")
    assert SPAN not in sent
    await turn(traced)
    await collector.until(POST)
    assert [span.trace_id for span in collector.spans if span.trace_id == TRACE] == []


async def test_one_in_a_hundred_is_sampled_unless_somebody_says_otherwise(
    start_traced: StartTraced, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    tracing = create_tracing(Config())
    assert tracing is not None
    sampled = [tracing.begin({}).sampled for _ in range(5000)]
    assert 10 < sum(sampled) < 150
    assert tracing.begin({"traceparent": CALLER}).sampled
    await tracing.close()


async def test_a_streamed_turn_notes_its_first_output(traced: Proxy, collector: Collector):
    await read_stream(traced, {"model": "echo", "input": "hi", "stream": True})
    (chat,) = [span for span in await collector.until(POST) if span.name == "chat echo"]
    assert chat.events == ["first output"]
    assert chat.attributes["gen_ai.request.stream"] is True


async def test_an_attempt_that_failed_says_how(traced: Proxy, collector: Collector):
    traced.upstream.script(Reply.sse([*OPENING, CUT], done=False))
    await turn(traced)
    (chat,) = [span for span in await collector.until(POST) if span.name == "chat echo"]
    assert chat.failed
    assert chat.attributes["error.type"] == "cut"


async def test_a_background_run_is_linked_to_the_request_that_queued_it(traced: Proxy, collector: Collector):
    response = await turn(traced, background=True, conversation=await new_conversation(traced))
    (root,) = [span for span in await collector.until(POST) if span.name == POST]
    spans = await collector.until("background turn")
    (run,) = [span for span in spans if span.name == "background turn"]
    assert (run.kind, run.parent, run.links) == ("CONSUMER", "", [(root.trace_id, root.span_id)])
    assert "background turn > chat echo" in tree(spans)
    assert "background turn > turn.commit > EVALSHA commit_turn" in tree(spans)
    (chat,) = [span for span in spans if span.name == "chat echo"]
    assert chat.attributes["gen_ai.response.id"] == response["id"]


async def test_a_websocket_has_a_span_a_turn(traced: Proxy, collector: Collector):
    async with Connection(traced) as connection:
        await connection.turn(input="one")
        await connection.turn(input="two")
        spans = await collector.until("websocket turn", 2)
    assert len({span.trace_id for span in spans}) == 2
    assert tree(spans).count("websocket turn > chat echo") == 2
    assert collector.named("GET /v1/responses") == []


async def test_the_line_of_a_request_names_its_trace(traced: Proxy, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    await turn(traced, headers={"traceparent": CALLER})
    (line,) = [record.msg for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert line.fields()["trace_id"] == TRACE


async def test_without_a_collector_a_trace_goes_by(proxy: Proxy):
    await turn(proxy, headers={"traceparent": CALLER, "tracestate": "vendor=1"})
    sent = proxy.upstream.requests[-1].headers
    assert (sent["traceparent"], sent["tracestate"]) == (CALLER, "vendor=1")


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SERVICE_NAME", "x")]
)
def test_what_turns_tracing_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    if value != "x":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert create_tracing(Config()) is None


def test_what_can_not_be_spoken_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TelemetryUnavailable, match="http/protobuf"):
        create_tracing(Config())


async def test_a_collector_that_is_away_disturbs_nobody(start_traced: StartTraced, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    proxy = await start_traced()
    assert (await turn(proxy))["status"] == "completed"
    async with asyncio.timeout(20):
        await proxy.runner.cleanup()
