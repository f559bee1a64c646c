from __future__ import annotations

import asyncio
import gzip
import inspect
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import zstandard
from aiohttp import client_exceptions, web
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.config.settings import UpstreamConfig
from proxy.protocol import errors
from proxy.upstream.body import UpstreamCut, iter_chunks, iter_raw, read_body, translate
from proxy.upstream.client import Upstream, create_session
from proxy.upstream.errors import refusal
from proxy.upstream.headers import request_headers, response_headers
from tests.upstream import CUT, HANG, Reply, ScriptedUpstream

BODY = b'{"model":"echo","input":"hi"}'
HEADERS = request_headers(
    {"User-Agent": "OpenAI/Python", "Accept-Encoding": "gzip, br"}, {"Authorization": "Bearer sk-caller"}
)


@pytest.fixture
async def to(upstream: ScriptedUpstream):
    """The client of the scripted upstream."""
    config = UpstreamConfig(url=upstream.url, read_timeout_seconds=0.2)
    async with create_session(config) as session, Upstream(config, session, upstream.url) as client:
        yield client


# The exchange


async def test_a_turn_is_posted_with_the_callers_headers_and_query(to: Upstream, upstream: ScriptedUpstream):
    async with await to.create_response([BODY], HEADERS, "beta=true&x=%2F") as response:
        assert response.status == 200
    (request,) = upstream.requests
    assert request.method == "POST"
    assert request.path_qs == "/v1/responses?beta=true&x=%2F"
    assert request.body == BODY
    assert request.headers["Authorization"] == "Bearer sk-caller"
    assert request.headers["User-Agent"] == "OpenAI/Python"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept-Encoding"] == "identity"


async def test_a_turn_does_not_claim_the_coding_of_the_callers_body(to: Upstream, upstream: ScriptedUpstream):
    async with await to.create_response([BODY], CIMultiDict({"Content-Encoding": "zstd"})):
        pass
    assert "Content-Encoding" not in upstream.requests[0].headers


async def test_nothing_of_the_clients_own_is_sent(to: Upstream, upstream: ScriptedUpstream):
    async with await to.create_response([BODY], {}):
        pass
    assert set(upstream.requests[0].headers) == {"Host", "Content-Type", "Content-Length", "Accept-Encoding"}


async def test_a_query_of_the_base_url_goes_on_every_request(upstream: ScriptedUpstream):
    config = UpstreamConfig()
    url = f"{upstream.url}/?api-version=preview"
    async with create_session(config) as session, Upstream(config, session, url) as azure:
        async with await azure.create_response([BODY], {}, "beta=true"):
            pass
        await azure.ping()
    assert [request.path_qs for request in upstream.requests] == [
        "/v1/responses?api-version=preview&beta=true",
        "/v1/models?api-version=preview",
    ]


async def test_cookies_of_one_caller_are_not_sent_for_the_next(upstream: ScriptedUpstream):
    # Cookie jars ignore hosts that are addresses
    url = upstream.url.replace("127.0.0.1", "localhost")
    upstream.script(Reply.json(200, {}, {"Set-Cookie": "session=secret"}))
    config = UpstreamConfig()
    async with create_session(config) as session, Upstream(config, session, url) as to:
        for _ in range(2):
            async with await to.create_response([BODY], {}):
                pass
    assert "Cookie" not in upstream.requests[1].headers


async def test_an_answer_that_is_left_unread_is_closed(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"data: 1\n\n", HANG]))
    async with await to.create_response([BODY], {}) as response:
        assert await anext(iter_raw(response)) == b"data: 1\n\n"
    await upstream.client_left.wait()


async def test_an_error_of_the_callers_own_code_is_not_taken_for_the_upstreams(to: Upstream):
    with pytest.raises(aiohttp.ClientConnectionResetError):
        async with await to.create_response([BODY], {}):
            raise aiohttp.ClientConnectionResetError("our client left")


async def test_ping_accepts_any_http_answer(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.json(500, {}), path="/v1/models")
    await to.ping()


# What goes wrong before the answer


async def test_a_refused_connection_is_a_bad_gateway_and_the_log_names_no_secret(caplog):
    config = UpstreamConfig()
    async with create_session(config) as session:
        nobody = Upstream(config, session, "http://127.0.0.1:1/v1?key=secret")
        with pytest.raises(errors.BadGateway) as refused:
            await nobody.ping()
    assert refused.value.code == "upstream_unreachable"
    assert "ClientConnectorError" in caplog.text
    assert "secret" not in caplog.text


