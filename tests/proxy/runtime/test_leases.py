"""Locks of running turns are renewed together, whatever goes wrong with one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.runtime.leases import Leases
from proxy.runtime.tasks import Tasks
from storage import Lease, Renewal, Unavailable
from tests.virtual_time import in_virtual_time

ONE, OTHER = Lease("p1", "lock", "token"), Lease("p2", "lock", "token")


class Locks:
    """A store's side: notes when which locks are renewed, and fails or answers as it is told."""

    def __init__(self, *answers: Exception | dict[Lease, bool]) -> None:
        self.renewed: list[tuple[float, set[Lease]]] = []
        self._answers = list(answers)
        self.to_stop: set[Lease] = set()
        self.watched: set[Lease] = set()

    async def renew(self, leases: Sequence[Lease], seconds: float) -> list[Renewal]:
        self.renewed.append((asyncio.get_running_loop().time(), set(leases)))
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, Exception):
            raise answer
        return [Renewal(answer.get(lease, True), lease in self.to_stop, lease in self.watched) for lease in leases]


def holding(locks: Any, *leases: Lease) -> Leases:
    held = Leases(SimpleNamespace(turns=locks), 30)  # type: ignore[arg-type]
    for lease in leases:
        held.hold(lease)
    return held


@in_virtual_time
async def test_what_is_held_is_renewed_every_third_of_its_time():
    locks = Locks()
    async with holding(locks, ONE).renewing(Tasks()) as leases:
        await asyncio.sleep(15)
        leases.hold(OTHER)
        await asyncio.sleep(10)
        leases.forget(ONE)
        await asyncio.sleep(10)
        leases.forget(OTHER)
        await asyncio.sleep(100)
    assert locks.renewed == [(10, {ONE}), (20, {ONE, OTHER}), (30, {OTHER})]


@in_virtual_time
async def test_a_lock_that_somebody_else_has_is_not_renewed_any_more():
    locks = Locks({ONE: False})
    async with holding(locks, ONE, OTHER).renewing(Tasks()):
        await asyncio.sleep(25)
    assert locks.renewed == [(10, {ONE, OTHER}), (20, {OTHER})]


class Undo:
    """Fails so many times, or takes too long, before it is done."""

    def __init__(self, failures: int = 0, *, takes_seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self._failures = failures
        self._takes_seconds = takes_seconds

    async def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._takes_seconds)
        self._takes_seconds = 0.0
        if self._failures:
            self._failures -= 1
            raise Unavailable("ConnectionError")


@in_virtual_time
async def test_what_is_undone_at_once_is_not_tried_again():
    undo = Undo()
    async with holding(Locks()).renewing(Tasks()) as leases:
        assert await leases.undo(undo)
        await asyncio.sleep(10)
    assert undo.times == [0]


@in_virtual_time
async def test_what_can_not_be_undone_now_is_tried_until_it_is():
    tasks, failing, slow = Tasks(), Undo(3), Undo(takes_seconds=60)
    async with holding(Locks()).renewing(tasks) as leases:
        assert not await leases.undo(failing)
        assert not await leases.undo(slow)
        assert asyncio.get_running_loop().time() == 1
        await asyncio.sleep(10)
        assert tasks.failing == []
    assert (len(failing.times), len(slow.times)) == (4, 2)


@in_virtual_time
async def test_what_can_never_be_undone_is_given_up():
    undo = Undo(10**6)
    async with holding(Locks()).renewing(Tasks()) as leases:
        await leases.undo(undo)
        await asyncio.sleep(1000)
    assert 299 < undo.times[-1] < 302


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            Unavailable("ConnectionError"),
            "WARNING:renewal of locks fails, and is tried again: the store can't be reached (ConnectionError)",
        ),
        (ValueError(), "ERROR:renewal of locks fails, and is tried again"),
    ],
)
@in_virtual_time
async def test_locks_are_renewed_again_after_a_failure(failure: Exception, told: str, caplog: pytest.LogCaptureFixture):
    locks = Locks(failure)
    async with holding(locks, ONE).renewing(Tasks()):
        await asyncio.sleep(25)
    assert locks.renewed == [(10, {ONE}), (10.1, {ONE}), (20.1, {ONE})]
    works_again = "WARNING:renewal of locks works again, after failing 1 times"
    assert [f"{record.levelname}:{record.getMessage()}" for record in caplog.records] == [told, works_again]


@in_virtual_time
async def test_a_turn_that_is_to_stop_is_told_when_its_lock_is_renewed_and_soon_if_it_is_watched():
    locks, told = Locks(), []
    locks.to_stop = {ONE, OTHER}
    async with holding(locks, ONE, OTHER).renewing(Tasks()) as leases:
        now = asyncio.get_running_loop().time
        start = now()

        def stop_one() -> None:
            told.append(("one", round(now() - start, 1)))
            leases.forget(ONE)

        def stop_other() -> None:
            told.append(("other", round(now() - start, 1)))
            leases.forget(OTHER)

        leases.on_stop(ONE, stop_one, watched=True)
        leases.on_stop(OTHER, stop_other, watched=False)
        await asyncio.sleep(30)
    assert told == [("one", 0.5), ("other", 10.0)]


@in_virtual_time
async def test_a_turn_that_comes_to_be_watched_is_looked_at_often_until_it_is_not():
    locks = Locks()
    async with holding(locks, ONE).renewing(Tasks()) as leases:
        leases.on_stop(ONE, lambda: None, watched=False)
        await asyncio.sleep(9)
        locks.watched = {ONE}
        await asyncio.sleep(3)
        locks.watched = set()
        await asyncio.sleep(20)
    times = [time for time, _ in locks.renewed]
    assert times == [10, 10.5, 11, 11.5, 12, 20, 30]


@in_virtual_time
async def test_nobody_looks_often_while_nobody_watches():
    locks = Locks()
    async with holding(locks, ONE).renewing(Tasks()) as leases:
        leases.on_stop(ONE, lambda: None, watched=False)
        await asyncio.sleep(25)
    assert [time for time, _ in locks.renewed] == [10, 20]
