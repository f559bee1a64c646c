"""Turns: what one costs with many clients at once, how long it takes, and how that grows with the history."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks.performance.load import Dialogue, Tally, dialogues, interleaved, metered
from benchmarks.performance.statistics import Samples
from benchmarks.performance.target import Memory, Target
from benchmarks.wire import Connection, connected, together

#: Each block: how its turns are connected.
KINDS = {"single": None, "conversation": Memory.CONVERSATION, "chain": Memory.CHAIN}


@dataclass(frozen=True)
class TurnsPlan:
    """How much is done. clients: at once. turns: of each client in a block, one dialogue."""

    repeats: int = 7
    clients: int = 16
    turns: int = 40


async def measure_turns(samples: Samples, targets: Sequence[Target], plan: TurnsPlan) -> dict[str, str]:
    """Take blocks of turns of each kind; returns which targets failed and why."""
    failed: dict[str, str] = {}

    async def block(kind: str, target: Target, repeat: int, *, counts: bool = True) -> None:
        tally, turns = Tally(), plan.turns if counts else 3
        names = [f"{kind}-{repeat}-{client}" for client in range(plan.clients)]
        async with dialogues(target, KINDS[kind], names) as opened:
            await metered(target, tally, *(_whole(one, tally, turns) for one in opened))
        if counts:
            samples.add("turns", kind, target.name, repeat, **tally.quantities())

    for kind in KINDS:
        await interleaved(targets, 1, partial(block, kind, counts=False))
        failed |= await interleaved(targets, plan.repeats, partial(block, kind))
    return failed


async def _whole(dialogue: Dialogue, tally: Tally, turns: int) -> None:
    await dialogue.begin()
    for _ in range(turns):
        await dialogue.turn(tally)


@dataclass(frozen=True)
class DepthsPlan:
    """How much is done. depths: which turn of a conversation is measured. turns: of each client in a block.

    alone: turns of a single client, which waits for nobody, after each block of all.
    """

    depths: tuple[int, ...] = (1, 10, 40, 100, 300, 1000)
    repeats: int = 5
    clients: int = 16
    turns: int = 4
    alone: int = 10


class _Client:
    """A client whose conversations have come to a depth; each gives turns until it has grown by a tenth."""

    def __init__(self, connection: Connection, target: Target, depth: int, name: str) -> None:
        self._connection, self._target, self._depth, self._name = connection, target, depth, name
        self._made = 0
        #: Conversations, and how many turns each still gives.
        self._grown: list[tuple[Dialogue, int]] = []

    async def prepare(self, turns: int) -> None:
        """See to conversations for so many turns."""
        here = sum(left for _, left in self._grown)
        while here < turns:
            self._made += 1
            dialogue = Dialogue(self._connection, self._target, Memory.CONVERSATION, f"{self._name}-{self._made}")
            await dialogue.begin()
            await dialogue.lead_up(self._depth - 1)
            self._grown.append((dialogue, max(1, self._depth // 10)))
            here += self._grown[-1][1]

    async def take(self, turns: int, tally: Tally) -> None:
        """Take so many turns, for which it was prepared."""
        for _ in range(turns):
            dialogue, left = self._grown.pop(0)
            await dialogue.turn(tally)
            if left > 1:
                self._grown.insert(0, (dialogue, left - 1))


async def measure_depths(samples: Samples, targets: Sequence[Target], plan: DepthsPlan) -> dict[str, str]:
    """Take turns of conversations of each depth, with all clients and with one; returns who failed and why."""
    failed: dict[str, str] = {}
    for depth in plan.depths:
        left = [target for target in targets if target.name not in failed]
        async with AsyncExitStack() as stack:
            crews = {target.name: await _crew(stack, target, depth, plan.clients) for target in left}
            failed |= await interleaved(left, plan.repeats, partial(_at_depth, samples, plan, depth, crews))
    return failed


async def _crew(stack: AsyncExitStack, target: Target, depth: int, count: int) -> list[_Client]:
    connections = await stack.enter_async_context(connected(target.url, count))
    return [_Client(each, target, depth, f"depth-{depth}-{number}") for number, each in enumerate(connections)]


async def _at_depth(
    samples: Samples, plan: DepthsPlan, depth: int, crews: dict[str, list[_Client]], target: Target, repeat: int
) -> None:
    crew, tally, alone = crews[target.name], Tally(), Tally()
    await together(*(each.prepare(plan.turns) for each in crew))
    await metered(target, tally, *(each.take(plan.turns, tally) for each in crew))
    await crew[0].prepare(plan.alone)
    await metered(target, alone, crew[0].take(plan.alone, alone))
    own = {f"alone_{name}": value for name, value in alone.quantities().items() if name.endswith("_ms")}
    samples.add("depth", str(depth), target.name, repeat, **tally.quantities(), **own)
