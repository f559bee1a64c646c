"""Answers: JSON, a turn's in one write, ids of the path checked, and writes that outlive who asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import orjson
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from proxy.http.request import ClientRequest
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


class TurnAnswer(web.Response):
    """A turn's answer as JSON, whose head and body leave in one step where its request is a plain POST.

    What leaves is what aiohttp would send, byte for byte; it takes seven steps for it, each a call or more.
    """

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(body=body, headers=headers, content_type="application/json")
        self._said = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the whole answer. Raises ConnectionError if the client has gone."""
        if self.prepared or not isinstance(request, ClientRequest) or not _is_plain(request):
            return await super().prepare(request)
        headers, writer = self.headers, request.writer
        headers[hdrs.CONTENT_LENGTH] = str(len(self._said))
        if hdrs.DATE not in headers:
            headers[hdrs.DATE] = rfc822_formatted_time()
        headers.setdefault(hdrs.SERVER, SERVER_SOFTWARE)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if not self._keep_alive:
            headers.setdefault(hdrs.CONNECTION, "close")
        for tell in request.app.on_response_prepare:
            await tell(request, self)
        await writer.write_headers(f"HTTP/1.1 {self.status} {self.reason}", headers)
        await writer.write_eof(self._said)
        self._eof_sent, self._body_length = True, writer.output_size
        return None


def _is_plain(request: web.Request) -> bool:
    return request.version == HttpVersion11 and request.method == hdrs.METH_POST


def json_answer(data: Any, status: int = 200) -> web.Response:
    """Return an answer with `data` as its JSON body."""
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


def path_of(request: web.Request) -> str:
    """Return path and query as they were asked for."""
    return request.rel_url.raw_path_qs
