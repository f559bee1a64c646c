from typing import Any

import pytest
import toktok

from proxy.context.tokens import (
    ANSWER_TOKENS,
    ENCODING,
    FILE_TOKENS,
    IMAGE_TOKENS,
    ITEM_TOKENS,
    SMALL_IMAGE_TOKENS,
    count_items,
    count_settings,
)

PICTURE = "data:image/png;base64," + "A" * 10_000


def count(text: str) -> int:
    tokens: int = sum(toktok.batch_count([text], ENCODING))
    return tokens


def message(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"id": "msg_" + "0" * 50, "type": "message", "role": role, "status": "completed", "content": list(parts)}


def test_texts_are_counted_as_openai_counts_them():
    # published counts of o200k_base
    assert [count("hello world"), count("antidisestablishmentarianism"), count("お誕生日おめでとう")] == [2, 6, 8]


def test_a_message_is_its_text_and_a_frame():
    said = "What does the fox say?"
    assert count_items([message({"type": "input_text", "text": said})]) == [count(said) + ITEM_TOKENS]


def test_neither_ids_nor_annotations_count():
    bare: dict[str, Any] = {"type": "output_text", "text": "hi"}
    dressed = {**bare, "annotations": [{"type": "url_citation", "url": "https://example.com/a/b/c"}], "logprobs": [1]}
    assert count_items([message(dressed)]) == count_items([message(bare)])


def test_calls_and_their_outputs_count_by_what_they_say():
    call = {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"city":"Paris"}'}
    output = {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Rain"}]}
    joined = 'look_up\n{"city":"Paris"}'
    assert count_items([call, output]) == [count(joined) + ITEM_TOKENS, count("Rain") + ITEM_TOKENS]


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "input_image", "image_url": PICTURE}, IMAGE_TOKENS),
        ({"type": "input_image", "image_url": PICTURE, "detail": "low"}, SMALL_IMAGE_TOKENS),
        ({"type": "input_file", "filename": "a.pdf", "file_data": PICTURE}, FILE_TOKENS),
    ],
)
def test_pictures_and_files_are_a_flat_number(part, tokens):
    assert count_items([message(part)]) == [tokens + ITEM_TOKENS]


def test_a_picture_among_the_outputs_is_a_flat_number_too():
    shot = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PICTURE}}
    drawn = {"type": "image_generation_call", "result": "A" * 10_000}
    assert count_items([shot, drawn]) == [IMAGE_TOKENS + ITEM_TOKENS] * 2


def test_sealed_reasoning_counts_by_its_length():
    (tokens,) = count_items([{"type": "reasoning", "summary": [], "encrypted_content": "x" * 5333}])
    assert tokens == 1000 + ITEM_TOKENS


def test_what_is_not_known_counts_by_its_texts():
    assert count_items([{"type": "new_thing", "what": {"is": ["hello world", 1, None, True]}}]) == [2 + ITEM_TOKENS]


def test_instructions_and_tools_count_and_other_settings_do_not():
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {"city": {}}}}
    alone = count_settings({})
    told = count_settings({"instructions": "Be brief.", "temperature": 1, "metadata": {"a": "b" * 100}})
    assert alone == ANSWER_TOKENS
    assert told == ANSWER_TOKENS + ITEM_TOKENS + count("Be brief.")
    assert count_settings({"tools": [tool]}) > ANSWER_TOKENS + ITEM_TOKENS + count("look_up object properties city")


def test_the_schema_of_the_answer_counts():
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {"colour": {}}}}
    assert count_settings({"text": {"format": schema}}) > count_settings({"text": {"verbosity": "low"}}) + 10


@pytest.mark.parametrize("odd", ["text", 5, ["x"], {"format": 5}, None])
def test_settings_of_the_wrong_type_do_no_harm(odd):
    assert count_settings({"instructions": odd, "tools": odd, "text": odd}) >= ANSWER_TOKENS
