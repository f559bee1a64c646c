"""The relay from outside: recordings of real servers, the response's course, and every way that a turn can end."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from proxy.protocol.sse import Event, SseDecoder, joined
from proxy.relay import Outcome, Relay
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT, WHOLE
from tests.proxy.relay.strict import (
    SAMPLES,
    accept_response,
    events_of,
    finish,
    kinds,
    only,
    ownership,
    run,
    sample,
    sse_event,
)

RECORDINGS = sorted(path.stem for path in SAMPLES.glob("*.txt"))
STREAMS = [name for name in RECORDINGS if "stream" in name]
ANSWERS = [name for name in RECORDINGS if "stream" not in name and "error" not in name]


def fed(bodies: list[Any], **changes: Any) -> Relay:
    relay = Relay(ownership(**changes))
    for body in bodies:
        relay.feed(sse_event(body))
    return relay


# Recordings.


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_satisfies_the_strictest_client(name):
    request, _, body = sample(name)
    relay = Relay(ownership(request=request))
    events, outcome = finish(relay, b"".join(joined(relay.feed(event)) for event in SseDecoder(1 << 20).feed(body)))
    assert outcome.status == "completed"
    assert kinds(events)[:2] == ["created", "in_progress"]
    assert kinds(events)[-1] == "completed"
    assert outcome.items
    assert [only(events, "output_item.done")["item"]] == outcome.items
    assert outcome.response["usage"]["input_tokens_details"].keys() >= {"cached_tokens", "cache_write_tokens"}
    assert b"resp_ours" in orjson.dumps(events)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_recorded_answer_satisfies_the_strictest_client(name):
    request, _, body = sample(name)
    outcome = Relay(ownership(request=request)).complete(orjson.loads(body))
    accept_response(outcome.response)
    assert (outcome.status, outcome.response["output"][0]["id"]) == ("completed", "message-0")
    assert outcome.response["model"] == orjson.loads(body)["model"]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_recorded_answer_can_be_told_as_a_stream(name):
    request, _, body = sample(name)
    relay = Relay(ownership(request=request))
    outcome = relay.complete(orjson.loads(body))
    events, _ = finish(relay, joined(relay.replay(outcome)))
    told = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert told == outcome.items[0]["content"][0]["text"]
    assert events[-1]["response"] == outcome.response


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", ["fail", "interrupt"])
def test_a_recorded_stream_can_end_after_any_event(name, end):
    events = SseDecoder(1 << 20).feed(sample(name)[2])
    for cut in range(len(events) + 1):
        relay = Relay(ownership())
        frames = b"".join(joined(relay.feed(event)) for event in events[:cut])
        if relay.outcome is None:
            ended = relay.fail("server_error", "cut") if end == "fail" else relay.interrupt()
            assert ended.status == ("failed" if end == "fail" else "incomplete")
        finish(relay, frames)


# What passes through, and what is ours.


def test_a_complete_stream_keeps_its_events_one_to_one():
    events, outcome = run(WHOLE, Relay(ownership(show_encrypted=True)))
    assert [event["type"] for event in events] == [event["type"] for event in WHOLE]
    assert events[10]["obfuscation"] == "x9"
    assert [item["id"] for item in outcome.items] == ["reasoning-0", "message-1", "function_call-2"]
    assert {event["item_id"] for event in events if "item_id" in event} == {
        "reasoning-0",
        "message-1",
        "function_call-2",
    }
    assert outcome.items[2]["call_id"] == "call_up"


def test_what_we_decide_is_in_every_response_object():
    relay = Relay(ownership(previous_response_id="resp_before", conversation_id="conv_1", store=False))
    upstream = {"id": "resp_up", "previous_response_id": "x", "conversation": {"id": "y"}, "store": True}
    events, _ = run([{"type": "response.created", "response": upstream}, *WHOLE[1:]], relay)
    responses = [event["response"] for event in events if "response" in event]
    assert len(responses) == 3
    for response in responses:
        assert (response["id"], response["previous_response_id"]) == ("resp_ours", "resp_before")
        assert (response["conversation"], response["store"]) == ({"id": "conv_1"}, False)


def test_without_a_conversation_the_key_is_absent():
    _, outcome = run([{"type": "response.completed", "response": {"conversation": {"id": "theirs"}}}])
    assert "conversation" not in outcome.response


def test_a_response_id_beside_the_payload_is_ours_too():
    events, _ = run([{"type": "response.steer.accepted", "response_id": "resp_up"}, *WHOLE])
    assert only(events, "steer.accepted")["response_id"] == "resp_ours"


def test_created_at_stays_what_the_client_saw_first():
    late = {"type": "response.completed", "response": {"created_at": 1_800_000_000.7}}
    events, _ = run([{"type": "response.created", "response": {}}, late])
    assert {event["response"]["created_at"] for event in events} == {1_700_000_000}


def test_settings_said_once_hold_to_the_end():
    started = {"type": "response.created", "response": {"model": "m", "temperature": 0.2, "timings": {"n": 1}}}
    _, outcome = run([started, {"type": "response.completed", "response": {"id": "x"}}])
    assert outcome.response["model"] == "m"
    assert outcome.response["temperature"] == 0.2
    assert outcome.response["timings"] == {"n": 1}


def test_fields_beside_the_last_response_are_kept():
    events, _ = run([*WHOLE[:-1], {**WHOLE[-1], "timings": {"cache_n": 24}}])
    assert events[-1]["timings"] == {"cache_n": 24}


def test_queued_is_told_as_it_comes():
    events, _ = run([{"type": "response.queued", "response": {"status": "queued"}}, *WHOLE[1:]])
    assert kinds(events)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]


def test_a_second_created_or_terminal_event_is_dropped():
    events, _ = run([WHOLE[0], *WHOLE, *WHOLE])
    assert [event["type"] for event in events] == [event["type"] for event in WHOLE]


# Sealed reasoning.


@pytest.mark.parametrize("shown", [True, False])
def test_sealed_reasoning_is_shown_only_where_asked_for_but_always_stored(shown):
    events, outcome = run(WHOLE, Relay(ownership(show_encrypted=shown)))
    assert (b"sealed" in orjson.dumps(events)) is shown
    assert outcome.items[0]["encrypted_content"] == "sealed"
    assert ("encrypted_content" in outcome.response["output"][0]) is shown


def test_a_compaction_always_shows_its_content():
    compaction = {"type": "compaction", "id": "cmp_up", "encrypted_content": "sealed"}
    events, _ = run([{"type": "response.completed", "response": {"output": [compaction]}}])
    assert only(events, "output_item.done")["item"]["encrypted_content"] == "sealed"


# Errors.


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow down"},
        {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "slow down"}},
        {"error": {"code": "rate_limit_exceeded", "message": "slow down", "type": "x"}},
        {"error": {"code": "rate_limit_exceeded", "message": "slow down"}, "type": "RateLimitError"},
        {"object": "error", "code": "rate_limit_exceeded", "message": "slow down", "type": "RateLimitError"},
    ],
)
def test_an_error_of_any_shape_is_told_flat_and_fails_the_response(error):
    events, outcome = run([*WHOLE[:11], error])
    flat = {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None}
    assert events[-2] == {**flat, "sequence_number": len(events) - 2}
    assert events[-1]["type"] == "response.failed"
    assert outcome.response["error"] == {"code": "rate_limit_exceeded", "message": "slow down"}
    assert [item["status"] for item in outcome.items if item["type"] == "message"] == ["incomplete"]


def test_an_error_without_words_still_says_something():
    events, outcome = run([{"error": {"code": 500}}])
    assert outcome.response["error"]["code"] == "server_error"
    assert events[-2]["message"] == outcome.response["error"]["message"] != ""


def test_a_failed_response_keeps_its_reason():
    reason = {"code": "invalid_prompt", "message": "no"}
    _, outcome = run([{"type": "response.failed", "response": {"error": reason}}])
    assert (outcome.status, outcome.response["error"]) == ("failed", reason)


# Every way to end.


def test_the_event_decides_the_status_not_its_body():
    _, outcome = run([{"type": "response.completed", "response": {"status": "in_progress"}}])
    assert (outcome.status, outcome.response["status"]) == ("completed", "completed")


def test_an_incomplete_response_says_why_and_keeps_the_cut_item():
    cut = {**MESSAGE, "status": "incomplete"}
    told = {"output": [cut], "incomplete_details": {"reason": "length"}}
    events, outcome = run([*WHOLE[:2], {"type": "response.incomplete", "response": told}])
    assert outcome.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert outcome.items[0]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"


def test_a_cancelled_response_closes_with_an_event_that_clients_know():
    events, outcome = run([*WHOLE[:5], {"type": "response.cancelled", "response": {}}])
    assert (outcome.status, outcome.response["status"]) == ("cancelled", "cancelled")
    assert events[-1]["type"] == "response.incomplete"


def test_a_stream_cut_before_its_first_event_still_starts_and_fails():
    events, _ = finish(Relay(ownership()), b"")
    assert kinds(events) == ["created", "in_progress", "failed"]


def test_failing_shows_what_had_arrived():
    outcome = fed(WHOLE[:17]).fail("conversation_conflict", "The branch moved.")
    assert outcome.response["error"] == {"code": "conversation_conflict", "message": "The branch moved."}
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call"]
    assert (outcome.items[2]["arguments"], outcome.items[2]["status"]) == ("{}", "incomplete")
    assert outcome.items[1]["status"] == "completed"


def test_failing_after_the_end_keeps_the_output():
    relay = fed(WHOLE)
    outcome = relay.fail("server_error", "The store is gone.")
    events = events_of(joined(relay.closing(outcome)))
    assert [event["type"] for event in events] == ["response.failed"]
    assert len(outcome.response["output"]) == len(outcome.items) == 3
    assert (outcome.response["status"], outcome.response["completed_at"]) == ("failed", None)


def test_events_after_the_end_are_ignored():
    relay = fed(WHOLE[:12])
    relay.interrupt()
    assert joined(relay.feed(sse_event(WHOLE[12]))) == b""


def test_an_interrupted_turn_keeps_the_message_so_far_and_the_reasoning_before_it():
    outcome = fed(WHOLE[:11]).interrupt()
    assert (outcome.status, outcome.response["incomplete_details"]) == ("incomplete", None)
    assert [(item["type"], item.get("status")) for item in outcome.items] == [
        ("reasoning", None),
        ("message", "incomplete"),
    ]
    assert outcome.items[1]["content"] == [{**TEXT, "text": "Hel"}]
    assert outcome.items[0]["encrypted_content"] == "sealed"


def test_an_interrupted_turn_leaves_out_calls_and_what_leads_to_them():
    call = {"type": "response.output_item.done", "output_index": 1, "item": CALL}
    answer = {"type": "response.output_item.done", "output_index": 2, "item": MESSAGE}
    outcome = fed([*WHOLE[:8], call, answer]).interrupt()
    assert [item["type"] for item in outcome.items] == ["message"]


def test_an_interrupted_turn_leaves_out_reasoning_that_was_cut():
    assert [item["type"] for item in fed([*WHOLE[:5], *WHOLE[8:11]]).interrupt().items] == ["message"]


def test_an_interrupted_turn_leaves_out_messages_without_text():
    assert fed(WHOLE[:10]).interrupt().items == []


def test_interrupting_after_the_end_returns_what_there_is():
    relay = fed(WHOLE)
    assert relay.interrupt() is relay.outcome


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_stream_can_end_after_any_event(cut):
    for end, shown in itertools.product(("fail", "interrupt"), (True, False)):
        relay = Relay(ownership(show_encrypted=shown))
        frames = b"".join(joined(relay.feed(sse_event(body))) for body in WHOLE[:cut])
        outcome: Outcome = relay.interrupt() if end == "interrupt" else relay.fail("server_error", "cut")
        finish(relay, frames)
        assert b"obfuscation" not in orjson.dumps(outcome.items)


# JSON answers.


def test_a_json_answer_gets_our_ids_and_the_keys_that_clients_need():
    answer = {"object": "response", "output": [{**REASONING}, {**CALL, "call_id": None}], "timings": {"n": 1.5}}
    outcome = Relay(ownership()).complete(answer)
    accept_response(outcome.response)
    assert outcome.status == "completed"
    assert [item["id"] for item in outcome.items] == ["reasoning-0", "function_call-1"]
    assert outcome.items[1]["call_id"].startswith("call_")
    assert outcome.response["timings"] == {"n": 1.5}
    assert "encrypted_content" not in outcome.response["output"][0]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("completed", "completed"),
        ("incomplete", "incomplete"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("succeeded", "completed"),
        (None, "completed"),
        ("in_progress", "failed"),
        ("queued", "failed"),
    ],
)
def test_a_json_answers_status_is_one_of_the_final_ones(told, status):
    outcome = Relay(ownership()).complete({"status": told, "output": [{**MESSAGE, "status": None}]})
    accept_response(outcome.response)
    assert (outcome.status, outcome.response["status"]) == (status, status)
    assert (outcome.response["error"] is not None) is (status == "failed")


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"error": {"message": "no"}}, {"output": "text"}])
def test_json_that_is_no_response_fails(answer):
    relay = Relay(ownership())
    outcome = relay.complete(answer)
    assert outcome.status == "failed"
    finish(relay, joined(relay.replay(outcome)))


def test_a_json_answer_that_nests_too_deeply_fails():
    deep = orjson.loads("[" * 253 + "]" * 253)
    outcome = Relay(ownership()).complete({"output": [{"type": "strange", "x": deep}]})
    assert (outcome.status, outcome.items) == ("failed", [])


def test_a_replay_tells_every_kind_of_text():
    output = [
        {**REASONING, "content": [{"type": "reasoning_text", "text": "thought"}]},
        {**MESSAGE, "content": [{"type": "refusal", "refusal": "no"}, TEXT]},
        dict(CALL),
        {"type": "custom_tool_call", "call_id": "call_2", "name": "sh", "input": "ls"},
        {"type": "mcp_call", "name": "m", "arguments": "[]", "server_label": "s"},
        {"type": "image_generation_call", "status": "completed", "result": "AAAA"},
        {"type": "strange", "payload": [1]},
    ]
    relay = Relay(ownership())
    outcome = relay.complete({"output": output})
    events, _ = finish(relay, joined(relay.replay(outcome)))
    deltas = {event["type"]: event["delta"] for event in events if event["type"].endswith(".delta")}
    assert deltas == {
        "response.reasoning_text.delta": "thought",
        "response.reasoning_summary_text.delta": "why",
        "response.refusal.delta": "no",
        "response.output_text.delta": "Hello",
        "response.function_call_arguments.delta": "{}",
        "response.custom_tool_call_input.delta": "ls",
        "response.mcp_call_arguments.delta": "[]",
    }
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert b"AAAA" not in orjson.dumps(added)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == outcome.response["output"]


def test_settings_that_the_upstream_changes_its_mind_about_are_told_anew():
    relay = Relay(ownership(request={"temperature": 0.5}))
    seen = [joined(relay.feed(Event(None, orjson.dumps({"type": "response.created", "response": {}}))))]
    told = {"type": "response.in_progress", "response": {"temperature": 0.7}}
    seen.append(joined(relay.feed(Event(None, orjson.dumps(told)))))
    assert [orjson.loads(frame.partition(b"data: ")[2])["response"]["temperature"] for frame in seen] == [0.5, 0.7]
