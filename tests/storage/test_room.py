"""What is refused while a server's disk or memory comes to an end, and what is not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from storage import CommitResult, Disk, Reason, Safeguards, Store, Unavailable, partition_of
from storage.client.library import load_scripts
from storage.client.scripts import _ACKNOWLEDGED
from storage.room import _BEGIN, _ONLY_READ, Shortage, memory_left
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    add,
    draft,
    finished,
    ids_in,
    open_turn,
    read_all,
    start,
)
from tests.storage.servers import run_valkey

MEBIBYTE = 1024 * 1024
#: More than any disk has.
EXBIBYTE = 2**60


class FakeDisk:
    """A disk that has as much left as the test says."""

    def __init__(self) -> None:
        self.left = Shortage.NONE

    def shortage(self) -> Shortage:
        return self.left


@pytest.fixture
async def disk() -> FakeDisk:
    return FakeDisk()


@pytest.fixture
async def watched(valkey_url: str, valkey: Redis, disk: FakeDisk) -> AsyncIterator[Store]:
    """A store whose server writes to that disk."""
    store = Store.connect(
        valkey_url,
        prefix=PREFIX,
        timeout_seconds=5.0,
        max_connections=4,
        retention_seconds=RETENTION_SECONDS,
        safeguards=Safeguards(disk),  # type: ignore[arg-type]
    )
    yield store
    await store.close()


async def expect_full(store: Store, *calls: object) -> None:
    for call in calls:
        with pytest.raises(Unavailable) as refused:
            await call  # type: ignore[misc]
        assert (refused.value.reason, refused.value.unsure) == (Reason.FULL, False)


async def test_with_little_left_nothing_new_is_begun_and_the_rest_goes_on(watched: Store, disk: FakeDisk):
    made = await start(watched, "one", "two")
    item_id = (await ids_in(watched, made))[0]
    commit = finished(await open_turn(watched, conversation=made), partition=partition_of(made.id), conversation=made)
    disk.left = Shortage.NOTHING_NEW
    await expect_full(
        watched,
        watched.condition.look(),
        watched.conversations.create(OWNER, draft(), []),
        add(watched, made, "three"),
        watched.conversations.update(OWNER, made.id, {"title": "t"}),
    )
    with pytest.raises(Unavailable):
        watched.condition.require()
    assert await read_all(watched, made) == ["one", "two"]
    await watched.items.delete(OWNER, made.id, item_id)
    assert (await watched.turns.commit(commit)).result is CommitResult.OK
    await watched.conversations.delete(OWNER, made.id)
    disk.left = Shortage.NONE
    await watched.condition.look()
    watched.condition.require()
    await start(watched, "again")


async def test_with_nothing_left_nothing_is_written_and_reading_goes_on(watched: Store, disk: FakeDisk):
    made = await start(watched, "one")
    commit = finished(await open_turn(watched, conversation=made), partition=partition_of(made.id), conversation=made)
    disk.left = Shortage.NOTHING
    await expect_full(
        watched,
        watched.condition.look(),
        watched.turns.commit(commit),
        watched.conversations.delete(OWNER, made.id),
    )
    assert await read_all(watched, made) == ["one"]
    disk.left = Shortage.NONE
    await watched.condition.look()
    assert (await watched.turns.commit(commit)).result is CommitResult.OK


async def test_memory_that_comes_to_an_end_is_seen_before_the_server_refuses():
    with run_valkey("--maxmemory", str(64 * MEBIBYTE)) as server:
        async with Redis.from_url(server.url) as filler:
            store = Store.connect(
                server.url, prefix=PREFIX, timeout_seconds=5.0, max_connections=4, retention_seconds=RETENTION_SECONDS
            )
            made = await start(store, "one")
            await store.condition.look()
            while (await filler.info("memory"))["used_memory"] < 61.5 * MEBIBYTE:
                await filler.rpush("filler", b"x" * (MEBIBYTE // 2))
            await expect_full(store, store.condition.look(), store.conversations.create(OWNER, draft(), []))
            await store.items.delete(OWNER, made.id, (await ids_in(store, made))[0])
            await filler.delete("filler")
            async with asyncio.timeout(10):
                # memory is freed in a thread of the server's
                while (await filler.info("memory"))["used_memory"] > 32 * MEBIBYTE:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await store.condition.look()
            await store.close()


def test_a_disk_says_how_little_is_left(tmp_path: Path):
    assert Disk(tmp_path, 1).shortage() is Shortage.NONE
    assert Disk(tmp_path, EXBIBYTE).shortage() is Shortage.NOTHING


@pytest.mark.parametrize(
    ("used", "limit", "left"),
    [
        (10**12, 0, math.inf),
        (70, 100, 5),
        (80, 100, -5),
        (10**11 - 65 * MEBIBYTE, 10**11, MEBIBYTE),
        (10**11 - 63 * MEBIBYTE, 10**11, -MEBIBYTE),
    ],
)
def test_what_is_kept_free_of_memory_is_a_share_and_not_too_much(used: int, limit: int, left: float):
    assert memory_left(used, limit) == left


#: Scripts that go on with what has begun, undo, keep alive or repair: not refused before nothing is left, and nobody is
#: told of them as done, so that no replica has to have them.
GO_ON = {
    *("count_request", "enter_turn", "keep_turns", "leave_turn", "reserve_index"),
    *("charge_bytes", "check_bytes", "set_bytes"),
    *("draw_jobs", "requeue_job", "withdraw_job"),
    *("answer_key", "claim_key", "free_key", "keep_key"),
    *("append_events", "bring_events", "claim_events"),
    *("check_rights", "correct_index", "drop_index", "purge_partition", "touch_index"),
    *("claim_job", "enqueue_job", "fail_job", "finish_job", "join_queue", "keep_jobs", "reclaim_jobs", "renew_job"),
    *("claim_layout", "list_restored", "note_layout"),
    *("drop_digests", "hold_digests", "note_digests"),
    *("import_appends", "import_branches", "return_job"),
    *("drop_staged", "open_turn", "release_turn", "renew_lease", "stage_items", "withdraw_turn"),
    *("mark_stop", "mark_watched"),
    *("sweep_index", "sweep_pieces", "sweep_segment", "sweep_survey"),
}


def test_of_every_script_is_known_whether_it_begins_something_and_whether_its_end_is_told():
    """A new script is one of these, or goes on with something."""
    known = [_BEGIN | {"import_items"}, _ONLY_READ, _ACKNOWLEDGED - _BEGIN - {"probe_writes"}, GO_ON]
    assert sorted(name for names in known for name in names) == sorted(load_scripts())
