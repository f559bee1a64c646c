from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.protocol import sse
from proxy.protocol.items import dump
from proxy.protocol.response import complete_response, complete_settings
from proxy.relay.replay import Replay, end_of_broken_run
from storage import StoredResponse
from tests.proxy.relay.streams import MESSAGE, REASONING, SUMMARY
from tests.proxy.relay.strict import accept_stream, events_of, ownership

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "status": "completed",
    "error": None,
    "completed_at": 7,
    "incomplete_details": None,
    "output": [{"type": "message"}],
}
#: What the client of the turn below asked for.
ASKED: dict[str, Any] = {"model": "asked", "input": "hi", "service_tier": "flex"}


def replay(response: dict[str, Any] = RESPONSE, *, show_encrypted: bool = False) -> Replay:
    """Return the replay of a Response object, stored as a turn's commit stores it."""
    body = {name: value for name, value in response.items() if name != "output"}
    output = [dump(item) if "id" in item else orjson.dumps(item) for item in response["output"]]
    return Replay(StoredResponse(orjson.dumps(body), output), show_encrypted=show_encrypted)


def answered(*output: dict[str, Any], status: str = "completed", **changes: Any) -> dict[str, Any]:
    """Return the Response object of a turn."""
    owned = ownership(request=ASKED, **changes)
    return complete_response({}, owned, status, list(output), None, complete_settings({}, ASKED))


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
        ("in_progress", "response.incomplete"),
    ],
)
def test_the_end_of_a_response_says_what_became_of_it(status: str, kind: str):
    response = {**RESPONSE, "status": status}
    assert told(replay(response).end(9)) == [{"type": kind, "response": response, "sequence_number": 9}]


def test_a_stream_that_told_nothing_begins_before_it_ends():
    first, last = told(replay().end(0))
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


def test_the_json_of_a_response_is_what_is_stored_as_it_is_stored():
    stored = StoredResponse(b'{"id": "resp_1", "status":1e2}', [b'{"id":"a" }', b"{}"])
    assert Replay(stored, show_encrypted=False).json == (b'{"id": "resp_1", "status":1e2,"output":[{"id":"a" },{}]}')
    assert replay({"id": "resp_1", "output": []}).json == b'{"id":"resp_1","output":[]}'


def test_the_json_and_the_object_of_a_response_are_the_same():
    response = answered(REASONING, MESSAGE)
    shown, hidden = replay(response, show_encrypted=True), replay(response)
    assert shown.response == response
    assert shown.json == orjson.dumps(shown.response)
    assert hidden.json == orjson.dumps(hidden.response)


@pytest.mark.parametrize("show_encrypted", [False, True])
def test_encrypted_reasoning_is_told_to_whom_it_is_shown(show_encrypted: bool):
    asked = {**ASKED, "include": ["reasoning.encrypted_content"]} if show_encrypted else ASKED
    again = replay(answered(REASONING, MESSAGE), show_encrypted=show_encrypted)
    for form in (again.json, again.stream(asked), again.end(3)):
        assert (b"encrypted_content" in form) is show_encrypted


@pytest.mark.parametrize("status", ["completed", "incomplete", "cancelled"])
def test_a_whole_stream_tells_the_response_that_is_stored(status: str):
    response = answered(REASONING, MESSAGE, status=status)
    frames = replay(response).stream(ASKED)
    assert frames.endswith(sse.DONE)
    events = events_of(frames)
    accept_stream(events)
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["Hello"]
    assert [event["text"] for event in events if event["type"] == "response.reasoning_summary_text.done"] == [
        SUMMARY["text"]
    ]
    unsealed = {name: value for name, value in REASONING.items() if name != "encrypted_content"}
    assert events[-1]["response"] == {**response, "output": [unsealed, MESSAGE]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"previous_response_id": "resp_before", "store": False},
        {"conversation_id": "conv_1"},
        {"conversation_id": "conv_1", "branch": "draft"},
    ],
)
def test_a_whole_stream_begins_with_what_the_response_goes_on_from(changes: dict[str, Any]):
    response = answered(MESSAGE, **changes)
    created = events_of(replay(response).stream(ASKED))[0]
    assert created["type"] == "response.created"
    ended = {"status", "output", "completed_at", "usage", "service_tier"}
    assert created["response"] == {
        **response,
        **{name: created["response"][name] for name in ended},
    }
    assert (created["response"]["status"], created["response"]["service_tier"]) == ("in_progress", "flex")
