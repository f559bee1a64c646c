"""The checker of histories: right of what can have been, red on each kind of what can't."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults.history import Read, Sight, Told, Write, check, digest

DONE, REFUSED, UNKNOWN = Told.DONE, Told.REFUSED, Told.UNKNOWN


def write(keys: str, asked: float, told: float, outcome: Told = DONE, saw: str | None = None) -> Write:
    """A write of one-letter keys. saw: the keys that were there before."""
    return Write(tuple(keys), asked, told, outcome, None if saw is None else Sight(len(saw), digest(saw)))


def read(keys: str, asked: float, told: float) -> Read:
    return Read(tuple(keys), asked, told)


#: Two clients at once: `ab` and `cd` overlap, `e` was not heard of, `f` was refused.
WRITES = [
    write("ab", 0, 3, saw=""),
    write("cd", 1, 4, saw="ab"),
    write("e", 2, 3, UNKNOWN),
    write("f", 5, 6, REFUSED),
    write("gh", 7, 9, saw="abcde"),
]
READS = [read("", 0, 1), read("ab", 1, 2), read("abcd", 2, 5), read("abcde", 5, 7), read("abcde", 6, 8)]


@pytest.mark.parametrize("final", ["abcdegh"])
def test_what_can_have_been_is_right(final: str):
    assert check(final, WRITES, READS) == []
    assert check(final, [replace(one, saw=None) for one in WRITES], []) == []


def test_what_was_not_heard_of_is_there_once_at_any_time_later_or_never():
    unheard = write("z", 0, 1, UNKNOWN)
    for final in ("abz", "zab", "ab"):
        assert check(final, [unheard, write("a", 2, 3), write("b", 4, 5)], []) == []


@pytest.mark.parametrize(
    ("final", "fault"),
    [
        ("abegh", "c was acknowledged and is lost"),
        ("abcdeghcd", "c is there 2 times"),
        ("abcdeghx", "nobody wrote x"),
        ("abcdefgh", "f was refused and is there"),
        ("abceghd", "c is half there: ['c', 'd'] of ['c', 'd'], or not together"),
        ("abdcegh", "c is half there: ['c', 'd'] of ['c', 'd'], or not together"),
        ("abcdeg", "g is half there: ['g'] of ['g', 'h'], or not together"),
        ("cdabegh", "the view of c, 2 items, is no beginning of the list"),
        ("ghabcde", "the write of g was asked for after the write of c had ended, and does not know of it"),
    ],
)
def test_a_list_that_breaks_a_promise_is_red(final: str, fault: str):
    found = check(final, WRITES, [])
    assert fault in found


@pytest.mark.parametrize(
    ("doctored", "fault"),
    [
        (read("abce", 5, 7), "a reading of 4 items is no beginning of the list"),
        (read("abc", 2, 7), "a reading of 3 items ends within a block"),
        (
            read("ab", 5, 7),
            "a reading of 2 items was asked for after the write of c had ended, and does not know of it",
        ),
        (read("abcdegh", 4, 6), "the write of g was asked for after a reading of 7 items had ended"),
        (read("abcdeghi", 10, 11), "a reading of 8 items is no beginning of the list"),
    ],
)
def test_a_reading_that_can_not_have_been_is_red(doctored: Read, fault: str):
    found = check("abcdegh", WRITES, [*READS, doctored])
    assert [one for one in found if one.startswith(fault)], found


@pytest.mark.parametrize(
    ("saw", "fault"),
    [
        ("abc", "the view of g ends within a block"),
        ("abced", "the view of g, 5 items, is no beginning of the list"),
        ("ab", "the view of g was asked for after the write of c had ended"),
        ("abcdegh", "the view of g has what came after it"),
    ],
)
def test_a_turn_that_was_shown_another_history_is_red(saw: str, fault: str):
    found = check("abcdegh", [*WRITES[:-1], write("gh", 7, 9, saw=saw)], [])
    assert [one for one in found if one.startswith(fault)], found


# --- against a search through all orders --------------------------------------------------------------------------


def explains(state: tuple[str, ...], left: list[Write | Read]) -> bool:
    """Whether some order of what is left does so, tried one after the other (Wing and Gong)."""
    if all(isinstance(one, Write) and one.outcome is UNKNOWN for one in left):
        return True
    first_end = min(end_of(one) for one in left)
    for one in left:
        if one.asked > first_end:
            continue
        rest = [other for other in left if other is not one]
        if isinstance(one, Write):
            if explains(state + one.keys, rest):
                return True
        elif state == one.keys and explains(state, rest):
            return True
    return False


def end_of(one: Write | Read) -> float:
    return inf if isinstance(one, Write) and one.outcome is UNKNOWN else one.told


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, list[Write], list[Read]]:
    """A few operations at any times, and a list that may be theirs."""
    times = st.tuples(st.integers(0, 8), st.integers(1, 4)).map(lambda pair: (pair[0], sum(pair)))
    blocks = ["ab", "c", "de"][: draw(st.integers(1, 3))]
    writes = [write(block, *draw(times), draw(st.sampled_from([DONE, UNKNOWN]))) for block in blocks]
    order = draw(st.permutations(blocks))
    final = "".join(block for block in order if draw(st.integers(0, 9)))
    cuts = st.integers(0, len(final))
    reads = [read(final[: draw(cuts)], *draw(times)) for _ in range(draw(st.integers(0, 3)))]
    return final, writes, reads


@given(histories())
def test_it_agrees_with_a_search_through_all_orders(history: tuple[str, list[Write], list[Read]]):
    final, writes, reads = history
    end = read(final, 100, 101)
    # what is not there by then was never done
    happened = [one for one in writes if one.outcome is DONE or one.keys[0] in final]
    assert (check(final, writes, reads) == []) == explains((), [*happened, *reads, end])
