"""What holds of every stream that a client is told, however poor the upstream's was."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

#: `.done` event without its end → (field of the whole text, field of the item).
TEXTS = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.reasoning_text": "text",
    "response.reasoning": "text",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
}
FIELDS = {
    "function_call": "arguments",
    "mcp_call": "arguments",
    "custom_tool_call": "input",
    "code_interpreter_call": "code",
}

Event = dict[str, Any]


def accept_told(events: list[Event]) -> None:
    """Fail unless texts are the sums of their pieces, ids stand for one item each, and a call is told once."""
    pieces: defaultdict[Any, str] = defaultdict(str)
    ended: set[Any] = set()
    added: dict[str, Event] = {}
    done: dict[str, Event] = {}
    for event in events:
        kind, _, end = event["type"].rpartition(".")
        if kind in TEXTS and end in ("delta", "done"):
            assert event["item_id"] in added
            assert event["item_id"] not in done
            in_summary = kind == "response.reasoning_summary_text"
            index = event.get("summary_index" if in_summary else "content_index")
            place = event["item_id"], in_summary, None if kind.endswith(("arguments", "input", "_code")) else index
            assert place not in ended, "text after its end"
            if end == "delta":
                pieces[place] += event["delta"]
            else:
                assert pieces[place] == event[TEXTS[kind]], "the pieces are not the text"
                ended.add(place)
        elif event["type"] == "response.output_item.added":
            assert event["item"]["id"] not in added
            added[event["item"]["id"]] = event
        elif event["type"] == "response.output_item.done":
            item = event["item"]
            assert item["id"] in added, "done, but never announced"
            assert item["id"] not in done
            assert added[item["id"]]["output_index"] == event["output_index"]
            assert added[item["id"]]["item"]["type"] == item["type"]
            done[item["id"]] = event
    indices = [event["output_index"] for event in added.values()]
    assert len(set(indices)) == len(indices)
    _accept_texts(events[-1], pieces)
    _accept_output(events[-1], added, done)


def _accept_texts(last: Event, pieces: dict[Any, str]) -> None:
    """Fail unless the items of the last event say what the pieces said, as far as there were any."""
    if "response" not in last:
        return
    told: defaultdict[str, dict[Any, str]] = defaultdict(dict)
    for (item_id, in_summary, index), text in pieces.items():
        told[item_id][in_summary, index] = text
    for item in last["response"]["output"]:
        said = told.get(item["id"], {})
        if item["type"] in FIELDS and said:
            assert item[FIELDS[item["type"]]] == said[False, None]
        for number, part in enumerate(item.get("content") or () if item["type"] in ("message", "reasoning") else ()):
            assert said.get((False, number), "") in ("", part.get("text", part.get("refusal")))
        for number, part in enumerate(item.get("summary") or ()):
            assert said.get((True, number), "") in ("", part["text"])


def _accept_output(last: Event, added: dict[str, Event], done: dict[str, Event]) -> None:
    """Fail unless the output of the last event is what was told, and every call in it has a `call_id` of its own."""
    if "response" not in last:
        return
    output = {item["id"]: item for item in last["response"]["output"]}
    assert len(output) == len(last["response"]["output"])
    calls = [(item["type"], item["call_id"]) for item in output.values() if item["type"].endswith("tool_call")]
    calls += [(item["type"], item["call_id"]) for item in output.values() if item["type"] == "function_call"]
    assert len(set(calls)) == len(calls), "a call is told twice"
    if last["type"] == "response.completed":
        assert added.keys() <= output.keys(), "an id was seen that is no item"
        assert {item_id: event["item"].get("call_id") for item_id, event in done.items()} == {
            item_id: item.get("call_id") for item_id, item in output.items()
        }