async def test_an_unknown_host_is_a_bad_gateway():
    config = UpstreamConfig()
    async with create_session(config) as session:
        with pytest.raises(errors.BadGateway) as refused:
            await Upstream(config, session, "http://upstream.invalid/v1").ping()
    assert refused.value.code == "upstream_unreachable"


async def test_silence_before_the_answer_is_a_timeout(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    with pytest.raises(errors.GatewayTimeout):
        async with await to.create_response([BODY], {}):
            pass


async def test_a_connection_broken_before_the_answer_is_a_bad_gateway(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "application/json", chunks=[CUT]))
    with pytest.raises(errors.BadGateway) as broken:
        async with await to.create_response([BODY], {}):
            pass
    assert broken.value.code == "upstream_error"


async def test_something_other_than_http_is_a_bad_gateway():
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    config = UpstreamConfig()
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server, create_session(config) as session:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(errors.BadGateway):
            await Upstream(config, session, f"http://127.0.0.1:{port}/v1").ping()


async def test_a_turn_never_follows_a_redirect(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.redirect("/v1/elsewhere"))
    with pytest.raises(errors.BadGateway):
        async with await to.create_response([BODY], HEADERS):
            pass
    assert [request.path_qs for request in upstream.requests] == ["/v1/responses"]


async def test_a_refusal_is_raised_with_its_status_and_message(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.json(429, {"error": {"message": "Slow down", "code": "rate"}}, {"Retry-After": "2"}))
    with pytest.raises(errors.UpstreamRefusal) as refused:
        async with await to.create_response([BODY], {}):
            pass
    assert refused.value.status == 429
    assert refused.value.to_dict()["message"] == "Slow down"
    assert refused.value.headers == {"Retry-After": "2"}


async def test_a_refusal_whose_body_breaks_off_keeps_its_status(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(500, "application/json", chunks=[b'{"err', CUT]))
    with pytest.raises(errors.UpstreamRefusal) as refused:
        async with await to.create_response([BODY], {}):
            pass
    assert (refused.value.status, str(refused.value)) == (500, "The upstream answered 500.")


def client_exception_classes() -> list[type[Exception]]:
    classes = {
        member
        for module in (aiohttp, client_exceptions)
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, aiohttp.ClientError)
    }
    return sorted(classes, key=lambda cls: cls.__name__)


def build(cls: type[Exception]) -> Exception:
    key: Any = SimpleNamespace(host="h", port=1, ssl=False, is_ssl=False)
    request: Any = SimpleNamespace(real_url="http://h?key=secret")
    cause = OSError(1, "reason")
    if issubclass(cls, aiohttp.ClientConnectorCertificateError):
        return cls(key, cause)
    if issubclass(cls, client_exceptions.UnixClientConnectorError):
        return cls("/path", key, cause)
    if issubclass(cls, aiohttp.ClientConnectorError):
        return cls(key, cause)
    if issubclass(cls, aiohttp.ClientResponseError):
        return cls(request, ())
    if issubclass(cls, aiohttp.ServerFingerprintMismatch):
        return cls(b"a", b"b", "h", 1)
    return cls("secret")


@pytest.mark.parametrize("cls", [*client_exception_classes(), TimeoutError, asyncio.TimeoutError])
def test_every_exception_of_the_client_is_translated(cls, caplog):
    error = translate(build(cls))
    if issubclass(cls, TimeoutError):
        expected: tuple[type, str] = (errors.GatewayTimeout, "upstream_timeout")
    elif issubclass(cls, aiohttp.ClientConnectorError):
        expected = (errors.BadGateway, "upstream_unreachable")
    elif issubclass(cls, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientPayloadError):
        expected = (UpstreamCut, "upstream_error")
    else:
        expected = (errors.BadGateway, "upstream_error")
    assert (type(error), error.code) == expected
    assert "secret" not in caplog.text + str(error)


def test_the_list_of_exceptions_is_not_empty():
    assert {aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError} <= set(
        client_exception_classes()
    )


# Reading


async def read(to: Upstream, limit: int = 10**9) -> bytes:
    async with await to.create_response([BODY], {}) as response:
        return await read_body(response, limit)


async def test_a_body_is_read_within_its_limit(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(*[Reply.raw(200, "text/plain", b"12345678")] * 2)
    assert await read(to, limit=8) == b"12345678"
    with pytest.raises(errors.BadGateway) as large:
        await read(to, limit=7)
    assert large.value.code == "upstream_response_too_large"


async def test_chunks_are_given_as_they_arrive(to: Upstream, upstream: ScriptedUpstream):
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"one", gate, b"two"]))
    async with await to.create_response([BODY], {}) as response:
        chunks = iter_chunks(response)
        assert await anext(chunks) == b"one"
        gate.set()
        assert await anext(chunks) == b"two"
        assert [chunk async for chunk in chunks] == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_body_that_is_compressed_unasked_is_decompressed(to: Upstream, upstream: ScriptedUpstream, coding):
    upstream.script(Reply.raw(200, "text/plain", b"text" * 1000).compressed(coding))
    assert await read(to) == b"text" * 1000


