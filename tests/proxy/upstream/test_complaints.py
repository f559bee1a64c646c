"""What refusals of all kinds are about, and what the client is told of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.context.input import TurnInput
from proxy.context.model_request import ModelRequest
from proxy.context.reader import Objections, Reader
from proxy.protocol.errors import UpstreamRefusal
from proxy.upstream.complaints import find_objection, in_the_clients_words
from proxy.upstream.errors import refusal as read_refusal
from storage import OpenedTurn, TurnSource

HEX = "0" * 50
RS, WS, MSG = f"rs_{HEX}", f"ws_{HEX}", f"msg_{HEX}"
SEARCH = {"id": WS, "type": "web_search_call", "action": {"type": "search", "sources": []}, "status": "x"}
THOUGHT = {"id": RS, "type": "reasoning", "encrypted_content": "gAAAAA", "summary": []}
SAID = {"id": MSG, "type": "message", "role": "assistant", "content": [], "phase": "final_answer"}
OWN = {"id": "msg_own", "type": "message", "role": "user", "content": []}


def asked(*history: Any, own: list[Any] | None = None, **added: Any) -> ModelRequest:
    items = [orjson.dumps(item) for item in history]
    brought = [orjson.dumps(item) for item in own or [OWN]]
    turn_input = TurnInput([], brought, [f"input[{place}]" for place in range(len(brought))])
    fields = {"model": "m", "reasoning": {"effort": "low"}}
    return ModelRequest(Reader("server", "m"), OpenedTurn(items=items), turn_input, fields, added or ADDED)


ADDED = {"store": False, "include": ["reasoning.encrypted_content"]}


def refused(status: int = 400, **error: Any) -> UpstreamRefusal:
    return UpstreamRefusal(status, error)


def answered(status: int, body: Any) -> UpstreamRefusal:
    return read_refusal(status, {}, orjson.dumps(body))


SETTINGS = Objections(settings=frozenset({"include"}))


@pytest.mark.parametrize(
    "refusal",
    [
        refused(message="Encrypted content is not supported with this model.", param="include"),
        refused(message="Unknown parameter: 'include'.", param="include", code="unknown_parameter"),
        refused(message="Unsupported value: 'reasoning.encrypted_content'", param="include[0]"),
        refused(message="include_not_supported: include"),
        refused(422, message="x", param="body.include.0"),
        answered(422, {"detail": [{"loc": ["body", "include", 0], "msg": "Input should be 'file'"}]}),
        answered(400, {"error": 'json: unknown field "include"'}),
        answered(501, {"error": {"message": "include is not implemented"}}),
        answered(500, "KeyError: 'include'"),
    ],
)
def test_a_field_that_was_added_is_found_in_any_wording(refusal: UpstreamRefusal):
    assert find_objection(refusal, asked(SAID)) == SETTINGS


@pytest.mark.parametrize(
    "refusal",
    [
        refused(401, message="Incorrect API key; include one."),
        refused(429, message="Too many requests: store some.", param="include"),
        refused(503, message="include"),
        refused(message="Invalid 'temperature': too high.", param="temperature"),
        refused(message="Unsupported parameter: 'reasoning.effort' is not supported.", param="reasoning.effort"),
        refused(message="The model 'm' does not exist.", param="model", code="model_not_found"),
        refused(message="Invalid 'input[2].content': too long.", param="input[2].content"),
        refused(message="This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        refused(message="Vector store 'vs_1' not found."),
        refused(message="Too long for the context window: leave the reasoning items out."),
        refused(message="Reasoning items leave no room.", code="context_length_exceeded"),
        refused(message="reasoning is not supported", param="reasoning"),
        refused(404, message="Item with id 'x' not found. Items are not persisted when `store` is set to false."),
        refused(),
    ],
)
def test_other_refusals_are_the_client_s_to_know(refusal: UpstreamRefusal):
    assert find_objection(refusal, asked(THOUGHT, SAID)) is None


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            refused(message="Unknown parameter: 'input[0].action.sources'.", param="input[0].action.sources"),
            Objections(fields=frozenset({"web_search_call.action.sources"})),
        ),
        (refused(message="Invalid `signature` in a thinking block"), Objections(seals=frozenset({RS}))),
        (refused(message="x", param="input.0.status"), Objections(fields=frozenset({"web_search_call.status"}))),
        (refused(message="x", param="input[2].phase"), Objections(fields=frozenset({"message.phase"}))),
        (
            answered(
                422, {"detail": [{"loc": ["body", "input", "list[union[A,B]]", 0, "WebSearch", "status"], "msg": "x"}]}
            ),
            Objections(fields=frozenset({"web_search_call.status"})),
        ),
        (
            refused(message="web_search_call.action.sources is not a field of this API"),
            Objections(fields=frozenset({"web_search_call.action.sources"})),
        ),
        (refused(message="Unknown parameter: 'phase'."), Objections(fields=frozenset({"message.phase"}))),
        (
            refused(message="Invalid value: 'web_search_call'.", param="input[0]"),
            Objections(types=frozenset({"web_search_call"})),
        ),
        (refused(message="Invalid value", param="input[0].type"), Objections(types=frozenset({"web_search_call"}))),
        (refused(message="unsupported item type web_search_call"), Objections(types=frozenset({"web_search_call"}))),
        (
            refused(
                message="The encrypted content gAAA...AAA= could not be verified.", code="invalid_encrypted_content"
            ),
            Objections(seals=frozenset({RS})),
        ),
        (
            refused(message=f"The encrypted content for item {RS} could not be verified."),
            Objections(seals=frozenset({RS})),
        ),
        (refused(message="x", param="input[1].encrypted_content"), Objections(seals=frozenset({RS}))),
        (
            refused(
                404,
                message=f"Item with id '{RS}' not found. Items are not persisted when `store` is false.",
            ),
            Objections(items=frozenset({RS})),
        ),
        (
            refused(message=f"Item '{RS}' of type 'reasoning' was provided without its required following item."),
            Objections(items=frozenset({RS})),
        ),
        (
            refused(message="Reasoning input items can only be provided to a reasoning or computer use model."),
            Objections(types=frozenset({"reasoning"})),
        ),
        (
            refused(message="unknown variant `reasoning`, expected `message`"),
            Objections(types=frozenset({"reasoning"})),
        ),
    ],
)
def test_what_a_refusal_says_of_the_history_is_left_out(refusal: UpstreamRefusal, expected: Objections):
    assert find_objection(refusal, asked(SEARCH, THOUGHT, SAID)) == expected


def test_a_seal_that_is_refused_although_it_was_left_out_takes_the_item_with_it():
    bare = {"id": RS, "type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}
    refusal = refused(message="could not be verified", code="invalid_encrypted_content")
    assert find_objection(refusal, asked(bare, SAID)) == Objections(items=frozenset({RS}))


def test_without_a_field_of_ours_or_an_item_of_the_history_there_is_nothing_to_leave_out():
    refusal = refused(message="Reasoning input items are not supported; include none.")
    assert find_objection(refusal, asked(own=[THOUGHT], metadata={})) is None


def test_a_place_is_told_as_the_client_counts_and_the_stored_item_by_its_id():
    request = asked(SAID, THOUGHT, SAID, own=[OWN, OWN])
    told = in_the_clients_words(
        refused(message="Invalid 'input[4].content[0]'.", param="input[4].content[0]", code="c"), request, TurnSource()
    )
    assert told.to_dict() == {
        "message": "Invalid 'input[1].content[0]'.",
        "type": "invalid_request_error",
        "param": "input[1].content[0]",
        "code": "c",
    }
    source = TurnSource(conversation_id="conv_1")
    told = in_the_clients_words(refused(message="Invalid 'input[0].role'.", param="input[0].role"), request, source)
    assert told.message.startswith(f"Invalid '{MSG}.role'. This is about item '{MSG}'")
    assert f"DELETE /v1/conversations/conv_1/items/{MSG}" in told.message
    assert told.to_dict()["param"] == "conversation"
    source = TurnSource(previous_response_id="resp_1")
    told = in_the_clients_words(refused(message="Bad", param="input.0.role"), request, source)
    assert told.to_dict()["param"] == "previous_response_id"


@pytest.mark.parametrize(
    "refusal",
    [
        refused(message="Bad", param="temperature"),
        refused(message="No tool output found for function call call_1.", param="input"),
        refused(message="Invalid 'input[9]'.", param="input[9]"),
        refused(message="Too many input[s]", param=None),
    ],
)
def test_all_else_is_told_as_it_came(refusal: UpstreamRefusal):
    assert in_the_clients_words(refusal, asked(SAID), TurnSource()) is refusal
