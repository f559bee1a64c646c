import pytest

from storage import new_partition, partition_of
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
