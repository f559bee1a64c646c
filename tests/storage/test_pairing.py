"""Call marks: their stored form, and which calls wait for an output after some of them."""

import pytest

from storage import CallMark, CallSign, pair

MARKS = {
    "+call_1": CallMark(CallSign.CALL, "call_1"),
    "~call_1": CallMark(CallSign.OPTIONAL_CALL, "call_1"),
    "-call_1": CallMark(CallSign.OUTPUT, "call_1"),
    "--": CallMark(CallSign.OUTPUT, "-"),
    "": CallMark(),
}


def marks(text: str) -> list[CallMark]:
    return [CallMark.parse(word) for word in text.split()]


@pytest.mark.parametrize("text", MARKS)
def test_a_mark_is_read_as_it_is_stored(text: str):
    assert CallMark.parse(text) == MARKS[text]
    assert str(MARKS[text]) == text


def test_a_sign_that_is_none_marks_nothing():
    assert CallMark.parse("?call_1") == CallMark()


def test_both_kinds_of_call_are_calls():
    assert [text for text, mark in MARKS.items() if mark.is_call] == ["+call_1", "~call_1"]


@pytest.mark.parametrize(
    ("text", "waiting"),
    [
        ("", []),
        ("+a +b", ["a", "b"]),
        ("+a +b -a", ["b"]),
        ("~a", []),
        ("-a +a", ["a"]),
        ("+a -a +a", ["a"]),
        ("+a ~a", ["a"]),
    ],
)
def test_a_call_waits_until_its_output_comes(text: str, waiting: list[str]):
    assert sorted(pair(marks(text)).waiting) == waiting


def test_what_waited_and_what_was_known_before_may_be_answered():
    paired = pair(marks("-a -b -c +d"), waiting=["a", "z"], known=["b"])
    assert paired.waiting == {"z", "d"}
    assert paired.known == {"a", "b", "d", "z"}
    assert paired.unmatched == ("c",)


def test_an_output_before_its_call_is_unmatched():
    assert pair(marks("-b -a +a ~b -b")).unmatched == ("b", "a")
