"""Poor streams: what servers leave out, repeat or mix up, and what the client is told all the same.

`run` checks every event with openai's models and its stream helper's state machine.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocol.sse import joined
from proxy.relay import Relay
from tests.depth import examples
from tests.items import texts
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT, WHOLE, body, completed
from tests.proxy.relay.strict import accept_response, fed, finish, kinds, only, ownership, run, sse_event

MESSAGE_EVENTS = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]
CALL_EVENTS = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


def course(events: list[dict[str, Any]]) -> list[str]:
    """Return the kinds of the events between the first two and the last."""
    assert kinds(events)[:2] == ["created", "in_progress"]
    return kinds(events)[2:-1]


# Left out.


def test_a_delta_alone_makes_a_whole_message():
    events, outcome = run([body("output_text.delta", delta="Hi"), completed()])
    assert course(events) == MESSAGE_EVENTS
    assert texts(outcome.items) == ["Hi"]
    assert only(events, "output_text.done")["text"] == "Hi"


def test_arguments_alone_make_a_whole_call():
    events, outcome = run([body("function_call_arguments.delta", delta="{}"), completed()])
    assert course(events) == CALL_EVENTS
    assert outcome.items[0]["arguments"] == "{}"
    assert len(outcome.items[0]["call_id"]) == len("call_") + 24


def test_items_that_only_the_last_event_has_are_told_in_full():
    events, outcome = run([completed(REASONING, MESSAGE, CALL)])
    reasoning = ["reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done"]
    told = ["output_item.added", *reasoning, "reasoning_summary_part.done", "output_item.done"]
    assert course(events) == [*told, *MESSAGE_EVENTS, *CALL_EVENTS]
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call"]


def test_an_empty_last_output_is_made_of_the_items_that_were_done():
    _, outcome = run([*WHOLE[:-1], completed()])
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call"]
    assert outcome.response["output"][1]["content"] == [TEXT]


def test_an_item_that_is_only_announced_is_done_as_the_last_event_has_it():
    events, outcome = run([*WHOLE[:9], completed(REASONING, MESSAGE)])
    assert kinds(events)[-6:-1] == MESSAGE_EVENTS[1:]
    assert texts(outcome.items[1:]) == ["Hello"]


def test_an_item_that_was_never_done_is_done_as_far_as_it_came():
    events, outcome = run([*WHOLE[:11], completed(REASONING)])
    assert kinds(events)[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert texts(outcome.items[1:]) == ["Hel"]
    assert outcome.items[1]["status"] == "completed"


def test_the_ends_of_texts_are_told_before_the_item_is_done():
    events, _ = run([WHOLE[8], {**WHOLE[10], "delta": "Hello"}, WHOLE[14], completed()])
    assert course(events) == MESSAGE_EVENTS


def test_an_item_that_is_done_at_once_is_told_in_full():
    events, _ = run([body("output_item.done", 0, item=CALL), completed()])
    assert course(events) == CALL_EVENTS


def test_an_announcement_that_shows_the_whole_item_is_shown_empty():
    events, outcome = run([body("output_item.added", 0, item=dict(CALL)), completed()])
    assert only(events, "output_item.added")["item"]["arguments"] == ""
    assert outcome.items[0]["arguments"] == "{}"


def test_done_events_without_their_text_get_what_was_streamed():
    started = [body("output_text.delta", delta="Hel"), body("output_text.delta", delta="lo")]
    events, _ = run([*started, body("output_text.done"), body("content_part.done"), completed()])
    assert only(events, "output_text.done")["text"] == "Hello"
    assert only(events, "content_part.done")["part"] == TEXT


def test_a_done_item_without_content_keeps_what_was_streamed():
    empty = {"type": "message", "content": [], "role": "assistant"}
    _, outcome = run([body("output_text.delta", delta="Hi"), body("output_item.done", item=empty), completed()])
    assert texts(outcome.items) == ["Hi"]


def test_the_end_of_arguments_names_the_function():
    events, _ = run([WHOLE[15], body("function_call_arguments.done", 2, arguments="{}"), completed()])
    assert only(events, "function_call_arguments.done")["name"] == "look"


@pytest.mark.parametrize("item", [None, {}, "text"])
def test_an_announcement_of_nothing_is_dropped(item):
    events, outcome = run([body("output_item.added", 0, item=item), body("output_item.done", item=item), completed()])
    assert course(events) == []
    assert outcome.items == []


def test_what_is_no_item_in_the_last_output_is_dropped():
    _, outcome = run([body("completed", response={"output": [None, "text", {}, MESSAGE]})])
    assert texts(outcome.items) == ["Hello"]


def test_a_message_in_which_nothing_came_is_not_kept():
    events, outcome = run([body("output_item.added", 0, item={"type": "message"}), WHOLE[15], completed(CALL)])
    assert [item["type"] for item in outcome.items] == ["function_call"]
    assert kinds(events).count("output_item.added") == kinds(events).count("output_item.done") == 1


def test_an_item_that_the_last_output_forgets_stays_at_its_place():
    _, outcome = run([*WHOLE[:-1], completed(REASONING, CALL)])
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call"]


def test_a_failed_response_does_not_finish_what_was_half_told():
    events, outcome = run([*WHOLE[:17], body("failed", response={"error": {"message": "gone"}})])
    assert "function_call_arguments.done" not in kinds(events)
    assert outcome.items[2]["status"] == "incomplete"


def test_a_failed_response_announces_nothing_that_never_streamed():
    events, outcome = run([body("failed", response={"output": [CALL]})])
    assert course(events) == []
    assert len(outcome.items) == 1


def test_what_was_told_of_a_text_stands_whatever_its_end_says():
    events, outcome = run(
        [body("output_text.delta", delta="Helo"), body("output_text.done", text="Hello"), completed()]
    )
    assert only(events, "output_text.done")["text"] == only(events, "output_text.delta")["delta"] == "Helo"
    assert texts(outcome.items) == ["Helo"]


# Kinds of texts and items.


def test_a_refusal_is_kept_as_far_as_it_came():
    relay = Relay(ownership())
    frames = joined(relay.feed(sse_event(body("refusal.delta", delta="I can"))))
    outcome = relay.interrupt()
    assert outcome.items[0]["content"] == [{"type": "refusal", "refusal": "I can"}]
    finish(relay, frames)


def test_a_refusal_after_text_is_a_part_of_its_own():
    deltas = [body(f"{kind}.delta", 0, content_index=0, delta="a") for kind in ("output_text", "refusal")]
    events, outcome = run([*deltas, completed()])
    assert [part["type"] for part in outcome.items[0]["content"]] == ["output_text", "refusal"]
    assert only(events, "refusal.delta")["content_index"] == 1


def test_reasoning_keeps_text_and_summaries_apart():
    stream = [body("reasoning_text.delta", 0, delta="thought")]
    stream += [body("reasoning_summary_text.delta", 0, summary_index=n, delta=f"{n}") for n in (0, 1)]
    _, outcome = run([*stream, completed()])
    assert outcome.items[0]["content"] == [{"type": "reasoning_text", "text": "thought"}]
    assert [part["text"] for part in outcome.items[0]["summary"]] == ["0", "1"]


def test_reasoning_under_its_old_name_is_understood_and_passed_on():
    events, outcome = run([body("reasoning.delta", delta="a"), body("reasoning.done"), completed()])
    assert {"reasoning.delta", "reasoning.done"} <= set(kinds(events))
    assert outcome.items[0]["content"] == [{"type": "reasoning_text", "text": "a"}]


def test_annotations_are_counted_and_kept():
    link = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    stream = [body("output_text.delta", 0, delta="a")]
    stream += [body("output_text.annotation.added", 0, annotation=link) for _ in range(2)]
    events, outcome = run([*stream, completed()])
    assert [event["annotation_index"] for event in events if "annotation" in event] == [0, 1]
    assert outcome.items[0]["content"][0]["annotations"] == [link, link]


def test_custom_tool_input_is_collected():
    stream = [body("custom_tool_call_input.delta", 0, delta=piece) for piece in ("l", "s")]
    events, outcome = run([*stream, completed()])
    assert only(events, "custom_tool_call_input.done")["input"] == outcome.items[0]["input"] == "ls"


def test_a_hosted_tools_progress_announces_its_item():
    events, outcome = run([body("web_search_call.searching"), completed()])
    assert course(events) == ["output_item.added", "web_search_call.searching", "output_item.done"]
    assert only(events, "web_search_call.searching")["item_id"] == outcome.items[0]["id"] == "web_search_call-0"


def test_partial_images_pass_through_and_are_not_stored():
    image = {"type": "image_generation_call", "id": "ig", "status": "generating", "result": "FINAL"}
    stream = [
        body("output_item.added", 0, item={**image, "result": None}),
        body("image_generation_call.partial_image", 0, "ig", partial_image_b64="PART", size="1024x1024"),
        body("output_item.done", 0, item=image),
    ]
    events, outcome = run([*stream, completed(image)])
    partial = only(events, "image_generation_call.partial_image")
    assert (partial["partial_image_b64"], partial["partial_image_index"], partial["size"]) == ("PART", 0, "1024x1024")
    assert outcome.items == [{**image, "id": "image_generation_call-0"}]


def test_unknown_item_types_keep_everything_but_their_id():
    strange = {"type": "configuration_update", "id": "cfg_up", "reasoning": {"effort": None}, "n": 1.5, "status": "odd"}
    stream = [body("output_item.added", 0, item=strange), body("output_item.done", 0, item=strange)]
    events, outcome = run([*stream, completed(strange)])
    assert outcome.items == [{**strange, "id": "configuration_update-0"}]
    assert only(events, "output_item.added")["item"] == outcome.items[0]


def test_unknown_events_get_our_item_id():
    events, _ = run([WHOLE[15], body("x.progress", 2, "fc_up", share=0.5), completed()])
    assert only(events, "x.progress")["item_id"] == "function_call-0"


def test_unknown_fields_of_events_stay():
    events, _ = run([*WHOLE[:10], {**WHOLE[10], "timing": {"ms": 1.25}}, *WHOLE[11:]])
    assert events[10]["timing"] == {"ms": 1.25}


# Anything at all.

_SCRAPS = st.sampled_from([None, 0, 1, 2, -1, "", "one", "two", "0"])
_PARTS = st.sampled_from([None, {}, TEXT, {"type": "refusal"}, {"type": "reasoning_text", "text": "r"}])
_ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "reasoning", "function_call", "image_generation_call", None])},
    optional={
        "id": _SCRAPS,
        "content": st.sampled_from([None, [], "text", [TEXT], [{"text": "bare"}]]),
        "status": st.sampled_from([None, "in_progress", "completed", "odd"]),
        "arguments": st.sampled_from([None, "", "{}", {"a": 1}]),
    },
)
_KINDS = sorted({event["type"] for event in WHOLE[2:-1]} | {"response.refusal.delta", "response.mcp_call.failed"})
_EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS)},
    optional={
        **dict.fromkeys(("output_index", "item_id", "content_index", "summary_index", "sequence_number"), _SCRAPS),
        "delta": st.sampled_from([None, "", "a", {"a": 1}]),
        "text": st.sampled_from([None, "", "a"]),
        "part": _PARTS,
        "item": _ITEMS,
    },
)


@settings(max_examples=examples(150), deadline=None)
@given(events=st.lists(_EVENTS, max_size=12), output=st.lists(_ITEMS, max_size=3), ends=st.booleans())
def test_any_mixture_of_events_becomes_a_stream_that_the_strictest_client_takes(events, output, ends):
    run([*events, completed(*output)] if ends else events)


@pytest.mark.parametrize("remember_after", [0, 1])
@settings(max_examples=examples(50), deadline=None)
@given(events=st.lists(_EVENTS, max_size=12))
def test_any_mixture_of_events_can_be_interrupted(events, remember_after):
    relay = Relay(ownership(show_encrypted=True))
    fed(relay, [b"data: %b\n\n" % bytes(sse_event(event).data) for event in events], remember_after=remember_after)
    outcome = relay.interrupt()
    accept_response(outcome.response)
    assert {item["type"] for item in outcome.items} <= {"message", "reasoning"}
