import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import random_hex
from storage.randomness import MAX_RANDOM_DIGITS


@pytest.mark.parametrize("digits", [1, 16, 24, MAX_RANDOM_DIGITS])
def test_a_number_has_the_digits_that_were_asked_for(digits: int):
    number = random_hex(digits)
    assert len(number) == digits
    assert int(number, 16) >= 0


def test_no_number_is_given_out_twice_to_whatever_thread():
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda _: [random_hex(MAX_RANDOM_DIGITS) for _ in range(1000)], range(8)))
    flat = [number for some in numbers for number in some]
    assert len(set(flat)) == len(flat) == 8000


def test_a_forked_process_draws_its_own():
    random_hex(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(random_hex(MAX_RANDOM_DIGITS) for _ in range(16)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 4096).decode().split()
    assert len(theirs) == 16
    assert not {random_hex(MAX_RANDOM_DIGITS) for _ in range(256)} & set(theirs)
