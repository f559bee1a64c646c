"""Which items of a history are left out, for histories of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.context.truncation import ItemRole, Piece, limit_for, omit, piece_of, window_of


def message(role: str, tokens: int = 10) -> Piece:
    return piece_of({"type": "message", "role": role}, tokens)


def call(name: str, tokens: int = 10) -> Piece:
    return piece_of({"type": "function_call", "call_id": name}, tokens)


def output(name: str, tokens: int = 10) -> Piece:
    return piece_of({"type": "function_call_output", "call_id": name}, tokens)


def thought(tokens: int = 10) -> Piece:
    return piece_of({"type": "reasoning"}, tokens)


def turns(count: int) -> list[Piece]:
    return [message(role) for _ in range(count) for role in ("user", "assistant")]


@st.composite
def histories(draw: st.DrawFn) -> list[Piece]:
    """Draw what turns leave behind: thoughts, parallel calls, outputs that come at once or a turn later."""
    tokens = st.integers(1, 40)
    pieces: list[Piece] = []
    late: list[str] = []
    for turn in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 9)) == 0:
            pieces.append(message(draw(st.sampled_from(["system", "developer"])), draw(tokens)))
        pieces.append(message("user", draw(tokens)))
        pieces += [output(name, draw(tokens)) for name in late]
        late = []
        for step in range(draw(st.integers(0, 4))):
            if draw(st.booleans()):
                pieces.append(thought(draw(tokens)))
            # some servers count the calls of each answer from nought
            names = [f"{draw(st.sampled_from([turn, 0]))}-{step}-{n}" for n in range(draw(st.integers(1, 3)))]
            pieces += [call(name, draw(tokens)) for name in names]
            if draw(st.integers(0, 9)) == 0:
                late = [*late, names.pop()]
            pieces += [output(name, draw(tokens)) for name in names]
        if draw(st.booleans()):
            pieces += [thought(draw(tokens)), message("assistant", draw(tokens))]
    return pieces


def pairs(pieces: list[Piece]) -> list[tuple[int, int]]:
    """Return the places of each call and its output, the last call of that name before it."""
    found, calls = [], {}
    for place, piece in enumerate(pieces):
        if piece.opens:
            calls[piece.opens] = place
        if piece.answers in calls:
            found.append((calls[piece.answers], place))
    return found


@given(histories(), st.integers(-20, 600), st.data())
def test_what_belongs_together_is_never_split(pieces, limit, data):
    out = omit(pieces, data.draw(st.integers(0, len(pieces))), limit)
    assert all((one in out) == (other in out) for one, other in pairs(pieces))
    followed = [place for place, piece in enumerate(pieces[:-1]) if piece.role is ItemRole.REASONING]
    assert all(
        (place in out) == (place + 1 in out) for place in followed if pieces[place + 1].role is not ItemRole.LASTING
    )


@given(histories(), st.integers(-20, 600), st.data())
def test_standing_messages_and_the_input_always_stay(pieces, limit, data):
    history = data.draw(st.integers(0, len(pieces)))
    out = omit(pieces, history, limit)
    assert all(place < history and pieces[place].role is not ItemRole.LASTING for place in out)


@given(histories(), st.integers(-20, 600))
def test_the_user_message_that_the_rest_belongs_to_stays(pieces, limit):
    out = omit(pieces, len(pieces), limit)
    users = [place for place, piece in enumerate(pieces) if piece.role is ItemRole.USER]
    assert users[-1] not in out


@given(histories(), st.integers(0, 2000))
def test_what_fits_is_left_alone(pieces, room):
    assert omit(pieces, len(pieces), sum(piece.tokens for piece in pieces) + room) == set()


@given(histories(), st.integers(30, 600))
def test_what_is_left_fits_wherever_there_was_more_to_leave_out(pieces, limit):
    out = omit(pieces, len(pieces), limit)
    left = sum(piece.tokens for place, piece in enumerate(pieces) if place not in out)
    droppable = {place for place, piece in enumerate(pieces) if piece.role is ItemRole.USER}
    turns_left = len(droppable - out)
    asynchronous = any(
        pieces[k].role is ItemRole.USER for call_place, place in pairs(pieces) for k in range(call_place, place)
    )
    assert left <= limit or turns_left <= 1 or asynchronous


@given(histories(), st.integers(30, 600), st.integers(1, 60))
def test_a_cut_stays_where_it_is_until_the_limit_is_reached_again(pieces, limit, more):
    before = omit(pieces, len(pieces), limit)
    left = sum(piece.tokens for place, piece in enumerate(pieces) if place not in before)
    after = omit([*pieces, message("user", more)], len(pieces), limit)
    if left + more <= limit:
        assert after == before
    else:
        assert after >= before or not after


def test_a_cut_leaves_room_for_the_next_turns():
    pieces = turns(11)
    out = omit(pieces, len(pieces), 200)
    assert out == set(range(6))
    assert all(omit(pieces + turns(more), len(pieces), 200) == out for more in range(3))
    assert omit(pieces + turns(3), len(pieces), 200) > out


def test_the_oldest_turns_go_first_and_whole():
    pieces = [message("system"), *turns(10)]
    assert omit(pieces, len(pieces) - 2, 100) == set(range(1, 13))


def test_a_long_running_turn_loses_its_oldest_steps_but_not_its_question():
    steps = [piece for n in range(20) for piece in (thought(), call(str(n)), output(str(n)))]
    pieces = [*turns(2), message("user"), *steps]
    out = omit(pieces, len(pieces) - 1, 200)
    assert set(range(4)) < out
    assert 4 not in out
    assert max(out) == 4 + len(out) - 4
    assert (max(out) - 4) % 3 == 0


def test_a_long_turn_that_fits_is_not_cut():
    steps = [piece for n in range(4) for piece in (call(str(n)), output(str(n)))]
    pieces = [*turns(3), message("user"), *steps]
    assert omit(pieces, len(pieces), 100) == set(range(6))


@pytest.mark.parametrize("first", [[call("a", 60), output("a")], [thought(60), call("a"), output("a")]])
def test_a_cut_falls_between_steps_so_that_what_is_left_fits(first):
    rest = [piece for name in "bcd" for piece in (call(name), output(name))]
    pieces = [message("user"), *first, *rest]
    assert omit(pieces, len(pieces) - 1, 100) == set(range(1, 1 + len(first)))


def test_a_thought_that_led_to_nothing_goes_with_its_turn():
    pieces = [message("user"), thought()] * 10
    assert omit(pieces, len(pieces), 150) == set(range(6))


def test_two_long_messages_in_a_row_are_two_cuts():
    pieces = [*turns(4), message("user", 60), message("user", 60)]
    assert omit(pieces, len(pieces), 100) == set(range(9))


def test_an_output_that_comes_turns_later_keeps_its_call_and_the_thought_before_it():
    pieces = [message("user"), thought(), call("slow"), message("assistant"), *turns(10), output("slow")]
    out = omit(pieces, len(pieces) - 1, 100)
    assert not out & {1, 2, 3}
    assert 0 in out


def test_call_ids_that_come_again_do_not_tie_turns_together():
    pieces = [piece for _ in range(10) for piece in (message("user"), call("call_0"), output("call_0"))]
    assert omit(pieces, len(pieces) - 1, 100) == set(range(24))


def test_what_is_too_long_by_itself_is_sent_alone():
    pieces = [*turns(3), message("user", 1000)]
    assert omit(pieces, 6, 100) == set(range(6))


def test_only_standing_messages_can_be_too_long_too():
    assert omit([message("system", 500)], 1, 100) == set()


def test_approvals_stay_with_what_was_approved():
    request = piece_of({"type": "mcp_approval_request", "id": "mcpr_1"}, 10)
    response = piece_of({"type": "mcp_approval_response", "approval_request_id": "mcpr_1"}, 10)
    done = piece_of({"type": "mcp_call", "approval_request_id": "mcpr_1"}, 10)
    pieces = [message("user"), request, *turns(10), response, done]
    assert not omit(pieces, len(pieces) - 2, 100) & {1}


@pytest.mark.parametrize(
    ("model", "window"),
    [("gpt-4o", 1), ("gpt-4o-mini", 2), ("gpt-4.1", 3), ("o3", 4), ("", 4)],
)
def test_a_window_is_found_by_name_then_by_the_longest_beginning(model, window):
    assert window_of({"*": 4, "gpt-4*": 3, "gpt-4o*": 2, "gpt-4o": 1}, model) == window


def test_a_model_that_nothing_fits_has_no_window():
    assert window_of({"gpt-4*": 1, "o3": 2}, "o3-mini") is None


@pytest.mark.parametrize(
    ("asked", "limit"), [(None, 7000), (1000, 7000), (100, 7900), (8000, 4000), (-1, 7000), ("x", 7000), (True, 7000)]
)
def test_room_is_kept_for_the_answer(asked, limit):
    assert limit_for(8000, asked) == limit
