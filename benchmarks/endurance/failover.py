"""`kill -9` of a replica at random while background responses run: each comes to its end, and nothing is told twice.

    python -m benchmarks.endurance.failover [--runs 200] [--worlds 2] [--seed 1]

In each world two Branchlines share one key space. A run begins background responses, plain and streamed, some in
conversations, kills one of the two at a random moment and starts it again. Clients go on at the other one: those of
streams with `starting_after`. At the end of a run every response is completed, every stream is gapless, the same as
its replay, and tells what an undisturbed one does, and every conversation has its two items.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import orjson
from aiohttp import web

from benchmarks.processes import free_port, listening, valkey
from proxy.protocol import sse
from storage import Store

WORDS = 25
PAUSE_SECONDS = 0.015
#: Responses of each kind in a run.
EACH = 3
#: Within how many seconds of a run's beginning the kill comes.
KILL_WITHIN = 0.7
PATIENCE_SECONDS = 30.0
LEASE_SECONDS = 1
HEADERS = {"Authorization": "Bearer failover"}
KEY = "the sealing key of all worlds of this benchmark"


# --- the model ----------------------------------------------------------------------------------------------------


async def answer(request: web.Request) -> web.StreamResponse:
    """Say the same for the same input, word by word."""
    body = orjson.loads(await request.read())
    words = [f"word {number} " for number in range(WORDS)]
    text = {"type": "output_text", "text": "".join(words), "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    done = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [message]}
    if not body.get("stream"):
        await asyncio.sleep(WORDS * PAUSE_SECONDS)
        return web.json_response(done)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for event in events_of(words, message, done):
            await response.write(sse.encode(event["type"], orjson.dumps(event)))
            await asyncio.sleep(PAUSE_SECONDS if event["type"].endswith("delta") else 0)
        await response.write(sse.DONE)
    return response


def events_of(words: list[str], message: dict[str, Any], done: dict[str, Any]) -> list[dict[str, Any]]:
    empty = {**message, "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    return [
        {"type": "response.created", "response": {**done, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": word} for word in words),
        {"type": "response.output_text.done", **place, "text": "".join(words)},
        {"type": "response.content_part.done", **place, "part": message["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": done},
    ]


@asynccontextmanager
async def model() -> AsyncIterator[str]:
    """Run the model; gives its base URL."""
    app = web.Application()
    app.add_routes([web.post("/v1/responses", answer)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


# --- replicas -----------------------------------------------------------------------------------------------------


#: Starts `branchline serve` with arguments and environment variables; returns what kills it.
Launch: TypeAlias = Callable[[Sequence[str], Mapping[str, str]], Callable[[], None]]


def launch(arguments: Sequence[str], variables: Mapping[str, str]) -> Callable[[], None]:
    """Start a replica in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def kill() -> None:
        process.kill()
        process.wait()

    return kill


@dataclass
class Replica:
    """A Branchline in a process of its own, that is killed and started again."""

    launch: Launch
    arguments: list[str]
    variables: dict[str, str]
    url: str
    kill: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.kill = self.launch(self.arguments, self.variables)


