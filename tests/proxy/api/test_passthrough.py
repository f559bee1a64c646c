from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from proxy.api.passthrough import upstream_path
from proxy.config.settings import AuthConfig, ServerConfig
from proxy.protocol.errors import NotFound
from tests.proxy.conftest import Exchange, Serve, ServeProxy
from tests.upstream import CUT, HANG, Reply, ScriptedUpstream

PATH = "/v1/files"


# Requests


async def test_path_and_query_go_on_as_they_came(proxy, client, upstream: ScriptedUpstream):
    raw = "/v1/files/a%2Fb%20c%C3%A9+d;x/?beta=true&q=%2F+%5B%5D&empty="
    async with client.get(URL(f"{proxy}{raw}", encoded=True)):
        pass
    assert upstream.requests[0].path_qs == raw


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_the_methods_of_the_api_go_on(proxy, client, upstream: ScriptedUpstream, method):
    upstream.script(Reply.raw(200, "text/plain", b"body"), path=PATH)
    async with client.request(method, proxy / PATH[1:]) as answer:
        assert answer.status == 200
        assert await answer.read() == b"body"
        assert answer.headers["Content-Length"] == "4"
    assert upstream.requests[0].method == method


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "CONNECT", "PURGE", "BREW"])
async def test_no_other_method_goes_upstream(proxy, upstream: ScriptedUpstream, exchange: Exchange, method):
    answer = await exchange(proxy, f"{method} {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in {b"400", b"404", b"405"}
    assert upstream.requests == []


async def test_a_body_of_known_length_keeps_its_length(proxy, client, upstream: ScriptedUpstream):
    async with client.post(proxy / "v1/files", data=b"x" * 100_000):
        pass
    (request,) = upstream.requests
    assert request.body == b"x" * 100_000
    assert request.headers["Content-Length"] == "100000"
    assert "Transfer-Encoding" not in request.headers


async def test_a_request_without_body_has_none_upstream(proxy, client, upstream: ScriptedUpstream):
    async with client.get(proxy / "v1/files"), client.post(proxy / "v1/files"):
        pass
    got, posted = upstream.requests
    assert "Content-Length" not in got.headers
    assert "Transfer-Encoding" not in got.headers
    assert posted.headers["Content-Length"] == "0"


async def test_a_compressed_body_is_not_touched_in_either_direction(serve: Serve, serve_proxy: ServeProxy, client):
    async def repeat(request: web.Request) -> web.Response:
        assert request.headers["Content-Encoding"] == "gzip"
        assert request.headers["Accept-Encoding"] == "gzip, x-own"
        return web.Response(body=await request.read(), headers={"Content-Encoding": "gzip"}, reason="Own")

    app = web.Application()
    app.add_routes([web.post(PATH, repeat)])
    proxy = await serve_proxy(str(await serve(app) / "v1"))
    packed = gzip.compress(b"text" * 1000)
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip, x-own"}
    async with client.post(proxy / "v1/files", data=packed, headers=headers) as answer:
        assert answer.reason == "Own"
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Length"] == str(len(packed))
        assert await answer.read() == packed


async def test_an_upload_is_streamed_while_the_caller_still_sends(serve: Serve, serve_proxy: ServeProxy, client):
    first_arrived = asyncio.Event()
    piece = b"x" * 1024 * 1024

    async def receive(request: web.Request) -> web.Response:
        assert request.headers["Transfer-Encoding"] == "chunked"
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            first_arrived.set()
        return web.json_response(size)

    async def send() -> AsyncIterator[bytes]:
        yield piece
        await first_arrived.wait()
        for _ in range(4):
            yield piece

    app = web.Application()
    app.add_routes([web.post(PATH, receive)])
    proxy = await serve_proxy(str(await serve(app) / "v1"))
    async with client.post(proxy / "v1/files", data=send()) as answer:
        assert await answer.json() == 5 * len(piece)


async def test_hop_by_hop_headers_end_here(proxy, upstream: ScriptedUpstream, exchange: Exchange):
    await exchange(
        proxy,
        b"GET /v1/files HTTP/1.1\r\nHost: proxy.localhost\r\nConnection: close, X-Private\r\nX-Private: 1\r\n"
        b"TE: trailers\r\nProxy-Authorization: Basic x\r\nCookie: a=b\r\nX-Kept: 1\r\nX-Kept: 2\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\n\r\n",
    )
    headers = upstream.requests[0].headers
    assert headers["Host"] == URL(upstream.url).authority
    assert headers.getall("X-Kept") == ["1", "2"]
    assert headers["X-Forwarded-For"] == "1.2.3.4"
    assert not headers.keys() & {"X-Private", "TE", "Proxy-Authorization", "Cookie", "Connection", "User-Agent"}


async def test_header_bytes_that_are_not_utf8_do_no_harm(proxy, upstream: ScriptedUpstream, exchange: Exchange):
    answer = await exchange(
        proxy, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Name: caf\xe9\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert upstream.requests[0].headers["X-Name"] == "caf\N{REPLACEMENT CHARACTER}"


async def test_the_callers_own_key_goes_upstream_and_ours_replaces_it(serve_proxy, client, upstream: ScriptedUpstream):
    for api_key in ("", "sk-server"):
        proxy = await serve_proxy(upstream.url, api_key=api_key)
        async with client.get(proxy / "v1/models", headers={"Authorization": "Bearer sk-caller"}):
            pass
    sent = [request.headers["Authorization"] for request in upstream.requests]
    assert sent == ["Bearer sk-caller", "Bearer sk-server"]


async def test_a_key_that_is_meant_for_this_server_never_goes_upstream(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, auth=AuthConfig(mode="none"))
    async with client.get(proxy / "v1/models", headers={"Authorization": "Bearer ours"}) as answer:
        assert answer.status == 200
    assert "Authorization" not in upstream.requests[0].headers


async def test_expect_is_answered_here(proxy, upstream: ScriptedUpstream, exchange: Exchange):
    answer = await exchange(
        proxy,
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
        b"Content-Length: 2\r\n\r\nhi",
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404")
    assert "Expect" not in upstream.requests[0].headers
    assert upstream.requests[0].body == b"hi"


# Limits


async def test_a_length_over_the_limit_is_refused_before_the_upstream_is_called(
    serve_proxy, client, upstream: ScriptedUpstream
):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(max_body_bytes=100))
    async with client.post(proxy / "v1/files", data=b"x" * 101) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "request_too_large"
    assert upstream.requests == []


async def test_a_chunked_body_over_the_limit_is_refused(serve_proxy, client, upstream: ScriptedUpstream):
    async def send() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 10

    proxy = await serve_proxy(upstream.url, server=ServerConfig(max_body_bytes=100))
    async with client.post(proxy / "v1/files", data=send()) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "request_too_large"
    assert upstream.requests == []


# Answers


async def test_an_answer_is_relayed_as_it_is(proxy, client, upstream: ScriptedUpstream):
    headers = {"openai-version": "1", "X-Two": "a", "Set-Cookie": "a=b", "x-request-id": "theirs", "ETag": '"1"'}
    upstream.script(Reply.raw(418, "text/x-own", b"\x00\xff", headers=headers), path=PATH)
    async with client.get(proxy / "v1/files") as answer:
        assert answer.status == 418
        assert await answer.read() == b"\x00\xff"
        assert answer.headers["Content-Type"] == "text/x-own"
        assert answer.headers["Content-Length"] == "2"
        assert answer.headers["openai-version"] == "1"
        assert answer.headers["ETag"] == '"1"'
        assert answer.headers["x-request-id"].startswith("req_")
        assert "Set-Cookie" not in answer.headers


async def test_the_upstreams_request_id_is_in_the_log(proxy, client, upstream: ScriptedUpstream, caplog):
    caplog.set_level("INFO", "proxy.http.middleware")
    async with client.get(URL(upstream.url) / "models") as direct, client.get(proxy / "v1/models") as answer:
        assert direct.headers["x-request-id"].startswith("req_")
        ours = answer.headers["x-request-id"]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "proxy.http.middleware"]
    assert re.search(f"{ours} upstream req_[0-9a-f]{{32}}$", line)
    assert line.count(ours) == 1


async def test_errors_of_the_upstream_are_relayed_as_they_are(proxy, client, upstream: ScriptedUpstream):
    upstream.script(Reply.json(429, {"detail": "slow"}, {"Retry-After": "3"}), path=PATH)
    async with client.get(proxy / "v1/files") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        assert await answer.json() == {"detail": "slow"}


async def test_redirects_are_relayed_and_not_followed(proxy, client, upstream: ScriptedUpstream):
    upstream.script(Reply.redirect("https://elsewhere.example/x?y#z", 302), path=PATH)
    async with client.get(proxy / "v1/files", allow_redirects=False) as answer:
        assert answer.status == 302
        assert answer.headers["Location"] == "https://elsewhere.example/x?y#z"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_body_have_none(proxy, client, upstream: ScriptedUpstream, status, exchange):
    upstream.script(Reply(status, {"ETag": '"1"'}, [b""]), path=PATH)
    answer = await exchange(proxy, b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b'etag: "1"' in head.lower()
    assert b"Transfer-Encoding" not in head
    assert body == b""


async def test_head_keeps_the_length_of_the_body_that_is_not_there(proxy, exchange, upstream: ScriptedUpstream):
    upstream.script(Reply(200, {"Content-Length": "1234"}, [b""]), path=PATH)
    answer = await exchange(proxy, b"HEAD /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: 1234" in head
    assert body == b""


async def test_a_stream_arrives_piece_by_piece(proxy, client, upstream: ScriptedUpstream):
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"data: 1\n\n", gate, b"data: 2\n\n"]), path=PATH)
    async with client.get(proxy / "v1/files") as answer:
        assert await answer.content.readany() == b"data: 1\n\n"
        gate.set()
        assert await answer.content.readany() == b"data: 2\n\n"
        assert await answer.content.readany() == b""


