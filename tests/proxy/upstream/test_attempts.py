"""What counts as a server's failure, for how long it is passed over, and which names stand where."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.errors import ApiError, BadGateway, BadRequest, GatewayTimeout, UpstreamRefusal
from proxy.protocol.items import dump
from proxy.protocol.origin import AnswerOrigin
from proxy.protocol.seals import seal_mark, sealed_by, without_marks
from proxy.upstream.attempts import TOO_LARGE, is_for_others, is_the_servers_own
from proxy.upstream.body import UpstreamCut, ending_of
from proxy.upstream.renaming import EventRenamer, model_in, with_model
from proxy.upstream.standing import MAX_FAILURES, PASSED_OVER_SECONDS, Standing


@pytest.mark.parametrize(
    ("error", "fault", "for_others"),
    [
        (BadGateway("Away.", code="upstream_unreachable"), "connect", True),
        (GatewayTimeout("Silent."), "timeout", True),
        (UpstreamCut(), "cut", True),
        (BadGateway("Nonsense."), "malformed", True),
        (BadGateway("Large.", code=TOO_LARGE), "malformed", False),
        (UpstreamRefusal(429, {}), "429", True),
        (UpstreamRefusal(500, {}), "500", True),
        (UpstreamRefusal(501, {}), "501", False),
        (UpstreamRefusal(529, {}), "529", False),
        (UpstreamRefusal(400, {}), "400", False),
        (BadRequest("Ours."), "cut", False),
    ],
)
def test_failures(error: ApiError, fault: str, for_others: bool):
    assert (ending_of(error), is_for_others(error)) == (fault, for_others)


@pytest.mark.parametrize(
    ("reason", "servers"),
    [
        (None, True),
        ("Out of memory.", True),
        ({}, True),
        ({"code": None, "message": "?"}, True),
        ({"code": "server_error"}, True),
        ({"code": "rate_limit_exceeded"}, True),
        ({"code": "server_is_overloaded"}, True),
        ({"code": 500, "type": "InternalServerError"}, True),
        ({"code": "429"}, True),
        ({"code": 400, "type": "BadRequestError"}, False),
        ({"code": "404"}, False),
        ({"status": 422}, False),
        ({"code": "context_length_exceeded"}, False),
        ({"code": None, "type": "invalid_request_error"}, False),
        ({"code": "image_file_too_large"}, False),
        ({"code": "unsupported_image_media_type"}, False),
    ],
)
def test_failures_under_a_200(reason: Any, servers: bool):
    assert is_the_servers_own(reason) is servers


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, PASSED_OVER_SECONDS]))))
def test_three_failures_in_a_row_pass_a_server_over_for_a_while(ends: list[tuple[bool, float]]):
    now, in_a_row, until = 0.0, 0, 0.0
    standing = Standing(lambda: now)
    for worked, seconds in ends:
        was_good = now >= until
        is_told = standing.note(worked=worked)
        in_a_row = 0 if worked else in_a_row + 1
        if worked:
            until = 0.0
        elif in_a_row >= MAX_FAILURES and was_good:
            until = now + PASSED_OVER_SECONDS
        assert is_told is (until == now + PASSED_OVER_SECONDS and was_good and not worked)
        assert standing.is_good is (now >= until)
        now += seconds


SEALS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(SEALS, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True), st.booleans())
def test_a_mark_goes_on_and_comes_off(seal: str, name: str, in_a_part: bool):
    item: dict[str, Any] = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": seal}
    if in_a_part:
        part = {"type": "encrypted_content", "encrypted_content": seal}
        item = {"id": "amsg_1", "type": "agent_message", "content": [{"type": "output_text", "text": "x"}, part]}
    before = dump(item)
    event = {"type": "response.output_item.done", "item": item, "response": {"output": [deepcopy(item)]}}
    AnswerOrigin(mark=seal_mark(name)).claim_event(event)
    assert sealed_by(dump(item)) == name
    assert without_marks(dump(item)) == before


@pytest.mark.parametrize(
    ("item", "sealer"),
    [
        ({"id": "m", "type": "message", "content": '"encrypted_content":"bls1.a.x"'}, None),
        ({"id": "r", "type": "reasoning", "encrypted_content": None}, None),
        ({"id": "r", "type": "reasoning", "encrypted_content": "gAAAA"}, ""),
        ({"id": "r", "type": "reasoning", "encrypted_content": "bls1..x"}, ""),
        ({"id": "r", "type": "reasoning", "encrypted_content": "bls1.a-1.x"}, "a-1"),
    ],
)
def test_who_sealed_it(item: dict[str, Any], sealer: str | None):
    assert sealed_by(dump(item)) == sealer


def test_only_the_models_own_place_is_renamed():
    response = {"model": "theirs", "metadata": {"model": "theirs"}, "output": [{"type": "message", "model": "theirs"}]}
    AnswerOrigin("ours").claim(response)
    assert response == {
        "model": "ours",
        "metadata": {"model": "theirs"},
        "output": [{"type": "message", "model": "theirs"}],
    }
    nothing: dict[str, Any] = {"object": "response"}
    AnswerOrigin("ours").claim(nothing)
    assert nothing == {"object": "response"}


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"m"}', "m"),
        (b'{"a":{"model":"x"}}', ""),
        (b'{"model":null}', ""),
        (b'{"model":7}', ""),
        (b"[]", ""),
        (b"", ""),
        (b'{"model":"m"', ""),
    ],
)
def test_a_model_in_a_body(body: bytes, model: str):
    assert model_in(body) == model
    assert with_model(body, "n") == (b'{"model":"n"}' if model else body)


@given(st.lists(st.binary(max_size=20)), st.integers(1, 40))
def test_whatever_is_no_event_of_a_model_goes_through_as_it_is(lines: list[bytes], size: int):
    stream = b"\n".join(line.replace(b'"model"', b"") for line in lines)
    renamer = EventRenamer("m", 16)
    pieces = [renamer.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    assert b"".join(pieces) + renamer.flush() == stream
