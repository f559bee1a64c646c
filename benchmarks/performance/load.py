"""Load: dialogues with a server, each answer checked, in blocks whose processor time is read.

The client sends what the server needs to know: an id to one that remembers, the whole history to one that does not. The
model server sees the same messages either way, and says how many it saw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.performance.statistics import percentile
from benchmarks.performance.target import Cpu, Memory, Target
from benchmarks.servers.model import FILLER, expected_text, order
from benchmarks.wire import Connection, connected, together

#: The beginning of every question: with it an item has about 550 bytes.
QUESTION = FILLER
#: Items that one request may add to a conversation.
ITEMS_A_REQUEST = 20
#: What a block may take at most; a peer that takes longer is left out.
BLOCK_SECONDS = 180.0


class WrongAnswer(Exception):
    """A server answered with an error, or not what the model server said."""


@dataclass
class Tally:
    """What one block of turns took. latencies in ms; lost: turns in which the model did not see the whole history."""

    latencies: list[float] = field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0
    cpu: Cpu = field(default_factory=lambda: Cpu(0.0, 0.0))

    def quantities(self) -> dict[str, float]:
        """Return the numbers of a block for its sample."""
        turns = len(self.latencies)
        return {
            "proxy_ms": self.cpu.proxy * 1000 / turns,
            "store_ms": self.cpu.store * 1000 / turns,
            "p50_ms": percentile(self.latencies, 50),
            "p99_ms": percentile(self.latencies, 99),
            "turns_per_second": turns / self.seconds,
            "lost": self.lost,
            "turns": turns,
        }


def question(tag: str, images: Sequence[str] = (), deltas: int = 0, gap_us: int = 0) -> bytes:
    """Return a user's message as JSON. images: data URLs."""
    content: list[dict[str, Any]] = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in images]
    content.append({"type": "input_text", "text": QUESTION + order(tag, deltas, gap_us)})
    return orjson.dumps({"type": "message", "role": "user", "content": content})


class Dialogue:
    """One client's dialogue with a server, over a connection of its own, one turn after the other.

    memory: how the turns are connected; None: not at all, each is a single stored turn.
    """

    def __init__(self, connection: Connection, target: Target, memory: Memory | None, name: str) -> None:
        self._connection = connection
        self._target = target
        self._memory = memory
        self._name = name
        self._held: list[bytes] = []
        self._conversation = ""
        self._place = b""
        self._image_bytes = 0
        self.turns = 0

    async def begin(self) -> None:
        """Make the conversation, where there is to be one."""
        if self._memory is Memory.CONVERSATION and self._memory in self._target.remembers:
            self.resume((await self._created("/v1/conversations", b"{}"))["id"], 0)

    def resume(self, conversation: str, turns: int) -> None:
        """Go on with a conversation that has so many turns."""
        self._conversation = conversation
        self._place = b',"conversation":%s' % orjson.dumps(conversation)
        self.turns = turns

    async def lead_up(self, turns: int) -> None:
        """Let so many turns have been taken already: their items are added to the conversation, or to what is sent."""
        answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": FILLER}]}
        items: list[bytes] = []
        for number in range(self.turns, self.turns + turns):
            items += [question(f"{self._name}-{number}"), orjson.dumps(answer)]
        self.turns += turns
        if not self._place:
            self._held += items
            return
        path = f"/v1/conversations/{self._conversation}/items"
        for first in range(0, len(items), ITEMS_A_REQUEST):
            body = b'{"items":[%s]}' % b",".join(items[first : first + ITEMS_A_REQUEST])
            await self._created(path, body)

    async def _created(self, path: str, body: bytes) -> Any:
        status, said = await self._connection.request("POST", path, body)
        if status not in (200, 201):
            raise WrongAnswer(f"{self._target.name}: {status} {said[:300]!r}")
        return orjson.loads(said)

    async def turn(self, tally: Tally, images: Sequence[str] = ()) -> None:
        """Take the next turn and check its answer. Raises WrongAnswer."""
        tag = f"{self._name}-{self.turns}"
        asked = question(tag, images)
        self._image_bytes += sum(map(len, images))
        items = b",".join([*self._held, asked])
        body = b'{"model":"bench","input":[%s]%s}' % (items, self._place)
        start = time.perf_counter()
        status, said = await self._connection.request("POST", "/v1/responses", body)
        tally.latencies.append((time.perf_counter() - start) * 1000)
        if status != 200:
            raise WrongAnswer(f"{self._target.name}: {status} {said[:300]!r}")
        response = orjson.loads(said)
        messages = 1 if self._memory is None else 2 * self.turns + 1
        tally.lost += self._lost(response, tag, messages)
        self.turns += 1
        self._remember(asked, response)

    def _lost(self, response: dict[str, Any], tag: str, messages: int) -> bool:
        """Check an answer; tell whether the model server saw other messages than it should have."""
        try:
            text = response["output"][-1]["content"][0]["text"]
        except (LookupError, TypeError):
            text = ""
        beginning = expected_text(tag, messages)
        if text.startswith(beginning) and text.endswith(FILLER):
            seen_bytes = int(text[len(beginning) :].partition(" ")[0])
            if seen_bytes > self._image_bytes:
                return False
        if self._target.must or not text.startswith(f"[[{tag} saw "):
            raise WrongAnswer(f"{self._target.name}: {messages} messages under {tag}, but the answer is {text[:80]!r}")
        return True

    def _remember(self, asked: bytes, response: dict[str, Any]) -> None:
        if self._memory is None:
            return
        if self._memory not in self._target.remembers:
            self._held += [asked, *map(orjson.dumps, response["output"])]
        elif self._memory is Memory.CHAIN:
            self._place = b',"previous_response_id":%s' % orjson.dumps(response["id"])


@asynccontextmanager
async def dialogues(target: Target, memory: Memory | None, names: Sequence[str]) -> AsyncIterator[list[Dialogue]]:
    """Open a dialogue a name, each on a connection of its own."""
    async with connected(target.url, len(names)) as connections:
        yield [Dialogue(connection, target, memory, name) for connection, name in zip(connections, names, strict=True)]


async def metered(target: Target, tally: Tally, *work: Coroutine[Any, Any, None]) -> None:
    """Do all of the work at once; note in the tally how long it took and the processor time of the target."""
    before, start = target.cpu(), time.perf_counter()
    await together(*work)
    tally.seconds = time.perf_counter() - start
    tally.cpu = target.cpu().since(before)


async def interleaved(
    targets: Sequence[Target], repeats: int, block: Callable[[Target, int], Awaitable[None]]
) -> dict[str, str]:
    """Run a block of each target in turn, so many times, each round beginning with another; return who failed and why.

    So a machine that changes its speed changes it for all. A target with a share takes part in that share of the
    rounds, at least in one. Raises WrongAnswer of a target that must not fail.
    """
    failed: dict[str, str] = {}
    for repeat in range(repeats):
        turned = [*targets[repeat % len(targets) :], *targets[: repeat % len(targets)]]
        for target in turned:
            if target.name in failed or (repeat and repeat >= round(repeats * target.share)):
                continue
            try:
                async with asyncio.timeout(BLOCK_SECONDS):
                    await block(target, repeat)
            except Exception as exc:
                if target.must:
                    raise
                failed[target.name] = f"{type(exc).__name__}: {exc}"
    return failed
