"""A compaction that is told before the upstream says anything."""

from __future__ import annotations

from typing import Any

from proxy.protocol.sse import joined
from proxy.relay import Relay
from tests.proxy.relay.streams import MESSAGE, WHOLE, completed
from tests.proxy.relay.strict import events_of, finish, kinds, ownership, sse_event

USAGE = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
    "output_tokens": 1,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 6,
}


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def begun() -> tuple[Relay, bytes]:
    relay = Relay(ownership())
    return relay, joined(relay.compacting()) + joined(relay.compacted("sealed", USAGE))


def test_it_comes_first_and_the_upstream_s_items_after_it():
    relay, frames = begun()
    events, outcome = finish(relay, frames + b"".join(joined(relay.feed(sse_event(event))) for event in WHOLE))
    assert kinds(events)[:5] == [
        "created",
        "in_progress",
        "output_item.added",
        "compaction.compacting",
        "output_item.done",
    ]
    assert kinds(events).count("in_progress") == 1
    assert outcome.items[0] == {"type": "compaction", "id": "compaction-0", "encrypted_content": "sealed"}
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == list(range(len(outcome.items)))


def test_items_without_names_are_told_apart_behind_it():
    relay, frames = begun()
    one, two = message("one"), message("two")
    for place, item in enumerate((one, two)):
        event = {"type": "response.output_item.done", "output_index": place, "item": item}
        frames += joined(relay.feed(sse_event(event)))
    final = completed(message("uno"), {**message("dos"), "phase": "final_answer"})
    _, outcome = finish(relay, frames + joined(relay.feed(sse_event(final))))
    texts = [item["content"][0]["text"] for item in outcome.items[1:]]
    assert texts == ["one", "two"]
    assert [item.get("phase") for item in outcome.items[1:]] == [None, "final_answer"]
    assert [item["id"] for item in outcome.items] == ["compaction-0", "message-1", "message-2"]


def test_its_usage_is_added():
    relay, _ = begun()
    usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 4, "total_tokens": 14}
    outcome = relay.complete({"object": "response", "output": [MESSAGE], "usage": usage})
    assert outcome.response["usage"]["input_tokens"] == 15
    assert outcome.response["usage"]["input_tokens_details"]["cached_tokens"] == 5
    assert outcome.response["usage"]["total_tokens"] == 20
    relay, _ = begun()
    assert relay.complete({"object": "response", "output": []}).response["usage"]["total_tokens"] == 6


def test_one_that_was_not_finished_is_left_out():
    relay = Relay(ownership())
    relay.compacting()
    assert relay.fail("server_error", "no").response["output"] == []
    relay, _ = begun()
    assert [item["type"] for item in relay.fail("server_error", "no").response["output"]] == ["compaction"]


def test_an_answer_that_is_broken_off_keeps_it_only_with_a_message():
    relay, _ = begun()
    assert relay.interrupt().items == []
    relay, _ = begun()
    relay.feed(sse_event({"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"}))
    assert [item["type"] for item in relay.interrupt().items] == ["compaction", "message"]


def test_a_json_answer_is_told_behind_it():
    relay, frames = begun()
    outcome = relay.complete({"object": "response", "output": [message("one")]})
    events = events_of(frames + joined(relay.replay(outcome)) + joined(relay.closing(outcome)))
    added = [event["item"]["type"] for event in events if event["type"] == "response.output_item.added"]
    assert added == ["compaction", "message"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
