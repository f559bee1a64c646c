"""The rendering process: it ends what takes too long, and nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.page.renderer import MAX_RENDERED, Renderer

#: A text of the length that is rendered, for which the parser takes more than its time.
SLOW = "[" * (MAX_RENDERED - 8)


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    async with Renderer().running() as renderer:
        yield renderer


@contextmanager
def stopped(renderer: Renderer) -> Iterator[int]:
    """Let the rendering process, which is given, stand still meanwhile."""
    assert renderer._process is not None
    pid = renderer._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_texts_are_rendered_and_kept(renderer: Renderer):
    assert await renderer.render(["**a**", "b"]) == ["<p><strong>a</strong></p>\n", "<p>b</p>\n"]
    with stopped(renderer):
        assert await renderer.render(["b", "**a**"] * 100) == ["<p>b</p>\n", "<p><strong>a</strong></p>\n"] * 100


async def test_a_text_that_takes_too_long_is_given_up_and_the_others_are_not(renderer: Renderer):
    assert await renderer.render(["a", SLOW, "b"]) == ["<p>a</p>\n", None, "<p>b</p>\n"]
    assert await renderer.render([SLOW, "c"]) == [None, "<p>c</p>\n"]


async def test_a_text_whose_process_was_ended_by_others_is_rendered_at_the_next_view(renderer: Renderer):
    await renderer.render(["warm"])
    with stopped(renderer) as pid:
        asking = asyncio.create_task(renderer.render(["**a**"]))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert await asking == [None]
    assert await renderer.render(["**a**"]) == ["<p><strong>a</strong></p>\n"]


async def test_a_page_of_them_takes_no_longer_than_a_page_may(renderer: Renderer):
    await renderer.render(["warm"])
    started = time.process_time()
    slow = [SLOW + str(n) for n in range(20)]
    assert await renderer.render(slow) == [None] * 20
    assert time.process_time() - started < 0.5


async def test_whoever_asks_for_it_gets_it_all_the_same(renderer: Renderer):
    text = "[" * 5000
    await renderer.render([text])
    (html,) = await renderer.render([text], asked=True)
    assert html is not None


async def test_a_long_text_is_not_rendered(renderer: Renderer):
    assert await renderer.render(["x" * (MAX_RENDERED + 1)]) == [None]


async def test_the_event_loop_goes_on_meanwhile(renderer: Renderer):
    await renderer.render(["warm"])
    steps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            steps.append(time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    await renderer.render([f"{n} **bold** `code` " * 400 for n in range(10)])
    ticking.cancel()
    # in a thread of this process it would be Python's 5 ms, for as long as it lasts
    assert statistics.median(steps) < 0.002


async def test_a_view_that_was_left_leaves_no_answer_to_the_next(renderer: Renderer):
    await renderer.render(["warm"])
    left = asyncio.create_task(renderer.render([SLOW]))
    await asyncio.sleep(0.01)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert await renderer.render(["mine"]) == ["<p>mine</p>\n"]


async def test_searching_and_comparing(renderer: Renderer):
    items = ['{"role":"user","content":[{"type":"input_text","text":"Straße & <b>"}]}', '{"type":"x","y":"z"}']
    assert await renderer.search("STRASSE", items) == [[0, "user", "", "Straße ", "& <b>"]]
    assert await renderer.search("call", items) == []
    assert await renderer.compare("a b c", "a x c") == [["same", "a"], ["out", "b"], ["in", "x"], ["same", "c"]]
