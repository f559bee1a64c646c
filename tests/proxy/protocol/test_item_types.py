from __future__ import annotations

from typing import Any, get_args

import pytest

from proxy.protocol.item_types import ITEM_TYPES, ItemType, item_type_of
from tests.proxy.relay.strict import ITEMS

#: Types whose items OpenAI's SDK has without a status, although the specification gives stored ones some.
WITHOUT_STATUS_IN_SDK = {"custom_tool_call"}


def literals(annotation: Any) -> set[str]:
    """All strings of a `Literal`, wherever it stands in an annotation."""
    if isinstance(annotation, str):
        return {annotation}
    return set().union(*map(literals, get_args(annotation)))


def test_every_item_type_of_openais_sdk_has_a_row():
    assert ITEMS.keys() - ITEM_TYPES.keys() == set()


@pytest.mark.parametrize("kind", sorted(ITEMS.keys() - WITHOUT_STATUS_IN_SDK))
def test_a_types_statuses_are_those_of_openais_sdk(kind):
    field = ITEMS[kind].model_fields.get("status")
    row = item_type_of(kind)
    assert set(row.statuses) == (literals(field.annotation) if field else set())
    assert not (field and field.is_required() and row.has_optional_status)


@pytest.mark.parametrize("kind", sorted(ITEM_TYPES))
def test_what_a_row_says_of_a_type_fits_together(kind):
    row = ITEM_TYPES[kind]
    assert row.name == kind
    assert (row.is_call, row.is_output) == (kind.endswith("_call"), kind.endswith(("_output", "_response")))
    assert row.is_call or row.is_output or not row.is_paired
    assert not (row.has_optional_status and not row.statuses)


def test_no_two_types_share_an_id_prefix():
    prefixes = [row.id_prefix for row in ITEM_TYPES.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert item_type_of("unheard_of").id_prefix not in prefixes


@pytest.mark.parametrize(
    ("name", "is_call", "is_output"),
    [
        ("strange_call", True, False),
        ("strange_call_output", False, True),
        ("strange_output", False, True),
        ("strange_response", False, True),
        ("strange_call_thing", False, False),
        ("", False, False),
    ],
)
def test_an_unknown_type_is_what_its_name_says(name, is_call, is_output):
    assert item_type_of(name) == ItemType(name, is_call=is_call, is_output=is_output)
