from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.response import MAX_ACCOUNT_BYTES, Ownership, complete_error, complete_response, complete_settings
from storage import Fork, ForkPoint, TurnSource
from tests.proxy.relay.strict import accept_response, ownership


def response(upstream: dict[str, Any] | None = None, status: str = "completed", **changes: Any) -> dict[str, Any]:
    told, owned = upstream or {}, ownership(**changes)
    result = complete_response(told, owned, status, [], None, complete_settings(told, owned.request))
    accept_response(result)
    return result


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"])
def test_a_response_of_which_nothing_is_known_has_every_key(status):
    assert response(status=status)["status"] == status


def test_defaults_are_openais():
    result = response(request={})
    assert {key: result[key] for key in ("temperature", "top_p", "tool_choice", "tools", "truncation")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    }
    assert result["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert result["reasoning"] == {"effort": None, "summary": None}
    assert (result["metadata"], result["parallel_tool_calls"], result["top_logprobs"]) == ({}, True, 0)
    assert result["model"] == ""


def test_the_upstreams_echo_wins_over_the_request_and_the_request_over_the_default():
    result = response({"temperature": 0.5}, request={"temperature": 0.1, "top_p": 0.2, "model": "asked"})
    assert (result["temperature"], result["top_p"], result["model"]) == (0.5, 0.2, "asked")


@pytest.mark.parametrize("empty", [None, {}, "", [], 5, True])
def test_an_echo_that_says_nothing_yields_to_the_request(empty):
    result = response(
        {"metadata": empty, "instructions": empty}, request={"metadata": {"a": "b"}, "instructions": "be"}
    )
    assert (result["metadata"], result["instructions"]) == ({"a": "b"}, "be")


def test_an_echo_of_nulls_yields_to_the_request():
    result = response({"reasoning": {"effort": None, "summary": None}}, request={"reasoning": {"effort": "high"}})
    assert result["reasoning"] == {"effort": "high", "summary": None}


def test_false_and_zero_are_answers():
    result = response({"parallel_tool_calls": False, "temperature": 0}, request={"temperature": 1.5})
    assert (result["parallel_tool_calls"], result["temperature"]) == (False, 0)


@pytest.mark.parametrize("wrong", ["warm", True, [], {}])
def test_an_echo_of_the_wrong_type_is_no_echo(wrong):
    result = response({"temperature": wrong, "top_logprobs": wrong, "tools": "x", "text": wrong, "truncation": wrong})
    assert (result["temperature"], result["top_logprobs"], result["tools"]) == (1.0, 0, [])


def test_function_tools_carry_every_key_and_the_request_stays_untouched():
    tool = {"type": "function", "name": "look"}
    hosted = {"type": "web_search"}
    result = response(request={"tools": [tool, hosted]})
    assert result["tools"] == [{**tool, "description": None, "parameters": None, "strict": None}, hosted]
    assert tool == {"type": "function", "name": "look"}


def test_a_json_schema_format_carries_every_key():
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    result = response(request={"text": {"format": form}})
    assert result["text"]["format"] == {**form, "description": None, "strict": False}


@pytest.mark.parametrize(
    ("told", "asked", "status", "tier"),
    [
        (None, None, "in_progress", "auto"),
        (None, None, "completed", "default"),
        (None, "auto", "completed", "default"),
        (None, "flex", "completed", "flex"),
        ("priority", "flex", "completed", "priority"),
    ],
)
def test_the_service_tier_is_never_null(told, asked, status, tier):
    assert response({"service_tier": told}, status, request={"service_tier": asked})["service_tier"] == tier


def test_usage_gets_its_details():
    usage = {"input_tokens": 5, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 3}, "cost": 0.1}
    assert response({"usage": usage})["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
        "cost": 0.1,
    }


@pytest.mark.parametrize("usage", [None, "much", []])
def test_usage_that_was_not_counted_is_null(usage):
    assert response({"usage": usage})["usage"] is None


def test_a_running_response_has_neither_usage_nor_an_end():
    result = response({"usage": {"input_tokens": 1}, "completed_at": 5}, "in_progress")
    assert (result["usage"], result["completed_at"]) == (None, None)


def test_times_are_whole_seconds():
    result = response({"created_at": 1_800_000_000.9, "completed_at": 1_800_000_001.2})
    assert (result["created_at"], result["completed_at"]) == (1_800_000_000, 1_800_000_001)


@pytest.mark.parametrize("nonsense", [None, "soon", 1e300, -1, True, 0])
def test_times_that_are_none_are_ours(nonsense):
    result = response({"created_at": nonsense, "completed_at": nonsense})
    assert result["created_at"] == 1_700_000_000
    assert time.time() - 5 < result["completed_at"] <= time.time()


def test_a_response_never_ends_before_it_began():
    assert response({"created_at": 4_000_000_000})["completed_at"] == 4_000_000_000


