"""The walk of four requests through the code, as docs/architecture.md tells it: followed call by call, and compared."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.flows.conftest import Proxy
from tests.flows.streams import read_stream
from tests.flows.talk import new_conversation

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
MOST_STOPS = 10
HEADERS = {"Authorization": "Bearer sk-alice"}

#: A stop: the file below proxy/, without its ending, and the function that is entered.
Stop = tuple[str, str]


def told(title: str) -> list[Stop]:
    """The stops of one of the page's walks."""
    section = PAGE.partition(f"### {title}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\d+\. `([\w/]+)` `(\w+)`", section, re.MULTILINE)


@contextmanager
def followed() -> Iterator[list[Stop]]:
    """Every function of proxy that is entered meanwhile, in order; constructors and what runs at import aside."""
    entered: list[Stop] = []
    # held, so that no other frame gets the identity of one: a coroutine's is entered each time it goes on
    known: dict[int, FrameType] = {}
    below = f"{ROOT}/proxy/"

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or id(frame) in known:
            return
        known[id(frame)] = frame
        if code.co_filename.startswith(below) and not code.co_name.startswith(("__", "<")):
            entered.append((code.co_filename.removeprefix(below).removesuffix(".py"), code.co_name))

    before: Callable[..., object] | None = sys.getprofile()
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(before)
        known.clear()


def first_times(entered: list[Stop], stops: list[Stop]) -> list[Stop]:
    """The stops in the order in which they were first entered."""
    return sorted((stop for stop in stops if stop in entered), key=entered.index)


async def test_a_streamed_turn(proxy: Proxy):
    conversation = await new_conversation(proxy)
    with followed() as entered:
        body = {"model": "echo", "input": "hi", "stream": True, "conversation": conversation}
        assert (await read_stream(proxy, body)).endswith(b"data: [DONE]\n\n")
    stops = told("A streamed turn with a conversation")
    assert len(stops) <= MOST_STOPS
    assert first_times(entered, stops) == stops


async def test_a_turn_comes_back_to_no_stop_that_it_has_left(proxy: Proxy):
    """But to `turns/turn`, which calls them, and to those that take each chunk: the relay and the delivery."""
    conversation = await new_conversation(proxy)
    with followed() as entered:
        body = {"model": "echo", "input": "hi", "stream": True, "conversation": conversation}
        await read_stream(proxy, body)
    stops = told("A streamed turn with a conversation")
    once = [stop for stop in stops if stop[0] not in {"turns/turn", "relay/splicer", "http/delivery"}]
    assert [stop for stop in entered if stop in once] == once


async def test_a_background_response(proxy: Proxy):
    with followed() as entered:
        body = {"model": "echo", "input": "hi", "stream": True, "background": True}
        assert (await read_stream(proxy, body)).endswith(b"data: [DONE]\n\n")
    stops = told("A background response")
    assert first_times(entered, stops) == stops


async def test_a_turn_on_a_websocket(proxy: Proxy):
    with followed() as entered:
        async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=HEADERS) as socket:
            await socket.send_json({"type": "response.create", "model": "echo", "input": "hi"})
            while (await socket.receive_json())["type"] != "response.completed":
                pass
    stops = told("A turn on a WebSocket")
    assert first_times(entered, stops) == stops


async def test_an_edit_with_a_new_answer(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await read_stream(proxy, {"model": "echo", "input": "hi", "conversation": conversation})
    _, items = await proxy.call("GET", f"/v1/conversations/{conversation}/items?order=asc")
    path = f"/v1/conversations/{conversation}/items/{items['data'][0]['id']}/edit"
    with followed() as entered:
        await read_stream(proxy, {"model": "echo", "content": "hello", "regenerate": True, "stream": True}, path)
    stops = told("An edit with a new answer")
    assert first_times(entered, stops) == stops


@pytest.mark.parametrize("title", re.findall(r"^### (.+)$", PAGE.partition("## Four requests")[2], re.MULTILINE))
def test_every_stop_of_the_page_is_a_function_of_that_file(title: str):
    for file, function in told(title):
        assert f"def {function}(" in (ROOT / "proxy" / f"{file}.py").read_text("utf-8")
