from __future__ import annotations

import contextlib
import gc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.lenient_json import loads_lenient


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, -1e999]}', {"a": None, "b": [None] * 4}),
        (b'["\\ud83d\\ude00", "\\ud83d", "\\ude00 \\ud83d"]', ["\U0001f600", "\ufffd", "\ufffd \ufffd"]),
        (b'{"\\ud83d": 1}', {"\ufffd": 1}),
        (b'["a\xffb", "\xf0\x9f"]', ["a\ufffdb", "\ufffd"]),
        # a pair that was written as if its halves were characters
        (b'["\xed\xa0\xbd\xed\xb8\x80"]', ["\U0001f600"]),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b"[18446744073709551615, -9223372036854775808, NaN]", [18446744073709551615, -9223372036854775808, None]),
    ],
)
def test_what_is_almost_json_is_read_and_can_be_written(data: bytes, value: Any):
    assert loads_lenient(data) == value
    orjson.dumps(loads_lenient(data))


@pytest.mark.parametrize("data", [b"", b"{", b"{'a': 1}", b"[1] 2", b"nan", b'["\n"]', b"[" * 100_000, b"[1,]"])
def test_what_is_no_json_is_refused_with_the_place(data: bytes):
    with pytest.raises(orjson.JSONDecodeError, match="line"):
        loads_lenient(data)


@pytest.mark.parametrize(
    ("delta", "left"),
    [
        (b"hi \\ud83d", "hi \ud83d"),
        (b"\\ude00!", "\ude00!"),
        (b"\\ude00 \\ud83d", "\ude00 \ud83d"),
        (b"\\ud83d", "\ud83d"),
        (b"a\\ud83db\\ud83d", "a\ufffdb\ud83d"),
    ],
)
def test_a_torn_field_keeps_the_halves_at_its_ends_and_nothing_else_does(delta: bytes, left: str):
    read = loads_lenient(b'{"delta": "%b", "other": "%b"}' % (delta, delta), torn="delta")
    assert read["delta"] == left
    assert "\ufffd" in read["other"]


@given(
    st.lists(st.integers(min_value=-(10**40), max_value=10**40), min_size=1),
    st.sampled_from(["", ",NaN", ',"\\ud83d"', ',"\udcff"']),
)
def test_integers_keep_their_digits_whatever_else_is_wrong(numbers: list[int], wrong: str):
    data = f"[{','.join(map(str, numbers))}{wrong}]".encode("utf-8", "surrogateescape")
    assert orjson.dumps(loads_lenient(data)).startswith(f"[{','.join(map(str, numbers))}".encode())


def test_an_integer_deeper_than_anything_is_written_is_no_failure():
    orjson.loads(data := b"[" * 1000 + b"12345678901234567890123" + b"]" * 1000)
    assert loads_lenient(data)


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text(), st.lists))
def test_what_is_json_is_read_as_ever(value: Any):
    assert loads_lenient(orjson.dumps(value)) == value


def test_a_refusal_is_freed_with_its_last_holder():
    """Its traceback leads to the frames that it came through; if one of them held it, only the collector would."""
    gc.collect()
    gc.disable()
    try:
        for data in (b"[DONE]", b'{"a":', b"\xff", b"[" * 5_000):
            with contextlib.suppress(orjson.JSONDecodeError):
                loads_lenient(data)
        assert gc.collect() == 0
    finally:
        gc.enable()
