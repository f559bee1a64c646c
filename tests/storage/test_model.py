"""Random histories of one server, checked step by step against a model in plain Python.

Each is played twice at the same time, with the scripts' plain cases and without: what is stored must be the same after
each step.

A history is a list of operations, each with a number that its dice start from: so one that fails stays the same, and
can be cut down by leaving steps out. Hypothesis makes histories on the fake; its machine has one rule with the
operation as an argument, because of many rules it would leave most out of each history. Histories on the real server
have seeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from redis.asyncio import Redis

from storage.client.keyspace import Portion
from tests.depth import few, size
from tests.fake import connect_fake
from tests.storage.builders import RETENTION_SECONDS
from tests.storage.model_driver import OWNERS
from tests.storage.model_turns import TurnOperations
from tests.storage.twins import Twins

#: How often each operation is chosen, before a history puts more weight on some.
WEIGHTS = {
    "create_conversation": 0.2,
    "append": 4,
    "delete_item": 2,
    "delete_conversation": 0.4,
    "fork": 5,
    "update_branch": 3,
    "delete_branch": 4,
    "activate": 3,
    "compare_branches": 1,
    "list_at": 1,
    "page_branches": 0.5,
    "begin_on_branch": 3,
    "begin_fork": 5,
    "begin_on_response": 1,
    "begin_on_nothing": 0.2,
    "take_turn": 6,
    "take_chain": 1,
    "give_up": 1,
    "lose_lock": 2,
    "end": 6,
    "delete_response": 1,
    "sweep": 2,
    "be_a_stranger": 0.5,
}
#: Bytes of an item that are looked at by scripts: its id, its type and its role.
MODEL_HEAD = 100
STEPS = 60

Step = tuple[str, int]


def make_history(seed: int) -> list[Step]:
    """Return a history: it begins with a conversation of either owner."""
    dice = Random(seed)
    weights = [weight * dice.choice([0.3, 1, 2]) for weight in WEIGHTS.values()]
    names = ["create_conversation"] * 2 + dice.choices(list(WEIGHTS), weights, k=STEPS)
    return [(name, dice.randrange(1_000_000)) for name in names]


async def play(twins: Twins, history: Sequence[Step], padding: int = 0) -> None:
    """Run a history on empty databases; after each step both stores and the model must agree."""
    driver = TurnOperations(twins.store, padding)
    for name, seed in history:
        await getattr(driver, name)(Random(seed))
        await driver.check()
        await twins.compare()
    await driver.check_at_last()
    await twins.compare()


class Histories(RuleBasedStateMachine):
    """Any sequence of operations, each with dice of its own."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.fakes = connect_fake(0), connect_fake(1)
        self.twins = self.runner.run(self._clear())
        self.driver = TurnOperations(self.twins.store)
        for _ in OWNERS:
            self.step("create_conversation", 1)

    async def _clear(self) -> Twins:
        await self.fakes[0].flushall()
        return Twins(*self.fakes)

    @rule(
        name=st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(round(weight * 5))]),
        seed=st.integers(0, 999_999),
    )
    def step(self, name: str, seed: int) -> None:
        self.runner.run(self._step(name, Random(seed)))

    async def _step(self, name: str, dice: Random) -> None:
        await getattr(self.driver, name)(dice)
        await self.driver.check()
        await self.twins.compare()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self._end())
            self.runner.close()

    async def _end(self) -> None:
        await self.driver.check_at_last()
        await self.twins.compare()
        await self.twins.store.close()
        for fake in self.fakes:
            await fake.aclose()


Histories.TestCase.settings = settings(
    max_examples=size(2, 4),
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=True,
    # shrinking a history takes minutes; run it by hand where a failure needs it
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("seed", few([298, *range(100, 130)], 7))
async def test_a_history_on_a_real_server_agrees_with_the_model(valkey: Redis, valkey_url: str, seed: int):
    async with Redis.from_url(valkey_url, db=1) as other:
        # of every fifth one conversations expire
        twins = Twins(valkey, other, conversation_seconds=0 if seed % 5 else 2 * RETENTION_SECONDS)
        await play(twins, make_history(seed))
        await twins.store.close()


#: Seeds of histories and how many items are staged at a time: those that once disagreed, and others.
STAGED = [(148, 1), (152, 1), (164, 1), (195, 1), *((seed, 1 + seed % 3) for seed in range(130, 142))]


@pytest.mark.parametrize(("seed", "items"), few(STAGED, 6))
async def test_a_history_whose_items_are_staged_agrees_with_the_model(
    valkey: Redis, valkey_url: str, seed: int, items: int
):
    async with Redis.from_url(valkey_url, db=1) as other:
        # whatever has more items than that
        life = 0 if seed % 4 else 2 * RETENTION_SECONDS
        twins = Twins(valkey, other, conversation_seconds=life, portion=Portion(items=items))
        await play(twins, make_history(seed))
        await twins.store.close()


@pytest.mark.parametrize("seed", few(range(176, 188), 3))
async def test_a_history_whose_items_lie_in_pieces_agrees_with_the_model(valkey: Redis, valkey_url: str, seed: int):
    used: set[str] = set()
    async with Redis.from_url(valkey_url, db=1) as other:
        life = 0 if seed % 4 else 2 * RETENTION_SECONDS
        # every second item lies in four pieces; two items of one call are staged beside them, a single one is not
        twins = Twins(valkey, other, conversation_seconds=life, portion=Portion(bytes=200, head=MODEL_HEAD))
        twins.store.watch(lambda script, began, outcome: used.add(script))
        await play(twins, make_history(seed), padding=600)
        await twins.store.close()
    assert {"stage_items", "read_piece", "drop_staged"} <= used
