"""A stream on its way through, with an answer, a relay, a sink and a client that do what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery import TurnOutput
from proxy.protocol import sse
from proxy.protocol.errors import GatewayTimeout
from proxy.protocol.sse import FrameBytes, joined
from proxy.relay import MalformedEvent
from proxy.telemetry.records import CUT, MALFORMED, TIMEOUT, TurnRecord
from proxy.turns.stream import BROKEN_OFF, TurnStream
from proxy.upstream.body import UpstreamCut
from tests.virtual_time import in_virtual_time


def frame(text: str) -> bytes:
    return b"data: %b\n\n" % text.encode()


class Answer:
    """A body that the test pushes."""

    max_event_bytes = 100

    def __init__(self) -> None:
        self.consumer: Any = None
        self.held = self.ends = False
        self.holds = 0

    def push(self, consumer: Any) -> None:
        self.consumer = consumer

    def expect_end(self) -> None:
        self.ends = True

    def hold(self, *, held: bool) -> None:
        self.holds += held and not self.held
        self.held = held


class Relay:
    """Tells what it is fed; `bad` can't be read, `bug` is one, `over` ends the response, `again` begins another."""

    is_untold = False

    def __init__(self) -> None:
        self.outcome: object | None = None
        self.is_over = False
        self.pings = 0
        self.linger_seconds = 5.0
        self.lane = None
        self.is_untold = True

    def feed(self, event: sse.Event) -> bytes:
        self.is_untold = self.is_untold and event.data in (b"ping", b"bad")
        match event.data:
            case b"bad":
                raise MalformedEvent("bad")
            case b"bug":
                raise KeyError("bug")
            case b"ping":
                self.pings += 1
                return b""
            case b"over":
                self.outcome = object()
                return b""
            case b"again":
                self.outcome = None
            case b"[DONE]":
                self.is_over = True
                return b""
        return frame(event.data.decode())

    def patience(self) -> float | None:
        return None if self.outcome is None else self.linger_seconds


class Party:
    """A client or a sink that is behind whenever `open` is clear. got: what it has taken, in order."""

    def __init__(self, *, behind_every: int = 0) -> None:
        self._behind_every = behind_every
        self.open = asyncio.Event()
        self.open.set()
        self.got: list[bytes] = []
        self.pings = 0
        self.gone = False
        self.started = False
        self.pushed = 0

    def begin(self, headers: Any) -> None: ...

    async def send(self, frames: FrameBytes) -> bool:
        self.started = True
        await self.open.wait()
        if not self.gone:
            self.got.append(joined(frames))
        return not self.gone

    def push(self, frames: FrameBytes) -> bool:
        self.pushed += 1
        if not self.gone:
            self.got.append(joined(frames))
        late = self._behind_every and self.pushed % self._behind_every == 0
        return self.open.is_set() and not late

    async def caught_up(self) -> None:
        await self.open.wait()

    async def secure(self) -> None: ...

    async def keep_alive(self, silence_seconds: float) -> None:
        self.pings += 1


class Scene:
    def __init__(self, client: Party | None = None, sink: Party | None = None, **options: bool) -> None:
        self.relay = Relay()
        self.answer = Answer()
        self.client = client or Party()
        self.sink = sink or Party()
        self.stream = TurnStream(
            self.relay,  # type: ignore[arg-type]
            TurnOutput(self.client, [self.sink]),
            TurnRecord(),
            **{"tells": True, "ends_on_leave": True, **options},
        )
        self.running = asyncio.ensure_future(self.stream.run(self.answer))  # type: ignore[arg-type]

    async def began(self, *texts: str) -> Scene:
        """Let the stream run, and its first frames be sent."""
        await asyncio.sleep(0)
        for text in texts:
            self.answer.consumer.data(frame(text))
        await settle()
        return self


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_after_the_first_frames_goes_on_without_a_task():
    scene = await Scene().began("a")
    for text in ("b", "c"):
        scene.answer.consumer.data(frame(text))
        assert scene.client.got[-1] == scene.sink.got[-1] == frame(text)
    scene.answer.consumer.end()
    assert await scene.running
    assert scene.client.got == scene.sink.got == [frame("a"), frame("b"), frame("c")]
    assert scene.answer.holds == 0
    assert scene.stream.failure == BROKEN_OFF


async def test_several_events_that_come_at_once_leave_in_one_write():
    scene = await Scene().began("a")
    scene.answer.consumer.data(frame("b") + frame("c"))
    assert scene.client.got[1:] == [frame("b") + frame("c")]
    scene.running.cancel()


async def test_what_comes_while_the_head_is_sent_follows_it_and_makes_the_model_server_wait():
    scene = Scene()
    scene.client.open.clear()
    await scene.began("a")
    assert not scene.answer.held
    scene.answer.consumer.data(frame("b"))
    assert scene.answer.held
    assert scene.client.got == []
    scene.client.open.set()
    await settle()
    assert not scene.answer.held
    assert b"".join(scene.client.got) == b"".join(scene.sink.got) == frame("a") + frame("b")
    scene.running.cancel()


