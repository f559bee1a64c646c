"""Plain histories: what is told of items by their bytes is what a look into them would tell."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.context.model_input import Given, model_input
from proxy.context.plain import PlainHistories
from proxy.context.reader import Objections, Reader
from proxy.protocol.items import dump


def message(n: int, role: str, kind: str, **fields: Any) -> bytes:
    text = {"refusal": f"No {n}."} if kind == "refusal" else {"text": f'Text {n}: "type":"output_text".'}
    parts = [{"type": "input_text", "text": "One"}] if role == "user" else []
    content = [*parts, {"type": kind, **text}]
    return dump({"id": f"msg_{n}", "type": "message", "role": role, "content": content, **fields})


def tool(n: int, call_id: str, **fields: Any) -> bytes:
    call = {"id": f"fc_{n}", "type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}"}
    return dump({**call, **fields})


def output(n: int, call_id: str, **fields: Any) -> bytes:
    return dump({"id": f"fco_{n}", "type": "function_call_output", "call_id": call_id, "output": "1", **fields})


KINDS = st.one_of(
    st.builds(
        lambda role, kind: lambda n: message(n, role, kind),
        st.sampled_from(["user", "assistant", "developer"]),
        st.sampled_from(["input_text", "output_text", "output_text", "refusal", "input_image"]),
    ),
    st.builds(
        lambda make, call_id, more: lambda n: make(n, call_id, **more),
        st.sampled_from([tool, output]),
        st.sampled_from(["call_a", "call_b", "call_c"]),
        st.sampled_from([{}, {}, {}, {}, {"created_by": "x"}, {"status": "incomplete"}, {"x": [{"call_id": "y"}]}]),
    ),
    st.just(lambda n: tool(n, "call_z", arguments="")),
    st.just(lambda n: dump({"id": f"rs_{n}", "type": "reasoning", "summary": [{"type": "summary_text"}]})),
    st.just(lambda n: b'{"type":"message","role":"user","content":[{"type":"input_text","text":"A summary."}]}'),
    st.just(lambda n: dump({"id": f"x_{n}", "type": "x", "y": [{"a": "", "type": "message", "role": "user"}]})),
)
#: It is in no item, but everything is looked into because of it.
FUSSY = Reader("s", "m", Objections(fields=frozenset({"nothing.at_all"})))


def sent_of(history: list[bytes], reader: Reader, start: int) -> list[bytes]:
    return list(model_input(Given(history, {}, frozenset(), start), reader).items)


@given(makers=st.lists(KINDS, max_size=9), cut=st.integers(0, 9))
def test_a_history_that_is_told_by_its_looks_is_sent_as_one_that_is_looked_into(makers: list[Any], cut: int):
    history = [make(n) for n, make in enumerate(makers)]
    # what was seen of the beginning before changes nothing
    for end in (min(cut, len(history)), len(history)):
        given_now = model_input(Given(history[:end], {}, frozenset(), end), Reader("s", "m"))
        assert list(given_now.items) == sent_of(history[:end], FUSSY, end)
        assert given_now.joined == b",".join(given_now.items)


@given(
    rounds=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=8),
    end=st.integers(0, 8),
)
def test_what_is_remembered_of_plain_histories_never_lets_another_through(rounds: list[tuple[str, bool]], end: int):
    history = [(output if is_output else tool)(n, f"call_{name}") for n, (name, is_output) in enumerate(rounds)]
    known = PlainHistories(max_bytes=10_000)
    for part in (history[:end], history, history[:end]):
        joined = known.join(part)
        assert (joined is not None) == (PlainHistories().join(part) is not None)
        assert joined is None or sent_of(part, FUSSY, len(part)) == part


def test_no_more_of_plain_histories_is_remembered_than_their_bytes_may_be():
    known = PlainHistories(max_bytes=1000)
    for n in range(20):
        assert known.join([message(n, "user", "input_text")]) is not None
    assert known._bytes == sum(len(joined) for joined, _ in known._known.values()) <= 1000
    assert len(known._known) > 2
    assert known.join([message(99, "user", "input_text", more="x" * 1000)]) is not None
    assert known._bytes <= 1000


@pytest.mark.parametrize(
    ("role", "kind", "sent"),
    [
        ("user", "output_text", "input_text"),
        ("developer", "refusal", "input_text"),
        ("system", "output_text", "input_text"),
        ("assistant", "input_text", "output_text"),
        ("assistant", "refusal", "refusal"),
        ("critic", "output_text", "output_text"),
    ],
)
def test_text_goes_under_the_type_that_a_messages_role_has(role: str, kind: str, sent: str):
    item = message(1, role, kind)
    (form,) = sent_of([item], Reader("s", "m"), 1)
    (*_, before), (*_, part) = orjson.loads(item)["content"], orjson.loads(form)["content"]
    assert part["type"] == sent
    assert part.get("text", part.get("refusal")) == before.get("text", before.get("refusal"))
    assert (form == item) == (sent == kind)
    among = [message(2, "user", "input_text"), item, message(3, "assistant", "output_text")]
    assert sent_of(among, Reader("s", "m"), 3) == [among[0], form, among[2]]
