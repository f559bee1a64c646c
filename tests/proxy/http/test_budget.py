"""Room for bodies: taken in order, given back whatever happens, waited for and then refused."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import ServerConfig
from proxy.http.budget import FREE_BYTES, BodyBudget
from proxy.protocol.errors import ServiceUnavailable

BIG = FREE_BYTES


async def test_small_bodies_need_no_room():
    budget = BodyBudget(BIG)
    assert await budget.take(BIG) == BIG
    assert await budget.take(BIG - 1) == 0


async def test_who_finds_no_room_waits_in_the_order_of_coming():
    budget = BodyBudget(4 * BIG)
    first = await budget.take(3 * BIG)
    large, small = (asyncio.create_task(budget.take(size)) for size in (2 * BIG, BIG))
    await asyncio.sleep(0)
    assert not small.done()
    budget.give_back(first)
    assert await large + await small == 3 * BIG


async def test_who_waits_too_long_is_refused():
    budget = BodyBudget(4 * BIG, wait_seconds=0.01)
    await budget.take(3 * BIG)
    with pytest.raises(ServiceUnavailable):
        await budget.take(2 * BIG)
    assert await budget.take(BIG) == BIG


async def test_those_behind_one_that_goes_away_go_on():
    budget = BodyBudget(4 * BIG)
    await budget.take(3 * BIG)
    large, small = (asyncio.create_task(budget.take(size)) for size in (2 * BIG, BIG))
    await asyncio.sleep(0)
    large.cancel()
    assert await small == BIG


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["keep", "cancel"])), max_size=12))
async def test_all_room_comes_back(steps: list[tuple[int, str]]):
    budget = BodyBudget(6 * BIG)
    tasks = [asyncio.create_task(budget.take(size * BIG)) for size, _ in steps]
    await asyncio.sleep(0)
    for task, (_, fate) in zip(tasks, steps, strict=True):
        if fate == "cancel":
            task.cancel()
            if task.done():
                budget.give_back(task.result())
            await asyncio.gather(task, return_exceptions=True)
    for task, (_, fate) in zip(tasks, steps, strict=True):
        if fate == "keep":
            budget.give_back(await task)
    assert await budget.take(6 * BIG) == 6 * BIG


def test_the_largest_body_always_finds_room():
    assert ServerConfig().max_held_bytes >= ServerConfig().max_body_bytes


async def test_owners_are_served_in_turn():
    budget = BodyBudget(4 * BIG)
    held = await budget.take(4 * BIG, "held")
    served: list[str] = []

    async def take(owner: str) -> None:
        size = await budget.take(2 * BIG, owner)
        served.append(owner)
        budget.give_back(size, owner)

    owners = ["a", "a", "a", "b", "c", "b"]
    tasks = [asyncio.create_task(take(owner)) for owner in owners]
    await asyncio.sleep(0)
    budget.give_back(held, "held")
    await asyncio.gather(*tasks)
    assert served == ["a", "b", "c", "a", "b", "a"]


async def test_nobody_has_more_than_half_of_it():
    budget = BodyBudget(4 * BIG)
    await budget.take(BIG, "a")
    more = asyncio.create_task(budget.take(2 * BIG, "a"))
    await asyncio.sleep(0)
    # there is room, but not for the same one
    assert await budget.take(2 * BIG, "b") == 2 * BIG
    assert not more.done()
    budget.give_back(BIG, "a")
    budget.give_back(2 * BIG, "b")
    assert await more == 2 * BIG
