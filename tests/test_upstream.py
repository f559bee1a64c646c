import asyncio
import gzip
import zlib

import aiohttp
import orjson
import pytest
import zstandard

from tests.samples import load_sample, sample_names
from tests.upstream import CUT, HANG, Reply


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


def ask(client, upstream, **options):
    body = {"model": "echo", "input": "hello"}
    return client.post(f"{upstream.url}/responses", json=body, **options)


async def round_trip(client, upstream):
    """Give whatever could still be on its way the time to arrive."""
    async with ask(client, upstream) as answer:
        await answer.read()


async def test_the_echo_model_answers_when_nothing_is_scripted(upstream, client):
    async with ask(client, upstream) as answer:
        assert (await answer.json())["object"] == "response"


async def test_scripted_answers_are_given_once_and_in_order(upstream, client):
    upstream.script(Reply.json(200, {"n": 1}), Reply.json(429, {"n": 2}, {"Retry-After": "3"}))
    async with ask(client, upstream) as answer:
        assert (answer.status, await answer.json()) == (200, {"n": 1})
        assert answer.content_length == len(b'{"n":1}')
    async with ask(client, upstream) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    async with ask(client, upstream) as answer:
        assert (await answer.json())["object"] == "response"


async def test_a_path_of_its_own_can_be_scripted(upstream, client):
    upstream.script(Reply.raw(200, "text/plain", b"vector"), path="/v1/embeddings")
    async with client.get(f"{upstream.url}/embeddings?x=1") as answer:
        assert await answer.read() == b"vector"


async def test_requests_are_recorded_as_they_arrive(upstream, client):
    async with ask(client, upstream, params={"beta": "true"}, headers={"X-Test": "1"}):
        (request,) = await upstream.wait_for_requests(1)
    assert (request.method, request.path_qs) == ("POST", "/v1/responses?beta=true")
    assert request.headers["x-test"] == "1"
    assert request.body == b'{"model": "echo", "input": "hello"}'
    assert request.json == {"model": "echo", "input": "hello"}


async def test_waiting_for_requests_ends_when_enough_have_arrived(upstream, client):
    waiting = asyncio.create_task(upstream.wait_for_requests(2))
    for _ in range(2):
        assert not waiting.done()
        async with ask(client, upstream):
            pass
    assert len(await waiting) == 2


async def test_events_become_frames_with_names_and_an_end_marker(upstream, client):
    upstream.script(Reply.sse([{"type": "a"}, b": raw\n\n", {"type": "b"}]))
    async with ask(client, upstream) as answer:
        assert answer.content_type == "text/event-stream"
        frames = b'event: a\ndata: {"type":"a"}\n\n: raw\n\nevent: b\ndata: {"type":"b"}\n\ndata: [DONE]\n\n'
        assert await answer.read() == frames


async def test_names_and_end_marker_can_be_left_out(upstream, client):
    upstream.script(Reply.sse([{"type": "a"}], done=False, event_names=False))
    async with ask(client, upstream) as answer:
        assert await answer.read() == b'data: {"type":"a"}\n\n'


async def test_chunks_are_read_one_by_one_as_they_were_given(upstream, client):
    pieces = [b"da", b"ta: x", b"\r", b"\n\r\n", b"data: [DONE]\n\n"]
    upstream.script(Reply.raw(200, "text/event-stream", chunks=pieces))
    async with ask(client, upstream) as answer:
        assert [piece async for piece in answer.content.iter_any()] == pieces


async def test_a_gate_holds_the_answer_until_the_test_opens_it(upstream, client):
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/plain", chunks=[b"one", gate, b"two"]))
    async with ask(client, upstream) as answer:
        assert await answer.content.readany() == b"one"
        rest = asyncio.create_task(answer.content.read())
        await round_trip(client, upstream)
        assert not rest.done()
        gate.set()
        assert await rest == b"two"


async def test_a_gate_in_front_holds_the_head_back(upstream, client):
    gate = asyncio.Event()
    upstream.script(Reply.sse([gate, {"type": "a"}]))
    asking = asyncio.create_task(ask(client, upstream).__aenter__())
    await upstream.wait_for_requests(1)
    await round_trip(client, upstream)
    assert not asking.done()
    gate.set()
    async with await asking as answer:
        assert answer.status == 200


async def test_a_cut_breaks_the_body_off(upstream, client):
    upstream.script(Reply.sse([{"type": "a"}, CUT]))
    async with ask(client, upstream) as answer:
        assert await answer.content.readany() == b'event: a\ndata: {"type":"a"}\n\n'
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.readany()
    assert not upstream.client_left.is_set()


async def test_a_cut_in_front_breaks_the_connection_off(upstream, client):
    upstream.script(Reply.raw(200, "text/plain", chunks=[CUT]))
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask(client, upstream)


async def test_it_notices_that_a_client_left_a_hanging_answer(upstream, client):
    upstream.script(Reply.sse([b"", HANG]))
    async with ask(client, upstream) as answer:
        assert not upstream.client_left.is_set()
        answer.close()
    await upstream.client_left.wait()


async def test_it_notices_that_a_client_left_before_the_head(upstream, client):
    upstream.script(Reply.sse([HANG]))
    asking = asyncio.create_task(ask(client, upstream).__aenter__())
    await upstream.wait_for_requests(1)
    asking.cancel()
    await upstream.client_left.wait()


@pytest.mark.parametrize("name", sample_names())
async def test_recordings_are_answered_byte_for_byte(upstream, client, name):
    sample = load_sample(name)
    upstream.script(Reply.sample(name), Reply.sample(name, chunk_bytes=100))
    for _ in range(2):
        async with ask(client, upstream) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (sample.status, sample.content_type)
            assert await answer.read() == sample.body


async def test_a_redirect_is_answered_with_its_location(upstream, client):
    upstream.script(Reply.redirect("/v1/models", 303))
    async with ask(client, upstream, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/v1/models")


@pytest.mark.parametrize(
    ("encoding", "unpack"),
    [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("zstd", zstandard.decompress)],
)
async def test_a_body_can_be_compressed(upstream, encoding, unpack):
    upstream.script(Reply.json(200, {"text": "x" * 1000}).compressed(encoding))
    async with aiohttp.ClientSession(auto_decompress=False) as client, ask(client, upstream) as answer:
        assert answer.headers["Content-Encoding"] == encoding
        assert answer.content_length < 500
        assert orjson.loads(unpack(await answer.read())) == {"text": "x" * 1000}


def test_a_recording_has_its_request_and_its_answer_apart():
    sample = load_sample("llama.cpp-error-item-reference")
    assert sample.request["input"] == [{"type": "item_reference", "id": "msg_123"}]
    assert (sample.status, sample.content_type) == (400, "application/json; charset=utf-8")
    assert orjson.loads(sample.body)["error"]["code"] == 400
