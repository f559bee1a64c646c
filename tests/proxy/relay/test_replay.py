from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.protocol import sse
from proxy.relay.replay import end_of_broken_run, end_of_response

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "message"}],
    "error": None,
    "completed_at": 7,
    "incomplete_details": None,
}


def told(frames: bytes) -> list[dict[str, Any]]:
    assert frames.endswith(sse.DONE)
    events = sse.SseDecoder(1 << 20).feed(frames.removesuffix(sse.DONE))
    bodies = [orjson.loads(event.data) for event in events]
    assert [event.name for event in events] == [body["type"] for body in bodies]
    return bodies


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", "response.completed"),
        ("failed", "response.failed"),
        ("incomplete", "response.incomplete"),
        ("cancelled", "response.incomplete"),
    ],
)
def test_the_end_of_a_response_says_what_became_of_it(status: str, kind: str):
    response = {**RESPONSE, "status": status}
    assert told(end_of_response(response, 9)) == [{"type": kind, "response": response, "sequence_number": 9}]


def test_a_stream_that_told_nothing_begins_before_it_ends():
    first, last = told(end_of_response(RESPONSE, 0))
    assert (first["type"], first["sequence_number"]) == ("response.created", 0)
    assert first["response"] == {**RESPONSE, "status": "in_progress", "output": [], "completed_at": None}
    assert last == {"type": "response.completed", "response": RESPONSE, "sequence_number": 1}


def test_a_run_that_died_failed():
    created = {**RESPONSE, "status": "in_progress", "output": [], "completed_at": None}
    frame = sse.encode("response.created", orjson.dumps({"type": "response.created", "response": created}))
    (last,) = told(end_of_broken_run(frame, 4))
    assert (last["type"], last["sequence_number"]) == ("response.failed", 4)
    assert last["response"].pop("error")["code"] == "server_error"
    assert last["response"] == {key: value for key, value in {**created, "status": "failed"}.items() if key != "error"}
