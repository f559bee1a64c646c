from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.backup.verifier import Backup, InvalidBackup
from storage import partition_of

PARTITION = "0123456789abcdef"
OTHER_PARTITION = "f" * 16
RESPONSE = f"resp_{PARTITION}00{'0' * 32}"
FOREIGN_RESPONSE = f"resp_{OTHER_PARTITION}00{'0' * 32}"

Lines = list[dict[str, Any]]


def message(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": f"msg_{name}", "type": "message", "role": "user", "content": [], **fields}


def good() -> Lines:
    """A conversation with two branches: `draft` (5) shares two items of MAIN (2) and has one of its own."""
    times = {"created_at": 1, "updated_at": 2}
    body = {"id": RESPONSE, "object": "response"}
    chains = {"snapshot": [[2, 0, 3]], "context": [[2, 0, 2]], "output": [[2, 2, 3]]}
    response = {"status": "completed", "body": body, **chains, "pending": [], "created_at": 1}
    conversation = {"id": f"conv_{'0' * 32}{PARTITION}", **times, "active_branch": "draft"}
    main = {"name": "MAIN", "line": 2, "chain": [[2, 0, 3]], "pending": [], **times}
    draft = {"name": "draft", "line": 5, "chain": [[2, 0, 2], [5, 0, 1]], "pending": [], **times, "parent": 2}
    return [
        {"kind": "conversation", "version": 1, **conversation},
        {"kind": "branch", **main},
        {"kind": "branch", **draft},
        {"kind": "append", "segment": 2, "end": 3, "id": RESPONSE, "model": "m", "pending": [], "response": response},
        {"kind": "append", "segment": 5, "end": 1, "id": None, "model": "", "pending": [], "response": None},
        {"kind": "item", "segment": 2, "offset": 0, "item": message("a")},
        {"kind": "item", "segment": 2, "offset": 1, "item": None},
        {"kind": "item", "segment": 2, "offset": 2, "item": message("b"), "mark": ""},
        {"kind": "item", "segment": 5, "offset": 0, "item": message("c")},
        {"kind": "end", "branches": 2, "appends": 2, "items": 4},
    ]


def text_of(lines: Lines) -> bytes:
    return b"\n".join(map(orjson.dumps, lines)) + b"\n"


def read(lines: Lines) -> Backup:
    return Backup(io.BytesIO(text_of(lines)))


def refusal(text: bytes) -> str:
    with pytest.raises(InvalidBackup) as refused:
        Backup(io.BytesIO(text))
    return str(refused.value)


def test_a_good_file_is_read_with_segments_numbered_without_gaps():
    backup = read(good())
    assert backup.lengths == [3, 1]
    assert [(one.name, one.line, one.chain, one.parent) for one in backup.branches] == [
        ("MAIN", 0, [(0, 0, 3)], None),
        ("draft", 1, [(0, 0, 2), (1, 0, 1)], 0),
    ]
    assert [(one.segment, one.offset, one.id) for one in backup.items()] == [
        (0, 0, "msg_a"),
        (0, 1, ""),
        (0, 2, "msg_b"),
        (1, 0, "msg_c"),
    ]
    first, second = backup.appends()
    assert first.response is not None
    assert (first.response.context, second.segment, second.end) == ([(0, 0, 2)], 1, 1)


def test_items_are_read_twice_the_same_and_the_fingerprint_is_the_content_s():
    backup = read(good())
    assert list(backup.items()) == list(backup.items())
    changed = good()
    changed[5]["item"]["content"] = [{}]
    assert read(good()).fingerprint == backup.fingerprint != read(changed).fingerprint


def test_blank_lines_and_foreign_line_ends_change_nothing():
    text = text_of(good()).replace(b"\n", b"\r\n\n")
    assert list(Backup(io.BytesIO(text)).items()) == list(read(good()).items())


def test_items_are_stored_with_id_and_type_first():
    lines = good()
    lines[5]["item"] = {"content": [], "role": "user", "type": "message", "id": "msg_a"}
    first = next(iter(read(lines).items()))
    assert first.data.startswith(b'{"id":"msg_a","type":"message"')


@pytest.mark.parametrize(
    ("mark", "stored"), [(None, "+call_1"), ("~call_1", "~call_1"), ("-call_1", "+call_1"), ("~other", "+call_1")]
)
def test_an_item_s_mark_is_its_own_whatever_the_file_says(mark: str | None, stored: str):
    lines = good()
    lines[5] |= {"item": {"id": "fc_1", "type": "function_call", "call_id": "call_1"}, "mark": mark}
    assert str(next(iter(read(lines).items())).mark) == stored


def call(name: str, kind: str = "function_call") -> dict[str, Any]:
    return {"id": f"fc_{name}_{kind}", "type": kind, "call_id": name}


def test_a_branch_waits_for_the_calls_that_it_has_and_that_are_not_answered():
    lines = good()
    lines[5]["item"], lines[6]["item"] = call("answered"), call("open")
    lines[7]["item"] = call("answered", "function_call_output")
    lines[1]["pending"] = ["answered", "unknown"]
    assert [one.pending for one in read(lines).branches] == [["open"], ["answered", "open"]]


def test_where_items_were_deleted_a_branch_waits_for_no_more_than_the_file_says():
    lines = good()
    lines[5]["item"], lines[7]["item"] = call("one"), call("two")
    lines[1]["pending"] = ["two", "unknown"]
    assert [one.pending for one in read(lines).branches] == [["two"], []]


def test_the_parent_of_a_branch_may_be_gone():
    lines = good()
    lines[2]["parent"] = 4
    assert read(lines).branches[1].parent is None


def change(number: int, **fields: Any) -> Callable[[Lines], None]:
    """A change of one line's fields."""
    return lambda lines: lines[number - 1].update(fields)


def change_response(**fields: Any) -> Callable[[Lines], None]:
    return lambda lines: lines[3]["response"].update(fields)


def drop(number: int) -> Callable[[Lines], None]:
    return lambda lines: lines.__delitem__(number - 1)


def repeat(number: int) -> Callable[[Lines], None]:
    return lambda lines: lines.insert(number, lines[number - 1])


@pytest.mark.parametrize(
    ("spoil", "line", "reason"),
    [
        (change(1, version=2), 1, "version"),
        (change(1, kind="chat"), 1, "kind"),
        (change(1, id="resp_1"), 1, "$.id"),
        (change(1, id="conv_a:b"), 1, "$.id"),
        (change(1, created_at=-1), 1, "created_at"),
        (change(1, updated_at=1.5), 1, "updated_at"),
        (change(1, title="x" * 257), 1, "title"),
        (change(1, metadata={str(i): "" for i in range(17)}), 1, "too many properties"),
        (change(1, metadata={"a": 1}), 1, "metadata.a"),
        (change(1, deleted_at=5), 1, "unknown field"),
        (change(1, active_branch="gone"), 6, "active branch"),
        (drop(1), 1, "does not belong here"),
        (repeat(1), 2, "does not belong here"),
        (change(2, name="main"), 2, "name"),
        (change(2, name="other"), 6, "MAIN"),
        (change(2, name=".."), 2, "$.name"),
        (change(2, chain=[[2, 1, 3]]), 2, "own segment"),
        (change(2, chain=[[2, 0, 0]]), 2, "empty"),
        (change(2, chain=[[2, 3, 1]]), 2, "own segment"),
        (change(2, chain=[[2, 0, 3], [7, 0]]), 2, "$.chain"),
        (change(2, chain=[[2, 0, 2**30]]), 2, "$.chain"),
        (change(2, chain=[[2, 0, 2**29]], line=2), 9, "item that comes next"),
        (change(2, pending=["a b"]), 2, "$.pending"),
        (change(3, line=2), 3, "has this line"),
        (change(3, name="MAIN"), 3, "this name"),
        (change(3, chain=[[2, 0, 4], [5, 0, 1]]), 6, "further"),
        (change(3, chain=[[2, 0, 2], [9, 0, 1], [5, 0, 1]]), 10, "items are missing"),
        (change(3, forked_from="a b"), 3, "$.forked_from"),
        (change(4, end=4), 6, "behind"),
        (change(4, segment=2**60), 4, "$.segment"),
        (change(4, id=FOREIGN_RESPONSE), 4, "belong"),
        (change(4, id="a\x1fb"), 4, "$.id"),
        (repeat(4), 5, "there already"),
        (change(4, id=None), 4, "body"),
        (change_response(body={"id": "resp_2"}), 4, "body"),
        (change_response(body={"id": RESPONSE, "output": []}), 4, "body"),
        (change_response(snapshot="0:0:1"), 4, "snapshot"),
        (change_response(context=[[2, 0, 4]]), 6, "further"),
        (change_response(status=""), 4, "status"),
        (change(6, segment=5), 6, "comes next"),
        (change(6, item={"type": "message"}), 6, "id"),
        (change(6, item={"id": "a b", "type": "message"}), 6, "id"),
        (change(6, item={"id": "msg_a"}), 6, "type"),
        (change(6, item=[]), 6, "$.item"),
        (change(8, item=message("a")), 10, "twice"),
        (drop(7), 7, "comes next"),
        (drop(9), 9, "missing"),
        (repeat(9), 10, "comes next"),
        (drop(5), 9, "counts"),
        (drop(10), 10, "not complete"),
        (repeat(10), 11, "does not belong here"),
        (change(10, items=5), 10, "counts"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_number_of_its_line(
    spoil: Callable[[Lines], None], line: int, reason: str
):
    lines = good()
    spoil(lines)
    said = refusal(text_of(lines))
    assert said.startswith(f"line {line}: ")
    assert reason in said


def test_an_item_that_nothing_reads_is_refused():
    lines = good()
    lines[4:5] = [
        {"kind": "append", "segment": 9, "end": 0, "id": FOREIGN_RESPONSE, "model": "", "pending": [], "response": None}
    ]
    lines[4]["id"] = RESPONSE[:-1] + "1"
    body = {"id": lines[4]["id"]}
    lines[4]["response"] = lines[3]["response"] | {"body": body, "snapshot": [[9, 1, 2]], "context": [], "output": []}
    lines[9:9] = [{"kind": "item", "segment": 9, "offset": offset, "item": message(f"n{offset}")} for offset in (0, 1)]
    lines[-1] |= {"items": 6}
    assert refusal(text_of(lines)) == "line 10: no branch and no response reads this item"
    lines[9]["item"] = None
    assert read(lines).lengths == [3, 1, 2]


@pytest.mark.parametrize(
    "text", [b"{", b"\xff\n", b'"text"', b"[" * 100_000, b'{"kind":"conversation","version":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_object_is_refused(text: bytes):
    assert refusal(text).startswith("line 1: ")


def test_an_empty_file_is_refused():
    assert refusal(b"") == "line 1: the last line is missing, the file is not complete"


def test_a_deeply_nested_item_is_refused():
    lines = good()
    lines[5]["item"]["content"] = "DEEP"
    text = text_of(lines).replace(b'"DEEP"', b"[" * 300 + b"]" * 300)
    assert refusal(text) == "line 6: the item is nested too deeply"


def test_no_refusal_quotes_the_file():
    for number in range(9):
        lines = good()
        lines[number] = {key: "secret" if key != "kind" else value for key, value in lines[number].items()}
        assert "secret" not in refusal(text_of(lines))


def test_the_ids_of_these_tests_are_as_they_should_be():
    assert partition_of(RESPONSE) == PARTITION
    assert partition_of(good()[0]["id"]) == PARTITION
    assert partition_of(FOREIGN_RESPONSE) == OTHER_PARTITION
