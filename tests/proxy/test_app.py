from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from proxy import app as app_module
from proxy.api import openapi
from proxy.app import ROUTES, create_app, create_runner
from proxy.auth.caller import CALLER
from proxy.config.settings import AuthConfig, Config, DataConfig, ErrorsConfig, ServerConfig, UpstreamConfig
from proxy.http.delivery import HttpDelivery
from proxy.http.keys import REQUEST_ID
from proxy.protocol import sse
from proxy.upstream.body import UpstreamCut
from storage import Unavailable as StoreUnavailable
from tests.proxy.conftest import NO_STORE, Exchange, Serve
from tests.upstream import HANG, Reply, ScriptedUpstream

REQUEST_ID_SHAPE = re.compile(r"req_[0-9a-f]{32}")
ORIGIN = "https://app.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, x-stainless-os",
}


@pytest.fixture
def serve_handler(serve: Serve, upstream: ScriptedUpstream):
    """Serve the application with one more route, `GET /v1/test`; gives its URL."""

    async def start(handler, **server) -> URL:
        config = Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE, server=ServerConfig(**server))
        app = create_app(config)
        table = app.router._resources
        app.router.add_get("/v1/test", handler)
        # Literals win over patterns wherever they stand
        assert table[-1].canonical == "/v1/test"
        return await serve(app) / "v1/test"

    return start


# Request ids


async def test_every_answer_has_a_request_id_of_its_own(proxy, client, upstream: ScriptedUpstream):
    upstream.script(Reply.sse([{"type": "x"}]), path="/v1/stream")
    seen = set()
    for method, path in [
        ("GET", "healthz"),
        ("GET", "nowhere"),
        ("PUT", "v1/conversations"),
        ("GET", "v1/models"),
        ("GET", "v1/stream"),
        ("POST", "v1/responses"),
        ("GET", "v1/responses/resp_1"),
    ]:
        async with client.request(method, proxy / path) as answer:
            request_id = answer.headers["x-request-id"]
            assert REQUEST_ID_SHAPE.fullmatch(request_id)
            if answer.status >= 400:
                assert (await answer.json())["request_id"] == request_id
        seen.add(request_id)
    assert len(seen) == 7


