"""What the model is sent of a conversation with compactions in it."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from proxy.context.compacted import Compacted, calls_after, divide, is_summary, kind_of, pack, unpack, window
from proxy.context.model_input import Given, model_input
from proxy.context.reader import Reader

USER, ASSISTANT = "user", "assistant"


def message(role: str, text: str, item_id: str = "") -> bytes:
    return orjson.dumps({"id": item_id or f"msg_{text}", "type": "message", "role": role, "content": text})


def thing(kind: str, **fields: Any) -> bytes:
    return orjson.dumps({"id": f"x_{kind}", "type": kind, **fields})


def own(name: str) -> bytes:
    return thing("compaction", encrypted_content=f"ours:{name}")


def raws(*items: bytes) -> list[msgspec.Raw]:
    return [msgspec.Raw(item) for item in items]


def shown(items: list[bytes], **contents: Compacted) -> list[str]:
    """The window's items by their text, summaries as `<text>`, others by their type."""
    found = [item for _, item in window(items, lambda text, _: contents.get(text.removeprefix("ours:")))]
    names = []
    for item in found:
        body = orjson.loads(item)
        if is_summary(item):
            names.append(f"<{body['content'][0]['text'].split(chr(10))[3]}>")
        else:
            names.append(body["content"] if body["type"] == "message" else body["type"])
    return names


def test_without_a_compaction_nothing_changes():
    items = [message(USER, "a"), thing("compaction_trigger"), message(ASSISTANT, '"compaction"')]
    assert window(items, lambda *_: pytest.fail("nothing to open")) == list(enumerate(items))


def test_an_item_of_a_turn_stands_for_all_before_it():
    content = Compacted("sum", whole=True, before=raws(message("developer", "rules")), after=raws(message(USER, "q")))
    items = [message("system", "old"), message(USER, "a"), own("one"), message(ASSISTANT, "b")]
    assert shown(items, one=content) == ["rules", "<sum>", "q", "b"]


def test_the_last_of_several_counts():
    contents = {name: Compacted(name, whole=True) for name in ("one", "two")}
    items = [message(USER, "a"), own("one"), message(USER, "b"), own("two"), message(USER, "c")]
    assert shown(items, **contents) == ["<two>", "c"]


def test_before_an_item_of_the_endpoint_messages_of_users_stay():
    content = Compacted("sum", whole=False, before=raws(message("system", "rules", "msg_1")))
    items = [message("system", "rules", "msg_2"), message("system", "new"), message(USER, "a"), message(ASSISTANT, "b")]
    items += [message(USER, "c"), own("one"), message(USER, "d")]
    assert shown(items, one=content) == ["new", "a", "c", "rules", "<sum>", "d"]


def test_the_two_kinds_go_together():
    first = Compacted("first", whole=True, after=raws(message(USER, "q"), thing("function_call_output")))
    contents = {"one": first, "two": Compacted("second", whole=False)}
    items = [message(USER, "lost"), own("one"), message(ASSISTANT, "b"), message(USER, "c"), own("two")]
    assert shown(items, **contents) == ["q", "c", "<second>"]


def test_somebody_else_s_item_goes_on_sealed_with_the_messages_right_before_it():
    foreign = thing("compaction", encrypted_content="gAAAA", created_by="model")
    items = [message("developer", "rules"), message(USER, "a"), message(ASSISTANT, "b"), message(USER, "c"), foreign]
    items.append(message(ASSISTANT, "d"))
    assert shown(items) == ["rules", "c", "compaction", "d"]
    place, sent = window(items, lambda *_: None)[2]
    assert place == 4
    (sent,) = model_input(Given([sent], {}, frozenset(), 1), Reader("server", "model")).items
    assert orjson.loads(sent) == {"type": "compaction", "encrypted_content": "gAAAA"}


def test_somebody_else_s_item_that_the_model_can_t_read_stands_for_nothing():
    foreign = thing("compaction", encrypted_content="gAAAA")
    items = [message(USER, "a"), message(ASSISTANT, "b"), foreign, message(USER, "c")]
    shown_then = window(items, lambda *_: None, lambda item: item != foreign)
    assert shown_then == [(0, items[0]), (1, items[1]), (3, items[3])]


def test_only_items_that_are_sent_are_opened():
    def opener(text: str, item: bytes) -> Compacted:
        assert text == "ours:two"
        return Compacted("two", whole=True)

    assert [place for place, _ in window([own("one"), own("two")], opener)] == [1]


def test_what_is_packed_comes_out_as_it_was():
    weird = b'{"id":"a","type":"x","n":1.50,"big":12345678901234567890123,"e":[]}'
    content = unpack(pack(Compacted("é", whole=True, after=raws(weird))))
    assert (content.summary, content.items()[1:]) == ("é", [weird])
    with pytest.raises(msgspec.MsgspecError):
        unpack(b"{}")


def test_what_an_item_is_is_seen_by_its_bytes():
    items = [b'{"id":"a","type":"x","n":1.50}', message(USER, "},{"), b'{"role":"user","type":"message"}']
    assert [kind_of(item).type for item in items] == ["x", "message", "message"]
    assert [kind_of(item).is_user for item in items] == [False, True, True]


def divided(*names: str) -> str:
    """Where a window is divided. Names: u, a, r; c1 and o1: a call and its output."""
    made = {"u": message(USER, "u"), "s": message("system", "s"), "a": message(ASSISTANT, "a")}
    items = []
    for name in names:
        if name[0] == "c":
            items.append(thing("function_call", call_id=name[1:]))
        elif name[0] == "o":
            items.append(thing("function_call_output", call_id=name[1:]))
        elif name[0] == "p":
            items.append(orjson.dumps({"id": name, "type": "mcp_approval_request"}))
        elif name[0] == "v":
            items.append(thing("mcp_approval_response", approval_request_id="p" + name[1:]))
        elif name == "S":
            items += map(bytes, Compacted("x", whole=True).items())
        else:
            items.append(made.get(name) or thing("reasoning"))
    at = divide(items)
    return " ".join(names[:at]) + " | " + " ".join(names[at:])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("u a u", "u a | u"),
        ("u a", "u a | "),
        ("s u", " | s u"),
        ("u a s u", "u a | s u"),
        ("u r c1 o1", "u | r c1 o1"),
        ("u a u r r c1 c2 o1 o2 u", "u a u | r r c1 c2 o1 o2 u"),
        ("u c1 a c2 o1 c3 o2 o3", "u | c1 a c2 o1 c3 o2 o3"),
        ("u c1 o1 c2 o2", "u c1 o1 | c2 o2"),
        ("u c1 o1 a o2", "u c1 o1 a | o2"),
        ("u p1 v1", "u | p1 v1"),
        ("S u", "S | u"),
        ("S", "S | "),
    ],
)
def test_a_window_is_divided_before_what_the_turn_asks_about(names: str, expected: str):
    assert divided(*names.split()) == expected


def test_calls_before_a_compaction_do_not_wait():
    call = [thing("function_call", call_id=name) for name in ("one", "two", "with space")]
    history = [call[0], own("x"), call[1], call[2], message(USER, "u")]
    pending = {"one", "two", "three"}
    assert calls_after(history, pending) == {"two"}
