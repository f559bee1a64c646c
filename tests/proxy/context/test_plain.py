"""Plain histories: what is told of items by their bytes is what a look into them would tell."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.context.model_input import Given, model_input
from proxy.context.plain import PlainHistories
from proxy.context.reader import Objections, Reader
from proxy.protocol.items import dump
from proxy.protocol.notes import Maker, note_of


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


def thought(n: int, seal: str, **fields: Any) -> bytes:
    summary = [{"type": "summary_text", "text": f'Why {n}: "status": "x"'}] if n % 2 else []
    return dump({"id": f"rs_{n}", "type": "reasoning", "encrypted_content": seal, "summary": summary, **fields})


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
    st.builds(
        lambda text, more: lambda n: thought(n, text, **more),
        st.sampled_from(["gAAA", "gAAA", "gAAA", ""]),
        st.sampled_from([{}, {}, {}, {"status": "completed"}, {"status": None}, {"created_by": "x"}, {"content": []}]),
    ),
    st.builds(
        lambda kind: lambda n: message(n, "assistant", kind), st.sampled_from(["output_text", "refusal", "input_text"])
    ),
    st.just(lambda n: b'{"type":"message","role":"user","content":[{"type":"input_text","text":"A summary."}]}'),
    st.just(lambda n: dump({"id": f"x_{n}", "type": "x", "y": [{"a": "", "type": "message", "role": "user"}]})),
)
#: It is in no item, but everything is looked into because of it.
FUSSY = Reader("s", "m", Objections(fields=frozenset({"nothing.at_all"})))


#: Notes: of the model that is asked, in another's words, and of others.
NOTES = {
    "m": note_of({"type": "reasoning", "encrypted_content": "x"}, Maker("s", "m", "m-1")),
    "m-1": note_of({"type": "reasoning", "encrypted_content": "x"}, Maker("s", "m-0", "m")),
    "other": note_of({"type": "reasoning", "encrypted_content": "x"}, Maker("s", "other")),
    "elsewhere": note_of({"type": "reasoning", "encrypted_content": "x"}, Maker("elsewhere", "m")),
    "broken": note_of({"type": "function_call", "arguments": "{"}),
}


def sent_of(history: list[bytes], reader: Reader, start: int, **beside: Any) -> list[bytes]:
    notes, severed = beside.get("notes", {}), beside.get("severed", frozenset())
    return list(model_input(Given(history, notes, severed, start), reader).items)


@settings(max_examples=300)
@given(
    makers=st.lists(KINDS, max_size=9),
    cut=st.integers(0, 9),
    own=st.integers(0, 1),
    noted=st.dictionaries(st.integers(0, 9), st.sampled_from(["m", "m", "m", "m-1", *NOTES]), max_size=3),
    severed=st.sampled_from([set(), set(), set(), {"rs_1", "rs_2"}, {"msg_1", "fc_2"}]),
)
def test_a_history_that_is_told_by_its_looks_is_sent_as_one_that_is_looked_into(
    makers: list[Any], cut: int, own: int, noted: dict[int, str], severed: set[str]
):
    history = [make(n) for n, make in enumerate(makers)]
    ids = {n: orjson.loads(item).get("id") for n, item in enumerate(history)}
    notes = {ids[n]: NOTES[name] for n, name in noted.items() if ids.get(n)}
    beside = {"notes": notes, "severed": frozenset(severed)}
    # what was seen of the beginning before changes nothing
    for end in (min(cut, len(history)), len(history)):
        for start in (end, max(end - own, 0)):
            given_now = model_input(Given(history[:end], notes, frozenset(severed), start), Reader("s", "m"))
            assert list(given_now.items) == sent_of(history[:end], FUSSY, start, **beside)
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
    assert known._bytes == sum(one.size for one in known._known.values()) <= 1000
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
