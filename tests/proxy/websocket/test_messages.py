"""Messages of WebSocket mode, made of SSE frames without a parser."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.protocol import sse
from proxy.protocol.errors import BadRequest, ServiceUnavailable
from proxy.websocket.messages import error_message, read_create, read_lane, to_messages


def test_frames_become_messages_and_only_events_do():
    events: list[dict[str, Any]] = [
        {"type": "response.created", "text": "a\n\nb: \u2028 data: x"},
        {"type": "response.x", "n": []},
    ]
    frames = b"".join(sse.encode(event["type"], orjson.dumps(event)) for event in events)
    mixed = sse.comment("keep-alive") + frames + sse.DONE
    assert [orjson.loads(message) for message in to_messages(mixed, "")] == events
    assert list(to_messages(mixed, "")) == [orjson.dumps(event) for event in events]
    assert [orjson.loads(message) for message in to_messages(mixed, "a.b")] == [
        {**event, "stream_id": "a.b"} for event in events
    ]


def test_a_lane_s_name_wins_over_a_field_that_a_model_server_sent():
    data = orjson.dumps({"type": "response.x", "stream_id": "theirs"})
    (message,) = to_messages(sse.encode("response.x", data), "ours")
    assert orjson.loads(message)["stream_id"] == "ours"


def test_an_error_event_is_nested():
    event = {"type": "error", "code": None, "message": "busy", "param": None, "sequence_number": 4}
    (message,) = to_messages(sse.encode("error", orjson.dumps(event)), "a")
    assert orjson.loads(message) == {
        "type": "error",
        "sequence_number": 4,
        "error": {"type": "server_error", "code": None, "message": "busy", "param": None},
        "stream_id": "a",
    }


def test_a_refusal_says_its_status_and_its_headers():
    message = orjson.loads(error_message(ServiceUnavailable("later", code="store_unavailable"), "a"))
    assert (message["status"], message["stream_id"], message["error"]["code"]) == (503, "a", "store_unavailable")
    assert message["error"]["headers"] == {"retry-after": "1"}
    assert "headers" not in orjson.loads(error_message(BadRequest("no")))["error"]


def test_a_create_message_is_a_request_that_streams():
    request, options = read_create(
        {"type": "response.create", "stream_id": "a", "stream": False, "input": "hi", "generate": None}
    )
    assert request.body == {"input": "hi", "stream": True}
    assert (request.stream, options.generate, options.remembered) == (True, True, True)
    assert read_create({"type": "response.create", "generate": False})[1].generate is False


def test_the_default_lane_has_no_name():
    assert read_lane({}) == read_lane({"stream_id": None}) == ""
    with pytest.raises(BadRequest):
        read_lane({"stream_id": "a\n"})
