"""Plain histories: what is told of items by their bytes is what a look into them would tell."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.context.model_input import Given, model_input
from proxy.context.plain import PIECE_BYTES, join_plain, seen_plain
from proxy.context.reader import Objections, Reader
from proxy.protocol.items import dump
from proxy.protocol.notes import Maker, note_of
from proxy.relay import Outcome
from proxy.turns.continuation import continuation_of, recall
from storage import Entry, HistoryItems, OpenedTurn, Origin
from tests.depth import examples


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


@settings(max_examples=examples(300))
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
            assert b"".join(given_now.pieces) == b",".join(given_now.items)


@given(
    rounds=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=8),
    cuts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.booleans()), max_size=4),
)
def test_what_a_history_remembers_of_its_beginning_lets_nothing_through(
    rounds: list[tuple[str, bool]], cuts: list[tuple[int, int, bool]]
):
    """It grows by what turns bring, asked once more and with something else too, and by what others add."""
    whole = [(output if is_output else tool)(n, f"call_{name}") for n, (name, is_output) in enumerate(rounds)]
    history = HistoryItems()
    for length, own, is_kept in sorted(cuts):
        history = HistoryItems(whole[len(history) : length], history)
        asked = whole[len(history) : len(history) + own]
        brought = asked if is_kept else [message(50 + n, "user", "input_text") for n in range(own)]
        for _ in range(2):
            items = [*history, *brought]
            pieces, alone = join_plain(items, history), join_plain(items)
            assert (pieces is None) == (alone is None)
            assert pieces is None or b"".join(pieces) == b",".join(items) == b"".join(alone or ())
            assert pieces is None or sent_of(items, FUSSY, len(items)) == items


def test_two_turns_that_go_on_from_one_history_do_not_see_each_other():
    history = HistoryItems([message(0, "user", "input_text"), message(1, "assistant", "output_text")])
    one, other = (message(n, "user", "input_text") for n in (2, 3))
    for own in (one, other, one):
        assert b"".join(join_plain([*history, own], history) or ()) == b",".join([*history, own])
    longer = HistoryItems([other, message(4, "assistant", "output_text")], history)
    assert b"".join(join_plain(longer, longer) or ()) == b",".join(longer)
    assert history == longer[:2]


def test_of_a_long_history_only_the_end_is_copied():
    history, own = HistoryItems(), [message(9_999, "user", "input_text")]
    for n in range(40):
        before = join_plain([*history, *own], history) or ()
        history = HistoryItems([*own, message(n, "assistant", "output_text", more="x" * 9000)], history)
        own = [message(10_000 + n, "user", "input_text")]
        after = join_plain([*history, *own], history) or ()
        assert b"".join(after) == b",".join([*history, *own])
        # what is full stays the very same
        full = [piece for piece in before if len(piece) >= PIECE_BYTES]
        assert [piece is same for piece, same in zip(full, after, strict=False)] == [True] * len(full)
    assert len(after) > 4
    assert seen_plain(history) == len(history)


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


def test_turns_that_go_on_from_what_is_not_stored_look_at_what_is_new_only():
    outcome = Outcome("completed", {}, [])
    opened, before = OpenedTurn(items=HistoryItems([message(0, "user", "input_text")])), None
    for n in range(1, 9, 2):
        own = [Entry(Origin.MINTED, f"msg_{n}", message(n, "user", "input_text"))]
        answer = [Entry(Origin.MINTED, f"msg_{n + 1}", message(n + 1, "assistant", "output_text"))]
        items = opened.items
        assert isinstance(items, HistoryItems)
        assert seen_plain(items) == (n - 1 if n > 1 else 0)
        sent = [*items, own[0].data]
        assert b"".join(join_plain(sent, items) or ()) == b",".join(sent)
        before = continuation_of(before, opened, [*own, *answer], outcome)
        assert before is not None
        opened = recall(before, [], OpenedTurn())
        assert list(opened.items) == [*sent, answer[0].data]
