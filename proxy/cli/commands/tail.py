"""`branchline tail`: follow a response while it is made, or a conversation while it grows, on the store itself."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import orjson

from proxy.cli.commands.check import store_problem
from proxy.cli.commands.conversations import draw_line, find_conversation, last_items
from proxy.cli.commands.item_text import line_of, plain_text
from proxy.cli.commands.maintenance import UpkeepError
from proxy.cli.commands.terminal import Terminal
from proxy.protocol import sse
from proxy.stores import open_store
from storage import (
    CursorNotFound,
    EventQuery,
    PageRequest,
    ResponseNotFound,
    StoredResponse,
    StoreError,
    Unavailable,
)

if TYPE_CHECKING:
    from argparse import Namespace

    from proxy.config.settings import Config
    from storage import Store

#: Seconds between two looks.
LOOK_PAUSE_SECONDS = 0.3
#: Bytes of events that are read at a time.
LOG_READ_BYTES = 1024 * 1024
#: Items that are read at a time.
ITEMS_AT_ONCE = 100

_RUNNING = frozenset({"queued", "in_progress"})


async def run_tail(config: Config, options: Namespace) -> int:
    """Print what `options.id` has and what comes to it, until its end or Ctrl-C; return the exit status.

    1: the response did not complete. With `--json` events of a response, or items of a conversation, one a line. Raises
    UpkeepError when there is no such thing or the store can't be used, EmbeddedUnavailable, UnusableStore.
    """
    async with open_store(config, existing=True) as store:
        terminal = Terminal(as_json=options.json)
        try:
            if options.id.startswith("resp_"):
                return await _follow_response(store, options.id, terminal)
            return await _follow_conversation(store, options, terminal)
        except Unavailable as exc:
            raise UpkeepError(f"{store.description} {store_problem(exc)}") from exc


async def _follow_response(store: Store, response_id: str, terminal: Terminal) -> int:
    owner = await store.archive.owner_of(response_id)
    query, told, status = EventQuery(owner, response_id, 0), 0, ""
    while True:
        try:
            page = await store.events.read(EventQuery(owner, response_id, told), LOG_READ_BYTES)
        except ResponseNotFound as exc:
            raise UpkeepError(
                f"there is no response {query.response_id} in {store.description}; one that is not made in the"
                " background, and keeps no events, is there once it is complete"
            ) from exc
        if not page.kept:
            return await _await_response(store, owner, response_id, terminal)
        for batch in page.batches:
            told = batch.first_number + batch.count
            status = _tell_events(batch.frames, terminal) or status
        if page.ended or not (page.running or page.batches):
            return _end(terminal, status or page.status)
        if not page.batches:
            await asyncio.sleep(LOOK_PAUSE_SECONDS)


def _tell_events(frames: bytes, terminal: Terminal) -> str:
    """Print events; return the status that the last of them ends the response with, '' if it goes on."""
    status = ""
    for event in sse.SseDecoder(len(frames) + 1).feed(frames):
        if event.data == b"[DONE]":
            continue
        fields: dict[str, Any] = orjson.loads(event.data)
        if terminal.as_json:
            terminal.record(fields)
        elif isinstance(delta := fields.get("delta"), str):
            sys.stdout.write(plain_text(delta))
            sys.stdout.flush()
        elif fields.get("type") == "response.output_item.done":
            sys.stdout.write("\n")
            if fields["item"].get("type") != "message":
                terminal.draw(draw_line(line_of(orjson.dumps(fields["item"])), None))
        response = fields.get("response")
        if isinstance(response, dict) and response.get("status") not in _RUNNING:
            status = str(response.get("status"))
    return status


async def _await_response(store: Store, owner: str, response_id: str, terminal: Terminal) -> int:
    """Wait for the end of a response that keeps no events, and print it."""
    while True:
        try:
            stored = await store.responses.read(owner, response_id)
        except ResponseNotFound as exc:
            raise UpkeepError(f"{response_id} was deleted meanwhile") from exc
        body: dict[str, Any] = orjson.loads(stored.body)
        if body["status"] not in _RUNNING:
            _tell_whole(stored, body, terminal)
            return _end(terminal, body["status"])
        await asyncio.sleep(LOOK_PAUSE_SECONDS)


def _tell_whole(stored: StoredResponse, body: dict[str, Any], terminal: Terminal) -> None:
    if terminal.as_json:
        terminal.record({**body, "output": [orjson.Fragment(item) for item in stored.output]})
        return
    for item in stored.output:
        terminal.draw(draw_line(line_of(item), None))


def _end(terminal: Terminal, status: str) -> int:
    terminal.say(f"({status or 'broken off'})")
    return 0 if status == "completed" else 1


async def _follow_conversation(store: Store, options: Namespace, terminal: Terminal) -> int:
    """Print a branch's last items and those that come to it. Of the active one: whichever that is at the time."""
    owner, conversation = await find_conversation(store, options.id)
    page = await last_items(store, owner, conversation, options.branch, options.last)
    items, after = list(reversed(page.items)), None
    while True:
        for item in items:
            after = line_of(item).id
            if terminal.as_json:
                print(item.decode(), flush=True)
            else:
                terminal.draw(draw_line(line_of(item), None))
        await asyncio.sleep(0 if len(items) >= ITEMS_AT_ONCE else LOOK_PAUSE_SECONDS)
        items = await _newer(store, owner, options, after)


async def _newer(store: Store, owner: str, options: Namespace, after: str | None) -> list[bytes]:
    request = PageRequest(ITEMS_AT_ONCE, after, ascending=True)
    try:
        return list((await store.items.list_page(owner, options.id, request, branch=options.branch)).items)
    except CursorNotFound:
        # the last one was deleted, or is not on the branch that is active now
        conversation = (await find_conversation(store, options.id))[1]
        page = await last_items(store, owner, conversation, options.branch, 1)
        return list(page.items)
    except Unavailable:
        raise
    except StoreError as exc:
        raise UpkeepError(f"{options.id} was deleted meanwhile ({exc.subject})") from exc
