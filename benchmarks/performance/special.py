"""Special cases: images of 4 MB, a store that holds 100,000 conversations, several workers."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from benchmarks.performance.load import (
    QUESTION,
    Dialogue,
    Tally,
    WrongAnswer,
    dialogues,
    interleaved,
    metered,
    question,
)
from benchmarks.performance.statistics import OURS, Samples
from benchmarks.performance.streams import open_used
from benchmarks.performance.target import Memory, Target, branchline
from benchmarks.processes import cpu_seconds, give_way
from benchmarks.servers.model import delta_text, expected_text
from benchmarks.wire import Connection, connected, together

#: What an event of a delta says.
DELTA = re.compile(rb'"delta":"([^"]*)"')
#: What one client does in a block.
Work: TypeAlias = Coroutine[Any, Any, None]
#: Events behind the deltas that have the whole text: of the text, its part, its item and the response.
ENDINGS = 4


@dataclass(frozen=True)
class ImagesPlan:
    """How much is done. image_bytes: before base64. after: turns that have the image in their history."""

    repeats: int = 5
    image_bytes: int = 4_000_000
    after: int = 3


async def measure_images(samples: Samples, targets: Sequence[Target], plan: ImagesPlan) -> dict[str, str]:
    """Send an image in a conversation's first turn, then take turns after it; returns who failed and why."""
    image = "data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(plan.image_bytes)).decode()

    async def block(target: Target, repeat: int) -> None:
        async with dialogues(target, Memory.CONVERSATION, [f"image-{repeat}"]) as (dialogue,):
            await dialogue.begin()
            tally = Tally()
            await metered(target, tally, dialogue.turn(tally, [image]))
            samples.add("images", "turn with the image", target.name, repeat, **tally.quantities())
            tally = Tally()
            await metered(target, tally, _several(dialogue, tally, plan.after))
            samples.add("images", "turn after it", target.name, repeat, **tally.quantities())

    return await interleaved(targets, plan.repeats, block)


async def _several(dialogue: Dialogue, tally: Tally, turns: int) -> None:
    for _ in range(turns):
        await dialogue.turn(tally)


@dataclass(frozen=True)
class StoredPlan:
    """How much is done. few, many: conversations in the store. turns: of a client in each conversation it takes up."""

    few: int = 100
    many: int = 100_000
    repeats: int = 9
    clients: int = 16
    conversations: int = 5
    turns: int = 4


async def measure_stored(samples: Samples, model: str, plan: StoredPlan) -> None:
    """Take turns in conversations of a store that has few and of one that has many, both our own."""
    async with AsyncExitStack() as stack:
        held: dict[str, list[str]] = {}
        targets = []
        for count in (plan.few, plan.many):
            target = await stack.enter_async_context(branchline(f"{model}/v1", f"{count:,} conversations"))
            held[target.name] = await _fill(target, count)
            targets.append(target)

        async def block(target: Target, repeat: int) -> None:
            chosen, known, tally = random.Random(repeat), held[target.name], Tally()

            async def client(dialogue: Dialogue) -> None:
                for _ in range(plan.conversations):
                    # each of them once only: it has the one turn that it was filled with
                    dialogue.resume(known.pop(chosen.randrange(len(known))), 1)
                    await _several(dialogue, tally, plan.turns)

            names = [f"stored-{repeat}-{number}" for number in range(plan.clients)]
            async with dialogues(target, Memory.CONVERSATION, names) as opened:
                await metered(target, tally, *map(client, opened))
            if repeat:
                samples.add("stored", target.name, OURS, repeat, **tally.quantities())

        needed = (plan.repeats + 1) * plan.clients * plan.conversations
        for target in targets:
            held[target.name] += await _fill(target, max(0, needed - len(held[target.name])))
            await _quiet(target)
        await interleaved(targets, plan.repeats + 1, block)


async def _fill(target: Target, count: int) -> list[str]:
    """Make conversations of two items each; returns their ids."""
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": QUESTION}]}
    items = [{"type": "message", "role": "user", "content": QUESTION}, answer]
    body = orjson.dumps({"items": items})
    ids: list[str] = []
    numbers = iter(range(count))

    async def client(connection: Connection) -> None:
        for _ in numbers:
            made = await connection.request("POST", "/v1/conversations", body)
            if made.status != 200:
                raise WrongAnswer(f"{target.name}: {made.status} {made.body[:200]!r}")
            ids.append(orjson.loads(made.body)["id"])

    async with connected(target.url, min(16, count)) as connections:
        await together(*map(client, connections))
    return ids


