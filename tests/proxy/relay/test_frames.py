"""The outer form of the client's stream, and what can't be put into it."""

from __future__ import annotations

import pytest

from proxy.protocol.sse import Event, joined
from proxy.relay import MalformedEvent, Relay
from tests.proxy.relay.streams import WHOLE
from tests.proxy.relay.strict import accept_stream, events_of, finish, ownership, run


def test_frames_name_their_event_and_done_comes_last():
    relay = Relay(ownership())
    frames = joined(relay.feed(Event("response.created", b'{"response": {}}')))
    assert frames.startswith(b"event: response.created\ndata: {")
    assert joined(relay.feed(Event(None, b"[DONE]"))) == b""
    end = joined(relay.closing(relay.fail("server_error", "cut")))
    assert end.endswith(b"}\n\ndata: [DONE]\n\n")
    assert b"\nid:" not in frames + end


def test_the_type_may_stand_in_the_event_name_alone():
    relay = Relay(ownership())
    relay.feed(Event("response.output_text.delta", b'{"delta": "Hi"}'))
    assert relay.interrupt().items[0]["content"][0]["text"] == "Hi"


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b'"text"', b'{"type": 5}', b'{"type": ""}', b'{"up": true}'])
def test_what_is_no_event_is_skipped_and_counted(data):
    relay = Relay(ownership())
    assert joined(relay.feed(Event(None, data))) == b""
    assert (relay.skipped, relay.pings) == (1, 0)
    finish(relay, b"")


@pytest.mark.parametrize("data", [b"", b" ", b"{}", b"ping", b": ping", b"null", b'{"type": "ping"}', b"PING"])
def test_a_heartbeat_is_no_event(data):
    relay = Relay(ownership())
    assert joined(relay.feed(Event("ping", data))) == joined(relay.feed(Event(None, data))) == b""
    assert (relay.skipped, relay.pings) == (0, 2)


@pytest.mark.parametrize("kind", ["ping", "keepalive", "heartbeat", "response.keepalive"])
def test_a_ping_with_fields_is_no_event(kind):
    relay = Relay(ownership())
    assert joined(relay.feed(Event(kind, b'{"type": "%b", "sequence_number": 3}' % kind.encode()))) == b""
    assert relay.pings == 1


@pytest.mark.parametrize("name", ["response.output_text.delta", "response.unheard_of", None])
def test_an_event_of_a_response_that_is_not_json_is_refused_without_quoting_it(name):
    relay = Relay(ownership())
    with pytest.raises(MalformedEvent) as refusal:
        relay.feed(Event(name, b'{"type": "response.output_text.delta", "secret'))
    assert "secret" not in str(refusal.value)
    finish(relay, b"")


@pytest.mark.parametrize("kind", ["response.output_item.done", "response.output_text.delta", "response.unheard_of"])
def test_an_event_that_nests_too_deeply_to_be_written_ends_the_turn_cleanly(kind):
    relay = Relay(ownership())
    deep = "[" * 254 + "]" * 254
    body = f'{{"type": "{kind}", "delta": "a", "item": {{"type": "strange", "x": {deep}}}}}'
    with pytest.raises(MalformedEvent):
        relay.feed(Event(None, body.encode()))
    accept_stream(events_of(joined(relay.closing(relay.fail("server_error", "malformed")))))


def test_an_unknown_event_keeps_everything_but_its_number():
    odd = {"type": "codex.rate_limits", "sequence_number": 99, "limits": [1.5, {"a": None}], "item_id": "unheard"}
    events, _ = run([odd, *WHOLE])
    assert {**events[2], "sequence_number": 99} == odd