# Breaks


async def test_a_client_that_leaves_closes_the_upstream_request(proxy, client, upstream: ScriptedUpstream, complaints):
    upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"data: 1\n\n", HANG]), path=PATH)
    async with client.get(proxy / "v1/files") as answer:
        await answer.content.readany()
        answer.close()
    await upstream.client_left.wait()
    assert complaints() == []


async def test_a_client_that_leaves_before_the_answer_closes_the_upstream_request(
    proxy, client, upstream: ScriptedUpstream
):
    upstream.script(Reply.raw(200, "text/plain", chunks=[HANG]), path=PATH)
    task = asyncio.ensure_future(client.get(proxy / "v1/files"))
    await upstream.wait_for_requests(1)
    task.cancel()
    await upstream.client_left.wait()


@pytest.mark.parametrize("length", [{}, {"Content-Length": "100"}])
async def test_an_answer_that_breaks_off_upstream_never_ends_cleanly(proxy, client, upstream: ScriptedUpstream, length):
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"half", CUT], headers=length), path=PATH)
    async with client.get(proxy / "v1/files") as answer:
        assert await answer.content.readany() == b"half"
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_an_answer_that_breaks_off_resets_a_client_that_knows_no_framing(proxy, upstream: ScriptedUpstream):
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"half", gate, CUT]), path=PATH)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"GET /v1/files HTTP/1.0\r\n\r\n")
    await reader.readuntil(b"half")
    gate.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_an_upstream_that_is_not_there_is_a_bad_gateway(serve_proxy, client):
    proxy = await serve_proxy("http://127.0.0.1:1/v1")
    async with client.post(proxy / "v1/files", data=b"x") as answer:
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "upstream_unreachable"