async def test_an_answer_that_no_middleware_sees_has_a_request_id_too(proxy, exchange: Exchange):
    answer = await exchange(
        proxy, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: magic\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 417")
    assert re.search(rb"x-request-id: req_[0-9a-f]{32}\r\n", answer)


# Errors


async def fail(request: web.Request) -> web.Response:
    raise RuntimeError("secret")


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise UpstreamCut


async def lose_store(request: web.Request) -> web.Response:
    raise StoreUnavailable("redis at 10.0.0.1")


async def test_a_fault_of_ours_is_a_500_and_its_traceback_is_logged_with_the_request_id(serve_handler, client, caplog):
    async with client.get(await serve_handler(fail)) as answer:
        assert answer.status == 500
        body = await answer.json()
        assert body["error"]["code"] == "internal_error"
        assert "secret" not in orjson.dumps(body).decode()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert answer.headers["x-request-id"] in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError


async def test_a_lost_store_is_a_503_that_says_when_to_retry(serve_handler, client):
    async with client.get(await serve_handler(lose_store)) as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert "10.0.0.1" not in await answer.text()


async def test_after_the_first_byte_there_is_no_second_answer(serve_handler, exchange: Exchange, caplog):
    url = await serve_handler(break_off)
    answer = await exchange(url, b"GET /v1/test HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert "answer cut" in caplog.text


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1", "/v2/models"])
async def test_unknown_paths_are_404_in_the_envelope(proxy, client, path):
    async with client.get(proxy / path[1:]) as answer:
        assert answer.status == 404
        assert answer.content_type == "application/json"
        error = (await answer.json())["error"]
        assert error == {
            "message": f"Invalid URL or method (GET {path}).",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


@pytest.mark.parametrize("path", ["responses", "v1/v1/responses", "openai/responses", "v1/v1/models", "models"])
async def test_a_wrong_base_url_gets_a_hint_and_reaches_no_upstream(proxy, client, upstream: ScriptedUpstream, path):
    for method in ("GET", "POST"):
        async with client.request(method, proxy / path) as answer:
            assert answer.status == 404
            error = (await answer.json())["error"]
        assert f"Did you mean '/v1/{path.rpartition('/')[2]}'?" in error["message"]
        assert (error["type"], error["code"]) == ("invalid_request_error", None)
    assert upstream.requests == []


async def test_errors_are_flat_where_that_is_configured(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, errors=ErrorsConfig(format="flat"))
    async with client.get(proxy / "nowhere") as answer:
        assert (await answer.json())["error"] == "Invalid URL or method (GET /nowhere)."


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/conversations", "POST"),
        ("PUT", "/v1/conversations/conv_1", "GET"),
        ("PUT", "/v1/responses", "POST"),
        ("PUT", "/v1/responses/resp_1", "DELETE"),
        ("POST", "/v1/responses/resp_1", "DELETE"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("GET", "/v1/responses/compact", "POST"),
        ("DELETE", "/v1/responses/compact", "POST"),
        ("GET", "/v1/responses/input_tokens", "POST"),
        ("DELETE", "/v1/responses/input_tokens", "POST"),
        ("GET", "/v1/conversations/import", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
async def test_a_wrong_method_on_our_paths_is_a_405_and_never_goes_upstream(
    proxy, client, upstream: ScriptedUpstream, method, path, allowed
):
    async with client.request(method, proxy / path[1:]) as answer:
        assert answer.status == 405
        assert allowed in answer.headers["Allow"].replace(" ", "").split(",")
        assert method not in answer.headers["Allow"]
        assert (await answer.json())["error"]["code"] == "method_not_allowed"
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["responses/resp_1/nothing", "conversations/conv_1/nothing", "responses/a/b/c"])
async def test_unknown_paths_under_ours_are_404_and_never_go_upstream(proxy, client, upstream, path):
    for method in ("GET", "POST"):
        async with client.request(method, proxy / "v1" / path) as answer:
            assert answer.status == 404
    assert upstream.requests == []


async def test_our_routes_are_found_in_their_encoded_spelling_too(
    proxy, upstream: ScriptedUpstream, exchange: Exchange
):
    answer = await exchange(proxy, b"PUT /v1/%72esponses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405")
    assert upstream.requests == []


# The log


def lines(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "proxy.http.middleware" and r.levelname == "INFO"]


async def test_one_line_a_request_without_query_headers_and_body(proxy, client, upstream: ScriptedUpstream, caplog):
    caplog.set_level("INFO")
    upstream.script(Reply.raw(200, "text/plain", b"secret"), path="/v1/files")
    headers = {"Authorization": "Bearer secret"}
    async with client.post(f"{proxy}/v1/files?key=secret", data=b"secret", headers=headers) as answer:
        await answer.read()
    async with client.get(f"{proxy}/v1/responses/resp_secret?x=secret", headers=headers) as answer:
        await answer.read()
    first, second = lines(caplog)
    assert re.fullmatch(r"POST /v1/files 200 [0-9.]+ ms 6 bytes req_[0-9a-f]{32} upstream \S+", first)
    assert second.startswith("GET /v1/responses/{response_id} 503 ")
    assert "secret" not in caplog.text


async def test_a_client_that_left_is_logged_as_such_and_is_no_error(serve_handler, client, caplog, complaints):
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_soon(ended.set)
        raise AssertionError

    task = asyncio.ensure_future(client.get(await serve_handler(hang)))
    await started.wait()
    task.cancel()
    await ended.wait()
    assert re.match(r"GET /v1/test 499 [0-9.]+ ms 0 bytes ", lines(caplog)[0])
    assert complaints() == []


async def stream_all(request: web.Request) -> None:
    """Send a whole stream, as a turn does."""
    delivery = HttpDelivery(request, unread_seconds=60)
    await delivery.send(b"data: 1\n\n")
    await delivery.send(sse.DONE)


async def stream_half(request: web.Request) -> None:
    """Send a stream without its end."""
    await HttpDelivery(request, unread_seconds=60).send(b"data: 1\n\n")


async def send_body(request: web.Request) -> None:
    """Send an answer that is whole before its handler returns."""
    answer = web.Response(body=b"data: 1\n\n")
    await answer.prepare(request)
    await answer.write_eof()


@pytest.mark.parametrize(("send", "status"), [(stream_all, 200), (send_body, 200), (stream_half, 499)])
async def test_a_client_that_leaves_with_its_whole_answer_is_logged_as_answered(
    serve_handler, client, caplog, send, status
):
    caplog.set_level("INFO")
    ended = asyncio.Event()

    async def linger(request: web.Request) -> web.Response:
        await send(request)
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_soon(ended.set)
        raise AssertionError

    async with client.get(await serve_handler(linger), headers={"Connection": "close"}) as answer:
        await (answer.content.readuntil(b"\n\n") if send is stream_half else answer.read())
        answer.close()
    await ended.wait()
    assert re.match(rf"GET /v1/test {status} [0-9.]+ ms ", lines(caplog)[0])
    assert (" 0 bytes " in lines(caplog)[0]) is (status == 499)


async def test_writing_to_a_client_that_left_is_no_error(serve_handler, complaints):
    finished = asyncio.Event()

    async def write_on(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        asyncio.get_running_loop().call_soon(finished.set)
        await response.write(b"to nobody")
        return response

    url = await serve_handler(write_on)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /v1/test HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await finished.wait()
    with suppress(ConnectionError):
        await reader.read()
    writer.close()
    assert complaints() == []


async def test_what_is_not_http_is_not_quoted_in_the_log(proxy, exchange: Exchange, caplog):
    caplog.set_level("INFO")
    answer = await exchange(proxy, b"GET / HTTP/1.1\r\nAuthorization: Bearer secret\x00\r\n\r\n")
    assert b" 400 " in answer
    assert "malformed request" in caplog.text
    assert "secret" not in caplog.text


# Credentials


async def test_every_path_under_v1_needs_credentials_and_nothing_else_does(serve_proxy, client, upstream):
    proxy = await serve_proxy(upstream.url, auth=AuthConfig(mode="api_keys", api_keys={"me": "0" * 64}))
    for method, path in [
        ("GET", "v1/models"),
        ("POST", "v1/responses"),
        ("PUT", "v1/responses"),
        ("GET", "v1/conversations/x/y"),
        ("POST", "v1/responses/compact"),
    ]:
        async with client.request(method, proxy / path) as answer:
            assert answer.status == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert (await answer.json())["error"]["code"] == "invalid_api_key"
    for path, status in [
        ("healthz", 200),
        ("nowhere", 404),
        ("openapi.json", 200 if openapi.OPENAPI_FILE.exists() else 404),
    ]:
        async with client.get(proxy / path) as answer:
            assert answer.status == status, path
    assert upstream.requests == []


async def test_handlers_know_the_caller_and_the_request(serve_handler, client):
    async def tell(request: web.Request) -> web.Response:
        return web.json_response([request[CALLER].owner, request[REQUEST_ID]])

    async with client.get(await serve_handler(tell)) as answer:
        assert await answer.json() == ["anonymous", answer.headers["x-request-id"]]


# CORS


async def test_cors_is_off_by_default(proxy, client, upstream: ScriptedUpstream):
    upstream.script(Reply.json(200, {}, {"Access-Control-Allow-Origin": "*"}), path="/v1/files")
    async with client.get(proxy / "v1/files", headers={"Origin": ORIGIN, "Authorization": "Bearer k"}) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        assert "Vary" not in answer.headers
    async with client.options(proxy / "v1/conversations", headers=PREFLIGHT) as answer:
        assert answer.status == 403


async def test_a_preflight_is_answered_before_credentials_are_asked_for(serve_proxy, client, upstream):
    proxy = await serve_proxy(
        upstream.url,
        server=ServerConfig(cors_origins=(ORIGIN,)),
        auth=AuthConfig(mode="api_keys", api_keys={"me": "0" * 64}),
    )
    for path in ("v1/conversations", "v1/models"):
        async with client.options(proxy / path, headers=PREFLIGHT) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
            assert answer.headers["Vary"] == "Origin"
            assert REQUEST_ID_SHAPE.fullmatch(answer.headers["x-request-id"])
    assert upstream.requests == []


async def test_other_origins_get_nothing(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(cors_origins=(ORIGIN,)))
    for method, path in (("OPTIONS", "v1/models"), ("GET", "v1/models")):
        headers = {**PREFLIGHT, "Origin": "https://evil.example"}
        async with client.request(method, proxy / path, headers=headers) as answer:
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
            assert answer.headers["Vary"] == "Origin"


async def test_answers_streams_and_errors_carry_the_cors_headers(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(cors_origins=(ORIGIN,)))
    upstream.script(Reply.json(200, {}, {"Vary": "Accept-Encoding"}), path="/v1/files")
    for path, vary in (("v1/files", "Accept-Encoding, Origin"), ("nowhere", "Origin"), ("v1/responses/x/y", "Origin")):
        async with client.get(proxy / path, headers={"Origin": ORIGIN}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Access-Control-Expose-Headers"].startswith("x-request-id, ")
            assert answer.headers["Vary"] == vary


async def test_any_origin_is_allowed_where_that_is_configured(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(cors_origins=("*",)))
    async with client.get(proxy / "v1/models", headers={"Origin": "https://any.example"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Vary" not in answer.headers


# The application


async def test_it_runs_with_nothing_configured_but_a_folder(serve: Serve, client, tmp_path):
    config = Config(upstream=UpstreamConfig(url="echo"), data=DataConfig(dir=str(tmp_path / "data")))
    origin = await serve(create_app(config))
    async with client.get(origin / "readyz") as answer:
        assert await answer.json() == {"status": "ok", "store": "ok", "upstream": "ok", "tasks": "ok"}
    async with client.post(origin / "v1/responses", json={"model": "echo", "input": "hello"}) as answer:
        assert answer.status == 200
        first = await answer.json()
    again = {"model": "echo", "input": "again", "previous_response_id": first["id"]}
    async with client.post(origin / "v1/responses", json=again) as answer:
        assert answer.status == 200


async def test_a_service_that_does_not_start_stops_the_others(tmp_path):
    data = tmp_path / "data"
    runner = create_runner(create_app(Config(data=DataConfig(dir=str(data)), auth=AuthConfig(mode="api_keys"))))
    with pytest.raises(ValueError, match=r"auth\.api_keys"):
        await runner.setup()
    (listening,) = data.glob("*.sock")
    await runner.cleanup()
    assert not listening.exists()


async def test_openapi_is_served_where_it_was_built(serve: Serve, client, upstream, tmp_path, monkeypatch):
    config = Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE)
    file = tmp_path / "openapi.json"
    monkeypatch.setattr(openapi, "OPENAPI_FILE", file)
    async with client.get(await serve(create_app(config)) / "openapi.json") as answer:
        assert answer.status == 404
    file.write_bytes(b'{"openapi":"3.1.0"}')
    async with client.get(await serve(create_app(config)) / "openapi.json") as answer:
        assert (answer.content_type, await answer.json()) == ("application/json", {"openapi": "3.1.0"})


async def test_long_tokens_fit_into_a_header(proxy, client):
    for size, status in ((30_000, 200), (40_000, 400)):
        async with client.get(proxy / "healthz", headers={"Authorization": f"Bearer {'x' * size}"}) as answer:
            assert answer.status == status


def test_literal_paths_come_before_patterns():
    paths = [route.path for route in ROUTES]
    assert paths[-1] == "/v1/{tail:.*}"
    for literal in ("/v1/responses/compact", "/v1/responses/input_tokens"):
        assert paths.index(literal) < paths.index("/v1/responses/{response_id}")


# Stopping


async def test_a_running_request_is_finished_before_the_server_stops(upstream, client, monkeypatch):
    monkeypatch.setattr(app_module, "CLEANUP_SECONDS", 0.01)
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"one", gate, b"two"]), path="/v1/files")
    runner, origin = await start(create_app(Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE)))
    async with client.get(origin / "v1/files") as answer:
        assert await answer.content.readany() == b"one"
        stopping = asyncio.create_task(runner.cleanup())
        await refuses_connections(origin)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(upstream.client_left.wait(), 0.1)
        gate.set()
        assert await answer.content.read() == b"two"
        await stopping


async def test_a_request_that_does_not_end_is_cut_after_the_time_allowed(upstream: ScriptedUpstream, client):
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"one", HANG]), path="/v1/files")
    server = ServerConfig(shutdown_timeout_seconds=0)
    runner, origin = await start(
        create_app(Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE, server=server))
    )
    async with client.get(origin / "v1/files") as answer:
        assert await answer.content.readany() == b"one"
        await runner.cleanup()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    await upstream.client_left.wait()


