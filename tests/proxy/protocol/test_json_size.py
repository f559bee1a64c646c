"""The size of JSON in elements, found out without parsing it."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.json_size import GLANCE_BYTES, count_elements, estimate, is_deeper, most_levels

TEXT = st.text(alphabet=st.sampled_from('a,[{"\\\n]}:é'), max_size=30)
VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


def elements(value: Any) -> int:
    """Values within arrays and objects, one more for each that is empty: nothing tells those from one with one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else max(len(inner), 1) + sum(map(elements, inner))


@given(VALUES, st.integers(1, 40))
def test_it_is_counted_exactly_whatever_stands_in_strings_and_wherever_a_slice_ends(value: Any, size: int):
    body = orjson.dumps(value)
    assert sum(count_elements(body, size)) == elements(value)
    assert sum(estimate(body, size)) >= elements(value)


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


@given(VALUES)
def test_no_json_has_more_levels_than_its_brackets_tell(value: Any):
    assert levels(value) <= most_levels(orjson.dumps(value))


def test_a_large_body_tells_nothing_of_its_levels():
    body = b"[%b]" % (b" " * GLANCE_BYTES)
    assert is_deeper(orjson.loads(body), 0)
    assert most_levels(body) > 10**9


@given(st.binary(max_size=60))
def test_anything_else_is_counted_too(body: bytes):
    assert 0 <= sum(count_elements(body)) <= len(body)


@pytest.mark.parametrize("body", [b'"' * 200_000, b"[" * 500_000, b'"\\' * 200_000, b'"' + b"\\" * 999_999])
def test_no_text_takes_long(body: bytes):
    start = time.process_time()
    sum(count_elements(body))
    assert time.process_time() - start < 2
