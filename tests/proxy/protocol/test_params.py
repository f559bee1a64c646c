"""Names that are ours: which are refused, and what the refusal proposes."""

from __future__ import annotations

import openai.types.responses.response_create_params as openai_params
import pytest

from proxy.protocol.errors import BadRequest
from proxy.protocol.params import refuse_misspelt, refuse_unknown
from proxy.protocol.request import REQUEST_FIELDS

CONVERSATION = ("id", "branch", "fork_from", "at")
EDIT = ("content", "regenerate", "max_tokens")


def test_known_names_pass():
    refuse_unknown({"id": 1, "at": 2}, CONVERSATION)
    refuse_unknown({}, ())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("forkfrom", "fork_from"),
        ("forkFrom", "fork_from"),
        ("fork-from", "fork_from"),
        ("FORK_FROM", "fork_from"),
        ("fork_form", "fork_from"),
        ("fork_from_item_id", "fork_from"),
        ("brnach", "branch"),
        ("branch_name", "branch"),
        ("Id", "id"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, meant: str):
    with pytest.raises(BadRequest) as caught:
        refuse_unknown({"id": 1, name: None}, CONVERSATION, within="conversation")
    assert (caught.value.status, caught.value.code) == (400, "unknown_parameter")
    assert caught.value.param == f"conversation.{name}"
    assert caught.value.message == (f"Unknown parameter: 'conversation.{name}'. Did you mean 'conversation.{meant}'?")


def test_a_name_that_is_near_to_none_is_refused_with_all_there_are():
    with pytest.raises(BadRequest, match="Supported are: 'items', 'metadata', 'title'") as caught:
        refuse_unknown({"name": "x"}, ("title", "metadata", "items"))
    assert caught.value.param == "name"
    with pytest.raises(BadRequest, match="Supported are: none"):
        refuse_unknown({"x": 1}, ())


def test_a_name_of_the_query_is_sent_there():
    with pytest.raises(BadRequest, match=r"the query: '\?branch='") as caught:
        refuse_unknown({"items": [], "branch": "draft"}, ("items",), in_query=("branch",))
    assert caught.value.param == "branch"
    with pytest.raises(BadRequest, match=r"the query: '\?branch='"):
        refuse_misspelt({"content": "x", "regenerate": True, "branch": "draft"}, EDIT, in_query=("branch",))


def test_of_a_long_name_only_the_beginning_is_said_again():
    with pytest.raises(BadRequest) as caught:
        refuse_unknown({"x" * 10_000: 1}, CONVERSATION)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", ["regenrate", "Regenerate", "re-generate", "regenerated", "max_token", "maxTokens"])
def test_where_other_names_go_on_one_that_is_nearly_ours_is_refused(name: str):
    with pytest.raises(BadRequest, match=r"Did you mean '(regenerate|max_tokens)'") as caught:
        refuse_misspelt({"content": "x", "model": "m", name: True}, EDIT)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", name)


@pytest.mark.parametrize(
    "name",
    [
        *sorted(REQUEST_FIELDS),
        # other servers' own
        "min_tokens",
        "max_completion_tokens",
        "max_length",
        "top_k",
        "context",
        "chat_template_kwargs",
        "guided_json",
        "generation_config",
        "repetition_penalty",
        "seed",
        "n",
    ],
)
def test_what_a_model_server_may_know_goes_on(name: str):
    refuse_misspelt({"content": "x", name: 1}, EDIT)


def test_a_name_that_is_nearly_one_that_is_given_goes_on():
    refuse_misspelt({"max_tokens": 5, "max_token": 5}, EDIT)


def test_no_field_of_openai_s_client_is_unknown():
    fields = openai_params.ResponseCreateParamsBase.__annotations__.keys()
    assert fields <= REQUEST_FIELDS
    assert REQUEST_FIELDS - fields == {"stream"}
