"""Background tasks outlive what their work raises, and pauses grow until the time is over."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.runtime.tasks import Backoff, Tasks
from storage import Reason, Unavailable
from tests.virtual_time import in_virtual_time

logger = logging.getLogger("test")


def now() -> float:
    return asyncio.get_running_loop().time()


class Rounds:
    """Work that notes when it is done, and can fail."""

    def __init__(self, *failures: BaseException | None, takes_seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self._failures = list(failures)
        self._takes_seconds = takes_seconds

    async def __call__(self) -> None:
        self.times.append(now())
        await asyncio.sleep(self._takes_seconds)
        if self._failures and (failure := self._failures.pop(0)):
            raise failure


@in_virtual_time
async def test_periodic_work_is_done_every_so_many_seconds_while_the_context_lasts():
    rounds = Rounds()
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(7)
    await asyncio.sleep(10)
    assert rounds.times == [2, 4, 6]


@in_virtual_time
async def test_rounds_do_not_overlap():
    rounds = Rounds(takes_seconds=5)
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(17)
    assert rounds.times == [2, 9, 16]


@in_virtual_time
async def test_nothing_is_done_before_the_event_is_set():
    rounds, wanted = Rounds(), asyncio.Event()
    async with Tasks().periodic("it", 2, rounds, logger, when=wanted):
        await asyncio.sleep(9)
        wanted.set()
        await asyncio.sleep(3)
        wanted.clear()
        await asyncio.sleep(9)
    assert rounds.times == [11, 13], "a round that has become due is done"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


@in_virtual_time
async def test_a_round_that_fails_is_tried_again_soon_and_then_ever_later(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(*[ValueError("unforeseen")] * 7)
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(11)
    assert [round(time, 1) for time in rounds.times] == [2, 2.1, 2.3, 2.7, 3.5, 5.1, 7.1, 9.1]
    assert told(caplog) == [
        "ERROR it fails, and is tried again",
        "WARNING it works again, after failing 7 times",
    ]
    assert "ValueError: unforeseen" in caplog.text


@in_virtual_time
async def test_work_that_is_due_often_is_tried_at_most_every_second():
    rounds = Rounds(*[ValueError()] * 100)
    async with Tasks().periodic("it", 0.01, rounds, logger):
        await asyncio.sleep(10)
    assert 11 < len(rounds.times) < 14


@in_virtual_time
async def test_a_store_that_is_away_is_one_warning_without_a_traceback(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(*[Unavailable("ConnectionError")] * 3, Unavailable("OutOfMemoryError", Reason.FULL))
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(5)
    assert told(caplog) == [
        "WARNING it fails, and is tried again: the store can't be reached (ConnectionError)",
        "WARNING it fails, and is tried again: the store is full (OutOfMemoryError)",
        "WARNING it works again, after failing 4 times",
    ]
    assert all(record.exc_info is None for record in caplog.records)


@in_virtual_time
async def test_failures_are_counted_and_told_while_they_last():
    tasks, rounds, other = Tasks(), Rounds(ValueError(), ValueError(), None, ValueError()), Rounds()
    async with tasks.periodic("it", 2, rounds, logger), tasks.periodic("other", 2, other, logger):
        await asyncio.sleep(2.15)
        assert tasks.failing == ["it"]
        await asyncio.sleep(0.2)
        assert tasks.failing == []
        await asyncio.sleep(10)
    record = tasks.records["it"]
    assert (record.failures, record.in_a_row) == (3, 0)
    assert tasks.records["other"].failures == 0


@in_virtual_time
async def test_what_is_not_due_any_more_does_not_fail():
    tasks, rounds, wanted = Tasks(), Rounds(*[ValueError()] * 3), asyncio.Event()
    wanted.set()
    async with tasks.periodic("it", 2, rounds, logger, when=wanted):
        await asyncio.sleep(2.15)
        assert tasks.failing == ["it"]
        wanted.clear()
        await asyncio.sleep(1)
        assert tasks.failing == []


@in_virtual_time
async def test_cancellation_of_what_a_round_waits_for_ends_the_round_only(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(asyncio.CancelledError())
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(5)
    assert rounds.times == [2, 2.1, 4.1]
    assert told(caplog)[0] == "ERROR it fails, and is tried again"


@in_virtual_time
async def test_the_end_of_the_context_ends_a_round_and_is_no_failure(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(takes_seconds=100)
    async with Tasks().periodic("it", 2, rounds, logger):
        await asyncio.sleep(3)
    assert now() == 3
    assert rounds.times == [2]
    assert not caplog.records


@in_virtual_time
async def test_work_that_answers_the_end_with_a_failure_is_not_begun_anew():
    begun: list[float] = []

    async def work() -> None:
        begun.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as error:
            raise TimeoutError from error

    async with asyncio.timeout(1000), Tasks().steady("it", work, logger):
        await asyncio.sleep(1)
    assert begun == [0]


@in_virtual_time
async def test_what_the_context_raises_passes_and_the_work_has_ended():
    rounds = Rounds()
    with pytest.raises(ZeroDivisionError):
        async with Tasks().periodic("it", 2, rounds, logger):
            raise ZeroDivisionError
    await asyncio.sleep(5)
    assert rounds.times == []


@in_virtual_time
async def test_steady_work_is_done_over_and_over_and_a_while_after_it_failed():
    work = Rounds(None, ValueError(), Unavailable("ConnectionError"), takes_seconds=1)
    async with Tasks().steady("it", work, logger):
        await asyncio.sleep(5)
    assert [round(time, 1) for time in work.times] == [0, 1, 2.1, 3.3, 4.3]


async def attempts(backoff: Backoff, takes_seconds: float = 0.0) -> list[float]:
    """Return when attempts are made that all fail."""
    times = [now()]
    await asyncio.sleep(takes_seconds)
    while await backoff.pause():
        times.append(now())
        await asyncio.sleep(takes_seconds)
    return times


@in_virtual_time
async def test_pauses_grow_up_to_the_longest():
    assert await attempts(Backoff(1, 8, 40)) == [0, 1, 3, 7, 15, 23, 31, 39]
    assert now() == 39, "a pause that would pass the end is not begun"


@in_virtual_time
async def test_a_pause_may_end_when_the_time_does():
    assert await attempts(Backoff(1, 8, 7)) == [0, 1, 3, 7]


@in_virtual_time
async def test_the_last_pause_can_be_cut_for_an_attempt_at_the_end():
    assert await attempts(Backoff(1, 8, 20, cut_last=True)) == [0, 1, 3, 7, 15, 20]
    assert now() == 20


@in_virtual_time
async def test_pauses_grow_by_the_factor():
    assert await attempts(Backoff(1, 100, 30, factor=1.5)) == [0, 1, 2.5, 4.75, 8.125, 13.1875, 20.78125]


@in_virtual_time
async def test_pauses_that_do_not_grow():
    assert await attempts(Backoff(2, 2, 5, factor=1, cut_last=True)) == [0, 2, 4, 5]


@in_virtual_time
async def test_attempts_take_of_the_time():
    assert await attempts(Backoff(1, 8, 20), takes_seconds=4) == [0, 5, 11, 19]


@pytest.mark.parametrize("cut_last", [False, True])
@in_virtual_time
async def test_without_time_there_is_no_second_attempt(cut_last: bool):
    assert await attempts(Backoff(1, 8, 0, cut_last=cut_last)) == [0]
