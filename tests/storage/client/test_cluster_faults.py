"""A real cluster whose slots move, and whose primaries hang and die, while turns run: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from storage import CommitResult, Conversation, Reason, Safeguards, Store, Unavailable, partition_of
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    draft,
    finished,
    minted,
    open_turn,
    read_all,
)
from tests.storage.clusters import ClusterWorld, run_cluster, wait_until
from tests.storage.everything import use_archive, use_everything, use_jobs, use_quotas

TIMEOUT_SECONDS = 3.0


@pytest.fixture(scope="module")
def world() -> Iterator[ClusterWorld]:
    with run_cluster() as world:
        yield world


@asynccontextmanager
async def store_at(
    world: ClusterWorld, *, min_replicas: int = 0, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[Store]:
    store = Store.connect(
        world.url,
        prefix=PREFIX,
        timeout_seconds=timeout_seconds,
        max_connections=8,
        retention_seconds=RETENTION_SECONDS,
        safeguards=Safeguards(min_replicas=min_replicas),
    )
    try:
        yield store
    finally:
        await store.close()


class Talker:
    """Takes one turn after the other in a conversation of its own.

    acknowledged: what those that were told as done said. refused: how the others ended.
    """

    def __init__(self, store: Store, conversation: Conversation, name: str = "turn") -> None:
        self.conversation = conversation
        self.acknowledged: list[str] = []
        self.refused: list[Unavailable] = []
        self._store = store
        self._name = name
        self._stopped = False
        self._task = asyncio.create_task(self._talk())

    @classmethod
    async def start(cls, store: Store, partition: str) -> Talker:
        """Start one in a new conversation in this partition."""
        return cls(store, await start_at(store, partition))

    @property
    def partition(self) -> str:
        """The partition of its conversation."""
        return partition_of(self.conversation.id)

    @property
    def slot(self) -> int:
        """The slot of that."""
        return key_slot(self.partition.encode())

    async def _talk(self) -> None:
        number = 0
        while not self._stopped:
            number += 1
            try:
                await self._turn(f"{self._name} {number}")
            except Unavailable as error:
                self.refused.append(error)
                await asyncio.sleep(0.02)
            else:
                self.acknowledged.append(f"{self._name} {number}")

    async def _turn(self, says: str) -> None:
        opened = await open_turn(self._store, conversation=self.conversation)
        turn = finished(opened, partition=self.partition, conversation=self.conversation, says=[says])
        done = await self._store.turns.commit(turn)
        # what was sent over a connection that breaks is sent once more
        assert done.result in (CommitResult.OK, CommitResult.REPEATED)

    async def until(self, number: int) -> None:
        """Wait until so many more turns were acknowledged."""
        await self._wait_for(self.acknowledged, number)

    async def until_refused(self) -> None:
        """Wait until one more turn was refused."""
        await self._wait_for(self.refused, 1)

    async def _wait_for(self, turns: list[str] | list[Unavailable], number: int) -> None:
        goal = len(turns) + number
        while len(turns) < goal:
            assert not self._task.done(), self._task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """End with the turn that runs, and see that each that was acknowledged is there, in order, and none twice."""
        self._stopped = True
        await self._task
        texts = await read_all(self._store, self.conversation)
        said = [text for text in texts if text.startswith(f"{self._name} ")]
        assert [text for text in said if text in set(self.acknowledged)] == self.acknowledged
        assert [text for text, times in Counter(said).items() if times > 1] == []


async def start_at(store: Store, partition: str) -> Conversation:
    """Return a new conversation in this partition."""
    made, _ = await store.conversations.create(OWNER, draft(partition), [minted(partition, "first")])
    return made


async def beside(do: Callable[[], None]) -> None:
    """Do what waits for another process, while turns run."""
    await asyncio.get_running_loop().run_in_executor(None, do)


async def test_every_method_works_on_three_primaries_with_replicas(world: ClusterWorld):
    async with store_at(world, min_replicas=1) as store:
        await store.condition.look()
        await use_everything(store)
        await use_archive(store)
        await use_jobs(store)
        await use_quotas(store)


async def test_slots_move_while_turns_run(world: ClusterWorld, caplog: pytest.LogCaptureFixture):
    source, target = world.primaries[:2]
    # no node hangs here: on a machine busy with other work a second is soon over
    async with store_at(world, timeout_seconds=10) as store, asyncio.timeout(60):
        talkers = [await Talker.start(store, world.partition_at(0)) for _ in range(3)]
        elsewhere = await Talker.start(store, world.partition_at(2))
        for one, other in ((source, target), (target, source)):
            await asyncio.gather(*(talker.until(3) for talker in talkers))
            for talker in talkers:
                world.move_half(talker.slot, one, other)
            await asyncio.gather(elsewhere.until(20), *(talker.until_refused() for talker in talkers))
            for talker in talkers:
                slot = talker.slot
                await beside(lambda slot=slot, one=one, other=other: world.move(slot, one, other))  # type: ignore[misc]
            await asyncio.gather(*(talker.until(3) for talker in talkers))
            assert all(other.holds(talker.slot) and not one.holds(talker.slot) for talker in talkers)
        for talker in (*talkers, elsewhere):
            await talker.stop()
    assert Reason.BUSY in {error.reason for talker in talkers for error in talker.refused}
    assert {error.reason for talker in talkers for error in talker.refused} <= {Reason.BUSY, Reason.AWAY}
    assert elsewhere.refused == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_primary_that_hangs_holds_up_nobody_else_and_its_replica_takes_its_place(world: ClusterWorld):
    hanging = next(place for place in range(3) if place != world.place_of(OWNER))
    old, new = world.primaries[hanging], world.replicas[hanging]
    new.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    async with store_at(world, min_replicas=1) as store, asyncio.timeout(30):
        talkers = [await Talker.start(store, world.partition_at(hanging)) for _ in range(3)]
        others = [await Talker.start(store, world.partition_at(place)) for place in range(3) if place != hanging]
        await asyncio.gather(*(one.until(3) for one in (*talkers, *others)))
        with old.paused():
            await asyncio.gather(*(one.until_refused() for one in talkers))
            await asyncio.gather(*(one.until(20) for one in others))
            assert [error for one in others for error in one.refused] == []
            first = [one.refused[0] for one in talkers]
            assert {(error.reason, error.unsure) for error in first} == {(Reason.AWAY, True)}
            # who comes now finds what is left, though not at once where the node that hangs is asked first
            async with store_at(world) as late:
                newcomer = Talker(late, await start_at(store, world.partition_at(world.place_of(OWNER))), "late")
                await newcomer.until(3)
                await newcomer.stop()
            new.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")
            await beside(lambda: wait_until(lambda: new.state()["role"] == "master"))
        await asyncio.gather(*(one.until(5) for one in (*talkers, *others)))
        for one in (*talkers, *others):
            await one.stop()


async def test_who_comes_while_a_node_hangs_is_served_by_the_others_at_once(world: ClusterWorld):
    hanging = world.primaries[0]
    async with store_at(world) as store:
        made = await start_at(store, world.partition_at(1))
    world.replicas[0].ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    with hanging.paused():
        # one of the two that the URL names: half of those who come would ask it first, and get no answer in time
        for _ in range(10):
            async with store_at(world) as late:
                assert (await late.conversations.read(OWNER, made.id)).id == made.id
    world.replicas[0].ask("CONFIG", "SET", "cluster-replica-no-failover", "no")


async def test_a_primary_is_killed_and_turns_go_on_at_its_replica():
    with run_cluster() as world:
        dying = next(place for place in range(3) if place != world.place_of(OWNER))
        async with store_at(world, min_replicas=1) as safe, store_at(world) as fast, asyncio.timeout(30):
            talkers = [await Talker.start(safe, world.partition_at(place)) for place in range(3)]
            await asyncio.gather(*(one.until(5) for one in talkers))
            world.primaries[dying].kill()
            await beside(lambda: wait_until(lambda: world.replicas[dying].state()["role"] == "master"))
            await asyncio.gather(*(one.until(5) for one in talkers if one is not talkers[dying]))
            # the new primary has no replica: what it does is not told as done
            while talkers[dying].refused[-1:] == [] or talkers[dying].refused[-1].reason is not Reason.REPLICAS:
                await talkers[dying].until_refused()
            for one in talkers:
                await one.stop()
            after = Talker(fast, talkers[dying].conversation, "later")
            await after.until(5)
            await after.stop()
