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


def test_only_what_is_new_of_a_resent_history_is_looked_into():
    seen: list[str] = []

    def noted(element: dict[str, Any]) -> list[dict[str, Any]]:
        seen.append(element["content"])
        return [message(element["role"], element["content"])]

    looker, said = (
        Looker(),
        [{"role": role, "content": f"{role} {i}"} for i in range(50) for role in ("user", "assistant")],
    )
    for turn in range(1, 50):
        # instructions change with each turn
        asked = [{"role": "system", "content": f"turn {turn}"}, *said[: 2 * turn + 1]]
        look = looker.look(KEY, orjson.dumps(asked), noted)
        assert look is not None
    del seen[:]
    again = looker.look(KEY, orjson.dumps([{"role": "system", "content": "now"}, *said]), noted)
    assert seen == ["assistant 49"]
    assert again is not None
    assert (again.count, again.samples[-1].end, len(again.samples)) == (101, 101, 50)


def test_a_memory_keeps_within_its_size():
    looker = Looker(max_samples=100)
    for number in range(50):
        history = [message(role, f"{number} {i}") for i in range(10) for role in ("user", "assistant")]
        looker.look(KEY, orjson.dumps(history))
    assert looker.samples <= 100


@pytest.mark.parametrize(
    "between",
    [
        {"type": "reasoning", "summary": []},
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "x"}},
        {"type": "message", "role": "system", "content": "x"},
    ],
)
def test_what_is_not_compared_parts_nothing(between: dict[str, Any]):
    answer = [message("user", "q"), message("assistant", "one "), between, message("assistant", "two")]
    plain = [message("user", "q"), message("assistant", "one two")]
    assert look_at(KEY, answer).samples[-1].full == look_at(KEY, plain).samples[-1].full


def test_an_answer_that_is_no_text_is_one():
    picture = {"type": "image_generation_call", "id": "ig_1", "result": "AAAA"}
    drawn = look_at(KEY, [message("user", "a cat"), picture, message("user", "a dog")])
    assert len(drawn.samples) == 1
    # an app that keeps messages alone keeps an empty one
    empty = look_at(KEY, [message("user", "a cat"), message("assistant", ""), message("user", "a dog")])
    assert drawn.samples[0].full == empty.samples[0].full
    thought = look_at(KEY, [message("user", "a"), {"type": "reasoning", "summary": []}, message("user", "b")])
    assert thought.samples == []
    assert thought.question == look_at(KEY, [message("user", "ab")]).question


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("<environment_context>\n<cwd>/a</cwd>\n</environment_context>\n", False),
        ("# AGENTS.md instructions for /a\n…", False),
        ("<b>bold</b> words", True),
        ("<b", True),
        ("look at <a></a>", True),
    ],
)
def test_what_an_app_says_of_itself_is_no_message_of_its_user(text: str, is_said: bool):
    assert bool(look_at(KEY, [message("user", text)]).said) is is_said


def test_what_is_said_aloud_is_known_by_its_id():
    spoken = {"id": "audio_1", "data": "UklG", "transcript": "Hi", "expires_at": 1}
    answer = message_items({"role": "assistant", "content": None, "audio": spoken})
    resent = message_items({"role": "assistant", "audio": {"id": "audio_1"}})
    asked = look_at(KEY, [message("user", "q")])
    assert asked.ended(answer) == asked.ended(resent)


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


def test_a_long_loop_of_tools_is_as_large_as_it_is_long():
    elements: list[dict[str, Any]] = [message("user", "go")]
    for number in range(20):
        call = {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": f'{{"a":{number}}}'}
        elements += [call, {"type": "function_call_output", "call_id": f"c{number}", "output": "done"}]
    samples = look_at(KEY, elements).samples
    assert [len(one.outputs()) for one in samples] == list(range(20))
    assert samples[-1].outputs()[-1] == (38, "c18")
    last, before = samples[-1].last_output, samples[-2].last_output
    # what they have in common is there once
    assert last is not None
    assert last.before is before
