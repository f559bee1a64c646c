"""A stream through the proxy goes on while pages of hostile text are rendered."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise

from proxy.page.renderer import MAX_RENDERED, RENDERER
from tests.flows.conftest import Proxy
from tests.flows.streams import MESSAGE, delta
from tests.page.conftest import Visitor
from tests.page.talk import talk
from tests.upstream import Reply

EVENTS, PAUSE_SECONDS = 250, 0.004
#: How much longer the longest gaps may be: pages are put together here too. With a thread that renders it is 17 times.
FACTOR, FLOOR_SECONDS = 10.0, 0.01


async def gaps(proxy: Proxy, events: int = EVENTS) -> list[float]:
    """What this process works between what arrives of a stream whose events come evenly, in order of length.

    In seconds of a processor: what others do on the machine meanwhile is not among them, and what a thread does is.
    """
    gates = [asyncio.Event() for _ in range(events)]
    pieces = [step for gate in gates for step in (gate, delta("word "))]
    created = {"type": "response.created", "response": {"id": "r", "object": "response", "status": "in_progress"}}
    opening = {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE}
    proxy.upstream.script(Reply.sse([created, opening, *pieces, {"type": "response.completed", "response": {}}]))

    async def drive() -> None:
        for gate in gates:
            await asyncio.sleep(PAUSE_SECONDS)
            gate.set()

    driving = asyncio.create_task(drive())
    body = {"model": "m", "input": "hi", "stream": True}
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=headers) as answer:
        seen = [time.process_time() async for _ in answer.content.iter_any()]
    await driving
    return sorted(after - before for before, after in pairwise(seen))


def p99(ordered: list[float]) -> float:
    """The gap that one in a hundred is longer than."""
    return ordered[int(len(ordered) * 0.99)]


async def test_a_stream_keeps_its_gaps_while_twenty_pages_of_hostile_text_are_rendered(visitor: Visitor):
    proxy = visitor.proxy
    strange = [await talk(proxy, f"{n}" + "[" * (MAX_RENDERED - 100), f"{n} **b** `c` " * 500) for n in range(20)]
    await visitor.get(f"/ui/c/{strange[0]}")
    alone = p99(await gaps(proxy))
    looking = [asyncio.create_task(visitor.get(f"/ui/c/{one}")) for one in strange]
    beside = p99(await gaps(proxy))
    screens = await asyncio.gather(*looking)
    assert {screen.status for screen in screens} == {200}
    assert any("Shown as it is" in screen.words for screen in screens)
    print(f"p99 of the gaps: {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside 20 pages")
    assert beside <= max(FACTOR * alone, FLOOR_SECONDS)


async def test_a_stream_goes_on_while_the_process_that_renders_stands_still(visitor: Visitor):
    proxy, renderer = visitor.proxy, visitor.proxy.app[RENDERER]
    conversation = await talk(proxy, "**b**")
    await renderer.render(["warm"])
    assert renderer._process is not None
    pid = renderer._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        looking = asyncio.create_task(visitor.get(f"/ui/c/{conversation}"))
        while not renderer._free.locked():  # noqa: ASYNC110 (a lock has no event)
            await asyncio.sleep(0)
        await gaps(proxy, 10)
        assert not looking.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "<strong>b</strong>" in (await looking).text
