"""Slots of a cluster that move to another node: a script is done as a whole meanwhile, or refused as a whole."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.crc import key_slot

from storage import Fork, ForkPoint, Safeguards, Store, new_partition, partition_of
from storage.client.channel import Channel, Command
from storage.client.keyspace import Portion
from storage.client.library import load_scripts
from storage.store import Hosting
from tests.storage.builders import OWNER, PREFIX, RETENTION_SECONDS, add, ids_in, minted, start, take_turn
from tests.storage.everything import use_archive, use_backup, use_everything, use_jobs, use_quotas, use_recognition
from tests.storage.servers import run_cluster_node

SCRIPTS = {script.sha: name for name, script in load_scripts().items()}
TEXTS = {script.sha: script.source for script in load_scripts().values()}
#: Which of a script's calls meet a moving slot.
DRIVEN = (1, 3)
#: By how much a key's life may grow by being moved.
LONGER_MS = 5000


def unshaped(response: Any, **_: Any) -> Any:
    return response


class Held(NamedTuple):
    """What a key holds. fields: of a hash, else an error. until: when it ends, in ms; -1: never."""

    fields: Any
    dump: Any
    until: int

    def is_like(self, other: Held) -> bool:
        """Whether it is the same; a key that was moved lives a few milliseconds longer."""
        # a hash may have come back in another order
        is_equal = self.fields == other.fields if isinstance(self.fields, dict) else self.dump == other.dump
        return is_equal and abs(self.until - other.until) < LONGER_MS


class Node:
    """A node of the cluster, asked directly."""

    def __init__(self, port: int, bus: int) -> None:
        self.port = port
        self.bus = bus
        self.client = Redis(port=port)
        for name in ("HSCAN", "ZSCAN", "XRANGE", "XREAD", "XREADGROUP"):
            # replies as the server gives them
            self.client.set_response_callback(name, unshaped)
        self.id = ""

    async def ask(self, *command: Any, asking: bool = False) -> Any:
        """Return the reply; an error too."""
        pipeline = self.client.pipeline(transaction=False)
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
        return (await pipeline.execute(raise_on_error=False))[-1]

    async def run(self, command: Command, *, asking: bool = False) -> Any:
        """Return the reply to a script, which the node learns if it must."""
        reply = await self.ask(*command, asking=asking)
        if isinstance(reply, redis_errors.NoScriptError):
            reply = await self.ask("EVAL", TEXTS[str(command[1])], *command[2:], asking=asking)
        return reply

    async def keys(self, slot: int) -> list[bytes]:
        keys: list[bytes] = await self.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        return keys

    async def contents(self, slot: int) -> dict[bytes, Held]:
        """Return what each key of a slot holds."""
        keys = await self.keys(slot)
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key.decode())
            pipeline.dump(key)
            pipeline.execute_command("PEXPIRETIME", key)
        replies = iter(await pipeline.execute(raise_on_error=False))
        return {key: Held(fields, dump, until) for key, fields, dump, until in zip(keys, *[replies] * 3, strict=True)}

    async def send(self, keys: Sequence[bytes], other: Node) -> None:
        """Move keys to another node."""
        if keys:
            reply = await self.ask("MIGRATE", "127.0.0.1", other.port, "", 0, 5000, "KEYS", *keys)
            assert reply == b"OK", str(reply)


class MovingSlots(Channel):
    """Sends everything to one node, and scripts before that while some of the slot's keys are on another one.

    outcomes: how often each script was refused and done.
    """

    is_cluster = True

    def __init__(self, here: Node, there: Node) -> None:
        self._here = here
        self._there = there
        self._calls = Counter[str]()
        self.outcomes: dict[str, Counter[str]] = {}

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        replies = []
        for request in requests:
            if name := SCRIPTS.get(str(request[1]) if len(request) > 1 else ""):
                self._calls[name] += 1
                if self._calls[name] in DRIVEN:
                    await self._drive(name, request)
                replies.append(await self._here.run(request))
            else:
                replies.append(await self._here.ask(*request))
        return replies

    async def close(self) -> None:
        pass

    async def _drive(self, name: str, command: Command) -> None:
        slot = key_slot(str(command[3]).encode())
        before = await self._here.contents(slot)
        keys, dice = sorted(before), Random(name)
        some = [dice.sample(keys, dice.randint(1, len(keys))) for _ in range(4)] if keys else []
        await self._there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self._here.id)
        for moved in ([], keys, *([key] for key in dice.sample(keys, min(4, len(keys)))), *some):
            await self._here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self._there.id)
            outcome = await self._meet(moved, command)
            # else it would not take them back
            await self._here.ask("CLUSTER", "SETSLOT", slot, "STABLE")
            await self._there.send(await self._there.keys(slot), self._here)
            after = await self._here.contents(slot)
            self.outcomes.setdefault(name, Counter())[outcome] += 1
            if outcome == "refused":
                assert is_same(before, after), f"{name} was refused with {moved} moved, and has written"
            elif not is_same(before, after):
                for key in after:
                    await self._here.ask("DEL", key)
                for key, held in before.items():
                    await self._here.ask("RESTORE", key, max(held.until, 0), held.dump, "ABSTTL")
        await self._there.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    async def _meet(self, moved: Sequence[bytes], command: Command) -> str:
        """Run a script while these keys of its slot are gone already, and return what became of it."""
        await self._here.send(moved, self._there)
        reply = await self._here.run(command)
        if isinstance(reply, redis_errors.AskError):
            reply = await self._there.run(command, asking=True)
        if isinstance(reply, redis_errors.TryAgainError):
            return "refused"
        assert not isinstance(reply, Exception), f"{reply} with {moved} moved"
        return "done"


def is_same(before: Mapping[bytes, Held], after: Mapping[bytes, Held]) -> bool:
    """Whether nothing was written between two looks. What ended by itself meanwhile, as a lock does, was not."""
    ended = {key for key, held in before.items() if 0 <= held.until <= time.time() * 1000}
    return before.keys() - ended == after.keys() - ended and all(
        held.is_like(after[key]) for key, held in before.items() if key not in ended
    )


@pytest.fixture
def ports() -> Iterator[list[tuple[int, int]]]:
    with run_cluster_node() as here, run_cluster_node() as there:
        yield [here, there]


@pytest.fixture
async def moving(ports: list[tuple[int, int]]) -> AsyncIterator[MovingSlots]:
    here, there = [Node(*one) for one in ports]
    async with here.client, there.client:
        await join(here, there)
        yield MovingSlots(here, there)


async def join(here: Node, there: Node) -> None:
    """Make a cluster of two nodes, one of which has all slots."""
    await here.ask("CLUSTER", "MEET", "127.0.0.1", there.port, there.bus)
    await here.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    async with asyncio.timeout(30):
        for node in (here, there):
            while b"cluster_state:ok" not in await node.ask("CLUSTER", "INFO"):
                pass
            node.id = (await node.ask("CLUSTER", "MYID")).decode()


async def test_a_script_that_meets_a_moving_slot_is_refused_whole_or_done_whole(moving: MovingSlots):
    store = Store(moving, moving, prefix=PREFIX, retention_seconds=RETENTION_SECONDS)
    await use_everything(store)
    await store.turns.withdraw(new_partition(), "token", "name")
    await store.condition.look()
    await store.risks.missing_rights()
    await use_archive(store)
    await use_jobs(store)
    await use_quotas(store)
    await use_backup(store)
    assert sorted(set(load_scripts()) - set(moving.outcomes)) == []
    unsure = {name for name, script in load_scripts().items() if script.names_keys}
    assert {name for name in unsure if moving.outcomes[name]["done"]} == set()
    assert {name for name, outcomes in moving.outcomes.items() if outcomes["done"]} != set()


async def test_so_is_one_whose_items_are_staged(moving: MovingSlots):
    hosting = Hosting(Safeguards(portion=Portion(items=1)))
    store = Store(moving, moving, prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    conversation = await start(store, "one", "two")
    await add(store, conversation, "three", "four")
    await take_turn(store, conversation=conversation)
    for _ in range(2):
        await take_turn(store)
    last = (await ids_in(store, conversation))[-1]
    entries = [minted(partition_of(last), text) for text in "xy"]
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.AFTER, last, "draft"), entries)
    await use_recognition(store)
    driven = {"create_conversation", "append_items", "commit_turn", "fork_branch", "record_turn"}
    assert {name for name in driven if moving.outcomes[name]["done"] or not moving.outcomes[name]["refused"]} == set()
    assert moving.outcomes["stage_items"]["done"]
