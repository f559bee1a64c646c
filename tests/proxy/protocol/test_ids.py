import pytest

from proxy.protocol.ids import derived_item_id, is_minted, new_added_item_id, new_turn_item_id, with_prefix_of

PARTITION = "0123456789abcdef"


@pytest.mark.parametrize("item_type", ["message", "program", "unheard_of"])
def test_what_is_minted_here_is_known_by_its_form(item_type):
    response = "resp_" + "0" * 50
    assert is_minted(new_added_item_id(item_type, PARTITION))
    assert is_minted(new_turn_item_id(item_type, PARTITION, stored=True))
    assert is_minted(derived_item_id(item_type, response, 1))


@pytest.mark.parametrize("item_id", ["msg_1", "msg_user", "msg_" + "0" * 49, "msg_" + "z" * 50, "0" * 50, ""])
def test_ids_of_clients_have_another_form(item_id):
    assert not is_minted(item_id)


@pytest.mark.parametrize(
    ("item_type", "upstream_id", "expected"),
    [
        ("unheard_of", "xyz_123", "xyz_00"),
        ("unheard_of", "Xy9_123_4", "Xy9_00"),
        ("unheard_of", "123", "item_00"),
        ("unheard_of", "_123", "item_00"),
        ("unheard_of", "far_too_long" * 9, "far_00"),
        ("unheard_of", "a" * 13 + "_1", "item_00"),
        ("unheard_of", None, "item_00"),
        ("unheard_of", 7, "item_00"),
        ("message", "xyz_123", "item_00"),
    ],
)
def test_an_item_of_an_unknown_type_has_the_prefix_of_the_upstream_s_id(item_type, upstream_id, expected):
    assert with_prefix_of("item_00", item_type, upstream_id) == expected
