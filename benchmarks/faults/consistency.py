"""Concurrent clients on two replicas while everything breaks: what each was told must be explained by one order.

    python -m benchmarks.faults.consistency [--seconds 60] [--clients 8] [--seed 1]

Clients append items and take turns, plain, streamed and in the background, with and without key, leave in the middle,
and read, all on a few conversations. Meanwhile the store, connections, replicas and the model server fail, one after
the other at random. In the end every acknowledged write is there once and whole, in an order that all answers allow
(`history`), every response that was told of can be read, every conversation can be gone on with, and the store has
nothing wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import aiohttp

from benchmarks.faults import store_faults
from benchmarks.faults.clients import PATIENCE_SECONDS, UNHEARD, Answer, Conversation, Wire, read_response
from benchmarks.faults.history import Read, Told, Write, check
from benchmarks.faults.world import HEADERS, Replica, World, running_world

#: Of the replicas. Keys of requests live no longer than a lease without their server: faults are shorter than that.
LEASE_SECONDS = 3
SETTINGS = {
    "TURNS_LOCK_LEASE_SECONDS": str(LEASE_SECONDS),
    "TURNS_LOCK_WAIT_SECONDS": "2",
    "TURNS_COMMIT_RETRY_SECONDS": "5",
    "REDIS_TIMEOUT_SECONDS": "1",
    "UPSTREAM_READ_TIMEOUT_SECONDS": "2",
}
#: Shortest and longest fault, and peace between two, in seconds.
FAULT_SECONDS = (0.2, 1.2)
PEACE_SECONDS = (0.3, 1.0)
#: Conversations at a time, and the items after which one is no longer used: a page shows all of it.
CONVERSATIONS = 2
ITEMS = 60
#: Seconds after the last use of a conversation in which what nobody waits for any more comes to its end.
GRACE_SECONDS = 15.0
#: Seconds that a request with a key is repeated, and that everything may take to be well again.
REPEAT_SECONDS = 20.0
RECOVERY_SECONDS = 30.0


@dataclass
class Log:
    """What happened. told: of writes, by operation and answer. outcomes: of writes. broken: on purpose, by its name.

    conversations: that were checked. wrong: what must not be.
    """

    told: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[Told] = field(default_factory=Counter)
    reads: int = 0
    conversations: int = 0
    wrong: list[str] = field(default_factory=list)


# --- faults that are none of the store's --------------------------------------------------------------------------


@asynccontextmanager
async def model_lost(world: World) -> AsyncIterator[None]:
    """The model server resets all connections."""
    world.model_link.refuse()
    try:
        yield
    finally:
        world.model_link.restore()


@asynccontextmanager
async def model_silent(world: World) -> AsyncIterator[None]:
    """Nothing comes from the model server."""
    world.model_link.hold()
    try:
        yield
    finally:
        world.model_link.restore()


@asynccontextmanager
async def cut_once(world: World) -> AsyncIterator[None]:
    """All connections to the store are reset once."""
    for one in world.replicas:
        one.link.cut()
    yield


Fault: TypeAlias = Callable[[World], AbstractAsyncContextManager[None]]
FAULTS: dict[str, Fault] = {
    "store paused": store_faults.paused,
    "store killed and back": store_faults.killed,
    "store unreachable": store_faults.lost,
    "store's answers lost": store_faults.unanswered,
    "store's connections reset": cut_once,
    "READONLY": store_faults.read_only,
    "memory full": store_faults.full_memory,
    "disk full": store_faults.full_disk,
    "BUSY": store_faults.busy,
    "NOPERM": store_faults.no_permission,
    "model server lost": model_lost,
    "model server silent": model_silent,
}


class Run:
    """Clients and faults on one world. log: what happened so far."""

    def __init__(self, world: World, session: aiohttp.ClientSession, seed: int) -> None:
        self.log = Log()
        self._world = world
        self._wire = Wire(session)
        self._dice = random.Random(seed)
        self._conversations: list[Conversation] = []
        self._retired: list[Conversation] = []
        self._numbers = 0
        self._ends = False

    async def work(self, clients: int, seconds: float, is_enough: Callable[[Log], bool] = lambda _log: True) -> None:
        """Let clients and faults loose for so long, and check what is left. Fills the log.

        is_enough: they go on until that says of the log that enough has happened, however slow the machine is.
        """
        await self._open_conversations()
        tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        tasks += [asyncio.create_task(self._break()), asyncio.create_task(self._keep_judging())]
        failed, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        while not failed and not is_enough(self.log):
            failed, _ = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
        self._ends = True
        await asyncio.gather(*tasks)
        await self._settle()
        for conversation in [*self._conversations, *self._retired]:
            await self._judge(conversation)
        async with self._world.opened_store() as store:
            self.log.wrong += (await store.auditor.audit()).complaints

    # --- clients --------------------------------------------------------------------------------------------------

    async def _open_conversations(self) -> None:
        """Have as many conversations as there should be, if that can be at the moment."""
        while len(self._conversations) < CONVERSATIONS:
            try:
                async with self._wire.session.post(f"{self._url()}/v1/conversations", json={}) as answer:
                    if answer.status != 200:
                        return
                    self._conversations.append(Conversation((await answer.json())["id"]))
            except (aiohttp.ClientError, TimeoutError):
                return

    async def _client(self, number: int) -> None:
        doings = [self._append, self._turn, self._turn, self._turn_with_key, self._leave, self._background, self._read]
        doings += [self._turn_over_websocket]
        while not self._ends:
            if not self._conversations:
                await self._open_conversations()
                await asyncio.sleep(0.05)
                continue
            conversation = self._dice.choice(self._conversations)
            conversation.users += 1
            self._numbers += 1
            await self._dice.choice(doings)(conversation, f"c{number}.{self._numbers}")
            conversation.users -= 1
            if conversation.size >= ITEMS and conversation in self._conversations:
                self._conversations.remove(conversation)
                self._retired.append(conversation)
                await self._open_conversations()
            await asyncio.sleep(self._dice.uniform(0.0, 0.05))

    async def _append(self, conversation: Conversation, name: str) -> None:
        keys = [f"{name}.{i}" for i in range(self._dice.randint(1, 3))]
        body = {"items": [{"type": "message", "role": "user", "content": one} for one in keys]}
        asked = time.monotonic()
        answer = await self._wire.post(f"{self._url()}/v1/conversations/{conversation.id}/items", body)
        self._note(conversation, keys, asked, answer, "append")

    async def _turn(self, conversation: Conversation, name: str) -> None:
        asked = time.monotonic()
        answer = await self._wire.post(f"{self._url()}/v1/responses", self._body(conversation, name))
        self._note(conversation, [name, f"re:{name}"], asked, answer, "turn")

    async def _turn_over_websocket(self, conversation: Conversation, name: str) -> None:
        asked, body = time.monotonic(), self._body(conversation, name)
        answer = await self._wire.converse(f"{self._url()}/v1/responses", {**body, "stream": True})
        self._note(conversation, [name, f"re:{name}"], asked, answer, "turn over a WebSocket")

    async def _turn_with_key(self, conversation: Conversation, name: str) -> None:
        """Repeat a turn at any replica until it is done; in the end it was taken once."""
        asked = time.monotonic()
        body, headers, unsure = self._body(conversation, name), {"Idempotency-Key": name}, False
        while True:
            answer = await self._wire.post(f"{self._url()}/v1/responses", body, headers)
            unsure |= answer.told is Told.UNKNOWN
            if answer.told is Told.DONE or time.monotonic() > asked + REPEAT_SECONDS or self._ends:
                break
            await asyncio.sleep(0.1)
        if unsure and answer.told is Told.REFUSED:
            answer = Answer(Told.UNKNOWN, answer.what)
        self._note(conversation, [name, f"re:{name}"], asked, answer, "turn with key")

    async def _leave(self, conversation: Conversation, name: str) -> None:
        asked = time.monotonic()
        body = {**self._body(conversation, name), "stream": True}
        answer = await self._wire.leave(f"{self._url()}/v1/responses", body, self._dice.randint(1, 4000))
        self._note(conversation, [name, f"re:{name}"], asked, answer, "turn that is left")

    async def _background(self, conversation: Conversation, name: str) -> None:
        """Begin a background response and ask for it, at any replica, until it has come to its end."""
        asked = time.monotonic()
        body = {**self._body(conversation, name), "background": True, "stream": False}
        answer = await self._wire.post(f"{self._url()}/v1/responses", body)
        while answer.what in {"queued", "in_progress"}:
            response = await self._wire.get(f"{self._url()}/v1/responses/{answer.response_id}")
            if response is not None:
                answer = read_response(response)
            elif time.monotonic() > asked + RECOVERY_SECONDS:
                self.log.wrong.append(f"{name} was never told to have ended")
                answer = UNHEARD
            await asyncio.sleep(0.05)
        self._note(conversation, [name, f"re:{name}"], asked, answer, "background")

    async def _read(self, conversation: Conversation, _name: str) -> None:
        asked = time.monotonic()
        keys = await self._wire.items(self._url(), conversation.id)
        if keys is not None:
            self.log.reads += 1
            conversation.reads.append(Read(tuple(keys), asked, time.monotonic()))

    def _note(self, conversation: Conversation, keys: list[str], asked: float, answer: Answer, doing: str) -> None:
        told = time.monotonic()
        conversation.writes.append(Write(tuple(keys), asked, told, answer.told, answer.saw))
        conversation.size += len(keys) if answer.told is not Told.REFUSED else 0
        conversation.responses += [answer.response_id] if answer.response_id else []
        self.log.outcomes[answer.told] += 1
        self.log.told[f"{doing}: {answer.what}"] += 1
        if answer.what.startswith("500"):
            self.log.wrong.append(f"{doing} was answered {answer.what}")

    def _body(self, conversation: Conversation, text: str) -> dict[str, object]:
        stream = self._dice.random() < 0.5
        return {"model": "fine", "input": text, "conversation": conversation.id, "stream": stream}

    def _url(self) -> str:
        return self._dice.choice(self._world.urls)

    # --- faults ---------------------------------------------------------------------------------------------------

    async def _break(self) -> None:
        names = [*FAULTS, "replica killed and back"]
        self._dice.shuffle(names)
        while not self._ends:
            name = names[self.log.broken.total() % len(names)]
            self.log.broken[name] += 1
            if name in FAULTS:
                async with FAULTS[name](self._world):
                    await self._pause(FAULT_SECONDS)
            else:
                await self._kill(self._dice.choice(self._world.replicas))
            await self._pause(PEACE_SECONDS)

    async def _kill(self, victim: Replica) -> None:
        victim.kill()
        await victim.start()

    async def _pause(self, span: tuple[float, float]) -> None:
        await asyncio.sleep(self._dice.uniform(*span))

    # --- what is left ---------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Return once no replica has anything under way."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            ready = [await self._wire.get(f"{url}/readyz") for url in self._world.urls]
            if None not in ready and not self._world.model.busy:
                break
            await asyncio.sleep(0.2)
        else:
            self.log.wrong.append("not ready again")
        # a turn whose client has left may still be writing down what there is
        await asyncio.sleep(1.0)

    async def _keep_judging(self) -> None:
        while not self._ends:
            for conversation in list(self._retired):
                if conversation.users:
                    continue
                conversation.retired = conversation.retired or time.monotonic()
                if time.monotonic() > conversation.retired + GRACE_SECONDS:
                    self._retired.remove(conversation)
                    await self._judge(conversation)
            await asyncio.sleep(0.5)

    async def _judge(self, conversation: Conversation) -> None:
        """Check all that was told of a conversation, and that it can be gone on with."""
        self.log.conversations += 1
        name = conversation.id[:12]
        try:
            final = await self._wire.surely(self._url(), conversation.id, RECOVERY_SECONDS)
        except TimeoutError:
            self.log.wrong.append(f"{name}: its items can't be read")
            return
        self.log.wrong += [f"{name}: {fault}" for fault in check(final, conversation.writes, conversation.reads)]
        for response_id in conversation.responses:
            if not await self._is_readable(response_id):
                self.log.wrong.append(f"{name}: {response_id[:12]} was told of and can't be read")
        await self._go_on(conversation)

    async def _is_readable(self, response_id: str) -> bool:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            if await self._wire.get(f"{self._url()}/v1/responses/{response_id}") is not None:
                return True
            if not self._ends:
                await asyncio.sleep(0.1)
            else:
                return False
        return False

    async def _go_on(self, conversation: Conversation) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            self._numbers += 1
            answer = await self._wire.post(
                f"{self._url()}/v1/responses", self._body(conversation, f"g.{self._numbers}")
            )
            if answer.told is Told.DONE:
                return
            if time.monotonic() > deadline:
                self.log.wrong.append(f"{conversation.id[:12]}: stuck: {answer.what}")
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def clients_of(world: World, seed: int) -> AsyncIterator[Run]:
    """Give a run on that world."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS, timeout=timeout) as session:
        yield Run(world, session, seed)


def report(log: Log) -> None:
    """Print what happened."""
    done = log.outcomes[Told.DONE]
    print(f"{done} writes acknowledged, {log.reads} readings, {log.conversations} conversations checked")
    for title, counts in (("broken", log.broken), ("told", log.told)):
        print(f"{title}:")
        for name, count in sorted(counts.items()):
            print(f"  {name:48}{count:8}")
    print(f"{len(log.wrong)} wrong")
    for wrong in log.wrong[:50]:
        print(f"  {wrong}")


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="branchline-faults-") as folder:
        async with running_world(Path(folder), SETTINGS) as world, clients_of(world, options.seed) as run:
            await run.work(options.clients, options.seconds)
    report(run.log)
    return 1 if run.log.wrong else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