async def _quiet(target: Target, seconds: float = 30.0) -> None:
    """Return once a server does next to nothing any more, or after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = target.cpu()
        await asyncio.sleep(0.5)
        if sum(target.cpu().since(before)) < 0.01:
            return


@dataclass(frozen=True)
class WorkersPlan:
    """How much is done. streamers, talkers: clients at once that take streams, and turns, so many each in a block.

    A turn waits for the store's disk twice, and the clients that wait there keep no processor busy: so there are many.
    """

    repeats: int = 7
    streamers: int = 64
    streams: int = 15
    talkers: int = 128
    turns: int = 10
    deltas: int = 300
    niceness: int = 10


async def _streams(target: Target, connection: Connection, name: str, plan: WorkersPlan) -> None:
    """Take streams one after the other, their deltas sent at once; check all of each, in few steps. Raises WrongAnswer.

    The load must leave the processors to what is measured.
    """
    told = "".join(map(delta_text, range(plan.deltas - 1)))
    for number in range(plan.streams):
        tag, pieces = f"{name}-{number}", list[bytes]()
        body = b'{"model":"bench","stream":true,"input":[%s]}' % question(tag, deltas=plan.deltas)
        answer = await connection.request("POST", "/v1/responses", body, pieces.append)
        stream = b"".join(pieces)
        deltas = DELTA.findall(stream)
        text = b"".join(deltas).decode()
        whole = b'"text":"%s"' % text.encode()
        is_right = text.startswith(expected_text(tag, 1)) and text.endswith(f"]] {told}")
        # in the events that end part and item, and in the response
        if answer.status != 200 or len(deltas) != plan.deltas or not is_right or stream.count(whole) != ENDINGS:
            raise WrongAnswer(f"{target.name}: {answer.status}, {len(deltas)} of {plan.deltas} deltas under {tag}")


async def measure_workers(samples: Samples, model: str, model_pid: int, plan: WorkersPlan) -> None:
    """Load one worker and two with as much as they take. Afterwards this process has less priority: do it last."""
    async with AsyncExitStack() as stack:
        targets = [
            await stack.enter_async_context(
                branchline(f"{model}/v1", f"{workers} worker{'s' * (workers > 1)}", workers)
            )
            for workers in (1, 2)
        ]
        for pid in (model_pid, 0):
            give_way(pid, plan.niceness)

        def load() -> float:
            """Return the processor time of load generator and model server."""
            return time.process_time() + cpu_seconds(model_pid)

        async def measured(case: str, target: Target, repeat: int, done: int, work: Sequence[Work]) -> None:
            tally = Tally()
            load_before, rounds_before = load(), target.store_rounds()
            await metered(target, tally, *work)
            load_after, rounds = load(), target.store_rounds().since(rounds_before)
            costs = {"proxy_ms": tally.cpu.proxy, "store_ms": tally.cpu.store, "load_ms": load_after - load_before}
            each = {name: cost * 1000 / done for name, cost in costs.items()}
            each |= {"store_rounds": rounds.cycles / done, "store_percent": 100 * rounds.seconds / tally.seconds}
            if repeat:
                samples.add("workers", case, target.name, repeat, per_second=done / tally.seconds, **each)

        async def streams(target: Target, repeat: int) -> None:
            names = [f"w{repeat}-{number}" for number in range(plan.streamers)]
            async with open_used(target, plan.streamers) as connections:
                work = [_streams(target, *one, plan) for one in zip(connections, names, strict=True)]
                await measured("streams", target, repeat, plan.streamers * plan.streams, work)

        async def turns(target: Target, repeat: int) -> None:
            tally, names = Tally(), [f"w-{repeat}-{number}" for number in range(plan.talkers)]
            async with dialogues(target, Memory.CONVERSATION, names) as opened:
                await together(*(one.begin() for one in opened))
                work = [_several(one, tally, plan.turns) for one in opened]
                await measured("turns", target, repeat, plan.talkers * plan.turns, work)

        await interleaved(targets, plan.repeats + 1, streams)
        await interleaved(targets, plan.repeats + 1, turns)
