"""How a stream ends that nobody ended: its terminal event, made from what is stored. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.protocol import sse

#: Statuses that have a terminal event of their own; no client knows one for `cancelled`.
_OWN_EVENT = {"completed", "failed", "incomplete"}
_BROKEN_OFF = {"code": "server_error", "message": "The server that made this response was stopped before its end."}


def end_of_response(response: dict[str, Any], number: int) -> bytes:
    """Return the frames that end the stream of a finished response. number: of the first of them."""
    status = response.get("status")
    kind = f"response.{status}" if status in _OWN_EVENT else "response.incomplete"
    if number:
        return _frame(kind, response, number) + sse.DONE
    # the clients' helpers want to see how it began, too
    begun: dict[str, Any] = {
        "status": "in_progress",
        "output": [],
        "error": None,
        "completed_at": None,
        "incomplete_details": None,
    }
    return _frame("response.created", {**response, **begun}, 0) + _frame(kind, response, 1) + sse.DONE


def end_of_broken_run(first_frame: bytes, number: int) -> bytes:
    """Return the frames that end a stream whose run died and left no response. first_frame: of its stream.

    Raises ValueError when that is not the frame of a `response.created`.
    """
    (event,) = sse.SseDecoder(len(first_frame)).feed(first_frame)
    response = orjson.loads(event.data)["response"]
    return end_of_response({**response, "status": "failed", "error": _BROKEN_OFF}, number)


def _frame(kind: str, response: dict[str, Any], number: int) -> bytes:
    return sse.encode(kind, orjson.dumps({"type": kind, "response": response, "sequence_number": number}))