def replica(launch: Launch, redis_url: str, prefix: str, upstream: str) -> Replica:
    port = free_port()
    variables = {
        "BRANCHLINE_REDIS_PREFIX": prefix,
        "BRANCHLINE_SEALING_KEY": KEY,
        "BRANCHLINE_TURNS_LOCK_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    arguments = ["--redis", redis_url, "--port", str(port), "--upstream", upstream]
    return Replica(launch, arguments, variables, f"http://127.0.0.1:{port}")


# --- clients ------------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """What happened. recoveries: seconds from a kill to the end of the last response that it disturbed."""

    runs: int = 0
    responses: int = 0
    resumed: int = 0
    recoveries: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class Told:
    """What one client was told. frames: of its stream, without comments; None for a plain response."""

    conversation: str | None
    response_id: str = ""
    frames: list[bytes] | None = None


@dataclass
class World:
    """Two replicas, and clients that go to either."""

    session: aiohttp.ClientSession
    replicas: list[Replica]
    random: random.Random
    log: Log

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask one replica after the other until one answers."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self.session.request(method, self._pick() + path, json=body) as answer:
                        if answer.status < 500:
                            return await answer.json()
                await asyncio.sleep(0.02)

    def _pick(self) -> str:
        return self.random.choice(self.replicas).url

    async def plain(self, told: Told) -> None:
        """Begin a response; if that was answered, poll it to its end."""
        with contextlib.suppress(aiohttp.ClientError):
            body = self._body(told, stream=False)
            async with self.session.post(f"{self._pick()}/v1/responses", json=body) as answer:
                told.response_id = (await answer.json())["id"]
        while told.response_id:
            response = await self.call("GET", f"/v1/responses/{told.response_id}")
            if response["status"] not in {"queued", "in_progress"}:
                return
            await asyncio.sleep(0.05)

    async def streamed(self, told: Told) -> None:
        """Begin a streamed response, and go on at another replica whenever the stream breaks off."""
        told.frames = []
        method, path = "POST", "/v1/responses"
        body: Any = self._body(told, stream=True)
        while not await self._read(told, method, path, body):
            if not told.response_id:
                return
            self.log.resumed += 1
            after = f"&starting_after={len(told.frames) - 1}" if told.frames else ""
            method, path, body = "GET", f"/v1/responses/{told.response_id}?stream=true{after}", None
            await asyncio.sleep(0.02)

    async def _read(self, told: Told, method: str, path: str, body: Any) -> bool:
        """Read a stream; return whether it came to its end."""
        frames: list[bytes] = told.frames if told.frames is not None else []
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.request(method, self._pick() + path, json=body) as answer:
                if answer.status != 200:
                    return False
                rest = b""
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n\n")
                    frames += [frame for frame in whole if frame.startswith(b"event:")]
                    if frames and not told.response_id:
                        told.response_id = data_of(frames[0])["response"]["id"]
                    if whole and whole[-1] == b"data: [DONE]":
                        return True
        return False

    def _body(self, told: Told, *, stream: bool) -> dict[str, Any]:
        place = {"conversation": told.conversation} if told.conversation else {}
        return {"model": "m", "input": "hi", "background": True, "stream": stream, **place}

    # --- a run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Begin responses, kill a replica, and look at what became of them."""
        tolds = []
        for number in range(2 * EACH):
            made = await self.call("POST", "/v1/conversations", {}) if number % 2 else None
            tolds.append(Told(made["id"] if made else None))
        clients = [asyncio.create_task(self.plain(told)) for told in tolds[:EACH]]
        clients += [asyncio.create_task(self.streamed(told)) for told in tolds[EACH:]]
        if self.random.random() < 0.5:
            await _until_streaming(tolds, clients)
        await asyncio.sleep(self.random.uniform(0, KILL_WITHIN))
        victim = self.random.choice(self.replicas)
        victim.kill()
        killed = time.monotonic()
        victim.start()
        _, late = await asyncio.wait(clients, timeout=PATIENCE_SECONDS)
        self.log.faults += ["a client was never told the end"] * len(late)
        for client in late:
            client.cancel()
        for client in clients:
            with contextlib.suppress(asyncio.CancelledError):
                await client
        self.log.recoveries.append(time.monotonic() - killed)
        for told in tolds:
            if told.response_id:
                self.log.faults += await self.judge(told)
        self.log.responses += sum(bool(told.response_id) for told in tolds)
        self.log.runs += 1
        await listening(victim.url)

    async def judge(self, told: Told) -> list[str]:
        """Return what is wrong with one response."""
        faults = []
        response = await self.call("GET", f"/v1/responses/{told.response_id}")
        if response["status"] != "completed":
            faults.append(f"a response is {response['status']}: {response.get('error')}")
        if told.conversation:
            items = await self.call("GET", f"/v1/conversations/{told.conversation}/items?order=asc")
            roles = [item["role"] for item in items["data"]]
            if roles != ["user", "assistant"]:
                faults.append(f"a conversation has {roles}")
        if told.frames is None:
            return faults
        events = [data_of(frame) for frame in told.frames]
        if [event["sequence_number"] for event in events] != list(range(len(events))):
            faults.append("the numbers of a stream have gaps or repeats")
        if [(event["type"], event.get("delta")) for event in events] != UNDISTURBED:
            faults.append("a stream is not what an undisturbed one is")
        again = Told(told.conversation, told.response_id, [])
        while not await self._read(again, "GET", f"/v1/responses/{told.response_id}?stream=true", None):
            again.frames = []
        if again.frames != told.frames:
            faults.append("a replay differs from what was told")
        return faults


async def _until_streaming(tolds: list[Told], clients: list[asyncio.Task[None]]) -> None:
    """Return once one of the streams has begun, however slow the machine is, or none will."""
    while not all(client.done() for client in clients):
        if any(told.frames and told.response_id for told in tolds):
            return
        await asyncio.sleep(0.01)


def data_of(frame: bytes) -> Any:
    return orjson.loads(frame.partition(b"\ndata: ")[2])


UNDISTURBED = [
    (event["type"], event.get("delta"))
    for event in events_of([f"word {number} " for number in range(WORDS)], {"content": [None]}, {})
]
# Background responses are queued before they run.
UNDISTURBED[1:1] = [("response.queued", None), ("response.in_progress", None)]


async def failover(redis_url: str, *, worlds: int, runs: int, seed: int, launch: Launch = launch) -> Log:
    """Do so many runs in all, in so many worlds at a time, and return what happened."""
    log = Log()
    async with model() as upstream, aiohttp.ClientSession(headers=HEADERS) as session:

        async def run_world(number: int) -> None:
            replicas = [replica(launch, redis_url, f"world{number}", upstream) for _ in range(2)]
            await _run(World(session, replicas, random.Random(number), log), runs // worlds)
            log.faults += await audit(redis_url, f"world{number}")

        await asyncio.gather(*(run_world(seed * 1000 + i) for i in range(worlds)))
    return log


async def _run(world: World, runs: int) -> None:
    try:
        for one in world.replicas:
            one.start()
        for one in world.replicas:
            await listening(one.url)
        for _ in range(runs):
            await world.run()
    finally:
        for one in world.replicas:
            one.kill()


async def audit(redis_url: str, prefix: str) -> list[str]:
    """Return which of the store's invariants do not hold."""
    store = Store.connect(
        redis_url,
        prefix=prefix,
        timeout_seconds=30,
        max_connections=4,
        retention_seconds=2_592_000,
    )
    try:
        return (await store.auditor.audit()).complaints
    finally:
        await store.close()


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--worlds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with valkey() as (url, _):
        log = await failover(url, worlds=options.worlds, runs=options.runs, seed=options.seed)
    times = statistics.quantiles(log.recoveries, n=20)
    print(f"{log.runs} kills, {log.responses} responses, {log.resumed} times a stream was taken up again")
    print(f"seconds from a kill to the last end: median {statistics.median(times):.1f}, 95 % {times[-1]:.1f}")
    print(f"{len(log.faults)} faults")
    for fault in log.faults[:50]:
        print(f"  {fault}")
    return 1 if log.faults else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
