"""Delivery: how a turn's frames reach whoever waits for them, and the sinks that take them down beside it.

A frame is one whole server-sent event. Every frame goes to the sinks first and to the client then, so that nothing is
told that a sink does not have. What is pushed goes at once, inside the call that brought it; whoever can't keep up says
so, and is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from proxy.protocol.sse import joined

if TYPE_CHECKING:
    from proxy.protocol.sse import FrameBytes


class Delivery(Protocol):
    """The client's side of one turn. `gone`: it left; from then on sending does nothing."""

    gone: bool

    @property
    def started(self) -> bool:
        """Whether anything of a stream was sent."""
        ...

    def begin(self, headers: Mapping[str, str]) -> None:
        """Take the upstream's headers that go along with the answer; a later call replaces them."""
        ...

    async def send(self, frames: FrameBytes) -> bool:
        """Send whole SSE frames, the first ones of a stream too; return whether the client is there."""
        ...

    def push(self, frames: FrameBytes) -> bool:
        """Send whole SSE frames of a stream that was begun, at once; return whether the client keeps up."""
        ...

    async def caught_up(self) -> None:
        """Return when the client has taken enough of what was pushed, or has gone."""
        ...

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do what a stream needs that has been silent for that long. Never waits for the client."""
        ...


class FrameSink(Protocol):
    """What takes down the frames of one turn, those too that a client that has gone never gets."""

    def push(self, frames: bytes) -> bool:
        """Take whole frames; the last ones end with `sse.DONE`. Return whether it keeps up. Raises nothing."""
        ...

    async def caught_up(self) -> None:
        """Return when more may come, after the last frames when all is taken down. Raises nothing."""
        ...

    async def secure(self) -> None:
        """Return when what was written is safe, where it has to be: the turn is about to be committed."""
        ...


class Unattended:
    """The delivery of a turn that nobody waits for: it runs on to its end."""

    def __init__(self) -> None:
        self.gone = False
        self.started = False

    def begin(self, headers: Mapping[str, str]) -> None:
        """Nobody sees them."""

    async def send(self, frames: FrameBytes) -> bool:
        """Note that the answer has begun; there is always somebody to run on for."""
        self.started = True
        return True

    def push(self, frames: FrameBytes) -> bool:
        """Take everything."""
        return True

    async def caught_up(self) -> None:
        """Return: nobody is behind."""

    async def keep_alive(self, silence_seconds: float) -> None:
        """Nobody waits."""


class TurnOutput:
    """Where the frames of one turn go: to the sinks, then to the client."""

    def __init__(self, delivery: Delivery, sinks: Sequence[FrameSink]) -> None:
        self.delivery = delivery
        self._sinks = sinks

    def add(self, sink: FrameSink) -> None:
        """Have one more sink take down what comes from here on."""
        self._sinks = (*self._sinks, sink)

    @property
    def started(self) -> bool:
        """Whether the client was sent anything of a stream."""
        return self.delivery.started

    def begin(self, headers: Mapping[str, str]) -> None:
        """Hand the upstream's headers to the client's side."""
        self.delivery.begin(headers)

    async def send(self, frames: FrameBytes) -> bool:
        """Take down and send whole frames; return whether the client is there."""
        for sink in self._sinks:
            if not sink.push(joined(frames)):
                await sink.caught_up()
        return await self.delivery.send(frames)

    def push(self, frames: FrameBytes) -> bool:
        """Take down and send whole frames of a stream that was begun, at once; return whether all keep up."""
        keeps_up = True
        for sink in self._sinks:
            keeps_up = sink.push(joined(frames)) and keeps_up
        return self.delivery.push(frames) and keeps_up

    async def caught_up(self) -> None:
        """Return when sinks and client have taken enough of what was pushed."""
        for sink in self._sinks:
            await sink.caught_up()
        await self.delivery.caught_up()

    async def pass_ping(self) -> None:
        """Tell the client that the model server is there: a comment in a stream, in no log."""
        await self.delivery.keep_alive(0.0)

    async def secure(self) -> None:
        """Return when the sinks have what must not be lost any more."""
        for sink in self._sinks:
            await sink.secure()
