"""A whole store copied and restored: nothing is missing, nothing is half, nothing lives longer than it may."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    BackupHead,
    DamagedBackup,
    KeyPart,
    ServerReplaced,
    Store,
    StoreNotEmpty,
    Submission,
    Unavailable,
    UnsupportedLayout,
    partition_of,
)
from storage.embedded import EmbeddedValkey
from tests.layouts import Layout
from tests.layouts.snapshot import Snapshot
from tests.storage.builders import OWNER, PREFIX, connect, list_ids, open_turn, read_all, start, store_on, take_turn
from tests.storage.everything import use_everything

HEAD = BackupHead(1, "a test", 0, "a server", "")
#: What ends by itself within seconds is not copied; the queue is made anew.
NOT_COPIED = re.compile(r".+:(lock|stop|commit):.+|.+:watched|.+:jobs:\{jobs\}|.+:layout:\{layout\}", re.DOTALL)


async def copied(store: Store) -> list[KeyPart]:
    return [part async for part in store.copier.copy()]


async def restore(store: Store, parts: Iterable[KeyPart], *, replace: bool = False) -> None:
    await store.restorer.prepare(HEAD, replace=replace)
    await store.restorer.restore(HEAD, parts)
    await store.layout.open("a test")


async def held(redis: Redis) -> dict[str, Any]:
    keys = (await Snapshot.take(redis, "")).keys
    return {
        key["key"]: {**key, "ttl_ms": key["ttl_ms"] is not None} for key in keys if not NOT_COPIED.match(key["key"])
    }


async def submit(store: Store) -> str:
    """Queue a response in a conversation and return its id."""
    conversation = await start(store, "one")
    opened = await open_turn(store, conversation=conversation)
    response_id = ids.new_response_id(conversation.id.removeprefix("conv_")[:16], stored=True)
    body = b'{"id":"%s","object":"response","created_at":1,"status":"queued","error":null}' % response_id.encode()
    await store.jobs.submit(Submission(OWNER, response_id, "token", body, "job", opened, streamed=False))
    return response_id


async def accepted_at(redis: Any, response_id: str) -> int:
    return int(await redis.hget(f"{PREFIX}:{{{partition_of(response_id)}}}:response:{response_id}", "accepted_at"))


async def kill(server: EmbeddedValkey, store: Store) -> None:
    """Kill a server and wait until another one is there."""
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while True:
        with suppress(Unavailable):
            await store.condition.look()
            if server.pid not in (pid, None):
                return


async def test_everything_is_there_again(redis: Redis, store: Store):
    await use_everything(store)
    before, parts = await held(redis), await copied(store)
    assert len(before) > 20
    await redis.flushall()
    await restore(store, parts)
    assert await held(redis) == before


async def test_the_first_layout_is_there_again(redis: Redis, layout: Layout):
    await layout.snapshot.load(redis)
    async with store_on(redis, prefix="branchline") as store:
        before, parts = await held(redis), await copied(store)
        await redis.flushall()
        await restore(store, parts)
        report = await store.auditor.audit()
    assert await held(redis) == before
    assert (report.complaints, report.conversations) == ([], 12)


async def test_it_goes_under_another_prefix(redis: Redis, store: Store):
    conversation = await start(store, "one", "two")
    parts = await copied(store)
    async with store_on(redis, prefix="other") as other:
        await restore(other, parts)
        assert await read_all(other, conversation) == ["one", "two"]
        assert await list_ids(other) == [conversation.id]


async def test_a_long_conversation_is_restored_in_its_order(redis: Redis, store: Store):
    conversation = await start(store, *(f"{i}" for i in range(1200)))
    parts = await copied(store)
    assert len([part for part in parts if "segment:0" in part.name]) > 2
    await redis.flushall()
    await restore(store, parts)
    assert await read_all(store, conversation) == [f"{i}" for i in range(1200)]


async def test_a_part_that_comes_twice_changes_nothing(redis: Redis, store: Store):
    await use_everything(store)
    before, parts = await held(redis), await copied(store)
    await redis.flushall()
    await restore(store, [one for part in parts for one in (part, part)])
    assert await held(redis) == before


async def test_what_is_there_stays_unless_it_is_to_be_replaced(redis: Redis, store: Store):
    old = await start(store, "backed up")
    parts = await copied(store)
    new = await start(store, "later")
    with pytest.raises(StoreNotEmpty):
        await restore(store, parts)
    await store.layout.open("a test")
    assert await read_all(store, new) == ["later"]
    await restore(store, parts, replace=True)
    assert await list_ids(store) == [old.id]
    assert (await store.auditor.audit()).conversations == 1


async def test_half_a_restore_is_no_store_and_is_begun_anew(redis: Redis, store: Store):
    conversations = [await start(store, f"{i}") for i in range(3)]
    parts = await copied(store)
    await redis.flushall()

    def broken() -> Iterable[KeyPart]:
        yield from parts[: len(parts) // 2]
        raise DamagedBackup("half")

    with pytest.raises(DamagedBackup, match="half"):
        await restore(store, broken())
    with pytest.raises(UnsupportedLayout, match="half a backup"):
        await store.layout.open("a test")
    await restore(store, parts)
    assert await list_ids(store) == [one.id for one in reversed(conversations)]


async def test_what_has_expired_meanwhile_stays_away(redis: Redis, store: Store):
    response = await take_turn(store, previous=await take_turn(store, conversation=await start(store, "one")))
    parts = await copied(store)
    assert any(response in part.name and part.expires_at_ms for part in parts)
    await redis.flushall()
    past = [KeyPart(part.name, part.kind, 1 if part.expires_at_ms else 0, part.offset, part.elements) for part in parts]
    await restore(store, past)
    keys = [key.decode() async for key in redis.scan_iter()]
    assert keys
    assert {await redis.ttl(key) for key in keys} == {-1}
    assert not [key for key in keys if ":response:" in key]
    assert len(await list_ids(store)) == 1


async def test_what_no_listing_of_the_backup_has_is_listed(redis: Redis, store: Store):
    made = await start(store, "one", project_id="p", referrer="r")
    parts = [part for part in await copied(store) if ":owner:" not in part.name]
    await redis.flushall()
    await restore(store, parts)
    assert await list_ids(store) == await list_ids(store, project_id="p", referrer="r") == [made.id]


async def test_background_responses_that_wait_are_queued_in_their_order(redis: Redis, store: Store):
    waiting = [await submit(store) for _ in range(5)]
    parts = await copied(store)
    await redis.flushall()
    await restore(store, parts)
    await store.jobs.join()
    entries = await store.jobs.take("worker", 10)
    accepted = [await accepted_at(redis, entry.response_id) for entry in entries]
    assert ({entry.response_id for entry in entries}, accepted) == (set(waiting), sorted(accepted))
    job = await store.jobs.claim(entries[0], "token-2", 10.0)
    assert getattr(job, "job", None) == "job"


async def test_beside_turns_each_conversation_is_whole(valkey: Redis, valkey_store: Store):
    store = valkey_store
    conversations = [await start(store, "begin") for _ in range(8)]
    stop = asyncio.Event()

    async def talk(number: int) -> None:
        while not stop.is_set():
            await take_turn(store, conversation=conversations[number])
            await start(store, "new")

    talking = [asyncio.create_task(talk(number)) for number in range(len(conversations))]
    told = []
    parts: list[KeyPart] = []
    async for part in store.copier.copy():
        if not parts:
            told = await list_ids(store)
        parts.append(part)
    stop.set()
    await asyncio.gather(*talking)
    await valkey.flushall()
    await restore(store, parts)
    report = await store.auditor.audit()
    assert report.complaints == []
    assert {one.id for one in conversations} <= set(await list_ids(store))
    for one in conversations:
        texts = await read_all(store, one)
        assert texts == ["begin", *["question", "answer"] * (len(texts) // 2)]
    assert told


async def test_a_server_that_was_restarted_meanwhile_is_noticed(tmp_path: Path):
    server = await EmbeddedValkey.start(tmp_path)
    try:
        async with connect(server.url) as store:
            await start(store, "one")
            parts = store.copier.copy()
            await anext(parts)
            await kill(server, store)
            with pytest.raises(ServerReplaced):
                [part async for part in parts]
    finally:
        await server.stop()