@pytest.mark.parametrize("who", ["client", "sink"])
async def test_who_is_behind_makes_the_model_server_wait_only_if_more_comes(who: str):
    scene = await Scene().began("a")
    slow: Party = getattr(scene, who)
    slow.open.clear()
    scene.answer.consumer.data(frame("b"))
    await settle()
    assert not scene.answer.held
    scene.answer.consumer.data(frame("c"))
    assert scene.answer.held
    slow.open.set()
    await settle()
    assert not scene.answer.held
    assert scene.client.got == [frame("a"), frame("b"), frame("c")]
    scene.running.cancel()


async def test_a_stream_ends_only_when_those_behind_have_caught_up():
    scene = await Scene().began("a")
    scene.client.open.clear()
    scene.answer.consumer.data(frame("b"))
    scene.answer.consumer.end()
    await settle()
    assert not scene.running.done()
    scene.client.open.set()
    assert await scene.running


@pytest.mark.parametrize("ends", [False, True])
async def test_a_client_that_has_gone_ends_a_stream_that_nobody_else_wants(ends: bool):
    scene = await Scene(ends_on_leave=ends).began("a")
    scene.client.gone = True
    scene.answer.consumer.data(frame("b"))
    await settle()
    assert scene.running.done() is ends
    if ends:
        assert not await scene.running
    else:
        scene.answer.consumer.end()
        assert await scene.running
        assert scene.sink.got == [frame("a"), frame("b")]


async def test_a_stream_that_the_client_wants_as_json_tells_nothing():
    scene = await Scene(tells=False).began("a")
    scene.answer.consumer.end()
    assert await scene.running
    assert scene.client.got == scene.sink.got == []


@pytest.mark.parametrize(
    ("end", "failure", "fault"),
    [
        (lambda consumer: consumer.data(frame("b") + frame("bad") + frame("c")), "can't be read", MALFORMED),
        (lambda consumer: consumer.data(frame("b") + frame("x" * 200)), "too large", MALFORMED),
        (lambda consumer: [consumer.data(frame("b") + b"data: bad"), consumer.end()], "can't be read", MALFORMED),
        (lambda consumer: [consumer.data(frame("b")), consumer.failed(UpstreamCut("Cut."))], "Cut.", CUT),
        (lambda consumer: [consumer.data(frame("b")), consumer.failed(GatewayTimeout("."))], ".", TIMEOUT),
        (lambda consumer: [consumer.data(frame("b")), consumer.end()], BROKEN_OFF, CUT),
    ],
)
async def test_a_failure_has_its_words_and_nothing_follows_it(end: Callable[[Any], object], failure: str, fault: str):
    scene = await Scene().began("a")
    consumer = scene.answer.consumer
    end(consumer)
    consumer.data(frame("late"))
    assert await scene.running
    assert failure in scene.stream.failure
    assert scene.stream.fault == fault
    told = b"".join(scene.client.got)
    assert told == frame("a") + frame("b")


async def test_a_mistake_of_the_relays_is_raised_where_the_turn_runs():
    scene = await Scene().began("a")
    scene.answer.consumer.data(frame("bug"))
    with pytest.raises(KeyError):
        await scene.running


async def test_pings_are_passed_on():
    scene = await Scene().began("a", "ping")
    assert scene.client.pings == 1
    assert scene.relay.pings == 0
    scene.running.cancel()


@in_virtual_time
async def test_after_a_response_more_is_waited_for_only_as_long_as_it_is_worth():
    loop = asyncio.get_running_loop()
    scene = await Scene().began("a", "over")
    await asyncio.sleep(4)
    # another response in the same stream takes the time that it takes
    scene.answer.consumer.data(frame("again"))
    await asyncio.sleep(100)
    assert not scene.running.done()
    scene.answer.consumer.data(frame("over"))
    await asyncio.sleep(4)
    scene.answer.consumer.data(frame("b"))
    before = loop.time()
    assert await scene.running
    assert loop.time() - before == pytest.approx(5)


async def test_nothing_is_waited_for_when_the_model_server_says_that_it_is_done():
    scene = await Scene().began("a", "over")
    assert not scene.answer.ends
    scene.answer.consumer.data(frame("[DONE]"))
    assert await scene.running
    assert scene.answer.ends


@given(
    steps=st.lists(
        st.sampled_from(["event", "two", "half", "slow client", "fast client", "slow sink", "fast sink", "wait"])
    ),
    behind=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_nothing_is_lost_or_out_of_order_whoever_is_behind(steps: list[str], behind: tuple[int, int]):
    async def run() -> None:
        scene = Scene(Party(behind_every=behind[0]), Party(behind_every=behind[1]))
        await asyncio.sleep(0)
        expected, number = b"", 0
        for step in steps:
            who = scene.client if "client" in step else scene.sink
            match step.split()[0]:
                case "slow":
                    who.open.clear()
                case "fast":
                    who.open.set()
                case "wait":
                    await settle()
                case kind:
                    texts = [frame(str(number + more)) for more in range(2 if kind == "two" else 1)]
                    number += len(texts)
                    data = b"".join(texts)
                    expected += data
                    cut = 4 if kind == "half" else len(data)
                    for piece in filter(None, (data[:cut], data[cut:])):
                        scene.answer.consumer.data(piece)
        scene.client.open.set()
        scene.sink.open.set()
        scene.answer.consumer.end()
        assert await scene.running
        assert b"".join(scene.client.got) == b"".join(scene.sink.got) == expected
        assert not scene.answer.held

    asyncio.run(run())
