from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import orjson
import pytest
import zstandard
from aiohttp import web

from proxy.config.settings import Config, ServerConfig
from proxy.http.body import iter_body, read_json
from proxy.http.json_body import parse_body, parse_object
from proxy.http.keys import CONFIG
from proxy.protocol.errors import ApiError, BadRequest
from proxy.protocol.json_size import SLICE_BYTES, is_deeper
from tests.proxy.conftest import Exchange, Serve

LIMIT = 1000
JSON = {"Content-Type": "application/json"}


async def answer_parsed(request: web.Request) -> web.Response:
    try:
        value = await read_json(request, allow_empty=request.path == "/empty")
    except ApiError as exc:
        return web.json_response([exc.status, exc.code, exc.message])
    return web.json_response(value)


async def answer_read(request: web.Request) -> web.Response:
    try:
        chunks = [chunk async for chunk in iter_body(request, LIMIT, silence_seconds=0.05)]
    except ApiError as exc:
        return web.json_response([exc.status, exc.code])
    return web.Response(body=b"".join(chunks))


@pytest.fixture
async def url(serve: Serve):
    app = web.Application()
    app[CONFIG] = Config(server=ServerConfig(max_body_bytes=LIMIT, max_json_depth=8))
    app.add_routes([web.post("/", answer_parsed), web.post("/empty", answer_parsed), web.post("/read", answer_read)])
    return await serve(app)


async def test_reads_a_json_object(url, client):
    async with client.post(url, json={"model": "m", "input": ["é"]}) as answer:
        assert await answer.json() == {"model": "m", "input": ["é"]}


async def test_repeated_keys_keep_the_last(url, client):
    async with client.post(url, data=b'{"a": 1, "a": 2}', headers=JSON) as answer:
        assert await answer.json() == {"a": 2}


async def test_an_empty_body_is_an_object_only_where_that_is_allowed(url, client):
    async with client.post(url / "empty", headers=JSON) as answer:
        assert await answer.json() == {}
    async with client.post(url, headers=JSON) as answer:
        assert (await answer.json())[:2] == [400, "invalid_json"]


@pytest.mark.parametrize(
    "body",
    [b'{"secret', b'{"a": NaNa}', b'{"a": "\xff}', b'{"a": "\\ud8"}', b"{'a': 1}", b'{"a": 1} x', b'{"a": "\n"}'],
)
async def test_refuses_what_is_not_json_without_quoting_it(url, client, body):
    async with client.post(url, data=body, headers=JSON) as answer:
        status, code, message = await answer.json()
    assert (status, code) == (400, "invalid_json")
    assert "line 1, column" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": NaN}', None),
        (b'{"a": [-Infinity, 1e999]}', [None, None]),
        (b'{"a": "x\xffy"}', "x\ufffdy"),
        (b'{"a": "x\\ud800y"}', "x\ufffdy"),
        (b'{"a": "\\ud83d\\ude00", "b": NaN}', "\U0001f600"),
        (b'\xef\xbb\xbf{"a": 1}', 1),
    ],
)
async def test_takes_what_is_almost_json_as_far_as_a_model_server_would(url, client, body, value):
    async with client.post(url, data=body, headers=JSON) as answer:
        assert (await answer.json())["a"] == value


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true"])
async def test_refuses_json_that_is_not_an_object(url, client, body):
    async with client.post(url, data=body, headers=JSON) as answer:
        assert (await answer.json())[:2] == [400, "invalid_type"]


async def test_refuses_json_that_is_nested_too_deeply(url, client):
    deepest = b'{"a":' + b"[" * 7 + b"]" * 7 + b"}"
    async with client.post(url, data=deepest, headers=JSON) as answer:
        assert "a" in await answer.json()
    async with client.post(url, data=b'{"a":[' + deepest + b"]}", headers=JSON) as answer:
        assert (await answer.json())[:2] == [400, "json_too_deep"]


def test_depth_beyond_the_parsers_own_limit_is_refused_too():
    with pytest.raises(BadRequest):
        parse_object(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 128)


@pytest.mark.parametrize(
    ("body", "depth"),
    [(b"[[1]]", 2), (b'{"a":[{"b":[]}]}', 4), (b'[1,"[[[[",{"a":"]]"},[[[0]]]]', 4), (b'{"a":{"b":{"c":[1]}}}', 4)],
)
def test_depth_counts_arrays_and_objects_but_not_brackets_in_strings(body, depth):
    value = orjson.loads(body)
    assert is_deeper(value, depth - 1)
    assert not is_deeper(value, depth)


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"],
)
async def test_accepts_json_media_types(url, client, media_type):
    async with client.post(url, data=b'{"a":1}', headers={"Content-Type": media_type}) as answer:
        assert await answer.json() == {"a": 1}


async def test_accepts_a_body_without_content_type(url, exchange: Exchange):
    answer = await exchange(
        url, b'POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{"a":1}'
    )
    assert answer.endswith(b'{"a": 1}')


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_refuses_other_media_types(url, client, media_type):
    async with client.post(url, data=b'{"a":1}', headers={"Content-Type": media_type}) as answer:
        assert (await answer.json())[:2] == [415, "unsupported_media_type"]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
}


