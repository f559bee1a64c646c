"""Background tasks outlive what their work raises, and pauses grow until the time is over."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.runtime.tasks import Backoff, periodic, supervised
from storage import Unavailable
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
    async with periodic(2, rounds, "it failed", logger):
        await asyncio.sleep(7)
    await asyncio.sleep(10)
    assert rounds.times == [2, 4, 6]


@in_virtual_time
async def test_rounds_do_not_overlap():
    rounds = Rounds(takes_seconds=5)
    async with periodic(2, rounds, "it failed", logger):
        await asyncio.sleep(17)
    assert rounds.times == [2, 9, 16]


@in_virtual_time
async def test_nothing_is_done_before_the_event_is_set():
    rounds, wanted = Rounds(), asyncio.Event()
    async with periodic(2, rounds, "it failed", logger, when=wanted):
        await asyncio.sleep(9)
        wanted.set()
        await asyncio.sleep(3)
        wanted.clear()
        await asyncio.sleep(9)
    assert rounds.times == [11, 13], "a round that has become due is done"


@in_virtual_time
async def test_a_round_that_fails_is_logged_with_its_traceback_and_the_next_one_is_done(
    caplog: pytest.LogCaptureFixture,
):
    rounds = Rounds(ValueError("unforeseen"), KeyError("another"))
    async with periodic(2, rounds, "it failed", logger):
        await asyncio.sleep(7)
    assert rounds.times == [2, 4, 6]
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("test", "ERROR", "it failed")
    ] * 2
    assert "ValueError: unforeseen" in caplog.text


@in_virtual_time
async def test_a_store_that_is_away_is_one_warning_without_a_traceback(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(Unavailable("ConnectionError"))
    async with periodic(2, rounds, "it failed", logger):
        await asyncio.sleep(5)
    assert rounds.times == [2, 4]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.exc_info) == ("WARNING", "it failed: ConnectionError", None)


@pytest.mark.parametrize("failure", [Unavailable("ConnectionError"), ValueError()])
@in_virtual_time
async def test_work_rests_after_a_failure(failure: Exception):
    rounds = Rounds(None, failure)
    async with periodic(2, rounds, "it failed", logger, rest_seconds=5):
        await asyncio.sleep(14)
    assert rounds.times == [2, 4, 11, 13]


@in_virtual_time
async def test_cancellation_of_what_a_round_waits_for_ends_the_round_only(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(asyncio.CancelledError())
    async with periodic(2, rounds, "it failed", logger):
        await asyncio.sleep(5)
    assert rounds.times == [2, 4]
    assert [record.getMessage() for record in caplog.records] == ["it failed"]


@in_virtual_time
async def test_the_end_of_the_context_ends_a_round_and_is_no_failure(caplog: pytest.LogCaptureFixture):
    rounds = Rounds(takes_seconds=100)
    async with periodic(2, rounds, "it failed", logger):
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

    async with asyncio.timeout(1000), supervised(work, "it failed", logger, rest_seconds=1):
        await asyncio.sleep(1)
    assert begun == [0]


@in_virtual_time
async def test_what_the_context_raises_passes_and_the_work_has_ended():
    rounds = Rounds()
    with pytest.raises(ZeroDivisionError):
        async with periodic(2, rounds, "it failed", logger):
            raise ZeroDivisionError
    await asyncio.sleep(5)
    assert rounds.times == []


@in_virtual_time
async def test_supervised_work_begins_at_once_and_anew_only_when_it_failed(caplog: pytest.LogCaptureFixture):
    work = Rounds(ValueError(), Unavailable("ConnectionError"), takes_seconds=1)
    async with supervised(work, "it failed", logger, rest_seconds=5):
        await asyncio.sleep(100)
    assert work.times == [0, 6, 12]
    assert [record.getMessage() for record in caplog.records] == ["it failed", "it failed: ConnectionError"]


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
