"""Turns that are asked for in the same moment: a few begin at a time, all in their order, and none waits for ever."""

from __future__ import annotations

import asyncio

from proxy.http.entrance import AT_ONCE, PART, Entrance


async def begin(entrance: Entrance, number: int, told: list[str]) -> None:
    if (place := entrance.wait()) is not None:
        await place
    told.append(f"begun {number}")


async def test_what_comes_meanwhile_passes_in_between():
    entrance, told, loop = Entrance(), list[str](), asyncio.get_running_loop()
    together = [asyncio.create_task(begin(entrance, number, told)) for number in range(3 * AT_ONCE)]
    # an answer to the first of them, as the loop finds it when it looks
    together[0].add_done_callback(lambda _: loop.call_soon(told.append, "answered"))
    await asyncio.gather(*together)
    begun = [one for one in told if one != "answered"]
    assert begun == [f"begun {number}" for number in range(3 * AT_ONCE)]
    assert told.index("answered") < 2 * AT_ONCE + 1


async def test_a_few_do_not_wait():
    entrance = Entrance()
    for _ in range(3):
        assert [entrance.wait() for _ in range(AT_ONCE)] == [None] * AT_ONCE
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_who_leaves_while_waiting_keeps_no_place():
    entrance, told = Entrance(), list[str]()
    together = [asyncio.create_task(begin(entrance, number, told)) for number in range(3 * AT_ONCE)]
    await asyncio.sleep(0)
    for one in together[AT_ONCE : 2 * AT_ONCE]:
        one.cancel()
    await asyncio.wait(together)
    assert told == [f"begun {number}" for number in (*range(AT_ONCE), *range(2 * AT_ONCE, 3 * AT_ONCE))]
    assert entrance.wait() is None


async def test_many_that_wait_begin_more_at_a_time():
    entrance, told = Entrance(), list[str]()
    many = 100 * AT_ONCE
    together = [asyncio.create_task(begin(entrance, number, told)) for number in range(many)]
    rounds = 0
    while len(told) < many:
        await asyncio.sleep(0)
        rounds += 1
    assert told == [f"begun {number}" for number in range(many)]
    assert rounds < many / AT_ONCE
    assert PART > 1
    await asyncio.gather(*together)