async def test_requests_that_come_while_it_stops_are_told_to_retry(serve: Serve, client, upstream: ScriptedUpstream):
    app = create_app(Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE))
    origin = await serve(app)
    await app.shutdown()
    for method, path in (("POST", "v1/responses"), ("GET", "v1/models")):
        async with client.request(method, origin / path) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
    async with client.get(origin / "healthz") as answer:
        assert answer.status == 200
    assert upstream.requests == []


async def start(app: web.Application) -> tuple[web.AppRunner, URL]:
    runner = create_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, URL(f"http://127.0.0.1:{runner.addresses[0][1]}")


async def refuses_connections(origin: URL) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(origin.host, origin.port)
        except ConnectionError:
            return
        writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": ORIGIN}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "Authorization": "Bearer proven"}, 200),
    ],
)
async def test_a_foreign_page_may_not_act_for_callers_that_prove_nothing(
    serve_proxy, client, upstream: ScriptedUpstream, headers: dict[str, str], status: int
):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(cors_origins=(ORIGIN,)))
    async with client.get(proxy / "v1/models", headers=headers) as answer:
        assert answer.status == status


async def test_a_page_of_the_same_host_may_call(proxy, client):
    async with client.get(proxy / "v1/models", headers={"Origin": str(proxy.origin())}) as answer:
        assert answer.status == 200


async def test_browsers_are_led_to_the_page_and_other_clients_told_of_a_wrong_base_url(proxy, client):
    async with client.get(proxy, headers={"Accept": "text/html,*/*;q=0.8"}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/ui/")
    async with client.get(proxy, allow_redirects=False) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
