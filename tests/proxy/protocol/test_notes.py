import orjson
import pytest

from proxy.protocol.notes import ItemNote, Maker, is_broken, note_of, read_note

MAKER = Maker("api.example/v1", "thinker", "thinker-1")
SEALED = {"type": "strange_thing", "encrypted_content": "gAAAA"}


@pytest.mark.parametrize(
    ("item", "note"),
    [
        ({"type": "reasoning", "summary": []}, ItemNote(MAKER)),
        (SEALED, ItemNote(MAKER)),
        ({"type": "compaction", "encrypted_content": "x"}, ItemNote(MAKER)),
        ({"type": "function_call", "arguments": "{"}, ItemNote(broken=True)),
        ({"type": "mcp_call", "arguments": "{", "encrypted_content": "x"}, ItemNote(MAKER, broken=True)),
        ({"type": "function_call", "arguments": "{}"}, ItemNote()),
        ({"type": "message", "role": "assistant", "content": []}, ItemNote()),
    ],
)
def test_a_note_says_what_has_to_be_known(item, note):
    text = note_of(item, MAKER)
    assert read_note(text) == note
    assert (text == "") is (note == ItemNote())


def test_nobody_is_known_to_have_made_what_a_client_brings():
    assert note_of(SEALED) == note_of({"type": "reasoning"}) == ""


@pytest.mark.parametrize("text", ["", "nonsense", "{}", '{"maker":7}', '{"else":1}'])
def test_a_note_that_can_t_be_read_says_nothing(text):
    assert read_note(text) == ItemNote()


def test_a_model_s_name_may_be_any_text():
    maker = Maker("server", 'a "b"\x1f\n', "")
    text = note_of({"type": "reasoning"}, maker)
    assert "\x1f" not in text
    assert read_note(text).maker == maker
    assert orjson.loads(text)["maker"][1] == maker.asked


@pytest.mark.parametrize(
    ("arguments", "broken"),
    [("", False), ("{}", False), ("null", False), ("{", True), ("x", True), (None, False), ({"a": 1}, False)],
)
def test_arguments_are_broken_if_they_are_no_json(arguments, broken):
    assert is_broken({"type": "function_call", "arguments": arguments}) is broken
