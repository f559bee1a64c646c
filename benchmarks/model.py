"""A model server that costs nothing: the same answer every time, whole or in 25 deltas."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import orjson
import uvloop
from aiohttp import web

from proxy.echo import build_response
from proxy.echo.events import play
from proxy.echo.replies import Request, answer
from proxy.protocol import sse

WORDS = 25


def _answers() -> tuple[bytes, list[bytes]]:
    """Return the answer as one JSON body and as the frames of a stream."""
    request: dict[str, Any] = {"model": "bench", "input": " ".join(["word"] * WORDS)}
    response = build_response(request, answer(msgspec.convert(request, Request)))
    frames = [sse.encode(event["type"], orjson.dumps(event)) for event in play(response)]
    return orjson.dumps(response), frames


PLAIN: web.AppKey[bytes] = web.AppKey("plain", bytes)
STREAM: web.AppKey[list[bytes]] = web.AppKey("stream", list)


async def respond(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    if b'"stream":true' not in body:
        return web.Response(body=request.app[PLAIN], content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for frame in request.app[STREAM]:
        await response.write(frame)
    await response.write_eof()
    return response


def main() -> None:
    app = web.Application(client_max_size=1 << 30)
    app[PLAIN], app[STREAM] = _answers()
    app.router.add_post("/v1/responses", respond)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