@pytest.mark.parametrize("coding", CODERS)
async def test_undoes_a_content_coding(url, client, coding):
    body = CODERS[coding](orjson.dumps({"a": "b" * 900}))
    async with client.post(url, data=body, headers={**JSON, "Content-Encoding": coding}) as answer:
        assert await answer.json() == {"a": "b" * 900}


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_several_members_or_frames_are_one_body(url, client, coding):
    body = CODERS[coding](b'{"a":') + CODERS[coding](b"1}")
    async with client.post(url, data=body, headers={**JSON, "Content-Encoding": coding}) as answer:
        assert await answer.json() == {"a": 1}


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "compress"])
async def test_refuses_unknown_codings_and_several_of_them(url, client, coding):
    async with client.post(url, data=b"{}", headers={**JSON, "Content-Encoding": coding}) as answer:
        assert (await answer.json())[:2] == [415, "unsupported_content_encoding"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_refuses_bytes_that_are_not_what_their_coding_says_or_end_early(url, client, coding):
    headers = {**JSON, "Content-Encoding": coding}
    async with client.post(url, data=b"not packed at all", headers=headers) as answer:
        assert (await answer.json())[:2] == [400, "invalid_body"]
    async with client.post(url, data=CODERS[coding](b'{"a":1}')[:-3], headers=headers) as answer:
        assert (await answer.json())[:2] == [400, "invalid_body"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_bomb_is_noticed_while_it_goes_off(serve: Serve, client, coding):
    # 50 MiB, without their end; what stands behind them is rubbish that nobody gets to see
    bomb = CODERS[coding](bytes(50 * 1024 * 1024))[:-20] + b"rubbish" * 1000
    app = web.Application()
    app[CONFIG] = Config(server=ServerConfig(max_body_bytes=1024 * 1024))
    app.add_routes([web.post("/", answer_parsed)])
    async with client.post(await serve(app), data=bomb, headers={**JSON, "Content-Encoding": coding}) as answer:
        assert (await answer.json())[:2] == [413, "request_too_large"]


async def test_content_length_over_the_limit_is_refused_before_anything_is_read(url):
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
    assert orjson.loads(body)[:2] == [413, "request_too_large"]
    writer.close()


async def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(url, client):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    async with client.post(url, data=chunks(), headers=JSON) as answer:
        assert (await answer.json())[:2] == [413, "request_too_large"]


async def test_a_body_of_exactly_the_limit_is_read(url, client):
    async with client.post(url, data=b'{"a":1}'.ljust(LIMIT), headers=JSON) as answer:
        assert await answer.json() == {"a": 1}


async def test_a_body_with_broken_chunked_framing_is_never_taken_for_a_whole_one(url):
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    # The handler reads the body by now
    await reader.readuntil(b"100 Continue\r\n\r\n")
    writer.write(b"5\r\nabcde\r\nnonsense\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert b"request_timeout" in await reader.readexactly(24)
    writer.close()


async def test_a_caller_that_falls_silent_is_told_so(url):
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
    await reader.readuntil(b"\r\n\r\n")
    assert b"request_timeout" in await reader.readexactly(24)
    writer.close()


async def test_bodies_are_read_as_they_were_sent(url, client: aiohttp.ClientSession):
    packed = gzip.compress(b"text")
    async with client.post(url / "read", data=packed, headers={"Content-Encoding": "gzip"}) as answer:
        assert await answer.read() == packed


async def test_a_body_of_many_elements_is_refused_before_it_is_parsed(serve, client):
    async def answer(request: web.Request) -> web.Response:
        return await answer_parsed(request)

    app = web.Application()
    app[CONFIG] = Config(server=ServerConfig(max_json_elements=1000))
    app.add_routes([web.post("/", answer)])
    url = await serve(app)
    for inside, expected in [
        (b"{}," * 3000 + b"1", [400, "json_too_large"]),
        (b'"' + b",[{" * 3000 + b'"', None),
        (b"1," * 990 + b"1", None),
    ]:
        body = gzip.compress(b'{"a":[' + inside + b"]}")
        async with client.post(url, data=body, headers={**JSON, "Content-Encoding": "gzip"}) as response:
            answered = await response.json()
            assert (answered[:2] == expected) if expected else ("a" in answered)


# Large bodies: elsewhere, and the same


LARGE = b'"' + b"a" * SLICE_BYTES + b'"'


@pytest.mark.parametrize(
    "field",
    [
        b"1",
        b"12345678901234567890123",
        b"NaN",
        b'"x\\ud83d"',
        b'"x\xff"',
        b'"\xed\xa0\xbd\xed\xb8\x80"',
        b"[NaN, 12345678901234567890123]",
    ],
)
async def test_a_large_body_says_what_a_small_one_does(field: bytes):
    small = parse_object(b'{"a": %b}' % field, 8)
    large = await parse_body(b'{"a": %b, "b": %b}' % (field, LARGE), ServerConfig(), asyncio.Lock())
    assert orjson.dumps({"a": large["a"]}) == orjson.dumps(small)


@pytest.mark.parametrize("text", [b'{"a": nan, "b": %b}', b"[%b]", b'{"b": %b, "a": [[[[[[[[[]]]]]]]]]}'])
async def test_a_large_body_is_refused_as_a_small_one_is(text: bytes):
    with pytest.raises(BadRequest) as small:
        parse_object(text % b'"a"', 8)
    with pytest.raises(BadRequest) as large:
        await parse_body(text % LARGE, ServerConfig(max_json_depth=8), asyncio.Lock())
    assert (large.value.code, large.value.message) == (small.value.code, small.value.message)


async def test_others_have_their_turn_while_a_large_body_is_repaired():
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    taking = asyncio.create_task(take_turns())
    repaired = await parse_body(b'{"a": "%b"}' % (b"\\ud83d" * SLICE_BYTES), ServerConfig(), asyncio.Lock())
    taking.cancel()
    assert repaired["a"] == "\ufffd" * SLICE_BYTES
    assert turns > 100
