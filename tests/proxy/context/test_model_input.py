"""The form in which items go to a model: what is left as it is, what is left out, and that it is always the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.context.model_input import Given, model_input
from proxy.context.reader import NO_OBJECTIONS, Objections, Reader
from proxy.protocol.items import dump
from proxy.protocol.notes import Maker, note_of
from tests.flows.item_samples import NAMES, output_for, samples

Item = dict[str, Any]
READER = Reader("server", "thinker")
OTHER = Reader("server", "other")
MAKER = Maker("server", "thinker", "thinker-1")


def stored(*items: Item) -> list[bytes]:
    return [dump({"id": f"x_{number}", **item}) for number, item in enumerate(items)]


def notes(*items: Item, maker: Maker | None = MAKER) -> dict[str, str]:
    return {f"x_{number}": note for number, item in enumerate(items) if (note := note_of(item, maker))}


def sent(*items: Item, reader: Reader = READER, maker: Maker | None = MAKER, **facts: Any) -> list[Item]:
    given = Given(stored(*items), notes(*items, maker=maker), frozenset(), len(items))
    return [orjson.loads(item) for item in model_input(given._replace(**facts), reader).items]


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def said(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def call(call_id: str = "call_1", **fields: Any) -> Item:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": "f",
        "arguments": "{}",
        "status": "completed",
        **fields,
    }


def result(call_id: str = "call_1") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": "42", "status": "completed"}


TEXTS = [
    "plain",
    '","type":"message","role":"user"',
    '"status":"incomplete"',
    '"call_id":"call_1"',
    '"created_by":"x"',
    '{"id":"x_1","type":"reasoning","encrypted_content":"x"}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_history_of_messages_and_tool_rounds_is_the_same_objects(text: str):
    items = stored(user(text), call(arguments=orjson.dumps({"a": text}).decode()), result(), said(text), user(text))
    given = Given(items, {}, frozenset(), len(items))
    assert model_input(given, READER).items is items
    assert list(model_input(given, READER).places) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("text", TEXTS)
def test_what_texts_hold_is_no_field(text: str):
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    items = [user(text), thought, said(text), call("call_2", name=text), {**result("call_2"), "output": text}]
    assert [{**item, "id": None} for item in sent(*items)] == [{**item, "id": None} for item in items]


def test_parallel_calls_are_an_ordinary_round():
    items = stored(call("a"), call("b"), result("b"), result("a"), said("x"))
    assert model_input(Given(items, {}, frozenset(), 5), READER).items is items


@pytest.mark.parametrize(
    "items",
    [
        (call(), said("x")),
        (call(), result(), result("call_2"), call("call_3")),
        (call(), call("call_2"), result(), result()),
        (result(), call()),
    ],
)
def test_what_only_looks_paired_is_looked_into(items: tuple[Item, ...]):
    found = sent(*items)
    calls = {item["call_id"] for item in found if item["type"] == "function_call"}
    assert {item["call_id"] for item in found if item["type"] == "function_call_output"} == calls


def test_numbers_and_unknown_fields_stay_as_they_are_beside_what_is_taken_out():
    head, rest = (
        b'{"id":"ig_1","type":"image_generation_call",',
        b'"result":"aGk=","n":1.50,"big":123456789012345678901}',
    )
    (found,) = model_input(Given([head + b'"size":"auto",' + rest], {}, frozenset(), 1), READER).items
    assert found == head + rest


def test_sealed_reasoning_goes_to_its_maker_unparsed_but_for_its_id():
    item = b'{"id":"rs_1","type":"reasoning","encrypted_content":"abc","summary":[],"n":1.50}'
    given = Given([item, *stored(said("x"))], {}, frozenset(), 2)
    assert (
        model_input(given, READER).items[0] == b'{"type":"reasoning","encrypted_content":"abc","summary":[],"n":1.50}'
    )


@pytest.mark.parametrize("seal", [{"encrypted_content": "abc"}, {}])
@pytest.mark.parametrize("status", ["completed", None])
def test_no_status_of_reasoning_goes_to_a_model(seal: Item, status: str | None):
    summary = [{"type": "summary_text", "text": "why"}]
    first, _ = sent({"type": "reasoning", "summary": summary, "status": status, **seal}, said("x"))
    assert first == {**({} if seal else {"id": "x_0"}), "type": "reasoning", "summary": summary, **seal}


@pytest.mark.parametrize("severed", [set(), {"x_0"}, {"x_1"}])
def test_reasoning_behind_which_an_item_is_gone_is_not_sent(severed: set[str]):
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "abc"}
    found = sent(thought, said("x"), severed=frozenset(severed))
    assert [item["type"] for item in found] == [*([] if "x_0" in severed else ["reasoning"]), "message"]


@pytest.mark.parametrize(
    ("reader", "maker", "sees"),
    [
        (READER, MAKER, True),
        (Reader("server", "thinker-1"), MAKER, True),
        (Reader("elsewhere", "thinker"), MAKER, False),
        (OTHER, MAKER, False),
        (OTHER, None, True),
    ],
)
def test_a_seal_is_for_its_maker_and_for_anybody_where_nobody_is_known(reader: Reader, maker: Maker | None, sees: bool):
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "abc"}
    found = sent(thought, said("x"), reader=reader, maker=maker)
    assert [item["type"] for item in found] == (["reasoning"] if sees else []) + ["message"]


def test_reasoning_leads_to_what_a_model_made_and_to_nothing_else():
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}
    for after, leads in (
        ([said("x")], True),
        ([thought, said("x")], True),
        ([call(), result()], True),
        ([{"type": "web_search_call", "status": "completed"}], True),
        ([user("x")], False),
        ([], False),
        ([call()], False),
        ([result()], False),
        ([thought, user("x")], False),
        ([{"type": "additional_tools", "role": "developer", "tools": []}], False),
    ):
        kinds = [item["type"] for item in sent(thought, *after)]
        assert ("reasoning" in kinds) is leads, after


def test_reasoning_at_the_end_of_a_request_s_own_input_is_the_client_s_matter():
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}
    assert len(sent(user("x"), thought, start=1)) == 2
    assert len(sent(user("x"), thought, start=2)) == 1


@pytest.mark.parametrize(
    ("item_id", "kind", "expected"),
    [
        (f"prog_{'0' * 50}", "program", f"cm_{'0' * 50}"),
        (f"progo_{'0' * 50}", "program_output", f"cmo_{'0' * 50}"),
        (f"item_{'0' * 48}", "strange_thing", None),
        ("item_theirs", "strange_thing", "item_theirs"),
    ],
)
def test_ids_of_stores_of_before_get_the_prefixes_that_are_known_now(item_id: str, kind: str, expected: str | None):
    program = {"id": "cm_1", "type": "program", "call_id": "c"}
    found = sent(program, {"id": item_id, "type": kind, "call_id": "c"}, maker=None)
    assert found[1].get("id") == expected


def test_what_belongs_to_items_of_unknown_types_is_not_known():
    items = [{"type": "strange_call", "call_id": "a"}, {"type": "odd_output", "call_id": "b"}, user("x")]
    assert len(sent(*items)) == 3


def test_what_a_model_objected_to_is_left_out():
    objections = Objections(
        types=frozenset({"mcp_call"}), fields=frozenset({"message.phase", "message.content.annotations"})
    )
    message = {**said("x"), "phase": "final_answer"}
    message["content"] = [{"type": "output_text", "text": "x", "annotations": []}]
    found = sent({"type": "mcp_call", "arguments": "{}"}, message, reader=Reader("s", "m", objections))
    assert found == [{"id": "x_1", **said("x")}]


def test_objections_add_up():
    one, other = Objections(settings=frozenset({"include"})), Objections(seals=frozenset({"rs_1"}))
    both = one | other
    assert both == Objections(settings=frozenset({"include"}), seals=frozenset({"rs_1"}))
    assert (bool(both), bool(NO_OBJECTIONS), one | NO_OBJECTIONS == one) == (True, False, True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", [READER, OTHER], ids=["maker", "other"])
def test_the_form_of_every_type_is_final(name: str, reader: Reader):
    """What was brought into form once stays as it is, and so do its bytes from turn to turn."""
    made = samples(1, "thinker")[name]
    answered = [output for item in made if (output := output_for({"id": "x", **item}))]
    items = stored(user("x"), *made, *answered, user("y"))
    known = notes(user("x"), *made)
    first = model_input(Given(items, known, frozenset(), len(items)), reader)
    assert model_input(Given(items, known, frozenset(), len(items)), reader) == first
    longer = [*items, *stored(said("z"), user("z"))]
    later = model_input(Given(longer, known, frozenset(), len(longer)), reader)
    assert later.items[: len(first.items)] == first.items


# what a compaction stands for may hold the call of an output behind it
@given(st.lists(st.sampled_from([name for name in NAMES if name != "compaction"]), max_size=8), st.data())
def test_no_call_is_without_its_output_and_no_output_without_its_call(names: list[str], data: st.DataObject):
    items = [item for number, name in enumerate(names) for item in samples(number, "thinker")[name]]
    outputs = [output for item in items if (output := output_for({"id": "x", **item}))]
    mixed = data.draw(st.permutations([*items, *outputs]))
    kept = [item for item in mixed if data.draw(st.booleans())]
    found = sent(*kept, reader=data.draw(st.sampled_from([READER, OTHER])))
    asked: list[str] = []
    for item in found:
        kind = item["type"]
        if kind == "compaction":
            # what it stands for may hold the calls of the outputs behind it
            break
        if kind.endswith("_call_output"):
            assert item["call_id"] in asked
        elif kind in ("function_call", "custom_tool_call"):
            asked.append(item["call_id"])
            orjson.loads(item.get("arguments", "{}"))
        elif "call_id" in item:
            asked.append(item["call_id"])
    answered = [item["call_id"] for item in found if item["type"].endswith("_call_output")]
    assert {item["call_id"] for item in found if item["type"] == "function_call"} <= set(answered)


@pytest.mark.parametrize(("arguments", "is_answered"), [("{}", False), ('{"a', True)])
def test_a_cut_call_is_not_sent_though_nothing_is_noted_of_it_and_calls_are_not_checked(
    arguments: str, is_answered: bool
):
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": arguments, "status": "incomplete"}
    output = {"type": "function_call_output", "call_id": "a", "output": "x"}
    items = (call, output, said("x")) if is_answered else (call, said("x"))
    given = Given(stored(*items), {}, frozenset(), len(items))
    found = model_input(given, Reader("server", "thinker", pairs=False)).items
    assert [orjson.loads(item)["type"] for item in found] == ["message"]
