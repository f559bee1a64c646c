import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import new_partition, partition_of, random_hex
from storage.partitions import MAX_RANDOM_DIGITS
from tests.storage.builders import minted

PARTITION = "00112233445566aa"


@pytest.mark.parametrize(
    "some_id", [f"conv_{'1' * 32}{PARTITION}", f"resp_{PARTITION}00{'1' * 32}", f"my_msg_{PARTITION}01{'f' * 32}"]
)
def test_an_id_of_ours_names_its_partition(some_id: str):
    assert partition_of(some_id) == PARTITION


@pytest.mark.parametrize(
    "some_id",
    [
        "msg_mine",
        "",
        f"conv_{'1' * 31}{PARTITION}",
        f"conv_{'g' * 32}{PARTITION}",
        f"resp_{PARTITION}00{'1' * 31}F",
        "conv_\ud800",
    ],
)
def test_any_other_id_leads_to_a_partition_of_its_own_always_the_same(some_id: str):
    partition = partition_of(some_id)
    assert len(partition) == len(new_partition())
    assert set(partition) <= set("0123456789abcdef")
    assert partition != PARTITION
    assert partition == partition_of(some_id) != partition_of(some_id + "x")


def test_new_partitions_differ():
    assert len({new_partition() for _ in range(100)}) == 100


def test_minted_items_of_the_builders_live_in_the_partition_they_were_minted_for():
    partition = new_partition()
    assert partition_of(minted(partition, "x").id) == partition


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
