"""Single ways of model servers: what each of them means, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.protocol.sse import DONE, Event, joined
from proxy.relay import Relay
from tests.items import texts
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, TEXT, WHOLE, body, completed
from tests.proxy.relay.strict import finish, kinds, only, ownership, run, sse_event

DONE_MARK = Event(None, b"[DONE]")


def deltas(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if "delta" in event)


# Text: early, late, twice, torn.


@pytest.mark.parametrize("kind", ["output_text", "refusal", "reasoning_text", "reasoning_summary_text"])
def test_a_whole_text_that_only_its_end_has_is_told_as_one_piece_before(kind):
    key = "refusal" if kind == "refusal" else "text"
    events, _ = run([body(f"{kind}.done", 0, "x", **{key: "whole"}), completed()])
    assert kinds(events).index(f"{kind}.delta") == kinds(events).index(f"{kind}.done") - 1
    assert deltas(events) == "whole"


@pytest.mark.parametrize("early", ["Hello", "He"])
def test_text_in_a_parts_announcement_is_told_once(early):
    rest = ["Hel", "lo"] if early == "Hello" else ["llo"]
    added = body("content_part.added", 0, "m", content_index=0, part={**TEXT, "text": early})
    stream = [added, *(body("output_text.delta", 0, "m", content_index=0, delta=piece) for piece in rest)]
    events, outcome = run([*stream, completed()])
    assert only(events, "content_part.added")["part"]["text"] == ""
    assert (deltas(events), texts(outcome.items)) == ("Hello", ["Hello"])


def test_pieces_that_come_again_after_the_text_has_ended_are_not_told_again():
    events, outcome = run([*WHOLE[:15], *WHOLE[10:12], *WHOLE[15:]])
    assert len(events) == len(WHOLE)
    assert texts(outcome.items[1:2]) == ["Hello"]


def test_halves_of_a_pair_are_joined_over_pieces_and_a_lone_one_is_replaced():
    relay = Relay(ownership())
    pieces = [rb"a\ud83d", rb"\ude00b", rb"\ud83d", rb"c\ud83d"]
    data = [b'{"type":"response.output_text.delta","output_index":0,"delta":"%b"}' % piece for piece in pieces]
    frames = b"".join(joined(relay.feed(Event(None, each))) for each in data) + joined(
        relay.feed(sse_event(completed()))
    )
    events, outcome = finish(relay, frames)
    assert texts(outcome.items) == ["a\U0001f600b\ufffdc\ufffd"]
    assert deltas(events) == "a\U0001f600b\ufffdc\ufffd"


def test_a_content_index_that_only_counts_is_one_part():
    for added in ([], [body("content_part.added", 0, "m", content_index=0, part={**TEXT, "text": ""})]):
        pieces = [body("output_text.delta", 0, "m", content_index=n, delta=str(n)) for n in range(3)]
        events, outcome = run([*added, *pieces, body("output_text.done", 0, "m", content_index=4, text="012")])
        assert kinds(events).count("content_part.added") == 1
        assert texts(outcome.items) == ["012"]


def test_reasoning_that_ends_as_a_summary_is_kept_where_it_was_told():
    stream = [
        body("reasoning_text.delta", 0, "r", delta="why"),
        body("output_item.done", 0, item={**REASONING, "id": "r"}),
    ]
    _, outcome = run([*stream, completed()])
    assert (outcome.items[0]["content"][0]["text"], outcome.items[0]["summary"]) == ("why", [])


# Items.


def test_a_part_that_calls_itself_text_is_in_the_reasoning_that_it_names():
    named = body("content_part.added", 0, "rs_up", content_index=0, part={**TEXT, "text": ""})
    said = body("reasoning_text.delta", 0, "rs_up", content_index=0, delta="why")
    events, outcome = run([WHOLE[2], named, said, completed()])
    assert only(events, "content_part.added")["part"]["type"] == "reasoning_text"
    assert [item["type"] for item in outcome.items] == ["reasoning"]


def test_a_whole_part_that_calls_itself_text_is_in_the_reasoning_that_it_names():
    whole = body("content_part.done", 0, "rs_up", content_index=0, part={**TEXT, "text": "Well"})
    events, outcome = run([WHOLE[2], whole, completed()])
    assert [item["type"] for item in outcome.items] == ["reasoning"]
    assert deltas(events) == "Well"


@pytest.mark.parametrize("name", ["reasoning_part", "content_part"])
def test_parts_of_reasoning_have_the_names_that_clients_know(name):
    part = {"type": "reasoning_text", "text": "why"}
    stream = [body(f"{name}.added", 0, content_index=0, part={**part, "text": ""})]
    stream += [body("reasoning_text.delta", 0, delta="why"), body(f"{name}.done", 0, content_index=0, part=part)]
    events, _ = run([*stream, completed()])
    assert kinds(events)[3:-2] == [
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
    ]


@pytest.mark.parametrize("left", [{**MESSAGE, "content": [{"type": "text", "text": ""}]}, {"type": "message"}])
def test_an_empty_message_in_the_last_output_is_dropped(left):
    events, outcome = run([*WHOLE[:-1], completed(REASONING, MESSAGE, CALL, {**left, "id": "left"})])
    assert len(events) == len(WHOLE)
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call"]
    answer = Relay(ownership()).complete({"object": "response", "output": [dict(CALL), {**left, "id": "left"}]})
    assert [item["type"] for item in answer.items] == ["function_call"]


def test_items_that_the_last_output_repeats_under_other_ids_are_told_once():
    again = [{**item, "id": f"again_{n}"} for n, item in enumerate((REASONING, MESSAGE, CALL))]
    events, outcome = run([*WHOLE[:-1], completed(REASONING, MESSAGE, CALL, *again)])
    assert len(events) == len(WHOLE)
    assert len(outcome.items) == 3


@pytest.mark.parametrize(("final", "kept"), [("call_b", "call_b"), ("call_up", "call_up"), (None, "call_b")])
def test_a_call_whose_id_changes_has_the_one_that_the_last_output_says(final, kept):
    stream = [*WHOLE[15:17], {**WHOLE[18], "item": {**CALL, "call_id": "call_b"}}]
    relay = Relay(ownership())
    output = [] if final is None else [{**CALL, "call_id": final}]
    frames = b"".join(joined(relay.feed(sse_event(event))) for event in [*stream, completed(*output)])
    assert relay.outcome is not None
    assert [item["call_id"] for item in relay.outcome.items] == [kept]
    assert frames.count(b"event: response.output_item.done") == 1


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
def test_a_call_that_the_last_output_leaves_running_stays_so(kind):
    item = {**CALL, "type": kind, "input": "x", "status": "in_progress"}
    _, outcome = run([body("output_item.done", 0, item=item), completed(item)])
    assert outcome.items[0]["status"] == "in_progress"


def test_an_output_is_announced_with_its_own_status():
    item = {"type": "shell_call_output", "id": "sho", "call_id": "c", "status": "completed", "output": []}
    events, _ = run([body("output_item.added", 0, item=item), body("output_item.done", 0, item=item), completed(item)])
    assert only(events, "output_item.added")["item"]["status"] == "completed"


def test_a_search_is_announced_without_a_query_of_ours():
    item = {"type": "web_search_call", "id": "ws", "status": "in_progress"}
    action = {"type": "search", "query": "rain"}
    done = {**item, "status": "completed", "action": action}
    events, outcome = run(
        [body("output_item.added", 0, item=item), body("output_item.done", 0, item=done), completed()]
    )
    assert "action" not in only(events, "output_item.added")["item"]
    assert outcome.items[0]["action"] == action


# The end.


def test_the_done_mark_behind_finished_items_ends_the_answer():
    relay = Relay(ownership())
    frames = b"".join(joined(relay.feed(sse_event(event))) for event in WHOLE[:-1]) + joined(relay.feed(DONE_MARK))
    assert relay.outcome is not None
    _, outcome = finish(relay, frames)
    assert (outcome.status, outcome.response["usage"], len(outcome.items)) == ("completed", None, 3)


@pytest.mark.parametrize("cut", [2, 3, 11, 17])
def test_the_done_mark_in_the_middle_of_an_item_does_not(cut):
    relay = Relay(ownership())
    for event in WHOLE[:cut]:
        relay.feed(sse_event(event))
    relay.feed(DONE_MARK)
    assert relay.outcome is None


def test_two_responses_in_one_stream_are_one_whose_end_is_the_last():
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    second = [
        body("created", response={"id": "resp_2"}),
        body("in_progress", response={"id": "resp_2"}),
        body("output_item.added", 0, item={**MESSAGE, "id": "msg_2", "content": []}),
        body("output_text.delta", 0, "msg_2", content_index=0, delta="More"),
        body("completed", response={"id": "resp_2", "output": [], "usage": usage}),
    ]
    relay = Relay(ownership())
    frames = b"".join(joined(relay.feed(sse_event(event))) for event in [*WHOLE, *second])
    events, outcome = finish(relay, frames)
    assert [item["type"] for item in outcome.items] == ["reasoning", "message", "function_call", "message"]
    assert outcome.response["usage"]["total_tokens"] == 3
    assert (kinds(events).count("created"), kinds(events).count("in_progress")) == (1, 1)
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]


def test_more_is_waited_for_after_an_end_and_longer_after_calls():
    relay = Relay(ownership())
    assert relay.patience() is None
    for event in WHOLE:
        relay.feed(sse_event(event))
    after_calls = relay.patience()
    relay.feed(Event(None, DONE[6:-2]))
    assert (after_calls, relay.patience()) == (10.0, 0.0)
    other = Relay(ownership())
    other.feed(sse_event(completed(MESSAGE)))
    assert other.patience() == 1.0


def test_a_background_response_is_queued_first():
    relay = Relay(ownership(request={"background": True, "model": "m"}))
    events, _ = run(WHOLE, relay)
    assert kinds(events)[:4] == ["created", "queued", "in_progress", "output_item.added"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    silent = Relay(ownership(request={"background": True, "model": "m"}))
    assert kinds(run(WHOLE[2:], silent)[0])[:3] == ["created", "queued", "in_progress"]


def test_settings_are_what_the_upstream_said():
    said = {"reasoning": {"context": None, "effort": None, "summary": None}, "instructions": ""}
    _, outcome = run([completed(MESSAGE, **said)])
    assert outcome.response["reasoning"] == said["reasoning"]
    assert outcome.response["instructions"] == ""
    asked = Relay(ownership(request={"model": "m", "reasoning": {"effort": "low"}, "instructions": "Be kind."}))
    _, outcome = run([completed(MESSAGE, **said)], asked)
    assert outcome.response["reasoning"] == {"context": None, "effort": "low", "summary": None}
    assert outcome.response["instructions"] == "Be kind."


@pytest.mark.parametrize("kind", ["output_text", "function_call_arguments"])
def test_whole_texts_of_two_ids_are_two_items_in_one_place(kind: str):
    key = "text" if kind == "output_text" else "arguments"
    made = [{**MESSAGE, "id": "a", "content": [{**TEXT, "text": '"one"'}]}, {**MESSAGE, "id": "b", "content": [TEXT]}]
    if kind != "output_text":
        made = [{**CALL, "id": "a", "call_id": "a", "arguments": '"one"'}, {**CALL, "id": "b", "call_id": "b"}]
    said = {"a": '"one"', "b": "{}" if key == "arguments" else "Hello"}
    ends = [body(f"{kind}.done", 0, name, content_index=0, **{key: said[name]}) for name in "ba"]
    _, outcome = run([*ends, *(body("output_item.done", 0, item=item) for item in made), completed()])
    found = [item.get("arguments") or item["content"][0]["text"] for item in outcome.items]
    assert sorted(found) == sorted(said.values())


@pytest.mark.parametrize("place", [{}, {"output_index": 0}])
@pytest.mark.parametrize("end", ["output_text.done", "content_part.done", "reasoning_summary_text.done"])
@pytest.mark.parametrize("number", [2, 3])
def test_whole_texts_under_ids_of_their_own_are_items_though_nothing_announces_or_ends_them(
    place: dict[str, Any], end: str, number: int
):
    said = ["Sun", "Rain now", "Wind"][:number]
    index = "summary_index" if "summary" in end else "content_index"
    ends = [
        body(
            end,
            item_id=f"x_{n}",
            **place,
            **{index: 0},
            **({"part": {**TEXT, "text": text}} if "part" in end else {"text": text}),
        )
        for n, text in enumerate(said)
    ]
    events, outcome = run([*ends, completed()])
    assert [
        "".join(part["text"] for part in item["summary" if "summary" in end else "content"]) for item in outcome.items
    ] == said
    assert deltas(events) == "".join(said)


def test_the_arguments_of_a_call_that_nobody_announced_are_never_anothers():
    ends = [body("function_call_arguments.done", item_id=name, arguments=f'"{name}"') for name in "ab"]
    calls = [{**CALL, "id": name, "call_id": name, "arguments": f'"{name}"'} for name in "ba"]
    _, outcome = run([*ends, *(body("output_item.done", item=item) for item in calls), completed()])
    assert sorted((item["call_id"], item["arguments"]) for item in outcome.items) == [("a", '"a"'), ("b", '"b"')]


def test_reasoning_that_only_the_last_output_has_in_an_odd_shape_is_made_whole():
    told = {"type": "reasoning", "status": "odd", "content": "why", "summary": None}
    _, outcome = run([body("output_item.done", item={"type": "reasoning"}), completed(told, MESSAGE)])
    assert [item["type"] for item in outcome.items] == ["reasoning", "message"]
