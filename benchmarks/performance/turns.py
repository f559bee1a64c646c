"""Turns: what one costs with many clients at once, how long it takes, and how that grows with the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.performance.load import Dialogue, Tally, dialogues, interleaved, metered
from benchmarks.performance.statistics import Samples
from benchmarks.performance.target import Memory, Target

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
        tally = Tally()
        opened = await dialogues(target, KINDS[kind], (f"{kind}-{repeat}-{client}" for client in range(plan.clients)))
        await metered(target, tally, *(_whole(one, tally, plan.turns if counts else 3) for one in opened))
        for one in opened:
            one.close()
        if counts:
            samples.add("turns", kind, target.name, repeat, **tally.quantities())

    for kind in KINDS:
        await interleaved(targets, 1, lambda target, repeat, kind=kind: block(kind, target, repeat, counts=False))
        failed |= await interleaved(
            targets, plan.repeats, lambda target, repeat, kind=kind: block(kind, target, repeat)
        )
    return failed


async def _whole(dialogue: Dialogue, tally: Tally, turns: int) -> None:
    await dialogue.begin()
    for _ in range(turns):
        await dialogue.turn(tally)


@dataclass(frozen=True)
class DepthsPlan:
    """How much is done. depths: the turn of a conversation that is measured. turns: of a block."""

    depths: tuple[int, ...] = (1, 10, 40, 100, 300, 1000)
    repeats: int = 5
    turns: int = 12


class _Pool:
    """Conversations that have come to a depth; each gives turns until it has grown by a tenth."""

    def __init__(self, target: Target, depth: int) -> None:
        self._target = target
        self._depth = depth
        self._made = 0
        self._dialogue: Dialogue | None = None
        self._left = 0

    async def take(self, turns: int) -> list[tuple[Dialogue, int]]:
        """Return dialogues, each with how many turns to take."""
        taken = []
        while turns > 0:
            if self._dialogue is None or self._left == 0:
                self._dialogue = await self._grow()
                self._left = max(1, self._depth // 10)
            here = min(turns, self._left)
            taken.append((self._dialogue, here))
            self._left -= here
            turns -= here
        return taken

    async def _grow(self) -> Dialogue:
        self._made += 1
        (dialogue,) = await dialogues(self._target, Memory.CONVERSATION, [f"depth-{self._depth}-{self._made}"])
        await dialogue.begin()
        await dialogue.lead_up(self._depth - 1)
        return dialogue


async def measure_depths(samples: Samples, targets: Sequence[Target], plan: DepthsPlan) -> dict[str, str]:
    """Take turns of conversations of each depth, one client, one after the other; returns who failed and why."""
    failed: dict[str, str] = {}
    for depth in plan.depths:
        pools = {target.name: _Pool(target, depth) for target in targets}

        async def block(target: Target, repeat: int, depth: int = depth, pools: dict[str, _Pool] = pools) -> None:
            taken = await pools[target.name].take(plan.turns)
            tally = Tally()
            await metered(target, tally, _in_turn(taken, tally))
            samples.add("depth", str(depth), target.name, repeat, **tally.quantities())

        failed |= await interleaved([one for one in targets if one.name not in failed], plan.repeats, block)
    return failed


async def _in_turn(taken: list[tuple[Dialogue, int]], tally: Tally) -> None:
    for dialogue, turns in taken:
        for _ in range(turns):
            await dialogue.turn(tally)
