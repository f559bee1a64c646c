"""Several workers as their users meet them: real processes under load, killed, reloaded, stopped."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.processes import run
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.serving import Served
from tests.proxy.relay.streams import MESSAGE, WHOLE
from tests.upstream import HANG, Reply, ScriptedUpstream

HELLO = {"model": "m", "input": "hello"}
STREAM = {**HELLO, "stream": True}
KEY = {"Idempotency-Key": "k1"}
SAID = orjson.dumps({"id": "r", "object": "response", "status": "completed", "output": [MESSAGE]})
TWO = ("--workers", "2")


class Client:
    """A client with one connection, which it keeps; so it stays with one worker."""

    def __init__(self, served: Served, session: aiohttp.ClientSession) -> None:
        self._served = served
        self.session = session

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send one request; return status and JSON."""
        async with self.session.request(method, self._served.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def stream(self, body: Any = STREAM) -> aiohttp.ClientResponse:
        """Begin a streamed turn; return when its first events are there."""
        answer = await self.session.post(f"{self._served.url}/responses", json=body)
        assert answer.status == 200, await answer.text()
        await answer.content.readuntil(b"\nevent: ")
        return answer

    async def worker(self) -> int:
        """The process that its connection leads to; its log says."""
        async with self.session.get(self._served.url.removesuffix("/v1") + "/openapi.json") as answer:
            found = await self._served.logged(rf"\[(\d+)\]: GET /openapi.json 200 .* {answer.headers['x-request-id']}")
        return int(found[0])


Connect = Callable[[Served], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make clients; each has its connection when it is returned, so that one after the other goes to another worker."""
    async with AsyncExitStack() as stack:

        async def make(served: Served) -> Client:
            connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=600)
            headers = {"Authorization": "Bearer sk-alice"}
            client = Client(
                served, await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=headers))
            )
            await client.worker()
            return client

        yield make


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


def workers(served: Served) -> list[int]:
    """The workers that were started, in their order."""
    return [int(number) for number in re.findall(r"worker \d+ \(process (\d+)\) is ready", served.log)]


def read(path: str) -> str:
    return Path(path).read_text()


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}/stat").exists()


async def gone(*processes: int) -> None:
    """Wait until processes that are not ours have ended."""
    async with asyncio.timeout(20):
        while any(map(is_alive, processes)):  # noqa: ASYNC110 (others' children: there is no event)
            await asyncio.sleep(0.02)


async def events(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Read the rest of a stream."""
    frames = (await answer.read()).split(b"\n\n")
    return [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in frames if frame.startswith(b"event:")]


async def test_connections_are_shared_out_and_the_block_is_printed_once(serve: Serve, connect: Connect):
    served = await serve(*TWO)
    clients = [await connect(served) for _ in range(6)]
    serving = [await client.worker() for client in clients]
    assert sorted(map(serving.count, workers(served))) == [3, 3]
    served.process.send_signal(signal.SIGINT)
    status, log = await served.end()
    assert status == 0
    assert served.block.count("listens on") == 1
    assert re.search(r"^  workers   2$", served.block, re.MULTILINE)
    line = r"[\d-]+ [\d:.+-]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+\[\d+\]: .*\n"
    assert re.fullmatch(f"({line})+", log)
    assert not re.search("WARNING|ERROR", log)


async def test_one_worker_is_one_process(serve: Serve):
    served = await serve("--workers", "1")
    pid = served.process.pid
    (child,) = read(f"/proc/{pid}/task/{pid}/children").split()
    assert "valkey" in read(f"/proc/{child}/cmdline")
    assert "workers" not in served.block
    served.process.terminate()
    assert not re.search(r"\[\d+\]:", (await served.end())[1])


async def test_a_killed_worker_is_replaced_and_nothing_that_was_told_is_lost(
    serve: Serve, connect: Connect, upstream: ScriptedUpstream
):
    served = await serve(*TWO, "--upstream", upstream.url, BRANCHLINE_TURNS_LOCK_LEASE_SECONDS="1")
    first, second = await connect(served), await connect(served)
    victim, other = await first.worker(), await second.worker()
    _, conversation = await first.call("POST", "/conversations", {})
    turn = {**HELLO, "conversation": conversation["id"]}
    assert (await first.call("POST", "/responses", turn))[0] == 200
    upstream.script(Reply.sse([*WHOLE[:4], HANG]))
    stream = await first.stream({**turn, "stream": True})

    os.kill(victim, signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await stream.read()
    assert await second.worker() == other
    assert len((await second.call("GET", f"/conversations/{conversation['id']}/items"))[1]["data"]) == 2
    await served.logged(rf"worker \d \(process {victim}\) was ended by SIGKILL; starting another")
    async with asyncio.timeout(20):
        while (await second.call("POST", "/responses", turn))[0] != 200:
            pass
    await served.logged("is ready", times=3)
    assert await (await connect(served)).worker() == workers(served)[2]


async def test_connections_wait_while_there_is_no_worker(serve: Serve, connect: Connect):
    served = await serve(*TWO)
    for worker in workers(served):
        os.kill(worker, signal.SIGKILL)
    await served.logged("starting another", times=2)
    clients = await asyncio.gather(*(connect(served) for _ in range(4)))
    assert {await client.worker() for client in clients} <= set(workers(served)[2:])


async def load(client: Client, over: asyncio.Event) -> int:
    """Take turns, one after the other, until it is over; return how many. Nothing may go wrong with any."""
    number = 0
    while not over.is_set():
        if number % 2:
            assert (await client.call("POST", "/responses", HELLO))[0] == 200
        else:
            assert (await events(await client.stream()))[-1]["type"] == "response.completed"
        number += 1
    return number


async def test_a_reload_under_load_drops_no_turn_and_refuses_nobody(
    serve: Serve, connect: Connect, upstream: ScriptedUpstream, tmp_path: Path
):
    settings = tmp_path / "c.toml"
    settings.write_text("[errors]\nformat = 'openai'\n")
    patient = {"BRANCHLINE_SERVER_SHUTDOWN_TIMEOUT_SECONDS": "100"}
    served = await serve(*TWO, "--upstream", upstream.url, "--config", settings, **patient)
    former = workers(served)
    gate, over = asyncio.Event(), asyncio.Event()
    upstream.script(*(Reply.sse([*WHOLE[:4], gate, *WHOLE[4:]]) for _ in range(2)))
    long, *callers = [await connect(served) for _ in range(3)]
    busy = {await long.worker(), await callers[1].worker()}
    stream = await long.stream()
    sockets = [await caller.session.ws_connect(f"{served.url}/responses") for caller in callers]
    await sockets[1].send_json({"type": "response.create", **HELLO})
    await upstream.wait_for_requests(2)

    clients = [await connect(served) for _ in range(6)]
    loads = [asyncio.create_task(load(client, over)) for client in clients[1:]]
    settings.write_text("[errors]\nformat = 'flat'\n")
    served.process.send_signal(signal.SIGHUP)
    await served.logged("the configuration was reloaded; workers: 2")
    assert (await sockets[0].receive()).data == aiohttp.WSCloseCode.GOING_AWAY
    async with asyncio.timeout(20):
        while await clients[0].worker() in former:
            pass
    assert isinstance((await clients[0].call("GET", "/responses/resp_0"))[1]["error"], str)
    over.set()
    assert min(await asyncio.gather(*loads)) > 0

    assert all(map(is_alive, busy))
    gate.set()
    assert (await events(stream))[-1]["type"] == "response.completed"
    while (message := (await sockets[1].receive())).type is aiohttp.WSMsgType.TEXT:
        last = message.json()
    assert (last["type"], message.data) == ("response.completed", aiohttp.WSCloseCode.GOING_AWAY)
    for client in clients:
        assert await client.worker() in workers(served)[2:]
    # this one has not been told to reconnect
    await long.session.close()
    await gone(*former)
    assert not re.search("WARNING|ERROR", served.log)


async def test_a_reload_that_can_not_work_changes_nothing(serve: Serve, connect: Connect, tmp_path: Path):
    settings = tmp_path / "c.toml"
    settings.write_text("[log]\nlevel = 'info'\n")
    served = await serve(*TWO, "--config", settings)
    client = await connect(served)
    jwt = f"[auth]\nmode = 'jwt'\n[auth.jwt]\nalgorithms = ['RS256']\nkey_file = '{tmp_path}/none.pem'\n"
    for wrong, why in (("[log]\nlevel = 'loud'", "log.level in .*c.toml: expected one of"), (jwt, "auth.jwt.key_file")):
        settings.write_text(wrong)
        served.process.send_signal(signal.SIGHUP)
        await served.logged(f"ERROR .* the configuration was not reloaded, nothing has changed: {why}")
    assert len(workers(served)) == 2
    assert await client.worker() in workers(served)

    settings.write_text("[server]\nworkers = 3\nmax_json_depth = 100\n[redis]\nurl = 'redis://127.0.0.1:9'\n")
    served.process.send_signal(signal.SIGHUP)
    await served.logged("WARNING .* redis.url changes only with a restart")
    await served.logged("the configuration was reloaded; workers: 2")
    assert await (await connect(served)).worker() in workers(served)[2:]


async def test_the_number_of_workers_can_be_reloaded(serve: Serve, tmp_path: Path):
    settings = tmp_path / "c.toml"
    settings.write_text("[server]\nworkers = 2\n")
    served = await serve("--config", settings)
    for number in (3, 1):
        former = workers(served)
        settings.write_text(f"[server]\nworkers = {number}\n")
        served.process.send_signal(signal.SIGHUP)
        await served.logged(f"the configuration was reloaded; workers: {number}")
        await gone(*former)
    # each number was the smallest that no living worker had
    numbers = [int(number) for number in re.findall(r"worker (\d+) \(process \d+\) is ready", served.log)]
    assert [sorted(numbers[:2]), sorted(numbers[2:5]), numbers[5:]] == [[1, 2], [3, 4, 5], [1]]


async def test_sigterm_lets_turns_finish_and_the_store_is_stopped_last(
    serve: Serve, connect: Connect, upstream: ScriptedUpstream, tmp_path: Path
):
    served = await serve(*TWO, "--upstream", upstream.url)
    gates = [asyncio.Event(), asyncio.Event()]
    upstream.script(*(Reply.sse([*WHOLE[:4], gate, *WHOLE[4:]]) for gate in gates))
    streams = [await (await connect(served)).stream() for _ in gates]
    idle = await connect(served)
    served.process.terminate()
    await served.logged("waiting for 1 running turns", times=2)
    assert (await idle.call("GET", "/responses/resp_0"))[0] == 503
    with pytest.raises(aiohttp.ClientConnectionError):
        await connect(served)
    for gate, stream in zip(gates, streams, strict=True):
        assert (tmp_path / "data" / "valkey.sock").exists()
        gate.set()
        assert (await events(stream))[-1]["type"] == "response.completed"
    status, log = await served.end()
    assert status == 0
    assert not (tmp_path / "data" / "valkey.sock").exists()
    assert not re.search("WARNING|ERROR|Traceback", log)


async def test_a_second_signal_ends_all_at_once(serve: Serve, connect: Connect, upstream: ScriptedUpstream):
    served = await serve(*TWO, "--upstream", upstream.url)
    upstream.script(Reply.sse([*WHOLE[:4], HANG]))
    stream = await (await connect(served)).stream()
    served.process.terminate()
    await served.logged("waiting for 1 running turns")
    served.process.terminate()
    assert (await served.end())[0] == 128 + signal.SIGTERM
    await gone(*workers(served))
    stream.close()


async def test_workers_end_when_their_supervisor_is_killed_and_finish_their_turns(
    serve: Serve, connect: Connect, upstream: ScriptedUpstream, valkey_url: str
):
    served = await serve(*TWO, "--upstream", upstream.url, "--redis", valkey_url)
    gate = asyncio.Event()
    upstream.script(Reply.sse([*WHOLE[:4], gate, *WHOLE[4:]]))
    stream = await (await connect(served)).stream()
    served.process.kill()
    await served.logged("the supervisor is gone; stopping", times=2)
    gate.set()
    assert (await events(stream))[-1]["type"] == "response.completed"
    await gone(*workers(served))


async def test_workers_that_end_again_and_again_are_given_up(serve: Serve, tmp_path: Path):
    key = tmp_path / "key.pem"
    public = Ed25519PrivateKey.generate().public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    served = await serve(
        *TWO,
        BRANCHLINE_AUTH_MODE="jwt",
        BRANCHLINE_AUTH_JWT_ALGORITHMS="EdDSA",
        BRANCHLINE_AUTH_JWT_KEY_FILE=str(key),
    )
    key.unlink()
    os.kill(workers(served)[0], signal.SIGKILL)
    # as long as one serves the others are tried again
    await served.logged("no worker could be started, trying again", times=5)
    assert served.process.returncode is None
    os.kill(workers(served)[1], signal.SIGKILL)
    status, log = await served.end()
    assert status == 1
    assert re.search(r"CRITICAL .*: giving up: the workers end again and again, \d+ times in a row", log)
    assert log.splitlines()[-1].startswith("branchline: the workers end again and again")
    assert "Traceback" not in log


def test_workers_that_can_not_start_are_one_line_and_status_2(tmp_path: Path):
    told = run(
        *("serve", "--port", "0", "--upstream", "echo", "--data-dir", tmp_path, *TWO),
        BRANCHLINE_AUTH_MODE="jwt",
        BRANCHLINE_AUTH_JWT_ALGORITHMS="RS256",
        BRANCHLINE_AUTH_JWT_KEY_FILE=str(tmp_path / "none.pem"),
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert re.fullmatch(r"(.* INFO .*\n)*branchline: auth\.jwt\.key_file.*\n", told.stderr)
    assert not (tmp_path / "valkey.sock").exists()


async def test_what_is_taken_is_one_line_also_with_several_workers(serve: Serve, tmp_path: Path):
    served = await serve(*TWO)
    told = await asyncio.to_thread(run, "serve", "--port", "0", "--data-dir", tmp_path / "data", *TWO)
    assert told.returncode == 1
    assert f"in use by another Branchline (process {served.process.pid})" in told.stderr.splitlines()[-1]
    port = served.url.removesuffix("/v1").rpartition(":")[2]
    told = await asyncio.to_thread(run, "serve", "--port", port, "--data-dir", tmp_path / "other", *TWO)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == (
        f"branchline: can't listen on 127.0.0.1 port {port}: another program listens there; choose another --port"
    )
    assert not (tmp_path / "other" / "valkey.sock").exists()


async def test_everything_works_across_workers_as_across_replicas(
    serve: Serve, connect: Connect, upstream: ScriptedUpstream
):
    served = await serve(*TWO, "--upstream", upstream.url)
    one, other = await connect(served), await connect(served)
    assert await one.worker() != await other.worker()

    # a background response is followed from both, while it runs
    gate = asyncio.Event()
    upstream.script(Reply.sse([*WHOLE[:4], gate, *WHOLE[4:]]))
    begun = await one.session.post(f"{served.url}/responses", json={**STREAM, "background": True})
    created = (await begun.content.readuntil(b'"response":{"id":"')) + await begun.content.readuntil(b'"')
    response_id = created.rpartition(b'{"id":"')[2][:-1].decode()
    replay = await other.session.get(f"{served.url}/responses/{response_id}?stream=true")
    await replay.content.readuntil(b"response.in_progress")
    gate.set()
    assert (await events(begun))[-1] == (await events(replay))[-1]

    # one is cancelled by the other
    upstream.script(Reply.sse([HANG]))
    asked = len(upstream.requests)
    _, queued = await one.call("POST", "/responses", {**HELLO, "background": True})
    # one that was cancelled before would leave that answer to the next request
    await upstream.wait_for_requests(asked + 1)
    assert (await other.call("POST", f"/responses/{queued['id']}/cancel"))[1]["status"] == "cancelled"

    # a key is held for both
    upstream.script(Reply.raw(200, "application/json", chunks=[slow := asyncio.Event(), SAID]))
    asked = len(upstream.requests)
    twice = [asyncio.create_task(each.call("POST", "/responses", HELLO, **KEY)) for each in (one, other)]
    await upstream.wait_for_requests(asked + 1)
    slow.set()
    (_, told), (_, again) = await asyncio.gather(*twice)
    assert told["id"] == again["id"]

    # a conversation is locked for both, and a WebSocket goes on from what the other has stored
    async with other.session.ws_connect(f"{served.url}/responses") as websocket:
        await websocket.send_json({"type": "response.create", **HELLO, "previous_response_id": told["id"]})
        while (event := await websocket.receive_json())["type"] != "response.completed":
            assert event["type"] != "error", event
    assert len((await one.call("GET", f"/responses/{event['response']['id']}/input_items"))[1]["data"]) == 3