async def test_an_upstream_that_answers_before_the_body_is_complete_is_heard(
    serve: Serve, serve_proxy: ServeProxy, client
):
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": "no"}, status=403)

    answered = asyncio.Event()

    async def send() -> AsyncIterator[bytes]:
        yield b"x"
        await answered.wait()

    app = web.Application()
    app.add_routes([web.post(PATH, refuse)])
    proxy = await serve_proxy(str(await serve(app) / "v1"))
    async with client.post(proxy / "v1/files", data=send()) as answer:
        assert answer.status == 403
        assert await answer.json() == {"error": "no"}
        answered.set()


# Paths


@pytest.mark.parametrize(
    ("raw_path", "path"),
    [
        ("/v1/models", "/models"),
        ("/v1/", "/"),
        ("/v1/files/a%2Fb", "/files/a%2Fb"),
        ("/v1/files/..a../b", "/files/..a../b"),
        ("/v1/responsesx", "/responsesx"),
        ("/v1/vector_stores/responses", "/vector_stores/responses"),
    ],
)
def test_paths_below_the_base_go_on(raw_path, path):
    assert upstream_path(raw_path) == path


@pytest.mark.parametrize(
    "raw_path",
    [
        "/v1",
        "/v2/models",
        "/v1/../admin",
        "/v1/files/../../admin",
        "/v1/%2e%2e/admin",
        "/v1/..%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/..%5cadmin",
        "/v1/..;x=1/admin",
        "//v1/models",
        "/%76%31/models",
        "/v1/responses/",
        "/v1/responses%2Fresp_1",
        "/v1//responses/resp_1",
        "/v1/./responses/resp_1",
        "/v1/%72esponses/resp_1",
        "/v1/%2572esponses/resp_1",
        "/v1/%25e2%80%8bresponses/resp_1",
        "/v1/Responses/resp_1",
        "/v1/responses;x/resp_1",
        "/v1/x/../responses/resp_1",
        "/v1//conversations",
        "/v1/responses//compact",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
    ],
)
def test_paths_that_lead_elsewhere_do_not_exist(raw_path):
    with pytest.raises(NotFound):
        upstream_path(raw_path)


