from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.errors import BadRequest
from proxy.protocol.items import normalise, plain_question, read_input

PARTS: st.SearchStrategy[Any] = st.one_of(
    st.just("text"),
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["input_text", "output_text", "input_image", None, 1]),
            "text": st.sampled_from(["", "hi", None, 2]),
            "annotations": st.just([]),
        },
    ),
)
#: Messages and what is nearly one.
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.one_of(st.text(max_size=3), st.none(), st.integers(), st.lists(PARTS, max_size=2)),
        "type": st.sampled_from(["message", "function_call", "", None]),
        "role": st.sampled_from(["user", "assistant", "system", None, 3, ["user"]]),
        "status": st.sampled_from(["completed", None]),
        "id": st.sampled_from(["msg_1", "", None]),
        "phase": st.none(),
    },
)


@given(ITEMS)
def test_what_is_told_at_a_glance_is_what_is_read(item: dict[str, Any]):
    told = plain_question(item)
    if told is not None:
        assert json.dumps(told) == json.dumps(normalise({**item, "type": "message"}, "input[0]"))


@pytest.mark.parametrize("item", ["text", None, [], {}, {"role": "user"}, {"content": "hi"}, {"role": "user", "x": 1}])
def test_what_is_no_message_is_not_taken_for_one(item):
    assert plain_question(item) is None


@pytest.mark.parametrize("kind", ["output_text", "refusal"])
def test_a_question_of_parts_that_only_answers_have_is_refused(kind):
    with pytest.raises(BadRequest):
        read_input([{"role": "user", "content": [{"type": kind, "text": "hi"}]}])


def test_a_question_is_told_at_a_glance_in_each_of_its_forms():
    stored = {
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
        "type": "message",
        "status": "completed",
    }
    parts = [{"type": "input_text", "text": "hi"}]
    forms: list[dict[str, Any]] = [{"role": "user", "content": "hi"}, {"role": "user", "content": parts}]
    for form in [*forms, *({"type": "message", **form} for form in forms)]:
        assert plain_question(form) == stored
    (read,) = read_input("hi")
    assert (read.body, read.path, read.id) == (stored, "input", None)