async def test_a_compressed_body_over_the_limit_is_refused(to: Upstream, upstream: ScriptedUpstream):
    bomb = zstandard.ZstdCompressor().compress(bytes(512 * 1024 * 1024))[:-1000] + b"rubbish"
    upstream.script(Reply.raw(200, "text/plain", bomb, headers={"Content-Encoding": "zstd"}))
    with pytest.raises(errors.BadGateway) as large:
        await read(to, limit=1024 * 1024)
    assert large.value.code == "upstream_response_too_large"


async def test_an_unknown_coding_is_a_bad_gateway(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "text/plain", b"x", headers={"Content-Encoding": "br"}))
    with pytest.raises(errors.BadGateway):
        await read(to)


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"text", mtime=0)[:-3]])
async def test_a_coding_that_is_broken_or_breaks_off_is_a_cut(to: Upstream, upstream: ScriptedUpstream, body):
    upstream.script(Reply.raw(200, "text/plain", body, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(UpstreamCut):
        await read(to)


@pytest.mark.parametrize("length", [{}, {"Content-Length": "100"}])
async def test_a_body_that_breaks_off_is_a_cut(to: Upstream, upstream: ScriptedUpstream, length):
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"half", CUT], headers=length))
    with pytest.raises(UpstreamCut) as cut:
        await read(to)
    assert cut.value.status == 502


async def test_silence_inside_a_body_is_a_timeout(to: Upstream, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"half", HANG]))
    with pytest.raises(errors.GatewayTimeout):
        await read(to)


# Headers


def test_hop_by_hop_headers_and_those_that_connection_names_stay_here():
    hop_by_hop = {
        "Connection": "close, X-Private",
        "connection": "x-other",
        "X-Private": "1",
        "X-Other": "1",
        "Keep-Alive": "1",
        "Proxy-Authenticate": "1",
        "Proxy-Authorization": "1",
        "Proxy-Connection": "1",
        "TE": "trailers",
        "Trailer": "X",
        "Transfer-Encoding": "chunked",
        "Upgrade": "h2c",
        "HTTP2-Settings": "x",
    }
    headers = CIMultiDict([*hop_by_hop.items(), ("OpenAI-Beta", "x")])
    assert dict(request_headers(headers, {})) == {"OpenAI-Beta": "x"}
    assert dict(response_headers(headers, untouched=True)) == {"OpenAI-Beta": "x"}


def test_what_belongs_to_this_server_is_not_sent_upstream():
    ours = {"Host": "proxy", "Content-Length": "3", "Cookie": "a=b", "Expect": "100-continue"}
    keys = {"Authorization": "x", "Api-Key": "sk-a", "X-API-Key": "sk-b"}
    assert dict(request_headers(ours | keys, {})) == {}
    for credentials in ({"Authorization": "Bearer sk"}, {"api-key": "sk"}):
        assert dict(request_headers(ours | keys, credentials)) == credentials


def test_every_other_request_header_goes_on_with_all_its_values():
    incoming = CIMultiDict(
        [("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1"), ("X-A", "1"), ("x-a", "2"), ("Accept-Encoding", "br")]
    )
    assert list(request_headers(CIMultiDictProxy(incoming), {}).items()) == list(incoming.items())


def test_headers_that_are_not_utf8_can_be_sent_on():
    value = b"caf\xe9".decode("utf-8", "surrogateescape")
    for headers in (request_headers({"X": value}, {}), response_headers({"X": value})):
        assert headers["X"].encode() == "caf\N{REPLACEMENT CHARACTER}".encode()


def test_the_answers_own_headers_come_back_and_its_origins_do_not():
    about_the_call = {"openai-processing-ms": "5", "x-ratelimit-remaining-tokens": "1", "retry-after": "2"}
    about_the_call |= {"x-should-retry": "false"}
    about_the_origin = {
        "x-request-id": "theirs",
        "Set-Cookie": "a=b",
        "Alt-Svc": "h3",
        "Strict-Transport-Security": "x",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "x",
    }
    about_the_bytes = {"Content-Length": "1", "Content-Encoding": "gzip", "Content-Type": "text/plain", "ETag": "x"}
    answer = {**about_the_call, **about_the_origin, **about_the_bytes}
    assert dict(response_headers(answer)) == about_the_call
    assert dict(response_headers(answer, untouched=True)) == {**about_the_call, **about_the_bytes}


