"""WebSocket messages, both ways: one JSON object each. Pure.

    in   response.create   the body of POST /v1/responses, beside it `stream_id` and `generate`
         response.steer    always refused: nothing can be added to an answer that a model server is giving over HTTP
    out  the events of a stream, each as its SSE data, on a named lane with `stream_id`
         error             `{"type", "status", "error": {type, code, message, param}}`

Shapes and codes: OpenAI's, as its client's types and the Open Responses specification have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from proxy.protocol.errors import ApiError, BadRequest, invalid_type, json_type
from proxy.protocol.request import TurnRequest, read_request
from proxy.turns.options import TurnOptions

CREATE = "response.create"
STEER = "response.steer"

#: What a create message has beside the body of a request, and what it must not say: it always streams, right here.
_ENVELOPE = frozenset({"type", "stream_id", "generate", "stream", "stream_options", "background"})
_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)


def read_lane(message: Mapping[str, Any]) -> str:
    """Return the `stream_id` of a message, '' for the default lane. Raises BadRequest."""
    lane = message.get("stream_id")
    if lane is None:
        return ""
    if not isinstance(lane, str) or not _STREAM_ID.fullmatch(lane):
        raise BadRequest(
            "Invalid 'stream_id'. Expected 1 to 256 letters, digits, underscores, dots, or hyphens.",
            param="stream_id",
            code="invalid_stream_id",
        )
    return lane


def read_create(message: Mapping[str, Any]) -> tuple[TurnRequest, TurnOptions]:
    """Return the turn that a `response.create` asks for, and how it is run. Raises BadRequest naming the field."""
    generate = message.get("generate")
    if generate is not None and not isinstance(generate, bool):
        raise invalid_type("generate", "a boolean", json_type(generate))
    body = {name: value for name, value in message.items() if name not in _ENVELOPE}
    return read_request({**body, "stream": True}), TurnOptions(generate=generate is not False, remembered=True)


def unknown_type(message: Mapping[str, Any]) -> BadRequest:
    """400 for a message that is none of those that clients may send."""
    if not isinstance(message.get("type"), str):
        return invalid_type("type", "a string", json_type(message.get("type")))
    return BadRequest(
        f"Invalid value for 'type'. Supported values are: '{CREATE}' and '{STEER}'.", param="type", code="invalid_value"
    )


def too_many_lanes(limit: int) -> BadRequest:
    """400 for one more name of a lane than a connection may have."""
    return BadRequest(
        f"This WebSocket connection has reached its maximum number of distinct stream IDs ({limit}). "
        "Reuse an existing stream_id or open a new WebSocket connection.",
        param="stream_id",
        code="websocket_stream_limit_reached",
    )


def too_old(limit_seconds: float) -> BadRequest:
    """400 once a connection has lived for as long as it may."""
    return BadRequest(
        f"Responses websocket connection limit reached ({limit_seconds / 60:g} minutes). "
        "Create a new websocket connection to continue.",
        code="websocket_connection_limit_reached",
    )


def too_large(limit: int) -> BadRequest:
    """1009 is what the protocol says to a message over the limit, in bytes; this says it to people."""
    return BadRequest(f"The message is larger than {limit} bytes.", code="websocket_message_too_large")


def error_message(error: ApiError, lane: str = "") -> bytes:
    """Return the message for a request that was refused or failed before its first event."""
    told = error.to_dict()
    if error.headers:
        told["headers"] = {name.lower(): value for name, value in error.headers.items()}
    return _on_lane(orjson.dumps({"type": "error", "status": error.status, "error": told}), lane)


def steer_failed(message: Mapping[str, Any]) -> bytes:
    """Return the message that gives a client the input back which it wanted to steer with."""
    error = {
        "type": "invalid_request_error",
        "code": "steering_not_supported",
        "message": "Steering is not supported by this server. Send the input with the next response.create.",
    }
    steer = {"previous_response_id": message.get("previous_response_id"), "input": message.get("input")}
    return orjson.dumps({"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer})


def to_messages(frames: bytes, lane: str) -> Iterator[bytes]:
    """Yield what whole SSE frames say as messages; comments and `[DONE]` have no place here."""
    for frame in frames.split(b"\n\n"):
        head, separator, data = frame.partition(b"\ndata: ")
        if separator:
            yield _on_lane(_nested(data) if head == b"event: error" else data, lane)


def _nested(data: bytes) -> bytes:
    """Return an `error` event as it is here: flat on SSE, where the clients would take a nested one for the end."""
    event = orjson.loads(data)
    error = {"type": "server_error", **{name: event.pop(name, None) for name in ("code", "message", "param")}}
    return orjson.dumps({**event, "error": error})


def _on_lane(message: bytes, lane: str) -> bytes:
    # last, so that it wins over a field of the same name that a model server sent
    return b'%b,"stream_id":"%b"}' % (message[:-1], lane.encode()) if lane else message
