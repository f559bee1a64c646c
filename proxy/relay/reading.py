"""Reading: what an upstream's event says, as JSON with a `type`; or that it says nothing. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Any

import orjson

from proxy.protocol import lenient_json, sse
from proxy.relay.frames import MalformedEvent

#: Events by which servers keep a connection open.
_PINGS = frozenset({"ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"})

#: What most streams end with, and nearly all that is not JSON.
_DONE = b"[DONE]"

Body = dict[str, Any]


class Sign(Enum):
    """What an event can be that is none of a response."""

    #: It only keeps the connection open.
    PING = "ping"
    #: The mark behind the last event.
    DONE = "done"
    #: Data that is no event, and does not claim to be one.
    NONSENSE = "nonsense"


def quick(event: sse.Event) -> Body | None:
    """Return the data of an ordinary event; None if it has to be looked at (`read_event`)."""
    data = event.data
    if data == _DONE:
        # an exception costs more than all else here
        return None
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return body if type(body) is dict and type(kind := body.get("type")) is str and kind else None


def read_event(event: sse.Event) -> Body | Sign:
    """Return the event's data, which has a `type`, or what else it is.

    A `delta` may begin or end with half a surrogate pair. Raises MalformedEvent for an event of a response that can't
    be read.
    """
    if event.data == _DONE:
        return Sign.DONE
    try:
        body = lenient_json.loads_lenient(event.data, torn="delta")
    except orjson.JSONDecodeError:
        return _read_text(event)
    name = event.name or ""
    if type(body) is not dict or not (body or name.startswith("response.")):
        return Sign.NONSENSE if body else Sign.PING
    kind = body.get("type")
    if type(kind) is not str or not kind:
        kind = name or ("error" if body.get("error") or body.get("object") == "error" else "")
        body["type"] = kind
    return body if kind else Sign.NONSENSE


def is_ping(kind: str) -> bool:
    """Whether events of that type only keep the connection open."""
    return kind.removeprefix("response.") in _PINGS


def _read_text(event: sse.Event) -> Sign:
    text = event.data.strip()
    if text == _DONE:
        return Sign.DONE
    if not text or is_ping(text.strip(b": ").lower().decode("ascii", "replace")):
        return Sign.PING
    if (event.name or "").startswith("response.") or b'"response.' in text:
        raise MalformedEvent("An event of the upstream's stream is not JSON.")
    return Sign.NONSENSE


def is_error(kind: str, body: Body) -> bool:
    """Whether an event tells that the response has failed."""
    # vLLM and LiteLLM send a bare error object, its own `type` inside of it or beside it.
    return kind == "error" or (
        not kind.startswith("response.") and bool(body.get("error") or body.get("object") == "error")
    )


def nests_too_deeply(value: Any) -> bool:
    """Whether a value can't be written again, as part of a Response."""
    # orjson reads deeper than it writes, and a Response wraps an item once more than its event does.
    try:
        orjson.dumps([[[[value]]]])
    except orjson.JSONEncodeError:
        return True
    return False
