import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.integers import has_long, loads_exact

LONG = "12345678901234567890123"


@pytest.mark.parametrize(
    "text",
    [
        f'{{"maximum":{LONG}}}',
        f'{{"maximum": -{LONG} }}',
        f"[{LONG},{LONG}]",
        f"[1, {LONG}]",
        LONG,
        f'{{"a":{{"b":[[{LONG}]]}},"c":"{"x" * 1000}"}}',
        f'{{"c":"{"x" * 1000}","a":{LONG}}}',
        str(2**64),
        str(-(2**63) - 1),
        f'{{"a":"{LONG}","b":{LONG}}}',
    ],
)
def test_an_integer_beyond_64_bits_keeps_its_digits(text: str):
    assert orjson.dumps(loads_exact(text.encode())) == text.replace(" ", "").encode()


@pytest.mark.parametrize(
    "text",
    ["[]", '"x"', str(2**64 - 1), str(-(2**63)), "1e400", "1.5", f'"{LONG}"', f'{{"a":"x: {LONG}"}}', "0" * 3 + "1"],
)
def test_all_else_is_what_the_fast_parser_says(text: str):
    try:
        expected = orjson.loads(text)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            loads_exact(text.encode())
        return
    assert loads_exact(text.encode()) == expected


@pytest.mark.parametrize("text", [f"1.{LONG}", f"-0.{LONG}e5", f"1e{'0' * 20}1"])
def test_long_fractions_are_no_integers(text: str):
    assert loads_exact(text.encode()) == orjson.loads(text)


@pytest.mark.parametrize(
    "text", [f'"{LONG}"', '{"id":"1234567890123456789012345678901234567890"}', '"' + "7" * 999 + '"']
)
def test_digits_in_a_string_are_read_the_fast_way(text: str):
    assert not has_long(text.encode())


@given(
    before=st.text(max_size=80),
    number=st.integers(min_value=-(10**40), max_value=10**40),
    after=st.lists(st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False), max_size=5),
)
def test_an_integer_is_found_wherever_it_is(before: str, number: int, after: list[object]):
    head, tail = orjson.dumps(before), b",".join([repr(one).encode() for one in after if isinstance(one, int)])
    body = b'{"before":%b,"number":%d,"after":[%b]}' % (head, number, tail)
    assert orjson.dumps(loads_exact(body)) == body


FILLER = "x" * 1_300_000


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a":"{FILLER}","b":[1,-2,1.5,null,"é"]}}',
        f'{{"a":"{FILLER}","b":{2**64 - 1}}}',
        f'{{"a":"{LONG}{FILLER}","b":1}}',
        f'{{"a":"{FILLER}","b":{LONG}}}',
        f'{{"a":{LONG},"b":"{FILLER}"}}',
        # where one look ends and the next begins
        *(f'{{"a":"{"x" * (6 * 192 * 1024 - cut)}","b":{LONG},"c":"{FILLER}"}}' for cut in (12, 20, 28, 36)),
    ],
)
def test_large_json_says_the_same(text: str):
    assert orjson.dumps(loads_exact(text.encode())) == text.encode()


@pytest.mark.parametrize("text", [f'["{FILLER}"', f'["{FILLER}",1e999]', f'["{FILLER}\\ud800"]', f'["{FILLER}",NaN]'])
def test_large_json_that_is_none_is_refused_as_a_small_one(text: str):
    with pytest.raises(orjson.JSONDecodeError):
        loads_exact(text.encode())