def test_incomplete_details_belong_to_incomplete_responses():
    told = {"incomplete_details": {"reason": "max_output_tokens"}}
    assert response(told, "incomplete")["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response(told, "completed")["incomplete_details"] is None
    assert response({"incomplete_details": "length"}, "incomplete")["incomplete_details"] is None


def test_what_we_own_is_ours_and_what_nobody_knows_stays():
    told = {
        "id": "x",
        "object": "y",
        "store": False,
        "background": True,
        "conversation": {"id": "z"},
        "timings": {"n": 1},
    }
    result = response(told, request={"background": None})
    assert (result["id"], result["object"], result["store"], result["background"]) == (
        "resp_ours",
        "response",
        True,
        False,
    )
    assert "conversation" not in result
    assert result["timings"] == {"n": 1}


def test_background_is_what_the_client_asked_for():
    assert response(request={"background": True})["background"] is True


@pytest.mark.parametrize("error", [None, "", {}, [], 5, {"message": None, "code": 5}])
def test_an_error_without_words_gets_some(error):
    result = complete_error(error)
    assert result["code"] == "server_error"
    assert result["message"].startswith("The model server failed")


def test_a_known_code_is_kept_with_all_its_fields():
    error = {"code": "rate_limit_exceeded", "message": "slow down", "param": None}
    assert complete_error(error) == error


def test_a_code_that_clients_act_on_is_kept():
    assert complete_error({"code": "context_length_exceeded", "message": "m"})["code"] == "context_length_exceeded"


def test_an_unknown_code_moves_into_the_message():
    assert complete_error({"code": "cuda_oom", "message": "no memory"}) == {
        "code": "server_error",
        "message": "no memory (cuda_oom)",
    }


def owned_by(source: TurnSource, asked: dict[str, Any]) -> Ownership:
    return Ownership.of(
        asked, source, response_id="resp_ours", created_at=7, store=True, new_item_id=str, branch="draft"
    )


def test_a_response_says_what_its_request_goes_on_from():
    assert owned_by(TurnSource(previous_response_id="resp_before"), {}).previous_response_id == "resp_before"
    assert owned_by(TurnSource("conv_1"), {}).conversation_id == "conv_1"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (TurnSource("conv_1"), ""),
        (TurnSource("conv_1", branch="draft"), "draft"),
        (TurnSource("conv_1", fork=Fork(ForkPoint.AT, "msg_1", name="draft")), "draft"),
    ],
)
def test_a_branch_is_told_to_whoever_named_it_or_had_it_made(source: TurnSource, told: str):
    assert owned_by(source, {}).branch == told


@pytest.mark.parametrize(
    ("include", "shown"),
    [(None, False), ([], False), (["usage"], False), (["usage", "reasoning.encrypted_content"], True)],
)
def test_encrypted_reasoning_is_shown_to_whoever_asked_for_it(include: list[str] | None, shown: bool):
    assert owned_by(TurnSource(), {"include": include}).show_encrypted is shown


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.0, 1, 1.0, True, None, "1"]),
        "parallel_tool_calls": st.sampled_from([True, False, 1, None]),
        "tool_choice": st.sampled_from(["auto", "", {"type": "function"}, {}, {"type": None}, 1]),
        "text": st.sampled_from([{}, {"format": {"type": "json_schema"}}, {"verbosity": "low"}, {"format": None}, []]),
        "reasoning": st.sampled_from([{}, {"effort": None}, {"effort": "low"}, {"summary": "auto"}, None]),
        "metadata": st.sampled_from([{}, {"a": "b"}, {"c": orjson.Fragment(b"1" * 30)}, None]),
        "truncation": st.sampled_from(["auto", "disabled", "odd", None]),
        "instructions": st.sampled_from(["", "be brief", [], ["x"], None, 1]),
        "tools": st.sampled_from([[], [{"type": "function", "name": "f"}], [{"type": "x"}, 1], None, {}]),
    },
)


@given(SETTINGS, SETTINGS, st.uuids())
def test_settings_that_were_seen_before_are_those_that_are_made_anew(told, asked, nonce):
    complete_settings(told, asked)
    # nobody has seen these
    unseen = complete_settings(told, {**asked, "user": str(nonce)})
    seen = complete_settings(told, asked)
    assert unseen.pop("user") == str(nonce)
    assert seen.pop("user") is None
    assert orjson.dumps(seen) == orjson.dumps(unseen)


def test_settings_that_cannot_be_remembered_are_completed_all_the_same():
    too_long = {"metadata": {"a": "b" * MAX_ACCOUNT_BYTES}}
    unreadable = {"metadata": {"a": 2**70}}
    for asked in (too_long, unreadable):
        assert complete_settings({}, asked)["metadata"] == asked["metadata"]


def test_whoever_changes_what_was_completed_changes_nobody_elses():
    complete_settings({}, {})["temperature"] = 0.5
    assert complete_settings({}, {})["temperature"] == 1.0
