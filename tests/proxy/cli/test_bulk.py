"""Large requests as their senders meet them: answered like all others, by a process that is there for such."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from benchmarks.processes import free_port
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.scraping import TURNS, total
from tests.proxy.cli.serving import Served, bulk_workers
from tests.proxy.relay.streams import MESSAGE, WHOLE
from tests.upstream import HANG, Reply, ScriptedUpstream

JSON = {"Content-Type": "application/json"}
SMALL = orjson.dumps({"model": "m", "input": "hello"})
LARGE = orjson.dumps({"model": "m", "input": "x" * 600_000})
CROWDED = b'{"model":"m","input":[' + b",".join([b'{"role":"user","content":"a"}'] * 1_200) + b"]}"
STREAM = {**orjson.loads(LARGE), "stream": True}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-alice", **JSON}) as session:
        yield session


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


async def answered_by(served: Served, answer: aiohttp.ClientResponse) -> str:
    """The process that answered; '' for the one that listens. Its log says."""
    assert answer.status == 200, await answer.text()
    request_id = answer.headers["x-request-id"]
    return (await served.logged(rf"proxy.http.middleware(?:\[(\d+)\])?: POST .* {request_id}"))[0]


async def test_what_is_large_is_answered_elsewhere_and_all_else_here(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    url = f"{served.url}/responses"
    async with client.post(url, data=SMALL) as answer:
        assert await answered_by(served, answer) == ""
    assert bulk_workers(served) == []
    coded = {"Content-Encoding": "gzip"}
    requests: list[tuple[Any, dict[str, str]]] = [
        (LARGE, {}),
        (CROWDED, {}),
        (pieces(LARGE), {}),
        (pieces(CROWDED), {}),
        (gzip.compress(LARGE), coded),
        (gzip.compress(CROWDED), coded),
        (LARGE, {"Idempotency-Key": "k1"}),
        (CROWDED, {"Idempotency-Key": "k2"}),
        (LARGE, {"Expect": "100-continue"}),
    ]
    for body, headers in requests:
        async with client.post(url, data=body, headers=headers) as answer:
            assert [await answered_by(served, answer)] == bulk_workers(served)
            # so that what its client asks for next does not come there
            assert answer.headers["Connection"] == "close"
            assert len((await answer.json())["output"]) == 1
        async with client.post(url, data=gzip.compress(SMALL), headers=coded) as answer:
            assert await answered_by(served, answer) == ""


async def test_a_large_turn_is_one_of_its_conversation(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    async with client.post(f"{served.url}/conversations", data=b"{}") as made:
        conversation = (await made.json())["id"]
    for body in (SMALL, LARGE, SMALL):
        asked = {**orjson.loads(body), "conversation": conversation}
        async with client.post(f"{served.url}/responses", json=asked) as answer:
            assert answer.status == 200
    async with client.get(f"{served.url}/conversations/{conversation}/items?order=asc") as listed:
        items = (await listed.json())["data"]
    assert [len(item["content"][0]["text"]) for item in items if item["role"] == "user"] == [5, 600_000, 5]


async def test_a_body_that_comes_slowly_is_read_where_it_went(serve: Serve):
    served = await serve()
    host, _, port = served.url.removeprefix("http://").removesuffix("/v1").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/responses HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer k\r\nContent-Length: {len(LARGE)}"
    writer.write(f"{head}\r\n\r\n".encode() + LARGE[:1000])
    await served.logged("bulk worker .* is ready")
    for start in range(1000, len(LARGE), 100_000):
        writer.write(LARGE[start : start + 100_000])
        await writer.drain()
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    # nothing comes behind the answer
    assert (await reader.read()).endswith(b"}")
    writer.close()


async def test_it_is_counted_once(serve: Serve, client: aiohttp.ClientSession):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port), BRANCHLINE_QUOTAS_REQUESTS_PER_MINUTE="4")
    statuses = []
    for body in (SMALL, LARGE, LARGE, SMALL, LARGE):
        async with client.post(f"{served.url}/responses", data=body) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 200, 200, 200, 429]
    assert await total(port, TURNS) == 4
    assert await total(port, "branchline_http_requests_total") == 5
    assert len(re.findall("POST /v1/responses", served.log)) == 5


async def test_one_that_dies_is_started_again(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    for number in (1, 2):
        async with client.post(f"{served.url}/responses", data=LARGE) as answer:
            assert answer.status == 200
        os.kill(int(bulk_workers(served)[-1]), signal.SIGKILL)
        await served.logged("was ended by SIGKILL; another is started when it is needed", times=number)
    async with client.post(f"{served.url}/responses", data=SMALL) as answer:
        assert await answered_by(served, answer) == ""
    assert len(bulk_workers(served)) == 2


async def test_who_waits_for_one_that_dies_is_told_so(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    port = free_port()
    served = await serve("--upstream", upstream.url, BRANCHLINE_METRICS_PORT=str(port))
    upstream.script(Reply.sse([HANG]))
    asking = asyncio.create_task(client.post(f"{served.url}/responses", data=LARGE))
    await upstream.wait_for_requests(1)
    os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
    async with await asking as answer:
        assert (answer.status, answer.headers["Retry-After"], answer.headers["Connection"]) == (503, "1", "close")
        assert (await answer.json())["error"]["code"] == "server_busy"
        await served.logged(rf"middleware: POST /v1/responses 503 .*{answer.headers['x-request-id']}")
    assert await total(port, "branchline_http_requests_total") == 1


async def test_they_are_started_with_the_server_where_that_is_asked_for(serve: Serve, client: aiohttp.ClientSession):
    served = await serve(BRANCHLINE_SERVER_PRESTART_BULK_WORKERS="true", BRANCHLINE_SERVER_BULK_WORKERS="2")
    await served.logged(r"bulk worker \d+ \(process \d+\) is ready", times=2)
    os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
    # nobody needs it, and it is there all the same
    await served.logged(r"bulk worker \d+ \(process \d+\) is ready", times=3)
    async with client.post(f"{served.url}/responses", data=LARGE) as answer:
        assert await answered_by(served, answer) in bulk_workers(served)[1:]


async def test_readiness_names_what_can_not_be_kept_running(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    ready = f"{served.url.removesuffix('/v1')}/readyz"
    async with client.post(f"{served.url}/responses", data=LARGE) as answer:
        assert answer.status == 200
    os.kill(int(bulk_workers(served)[-1]), signal.SIGKILL)
    await served.logged("was ended by SIGKILL")
    async with client.get(ready) as answer:
        # all else is served, and so are large requests, if later
        assert (answer.status, (await answer.json())["tasks"]) == (200, "failing: bulk workers")


async def test_a_body_that_stops_coming_has_its_time_there_too(serve: Serve):
    served = await serve(BRANCHLINE_SERVER_BODY_TIMEOUT_SECONDS="0.5")
    host, _, port = served.url.removeprefix("http://").removesuffix("/v1").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST /v1/responses HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(LARGE)}\r\n\r\n{{".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    assert await served.logged(r"middleware\[(\d+)\]: POST /v1/responses 408") == bulk_workers(served)


async def test_a_large_response_in_the_background_is_followed_and_cancelled(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    upstream.script(Reply.sse([*WHOLE[:4], HANG]))
    async with client.post(f"{served.url}/responses", json={**STREAM, "background": True}) as answer:
        await answer.content.readuntil(b"response.created")
        made = re.findall(rb'"id":"(resp_\w+)"', await answer.content.readuntil(b"\n\n"))[0].decode()
        async with client.post(f"{served.url}/responses/{made}/cancel") as cancelled:
            assert (await cancelled.json())["status"] == "cancelled"
        # whoever follows it sees its end
        await answer.read()
    assert await served.logged(rf"background\.worker\[(\d+)\]: background response {made} ran for") == bulk_workers(
        served
    )


async def test_a_large_response_in_the_background_survives_who_made_it(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url, BRANCHLINE_TURNS_LOCK_LEASE_SECONDS="2")
    upstream.script(Reply.sse([HANG]), Reply.json(200, {"object": "response", "output": [MESSAGE]}))
    async with client.post(f"{served.url}/responses", json={**orjson.loads(LARGE), "background": True}) as answer:
        made = (await answer.json())["id"]
    await upstream.wait_for_requests(1)
    os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
    first, second = await served.logged(rf"background\.worker\[(\d+)\]: background response {made} begins", times=2)
    await served.logged(rf"background response {made} ran for")
    assert [first, second] == bulk_workers(served)
    async with client.get(f"{served.url}/responses/{made}") as answer:
        assert (await answer.json())["status"] == "completed"


async def test_where_nobody_is_there_for_them_large_ones_in_the_background_run_here(
    serve: Serve, client: aiohttp.ClientSession
):
    served = await serve(BRANCHLINE_SERVER_BULK_WORKERS="0")
    async with client.post(f"{served.url}/responses", json={**orjson.loads(LARGE), "background": True}) as answer:
        made = (await answer.json())["id"]
    await served.logged(rf"background\.worker: background response {made} ran for")


async def test_a_reload_reaches_them(serve: Serve, client: aiohttp.ClientSession, tmp_path: Path):
    settings = tmp_path / "settings.toml"
    settings.write_text("[turns]\nmax_input_items = 5000\n")
    served = await serve("--workers", "2", "--config", settings)
    async with client.post(f"{served.url}/responses", data=CROWDED) as answer:
        assert answer.status == 200
    settings.write_text("[turns]\nmax_input_items = 1000\n")
    served.process.send_signal(signal.SIGHUP)
    await served.logged("the configuration was reloaded")
    async with client.post(f"{served.url}/responses", data=CROWDED) as answer:
        assert answer.status == 400
    # the former ones have nothing left to do
    await served.logged(r"left\n")


async def test_without_any_it_is_answered_here(serve: Serve, client: aiohttp.ClientSession):
    served = await serve(BRANCHLINE_SERVER_BULK_WORKERS="0")
    for body in (LARGE, CROWDED, pieces(LARGE)):
        async with client.post(f"{served.url}/responses", data=body) as answer:
            assert await answered_by(served, answer) == ""


async def test_a_stop_waits_for_large_turns_too(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    gate = asyncio.Event()
    upstream.script(Reply.sse([*WHOLE[:4], gate, *WHOLE[4:]]))
    async with client.post(f"{served.url}/responses", json=STREAM) as answer:
        await answer.content.readuntil(b"\nevent: ")
        (process,) = bulk_workers(served)
        served.process.terminate()
        await served.logged("waiting for 1 running turns")
        gate.set()
        assert b"response.completed" in await answer.read()
    status, log = await served.end()
    assert status == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    assert "stopped; what was answered is stored" in log


async def test_a_client_that_leaves_a_large_turn_ends_it(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    upstream.script(Reply.sse([*WHOLE[:4], HANG]))
    async with client.post(f"{served.url}/responses", json=STREAM) as answer:
        await answer.content.readuntil(b"\nevent: ")
        answer.close()
    (process,) = await served.logged(r"middleware\[(\d+)\]: POST /v1/responses 499")
    assert [process] == bulk_workers(served)


async def test_workers_have_their_own(serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream):
    port = free_port()
    said = {"id": "r", "object": "response", "status": "completed", "output": [MESSAGE]}
    upstream.script(*[Reply.json(200, said) for _ in range(4)])
    served = await serve("--workers", "2", "--upstream", upstream.url, BRANCHLINE_METRICS_PORT=str(port))
    answers: Iterable[aiohttp.ClientResponse] = await asyncio.gather(
        *(client.post(f"{served.url}/responses", data=LARGE) for _ in range(4))
    )
    processes = {await answered_by(served, answer) for answer in answers}
    for answer in answers:
        await answer.read()
    assert processes == set(bulk_workers(served))
    assert len(processes) == 2
    assert await total(port, TURNS) == 4
    served.process.terminate()
    assert (await served.end())[0] == 0
