"""The normalised stream: what clients change on the way back is not in it, all else is."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.read import message_items
from proxy.recognition.look import Look, Looker, look_at
from proxy.recognition.stream import stream_key
from tests.habits import HABITS, in_chat

KEY = stream_key(b"secret", "owner", "")

words = st.text(st.sampled_from("abcÄé ßü\n\t漢字🙂"), min_size=1, max_size=12).filter(str.strip)
arguments = st.dictionaries(
    st.sampled_from(["city", "days", "ä"]),
    st.one_of(st.integers(-5, 5), st.floats(-4, 4).map(float), st.text(max_size=4), st.none(), st.booleans()),
)


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    """The items of some turns."""
    items: list[dict[str, Any]] = []
    for turn in range(draw(st.integers(1, 4))):
        items.append(message("user", *draw(st.lists(words, min_size=1, max_size=2))))
        for round_ in range(draw(st.integers(0, 2))):
            items += called(draw, f"call_{turn}_{round_}_")
        if draw(st.booleans()):
            items.append({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"})
        text = draw(words)
        if draw(st.booleans()):
            text = f"<think>{draw(words)}</think>{text}"
        items.append(message("assistant", text, *draw(st.lists(words, max_size=1))))
    return items


def called(draw: Any, name: str) -> list[dict[str, Any]]:
    calls = [
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": f"{name}{number}",
            "name": draw(st.sampled_from(["weather", "time"])),
            "arguments": orjson.dumps(draw(arguments)).decode(),
            "status": "completed",
        }
        for number in range(draw(st.integers(1, 2)))
    ]
    outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": draw(words)} for call in calls]
    text = [message("assistant", draw(words))] if draw(st.booleans()) else []
    return [*text, *calls, *outputs]


def message(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def digests(look: Look) -> list[bytes]:
    """Of all samples that more than one form of a history has: the last of those between two texts."""
    return [sample.full for sample in look.samples]


@given(conversations(), st.sampled_from(sorted(HABITS)), st.sampled_from(sorted(HABITS)), st.randoms(), st.booleans())
def test_a_history_is_the_same_in_whatever_form_it_is_resent(
    items: list[dict[str, Any]], one: str, other: str, rng: Random, is_chat: bool
):
    asked = [*items, message("user", "and then?")]
    plain = look_at(KEY, asked)
    changed = HABITS[other](HABITS[one](asked, rng), rng)
    look = look_at(KEY, in_chat(changed), message_items) if is_chat else look_at(KEY, changed)
    # outputs between calls make of one answer two
    assert set(digests(plain)) <= set(digests(look))
    assert look.samples[-1][1:4] == plain.samples[-1][1:4]
    if "pruned" not in (one, other):
        assert look.question == plain.question


def spoken(items: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """What a conversation says, told plainly."""
    found: list[tuple[str, ...]] = []
    for item in items:
        if item["type"] == "message":
            text = "".join("".join(part["text"] for part in item["content"]).split())
            if item["role"] == "assistant" and text.startswith("<think>"):
                text = text.partition("</think>")[2]
            if found and found[-1][0] == item["role"]:
                text = found.pop()[1] + text
            found.append((item["role"], text))
        elif item["type"] == "function_call":
            parsed = orjson.loads(item["arguments"])
            numbers = {name: float(value) if type(value) is int else value for name, value in parsed.items()}
            found.append(("call", item["name"], repr(sorted(numbers.items()))))
    return found


@given(conversations(), conversations())
def test_conversations_that_say_something_else_share_no_digest(one: list[dict[str, Any]], other: list[dict[str, Any]]):
    same = spoken(one) == spoken(other)
    assert (look_at(KEY, one).samples[-1].full == look_at(KEY, other).samples[-1].full) == same


@given(conversations(), st.data())
def test_a_remembered_history_is_looked_at_as_if_it_were_new(items: list[dict[str, Any]], data: st.DataObject):
    looker = Looker(data.draw(st.sampled_from([0, 20, 1000])))
    for _ in range(4):
        shown = items[: data.draw(st.integers(0, len(items)))]
        if data.draw(st.booleans()):
            shown = [*shown, message("user", data.draw(words))]
        found, plain = looker.look(KEY, orjson.dumps(shown)), look_at(KEY, shown)
        assert found is not None
        assert (found.samples, found.question, found.said, found.count) == (
            plain.samples,
            plain.question,
            plain.said,
            plain.count,
        )
        answer = [message("assistant", "so")]
        assert found.ended(answer) == plain.ended(answer)


@given(conversations())
def test_a_turns_end_is_found_by_what_is_resent_of_it(items: list[dict[str, Any]]):
    *asked, answer = items
    resent = look_at(KEY, [*items, message("user", "next")])
    assert look_at(KEY, asked).ended([answer]).full == resent.samples[-1].full
    assert look_at(KEY, asked).ended([answer]).anchor == resent.samples[-1].anchor
    assert look_at(KEY, asked).ended([answer]).pair == resent.samples[-1].pair


@pytest.mark.parametrize("other", [stream_key(b"other", "owner", ""), stream_key(b"secret", "owner", "user=1")])
def test_a_digest_is_of_one_installation_owner_and_end_user(other: bytes):
    items = [message("user", "hi"), message("assistant", "Hello!")]
    one, two = (look_at(key, items) for key in (KEY, other))
    found = {*one.samples[0][1:4], one.question, one.said[0][1]} & {*two.samples[0][1:4], two.question, two.said[0][1]}
    assert found == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "arguments", "tool_calls", "id", "call_id", "text", "output", "x"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "item_reference", "x_call", 7]
)
strange = st.lists(
    st.builds(lambda value, kind: {**value, "type": kind} if type(value) is dict else value, json_values, kinds)
)


@given(strange, st.booleans())
def test_nothing_that_a_client_sends_is_too_strange(elements: list[Any], is_chat: bool):
    raw = json.dumps(elements).encode()
    look = Looker().look(KEY, raw, message_items if is_chat else None)
    assert look is not None
    assert look.count == len(elements)
    assert look.wanted()
