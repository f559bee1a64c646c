"""Which item an event means, when servers leave out, repeat or mix up indices and ids."""

from __future__ import annotations

from typing import Any

from tests.items import texts
from tests.proxy.relay.streams import CALL, MESSAGE, TEXT, WHOLE, body, completed
from tests.proxy.relay.strict import kinds, only, run


def test_without_index_and_id_the_open_item_is_meant():
    bare = [{key: event[key] for key in event if key not in ("output_index", "item_id")} for event in WHOLE]
    events, _ = run(bare)
    assert [event.get("output_index") for event in events] == [event.get("output_index") for event in WHOLE]


def test_the_position_wins_over_an_id_that_changes_in_every_event():
    changing = [{**event, "item_id": f"x{n}"} if "item_id" in event else event for n, event in enumerate(WHOLE)]
    changing[14] = {**changing[14], "item": {**MESSAGE, "id": "another"}}
    events, outcome = run(changing)
    assert kinds(events).count("output_item.added") == 3
    assert [item["id"] for item in outcome.items] == ["reasoning-0", "message-1", "function_call-2"]


def test_two_items_under_one_id_stay_two():
    first = [body("output_item.added", 0, item={**CALL, "call_id": "a", "arguments": ""})]
    first += [body("output_item.done", 0, item={**CALL, "call_id": "a"})]
    second = [body("output_item.added", 1, item={**CALL, "call_id": "b", "arguments": ""})]
    second += [body("output_item.done", 1, item={**CALL, "call_id": "b"})]
    _, outcome = run([*first, *second, completed({**CALL, "call_id": "a"}, {**CALL, "call_id": "b"})])
    assert [(item["id"], item["call_id"]) for item in outcome.items] == [
        ("function_call-0", "a"),
        ("function_call-1", "b"),
    ]


def test_a_last_output_under_one_id_is_told_apart_by_call():
    one, two = ({**CALL, "call_id": name, "arguments": name} for name in "ab")
    _, outcome = run([body("output_item.done", 0, item=one), body("output_item.done", 1, item=two), completed(two)])
    assert [(item["call_id"], item["arguments"]) for item in outcome.items] == [("a", "a"), ("b", "b")]


def test_an_unannounced_position_is_a_new_item_whatever_its_id():
    deltas = [body("output_text.delta", index, "same", delta=str(index)) for index in (0, 1)]
    _, outcome = run([*deltas, completed()])
    assert texts(outcome.items) == ["0", "1"]


def test_a_text_after_the_last_message_is_done_starts_another():
    done = body("output_item.done", item=MESSAGE)
    _, outcome = run([done, body("output_text.delta", delta="more"), completed()])
    assert texts(outcome.items) == ["Hello", "more"]


def test_two_items_done_at_one_position_stay_two():
    other = {**MESSAGE, "id": "other", "content": [{**TEXT, "text": "more"}]}
    _, outcome = run([body("output_item.done", 0, item=MESSAGE), body("output_item.done", 0, item=other), completed()])
    assert texts(outcome.items) == ["Hello", "more"]


def test_items_that_all_claim_position_0_stay_apart():
    one, two = {**MESSAGE, "id": "one"}, {**MESSAGE, "id": "two"}
    stream = [
        body("output_item.added", 0, item={**one, "content": []}),
        body("output_text.delta", 0, "one", delta="1"),
        body("output_item.done", 0, item={**one, "content": [{**TEXT, "text": "1"}]}),
        body("output_item.added", 0, item={**two, "content": []}),
        body("output_text.delta", 0, "two", delta="2"),
        body("output_item.done", 0, item={**two, "content": [{**TEXT, "text": "2"}]}),
    ]
    events, outcome = run([*stream, completed()])
    assert texts(outcome.items) == ["1", "2"]
    assert [event["output_index"] for event in events if "delta" in event] == [0, 1]


def test_parallel_calls_that_interleave_keep_their_arguments():
    calls = [{**CALL, "id": name, "call_id": f"call_{name}"} for name in "ab"]
    stream = [body("output_item.added", n, item={**call, "arguments": ""}) for n, call in enumerate(calls)]
    stream += [body("function_call_arguments.delta", n % 2, delta=piece) for n, piece in enumerate("1x2y")]
    _, outcome = run([*stream, completed()])
    assert [(item["call_id"], item["arguments"]) for item in outcome.items] == [("call_a", "12"), ("call_b", "xy")]


def test_parallel_calls_without_an_index_are_told_apart_by_id():
    calls = [{**CALL, "id": name, "call_id": f"call_{name}"} for name in "ab"]
    stream = [body("output_item.added", item={**call, "arguments": ""}) for call in calls]
    stream += [body("function_call_arguments.delta", item_id="ab"[n % 2], delta=p) for n, p in enumerate("1x2y")]
    stream += [body("output_item.done", item={**call, "id": None, "arguments": None}) for call in calls]
    _, outcome = run([*stream, completed()])
    assert [(item["call_id"], item["arguments"]) for item in outcome.items] == [("call_a", "12"), ("call_b", "xy")]


def test_a_minted_call_id_is_the_same_in_every_event():
    anonymous = {key: value for key, value in CALL.items() if key != "call_id"}
    events, outcome = run([body("output_item.added", 0, item={**anonymous, "arguments": ""}), completed(CALL)])
    shown = {event["item"]["call_id"] for event in events if "item" in event}
    assert shown == {outcome.items[0]["call_id"]} != {"call_up"}


def test_two_calls_under_one_call_id_get_two():
    _, outcome = run([completed(CALL, {**CALL, "id": "other"})])
    assert outcome.items[0]["call_id"] == "call_up" != outcome.items[1]["call_id"]


def test_an_item_announced_twice_is_announced_once():
    events, _ = run([*WHOLE[:9], WHOLE[8], *WHOLE[9:]])
    assert len(events) == len(WHOLE)


def test_an_item_done_twice_is_done_once():
    events, _ = run([*WHOLE[:15], WHOLE[14], *WHOLE[15:]])
    assert len(events) == len(WHOLE)


def test_a_part_announced_twice_is_announced_once():
    events, _ = run([*WHOLE[:10], WHOLE[9], *WHOLE[10:]])
    assert len(events) == len(WHOLE)


def test_content_indices_are_counted_without_gaps():
    deltas = [body("output_text.delta", content_index=index, delta="a") for index in (-1, -1, 7)]
    events, outcome = run([*deltas, completed()])
    assert [event["content_index"] for event in events if "delta" in event] == [0, 0, 1]
    assert texts(outcome.items) == ["aa", "a"]


def test_an_index_that_is_no_index_counts_as_missing():
    indices: list[Any] = ["0", None, 1.0, True, [], -1]
    odd = [body("output_text.delta", delta="a") | {"output_index": index} for index in indices]
    events, outcome = run([*odd, completed()])
    assert {event["output_index"] for event in events if "delta" in event} <= {0, 1}
    assert "".join(texts(outcome.items)) == "aaaaaa"


def test_a_text_that_comes_while_reasoning_is_open_starts_a_message():
    events, outcome = run([WHOLE[2], body("output_text.delta", 0, delta="Hi"), completed()])
    assert [item["type"] for item in outcome.items] == ["reasoning", "message"]
    assert only(events, "output_text.delta")["output_index"] == 1


def test_an_item_that_changes_its_type_becomes_another_item():
    stream = [body("output_item.added", 0, item={"type": "function_call"}), body("output_item.done", 0, item=MESSAGE)]
    events, outcome = run([*stream, completed(MESSAGE)])
    assert [item["id"] for item in outcome.items] == ["message-1"]
    assert kinds(events).count("output_item.done") == 2
