"""Turn observers: what is told of a turn while it runs, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage import KeptAnswer, KeyClaim


@dataclass(slots=True)
class TurnResult:
    """How a turn ended. status: '' if nothing is kept of it. body: the answer as JSON, None if it was streamed."""

    response_id: str
    status: str = ""
    body: bytes | None = None


class AnsweredBefore(Exception):
    """Ends a turn before the model is asked: its request was carried out before, and this is its answer.

    claim: what it is kept under until it is delivered; None where it stays.
    """

    def __init__(self, answer: KeptAnswer, claim: KeyClaim | None = None) -> None:
        super().__init__(answer.response_id)
        self.answer = answer
        self.claim = claim


class TurnObserver(Protocol):
    """What is told of a turn while it runs; it changes nothing of it, but may refuse it in `identified`."""

    #: Whether it has to know the response's id for good before the model server is asked.
    needs_id: bool

    def begun(self) -> None:
        """The turn runs from here on, whatever becomes of the request that it came with."""
        ...

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        """The turn is open and its response has an id; the model server has not been asked yet.

        may_repeat: tells whether its history may end with a turn that brought the same. May raise ApiError, or
        AnsweredBefore.
        """
        ...

    def moved(self, response_id: str) -> None:
        """The response has another id: it was found out where the turn belongs. Nobody was told the old one."""
        ...

    async def storing(self, attempt: int) -> None:
        """What was made is about to be stored. attempt: from 0; the one before may have been carried out.

        Raises Unavailable where it has to wait, Conflict where it must not be.
        """
        ...

    def left(self) -> None:
        """The client has gone."""
        ...

    async def ended(self, end: TurnResult | BaseException) -> None:
        """The turn is over. Raises nothing that the turn would have to know."""
        ...


class OnceOpen(TurnObserver):
    """Calls something once a turn is open, or over. It may be called again."""

    needs_id = False

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def begun(self) -> None:
        """Nothing: it has not been opened yet."""

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        """Call it: what is left of the turn is to wait for the model server."""
        self._call()

    def moved(self, response_id: str) -> None:
        """Nothing: others do not know its id."""

    async def storing(self, attempt: int) -> None:
        """Nothing: it is stored beside the others."""

    def left(self) -> None:
        """Nothing: the turn has its own way with that."""

    async def ended(self, end: TurnResult | BaseException) -> None:
        """Call it, where the turn was never open."""
        self._call()
