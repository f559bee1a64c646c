"""Streams that are asked for in the same moment: a few begin at a time, all in their order, and none waits for ever."""

from __future__ import annotations

import asyncio

from proxy.turns.entrance import AT_LEAST, FREE, Entrance

MANY = FREE + 8 * AT_LEAST


async def begin(entrance: Entrance, number: int, told: list[str]) -> None:
    if (place := entrance.wait()) is not None:
        await place
    told.append(f"begun {number}")


def begin_all(entrance: Entrance, count: int, told: list[str]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(begin(entrance, number, told)) for number in range(count)]


async def test_what_comes_meanwhile_passes_in_between():
    entrance, told, loop = Entrance(), list[str](), asyncio.get_running_loop()
    together = begin_all(entrance, MANY, told)
    # an answer to the first of them, as the loop finds it when it looks
    together[0].add_done_callback(lambda _: loop.call_soon(told.append, "answered"))
    await asyncio.gather(*together)
    assert [one for one in told if one != "answered"] == [f"begun {number}" for number in range(MANY)]
    assert FREE <= told.index("answered") <= FREE + AT_LEAST


async def test_a_few_do_not_wait():
    entrance = Entrance()
    for _ in range(3):
        assert [entrance.wait() for _ in range(FREE)] == [None] * FREE
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_who_comes_later_begins_later():
    entrance, told = Entrance(), list[str]()
    together = begin_all(entrance, MANY, told)
    for _ in range(3):
        await asyncio.sleep(0)
    assert FREE <= len(told) < MANY
    await begin(entrance, MANY, told)
    await asyncio.gather(*together)
    assert told == [f"begun {number}" for number in range(MANY + 1)]


async def test_who_leaves_while_waiting_keeps_no_place():
    entrance, told = Entrance(), list[str]()
    together = begin_all(entrance, MANY, told)
    await asyncio.sleep(0)
    for one in together[FREE : MANY - 1]:
        one.cancel()
    await asyncio.wait(together)
    assert told == [f"begun {number}" for number in (*range(FREE), MANY - 1)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert entrance.wait() is None


async def test_many_that_wait_begin_more_at_a_time():
    entrance, told, many = Entrance(), list[str](), 100 * AT_LEAST
    together = begin_all(entrance, many, told)
    rounds = 0
    while len(told) < many:
        await asyncio.sleep(0)
        rounds += 1
    assert told == [f"begun {number}" for number in range(many)]
    assert rounds < many / AT_LEAST
    await asyncio.gather(*together)