# Refusals


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "Bad", "type": "t", "param": "p", "code": "c"}}', "Bad"),
        (b'{"error": {"detail": "Bad"}}', "Bad"),
        (b'{"error": "Bad"}', "Bad"),
        (b'{"error": {"code": 400}}', "The upstream answered 400."),
        (b'[{"error": {"message": "Bad", "code": 400}}]', "Bad"),
        (b'{"detail": "Bad"}', "Bad"),
        (b'{"detail": {"message": "Bad"}}', "Bad"),
        (b'{"detail": [{"loc": ["body", "model"], "msg": "Missing"}, {"msg": "Worse"}]}', "body.model: Missing; Worse"),
        (b'{"object": "error", "message": "Bad", "type": "BadRequestError"}', "Bad"),
        (b'"Bad"', "Bad"),
        (b"Bad\n", "Bad"),
        (b"x" * 5000, "x" * 1000),
        (b"<html><body>Bad</body></html>", "The upstream answered 400."),
        (b"", "The upstream answered 400."),
        (b"null", "The upstream answered 400."),
        (b"[]", "The upstream answered 400."),
        (b'{"message": 5, "error": 6}', "The upstream answered 400."),
    ],
)
def test_error_answers_of_every_shape_are_brought_into_one(body, message):
    error = refusal(400, {}, body).to_dict()
    assert error["message"] == message
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["code"] is None or isinstance(error["code"], str)


def test_an_error_object_keeps_all_its_fields():
    error = refusal(400, {}, b'{"error": {"message": "Bad", "type": "t", "param": "p", "code": "c", "x": 1}}').to_dict()
    assert error == {"message": "Bad", "type": "t", "param": "p", "code": "c", "x": 1}


def test_a_refusal_keeps_retry_and_rate_limit_headers_only():
    kept = {"Retry-After": "1", "retry-after-ms": "900", "x-should-retry": "true", "X-RateLimit-Limit-Requests": "5"}
    assert refusal(429, {**kept, "Content-Length": "4", "Set-Cookie": "a", "x-request-id": "b"}, b"").headers == kept


async def test_connection_limits_and_timeouts_come_from_the_configuration():
    async with create_session(
        UpstreamConfig(max_connections=7, connect_timeout_seconds=3, read_timeout_seconds=9)
    ) as session:
        assert session.connector is not None
        assert session.connector.limit == 7
        assert (session.timeout.connect, session.timeout.sock_read, session.timeout.total) == (3, 9, None)
        assert not session.trust_env


async def test_a_connection_that_is_not_made_in_time_is_a_timeout(serve):
    gate = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/v1/models", wait)])
    config = UpstreamConfig(max_connections=1, connect_timeout_seconds=0.1)
    origin = await serve(app)
    async with create_session(UpstreamConfig()) as session, asyncio.TaskGroup() as group:
        busy = Upstream(config, session, f"{origin}/v1")
        first = group.create_task(busy.ping())
        await asyncio.sleep(0)
        with pytest.raises(errors.GatewayTimeout):
            await busy.ping()
        gate.set()
        await first


async def test_turns_and_other_requests_share_the_limit_of_connections(upstream: ScriptedUpstream):
    gate = asyncio.Event()
    config = UpstreamConfig(url=upstream.url, max_connections=1, connect_timeout_seconds=0.1)
    async with create_session(UpstreamConfig()) as session, Upstream(config, session, upstream.url) as to:
        upstream.script(Reply.raw(200, "text/plain", chunks=[b"", gate]))
        async with await to.create_response([BODY], {}):
            with pytest.raises(errors.GatewayTimeout):
                await to.ping()
        async with to.forward("GET", "/models", "", {}, None):
            with pytest.raises(errors.GatewayTimeout):
                async with await to.create_response([BODY], {}):
                    pass
        await to.ping()
        async with await to.create_response([BODY], {}) as answer:
            assert answer.status == 200


async def test_a_turn_at_a_refused_connection_is_a_bad_gateway_and_the_log_names_no_secret(caplog):
    config = UpstreamConfig()
    async with (
        create_session(config) as session,
        Upstream(config, session, "http://127.0.0.1:1/v1?key=secret") as nobody,
    ):
        with pytest.raises(errors.BadGateway) as refused:
            async with await nobody.create_response([BODY], {"Authorization": "Bearer secret"}):
                pass
    assert refused.value.code == "upstream_unreachable"
    assert "ClientConnectorError" in caplog.text
    assert "secret" not in caplog.text
