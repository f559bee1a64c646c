"""Idempotent answers: a turn's answer given again, as it was kept or made anew from the stored response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from proxy.protocol.errors import AlreadyExists
from proxy.protocol.params import includes_encrypted
from proxy.relay.replay import Replay
from storage import KeptAnswer, ResponseNotFound, Store

EVENT_STREAM = "text/event-stream"
#: Tells a client that this answer is not the first one to its request.
REPLAYED = {"idempotent-replayed": "true"}
#: What a stream's head says beside its type.
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def restate(store: Store, owner: str, response_id: str, asked: Mapping[str, Any]) -> KeptAnswer | None:
    """Return a stored response as the answer to the request body that made it, as a stream if it asked for one.

    None if it is not stored, or failed. Raises Unavailable.
    """
    try:
        stored = await store.responses.read(owner, response_id)
    except ResponseNotFound:
        return None
    replay = Replay(stored, show_encrypted=includes_encrypted(asked))
    if replay.response["status"] == "failed":
        return None
    if asked.get("stream") is not True:
        return KeptAnswer(200, "application/json", replay.json, response_id)
    return KeptAnswer(200, EVENT_STREAM, replay.stream(asked), response_id)


def answer_lost(response_id: str) -> AlreadyExists:
    """409, not to be repeated, for a request that was carried out and whose answer is nowhere."""
    made = f"; it made response '{response_id}'" if response_id else ""
    return AlreadyExists(
        f"The first of these requests was carried out{made}. Its answer was not kept.", code="answer_not_kept"
    )


def replayed(answer: KeptAnswer) -> web.Response:
    """Return the answer that goes out again; it has a body."""
    headers = {hdrs.CONTENT_TYPE: answer.content_type, **REPLAYED}
    if answer.content_type == EVENT_STREAM:
        headers |= STREAM_HEADERS
    return web.Response(status=answer.status, body=answer.body, headers=headers)
