"""Screens of responses: the newest ones, and one with what the model was given and what it gave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from proxy.auth.caller import CALLER, UNPROVEN
from proxy.http.answers import path_item_id
from proxy.http.keys import CONFIG, STORE
from proxy.page.content.cards import card_of, first_line, pretty
from proxy.page.content.text import shorten
from proxy.page.content.thread import TurnHead, fill_head
from proxy.page.layout import show_screen
from proxy.page.screens.conversations import PAGE, attachment, picture_answer, render_parts
from proxy.protocol.errors import NotFound
from proxy.protocol.params import check_id
from proxy.relay.replay import Replay
from proxy.streams.event_log import split_frames
from storage import EventQuery, PageRequest

if TYPE_CHECKING:
    from storage import RecentResponse

#: Events that are shown, and the bytes of them that are read.
MAX_EVENTS = 500
EVENT_BYTES = 1024 * 1024

#: Settings of a request that a response repeats, where they say more than that nothing was set.
_SETTINGS = (
    "temperature", "top_p", "max_output_tokens", "max_tool_calls", "parallel_tool_calls", "tool_choice", "truncation",
    "service_tier", "reasoning", "text", "store", "background", "user",
)  # fmt: skip
_UNSET: tuple[Any, ...] = (
    None,
    {},
    [],
    "",
    "auto",
    "disabled",
    True,
    {"format": {"type": "text"}, "verbosity": "medium"},
)


async def show_responses(request: web.Request) -> web.StreamResponse:
    """GET /ui/r/: the newest responses; after."""
    after = request.query.get("after") or None
    page = await request.app[STORE].responses.recent(request[CALLER].owner, PageRequest(limit=PAGE, after=after))
    return show_screen(
        request,
        "responses.html",
        entries=[_entry(one) for one in page.responses],
        older=f"?after={page.next_cursor}" if page.next_cursor else "",
        is_first=after is None,
        listed=request.app[CONFIG].responses.list_recent,
    )


async def show_response(request: web.Request) -> web.StreamResponse:
    """GET /ui/r/RESP: a response; input (an item, what was given before it), events=1."""
    return await response_screen(request, {})


async def response_screen(request: web.Request, form: dict[str, Any], status: int = 200) -> web.Response:
    """Return a response's screen. form: what was sent from it, and the `problem` with that."""
    store, owner, query = request.app[STORE], request[CALLER].owner, request.query
    response_id = path_response_id(request)
    stored, given = await asyncio.gather(
        store.responses.read(owner, response_id),
        store.responses.list_input(owner, response_id, PageRequest(limit=PAGE, after=query.get("input") or None)),
    )
    response = orjson.loads(stored.body)
    head = TurnHead(response_id, "", str(response.get("status")), created_at=int(response.get("created_at") or 0))
    fill_head(head, response)
    inputs = [card_of(item) for item in reversed(given.items)]
    outputs = [card_of(item) for item in stored.output]
    await render_parts(request, [part for card in (*inputs, *outputs) for part in card.parts])
    events = await _events(request, response_id) if query.get("events") == "1" else None
    return show_screen(
        request,
        "response.html",
        status=status,
        head=head,
        input_cards=inputs,
        input_more=given.has_more,
        output_cards=outputs,
        events=events[:MAX_EVENTS] if events is not None else None,
        events_more=events is not None and len(events) > MAX_EVENTS,
        form=form,
        key_hint="" if owner in UNPROVEN else " -H 'Authorization: Bearer KEY'",
        **_described(response),
    )


async def send_response(request: web.Request) -> web.StreamResponse:
    """GET /ui/r/RESP/json: the Response object as a file."""
    response_id = path_response_id(request)
    stored = await request.app[STORE].responses.read(request[CALLER].owner, response_id)
    return attachment(Replay(stored, show_encrypted=False).json, f"{response_id}.json", "application/json")


async def send_response_item(request: web.Request) -> web.StreamResponse:
    """GET /ui/r/RESP/items/ITEM/json: an item of a response outside of conversations, as a file."""
    return attachment(await _item(request), f"{path_item_id(request)}.json", "application/json")


async def send_response_picture(request: web.Request) -> web.StreamResponse:
    """GET /ui/r/RESP/items/ITEM/pictures/N: a picture that is stored in such an item."""
    return picture_answer(await _item(request), request.match_info["number"])


def path_response_id(request: web.Request) -> str:
    """Return the path's `response_id`. Raises BadRequest."""
    response_id = request.match_info["response_id"]
    check_id(response_id, "response_id")
    return response_id


async def _item(request: web.Request) -> bytes:
    item_id = path_item_id(request)
    known = await request.app[STORE].items.resolve(request[CALLER].owner, [item_id])
    if item_id not in known:
        raise NotFound(f"Item with id '{item_id}' not found.")
    return known[item_id].data


def _entry(recent: RecentResponse) -> dict[str, Any]:
    response = orjson.loads(recent.body) if recent.body else {}
    head = TurnHead(recent.id, "", recent.status)
    fill_head(head, response)
    conversation = response.get("conversation") or {}
    error = response.get("error") or {}
    return {
        "id": recent.id,
        "status": recent.status,
        "touched_at": recent.touched_at,
        "head": head,
        "asked": first_line(recent.asked.data, 120) if recent.asked else "",
        "answered": str(error.get("message", "")) or (first_line(recent.answered.data) if recent.answered else ""),
        "conversation_id": conversation.get("id", "") if isinstance(conversation, dict) else "",
    }


def _described(response: dict[str, Any]) -> dict[str, Any]:
    """Return what a response's screen says beside its items."""
    conversation = response.get("conversation") or {}
    instructions, tools = response.get("instructions"), response.get("tools") or []
    usage = response.get("usage") or {}
    details = usage.get("output_tokens_details") or {}
    return {
        "response": {"previous_response_id": None, "incomplete_details": None, "usage": None} | response,
        "failure": response.get("error"),
        "conversation_id": conversation.get("id", "") if isinstance(conversation, dict) else "",
        "branch": conversation.get("branch", "") if isinstance(conversation, dict) else "",
        "instructions": instructions if isinstance(instructions, str) else pretty(instructions) if instructions else "",
        "tools": pretty(tools)[: 64 * 1024] if tools else "",
        "tool_count": len(tools),
        "reasoning_tokens": int(details.get("reasoning_tokens") or 0),
        "settings": [
            (name, value if isinstance(value, str) else shorten(orjson.dumps(value).decode(), 200))
            for name in _SETTINGS
            if (value := response.get(name)) not in _UNSET
        ],
        "metadata": sorted((response.get("metadata") or {}).items()),
    }


async def _events(request: web.Request, response_id: str) -> list[tuple[int, str, str]]:
    """Return the number, the name and the beginning of each event that is kept."""
    query = EventQuery(request[CALLER].owner, response_id, 0)
    page = await request.app[STORE].events.read(query, EVENT_BYTES)
    told: list[tuple[int, str, str]] = []
    for batch in page.batches:
        for number, frame in enumerate(split_frames(batch.frames), batch.first_number):
            text = frame.decode("utf-8", "replace")
            name = text.partition("event: ")[2].partition("\n")[0]
            told.append((number, name, shorten(text.partition("data: ")[2], 300)))
    return told
