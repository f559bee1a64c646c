"""Answers: JSON, ids of the path checked, and writes that outlive the client who asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from aiohttp import web

from proxy.protocol.params import check_conversation_id, check_id

Written = TypeVar("Written")


async def whole(write: Coroutine[Any, Any, Written]) -> Written:
    """Return what a write gives; carry it and what belongs to it to the end even if the client leaves meanwhile."""
    return await asyncio.shield(write)


def path_conversation_id(request: web.Request) -> str:
    """Return the path's `conversation_id`. Raises BadRequest."""
    conversation_id = request.match_info["conversation_id"]
    check_conversation_id(conversation_id, "conversation_id")
    return conversation_id


def path_item_id(request: web.Request) -> str:
    """Return the path's `item_id`. Raises BadRequest."""
    item_id = request.match_info["item_id"]
    check_id(item_id, "item_id")
    return item_id


def json_answer(data: Any, status: int = 200) -> web.Response:
    """Return an answer with `data` as its JSON body."""
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


def path_of(request: web.Request) -> str:
    """Return path and query as they were asked for."""
    return request.rel_url.raw_path_qs
