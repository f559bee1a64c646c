"""A turn's answer given again: as it was kept, or made anew from the response that the store has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import hdrs, web

from proxy.protocol.errors import AlreadyExists
from proxy.protocol.items import hide_sealed
from proxy.protocol.params import includes_encrypted
from proxy.relay import Outcome, Ownership, Relay
from storage import KeptAnswer, ResponseNotFound, Store, TurnSource

EVENT_STREAM = "text/event-stream"
#: Tells a client that this answer is not the first one to its request.
REPLAYED = {"idempotent-replayed": "true"}
#: What a stream's head says beside its type.
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def restate(store: Store, owner: str, response_id: str, asked: Mapping[str, Any]) -> KeptAnswer | None:
    """Return a stored response as the answer to the request body that made it, as a stream if it asked for one.

    None if it is not stored, or failed. A stream has other pieces than the first one had, and the same content.
    Raises Unavailable.
    """
    try:
        stored = await store.responses.read(owner, response_id)
    except ResponseNotFound:
        return None
    output = stored.output if includes_encrypted(asked) else hide_sealed(stored.output)
    response = {**orjson.loads(stored.body), "output": [orjson.loads(item) for item in output]}
    if response["status"] == "failed":
        return None
    if asked.get("stream") is not True:
        return KeptAnswer(200, "application/json", orjson.dumps(response), response_id)
    return KeptAnswer(200, EVENT_STREAM, _stream(response, asked), response_id)


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


def _stream(response: dict[str, Any], asked: Mapping[str, Any]) -> bytes:
    conversation = response.get("conversation") or {}
    branch = conversation.get("branch", "")
    ownership = Ownership.of(
        asked,
        TurnSource(conversation.get("id"), response["previous_response_id"], branch=branch),
        response_id=response["id"],
        created_at=response["created_at"],
        store=response["store"],
        new_item_id=str,
        branch=branch,
    )
    outcome = Outcome(response["status"], response, [])
    relay = Relay(ownership)
    return relay.replay(outcome) + relay.closing(outcome)
