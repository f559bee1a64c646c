"""Observers of a turn: told of its course in order, and of its end whatever the others do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.auth.caller import Caller
from proxy.delivery import Unattended
from proxy.protocol.errors import InProgress
from proxy.protocol.request import read_request
from proxy.services import SERVICES
from proxy.turns.observer import TurnResult
from proxy.turns.running import TURNS
from proxy.turns.turn import Turn
from proxy.upstream.model_call import Inbound
from tests.flows.conftest import Proxy


class Diary:
    """Writes down what it is told. refuses: refuses the turn once it has an id. fails: fails at the end."""

    needs_id = False

    def __init__(self, *, refuses: bool = False, fails: bool = False) -> None:
        self.told: list[str] = []
        self.end: TurnResult | BaseException | None = None
        self._refuses, self._fails = refuses, fails

    def begun(self) -> None:
        self.told.append("begun")

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        self.told.append("identified")
        if self._refuses:
            raise InProgress("another one runs")

    def moved(self, response_id: str) -> None:
        self.told.append("moved")

    async def storing(self, attempt: int) -> None:
        self.told.append(f"storing {attempt}")

    def left(self) -> None:
        self.told.append("left")

    async def ended(self, end: TurnResult | BaseException) -> None:
        self.told.append("ended")
        self.end = end
        if self._fails:
            raise ValueError("a bug")


async def run(proxy: Proxy, *observers: Diary) -> TurnResult:
    services = proxy.app[SERVICES]
    call = services.model_call(Caller("token:alice", {}), Inbound({}))
    request = read_request({"model": "echo", "input": "hi"})
    return await proxy.app[TURNS].run(Turn(services, call, request, Unattended(), observers=observers))


async def test_an_observer_is_told_of_the_course_of_a_turn(proxy: Proxy):
    diary = Diary()
    result = await run(proxy, diary)
    assert diary.told == ["begun", "identified", "storing 0", "ended"]
    assert diary.end == result
    assert result.status == "completed"


async def test_an_observer_that_fails_at_the_end_keeps_it_from_no_other(proxy: Proxy, caplog):
    first, second = Diary(), Diary(fails=True)
    result = await run(proxy, first, second)
    assert first.end == second.end == result
    assert "an observer failed at its end" in caplog.text


async def test_a_turn_that_an_observer_refuses_is_over_for_all_and_nothing_is_asked(proxy: Proxy):
    first, second = Diary(refuses=True), Diary()
    with pytest.raises(InProgress):
        await run(proxy, first, second)
    assert (first.told, second.told) == (["begun", "identified", "ended"], ["begun", "ended"])
    assert isinstance(second.end, InProgress)
    assert proxy.upstream.requests == []