#: What some server or other drops from a path, or takes for its end, or for a letter.
NOISE = st.sampled_from(
    ["", ";x", "%3bx", "%23", "%23x", "%3f", "%3Fx=1", "%00", "%00x", "%09", "%20", "%0a", "%C2%A0"]
)


@given(
    st.sampled_from(["responses", "conversations", "v1"]),
    st.integers(0, 11),
    st.sampled_from(["%09", "%0d", "%0A", "%00", "%20", "%e2%80%8b", "%C2%AD", ""]),
    NOISE,
    st.sampled_from(["/", "//", "/./", "%2f", "%5c", "/%09/", "/%20"]),
    st.integers(0, 5),
    st.sampled_from(["", "/resp_1", "/x?"]),
)
def test_our_paths_have_no_spelling_that_goes_upstream(root, at, inside, behind, slash, encodings, rest):
    at = at % len(root)
    spelled = "/v1" + slash + root[:at] + inside + "".join(chr(ord(c)) for c in root[at:]) + behind
    if encodings:
        spelled = spelled[:4] + f"%{'25' * (encodings - 1)}{ord(spelled[4]):02x}" + spelled[5:]
    with pytest.raises(NotFound):
        upstream_path(spelled + rest)


@pytest.mark.parametrize("raw_path", ["/v1/%EF%BD%92esponses", "/v1/respon\u017fes", "/v1/%ef%bc%8fresponses"])
def test_nor_have_look_alikes(raw_path):
    with pytest.raises(NotFound):
        upstream_path(raw_path)


@pytest.mark.parametrize(
    "raw_path", ["/v1/files/a%20b", "/v1/models/org%2Fname", "/v1/files/a%2523b", "/v1/x/responses"]
)
def test_other_paths_go_on_however_they_are_encoded(raw_path):
    assert upstream_path(raw_path) == raw_path.removeprefix("/v1")


async def test_a_path_that_leads_elsewhere_is_never_sent(proxy, exchange, upstream: ScriptedUpstream):
    for path in (b"/v1/../admin", b"/v1/%2e%2e/admin", b"/v1/responses%2Fresp_1", b"/v1//responses/resp_1"):
        answer = await exchange(proxy, b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
        assert answer.startswith(b"HTTP/1.1 404"), path
    assert upstream.requests == []


async def test_a_websocket_is_refused_with_the_status_that_clients_fall_back_on(proxy, client, upstream):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(proxy / "v1/realtime")
    assert refused.value.status == 426
    assert upstream.requests == []


async def test_other_upgrades_are_ignored(proxy, exchange: Exchange, upstream: ScriptedUpstream):
    answer = await exchange(
        proxy,
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert not upstream.requests[0].headers.keys() & {"Upgrade", "HTTP2-Settings"}
