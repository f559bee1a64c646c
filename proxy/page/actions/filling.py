"""The button of an empty page: a demo conversation, as if it had been imported."""

from __future__ import annotations

import io

from aiohttp import web

from proxy.api.archive import restore
from proxy.auth.caller import CALLER
from proxy.http.answers import whole
from proxy.http.keys import STORE
from proxy.page.content.demo import demo_file
from proxy.page.layout import ROOT_PATH, see_other


async def do_fill_in(request: web.Request) -> web.StreamResponse:
    """POST /ui/demo: 303 to the conversation."""
    conversation_id, content = demo_file()
    await whole(restore(request.app[STORE], request[CALLER].owner, io.BytesIO(content)))
    return see_other(f"{ROOT_PATH}c/{conversation_id}")
