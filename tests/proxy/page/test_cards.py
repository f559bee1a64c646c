"""Cards: every item is shown as something, whatever it is."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.page.content.cards import SHOWN, card_of, cut_card, first_line
from proxy.page.content.demo import tile_png
from proxy.page.content.pictures import decode_picture, type_of
from proxy.page.content.text import age_of, made_visible, shorten, size_of
from proxy.protocol.item_types import ITEM_TYPES
from tests.flows.item_samples import NAMES as SAMPLES
from tests.flows.item_samples import samples

PNG = "data:image/png;base64," + base64.b64encode(tile_png(8)).decode()


def dumped(**item: Any) -> bytes:
    """An item as it is stored."""
    return orjson.dumps({"id": "item_1", **item})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70).filter(lambda n: abs(n) < 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "content",
        "output",
        "summary",
        "arguments",
        "input",
        "action",
        "role",
        "status",
        "name",
        "result",
        "error",
        "text",
    ]
)


@given(st.sampled_from([*ITEM_TYPES, "a_type_of_tomorrow"]), st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_item_has_a_card(kind: str, fields: dict[str, Any]):
    card = card_of(dumped(**fields, type=kind))
    assert card.id == "item_1"
    assert all(isinstance(part.text, str) for part in card.parts)
    assert first_line(dumped(**fields, type=kind)) is not None


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_of_all_types_say_something(name: str):
    for item in samples(0, "")[name]:
        card = card_of(orjson.dumps({"id": "x", **item}))
        assert card.line or card.parts


def test_a_call_is_one_line_with_its_arguments_behind():
    card = card_of(dumped(type="function_call", name="get_weather", call_id="c", arguments='{"city":"Lisbon"}'))
    assert (card.kind, card.name, card.line) == ("call", "get_weather", '{"city":"Lisbon"}')
    assert card.parts[0].text == '{\n  "city": "Lisbon"\n}'


def test_what_is_sealed_is_said():
    card = card_of(dumped(type="reasoning", summary=[], encrypted_content="x" * 1200))
    assert card.line == "sealed, 1.2 kB"


def test_a_long_output_is_cut_and_says_so():
    card = card_of(dumped(type="function_call_output", call_id="c", output="y" * 10_000))
    assert (len(card.parts[0].text), card.parts[0].size, card.parts[0].is_cut) == (SHOWN, 10_000, True)


def test_an_item_of_which_only_the_beginning_is_at_hand_is_shown_as_far_as_it_goes():
    data = dumped(type="message", role="user", content=[{"type": "input_text", "text": 'a "b" \\ é\n' * 400}])
    for end in range(80, 300):
        card = cut_card(data[:end], len(data))
        assert (card.title, card.bytes) == ("user", len(data))
        assert card.parts[0].is_cut
    assert cut_card(data[:290], len(data)).parts[0].text.startswith('a "b" \\ é\na')


def test_a_message_in_a_line_has_no_marks_of_markdown():
    content = [
        {"type": "input_text", "text": "# A **bold** `word`\n\nand more"},
        {"type": "input_image", "image_url": PNG},
    ]
    assert first_line(dumped(type="message", role="user", content=content)) == "A bold word and more"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (PNG, "image/png"),
        ("data:text/html;base64," + base64.b64encode(tile_png(8)).decode(), "image/png"),
        ("data:image/png;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+", ""),
        ("data:image/svg+xml,<svg>", ""),
        ("data:image/png;base64,????", ""),
        ("https://evil.example/pixel.png", ""),
        ("", ""),
    ],
)
def test_only_pictures_that_are_here_and_are_ones_are_shown(url: str, kind: str):
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]}
    assert type_of(url) == kind
    picture = decode_picture(item, 0)
    assert (picture.type if picture else "") == kind
    parts = card_of(dumped(**item)).parts
    assert parts[0].kind == ("picture" if kind else "note")


def test_a_picture_has_the_number_by_which_it_is_asked_for():
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://x.example/a.png"}]
    item = {"type": "message", "role": "user", "content": [*parts, {"type": "input_image", "image_url": PNG}]}
    (shown,) = (part for part in card_of(dumped(**item)).parts if part.kind == "picture")
    assert decode_picture(item, shown.number) is not None


def test_what_can_t_be_seen_is_written_out():
    assert made_visible("a\u202eb\x07\U000e0041\r\n\tc") == "a⟨U+202E⟩b⟨U+0007⟩⟨U+E0041⟩\n\tc"
    assert made_visible("ü 👩‍👩‍👧 مرحبا") == "ü 👩‍👩‍👧 مرحبا"


def test_sizes_times_and_lines_for_people():
    assert [size_of(n) for n in (0, 999, 1200, 3_400_000)] == ["0 bytes", "999 bytes", "1.2 kB", "3.4 MB"]
    assert [age_of(1000 - s, 1000) for s in (0, 30, 90, 7200)] == ["now", "30 s", "1 min", "2 h"]
    assert shorten("a  b\nc", 10) == "a b c"
    assert shorten("abcdef", 3) == "abc…"
