"""Texts and arguments as they are compared."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recognition.canonical import canonical_arguments, canonical_text, without_thought


def test_texts_are_composed_and_without_white_space():
    assert canonical_text(" A\u0308 b\r\n\tc\u00a0\u2028d ") == "Äbcd"


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_white_space_is_the_same_with_and_without_characters_beyond_ascii(text: str):
    assert canonical_text(text) == unicodedata.normalize("NFC", "".join(text.split()))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("<think></think><think>a</think>b", "b"),
        ("b<think>a</think>", "b<think>a</think>"),
        ("<think>a", "<think>a"),
        ("<thinking>a</think>b", "<thinking>a</think>b"),
    ],
)
def test_only_a_thought_at_the_beginning_is_removed(text: str, left: str):
    assert without_thought(text) == left


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"b": 1, "a": [1.0, 2]}', '{"a":[1,2.0],"b":1.0}'),
        ('{"a":"\\u00fc"}', '{"a":"ü"}'),
        ("", "{}"),
        (None, "{}"),
        ({"a": 1}, '{"a":1}'),
        ('{"a":1e2}', '{"a":100}'),
        ('{"a":-0.0}', '{"a":0}'),
        ('{"a":12345678901234567890123}', '{"a":1.2345678901234568e22}'),
        ("not json", "not\njson"),
        ('{"a":"\\ud83d"}', '{"a":"\\ud83d" }'),
    ],
)
def test_arguments_are_the_same(one: object, other: object):
    assert canonical_arguments(one) == canonical_arguments(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":true}'),
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":null}', "{}"),
        ('{"a":"x y"}', '{"a":"xy"}'),
        ("[1,2]", "[2,1]"),
        ('{"a":1}', '{"a":2}'),
    ],
)
def test_arguments_are_others(one: str, other: str):
    assert canonical_arguments(one) != canonical_arguments(other)


def test_arguments_of_any_depth_and_size():
    assert canonical_arguments("[" * 5000 + "]" * 5000)
    assert canonical_arguments('{"a":1e999}') == canonical_arguments('{"a": 1e999}')
    assert canonical_arguments("9" * 5000)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_no_arguments_are_too_strange(arguments: object):
    assert isinstance(canonical_arguments(arguments), str)
