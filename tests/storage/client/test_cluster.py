"""The store on a cluster: one real server that has all slots."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from storage import (
    BackupHead,
    Missing,
    PageRequest,
    Purged,
    Reason,
    Safeguards,
    Store,
    Unavailable,
    new_partition,
    partition_of,
)
from storage.client import connection
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    connect,
    continue_from,
    draft,
    ids_in,
    list_ids,
    open_turn,
    read_all,
    start,
    take_turn,
)
from tests.storage.everything import use_archive, use_everything, use_jobs, use_quotas
from tests.storage.servers import read_command, run_cluster_node


@pytest.fixture(scope="module")
def cluster_port() -> Iterator[int]:
    """Port of a cluster of one real server that has all slots."""
    with run_cluster_node() as (port, _):
        yield port


@pytest.fixture
async def cluster(cluster_port: int) -> AsyncIterator[Store]:
    async with Redis(port=cluster_port) as node:
        if (await node.execute_command("CLUSTER INFO"))["cluster_slots_assigned"] == "0":
            await node.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(20):
            while (await node.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":
                pass
        await node.flushall()
    async with connect(f"redis+cluster://127.0.0.1:{cluster_port}", max_connections=8) as store:
        yield store


async def test_every_method_works_on_a_cluster(cluster: Store):
    await cluster.condition.look()
    await use_everything(cluster)
    await use_archive(cluster)
    await use_jobs(cluster)
    await use_quotas(cluster)


async def test_a_cluster_is_backed_up_and_restored(cluster: Store):
    await use_everything(cluster)
    before = await cluster.auditor.audit()
    parts = [part async for part in cluster.copier.copy()]
    head = BackupHead(cluster.layout.newest, "a test", 0, "a cluster", "")
    await cluster.restorer.prepare(head, replace=True)
    await cluster.restorer.restore(head, parts)
    await cluster.layout.open("a test")
    after = await cluster.auditor.audit()
    assert (after.complaints, after.conversations, after.items) == ([], before.conversations, before.items)


async def test_conversations_and_chains_on_a_cluster(cluster: Store):
    made = await start(cluster, "one", project_id="p", referrer="r")
    other = await start(cluster, "far")
    far = (await ids_in(cluster, other))[0]
    assert partition_of(made.id) != partition_of(other.id)
    response = await take_turn(cluster, conversation=made)
    assert await read_all(cluster, made) == ["one", "question", "answer"]
    assert await continue_from(cluster, response) == ["one", "question", "answer"]
    opened = await open_turn(cluster, previous=response, item_ids=[far, (await ids_in(cluster, made))[0]])
    assert [item.in_history for item in opened.known.values()].count(True) == 1
    assert set(await list_ids(cluster)) == {made.id, other.id}
    assert await list_ids(cluster, project_id="p") == [made.id]


async def test_on_a_cluster_too_a_write_is_not_told_as_done_before_replicas_have_it(cluster_port: int, cluster: Store):
    # so that the server knows the script
    await start(cluster)
    made = draft()
    store = Store.connect(
        f"redis+cluster://127.0.0.1:{cluster_port}",
        prefix=PREFIX,
        timeout_seconds=4.0,
        max_connections=8,
        retention_seconds=RETENTION_SECONDS,
        safeguards=Safeguards(min_replicas=1),
    )
    try:
        for attempt in (store.conversations.create(OWNER, made, []), store.condition.look()):
            with pytest.raises(Unavailable) as refused:
                await attempt
            assert (refused.value.reason, refused.value.unsure) == (Reason.REPLICAS, True)
        assert (await cluster.conversations.read(OWNER, made.id)).id == made.id
    finally:
        await store.close()


@asynccontextmanager
async def node_that_does_and_then_refuses() -> AsyncIterator[str]:
    """Run a node with all slots whose first script ends its connection, and that refuses all others. Gives its URL."""
    scripts = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal scripts
        with contextlib.closing(writer):
            while command := await read_command(reader):
                port = writer.get_extra_info("sockname")[1]
                slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$1\r\na\r\n" % port
                known = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"CLUSTER": slots, b"COMMAND": b"*0\r\n"}
                if command[0].startswith(b"EVAL"):
                    scripts += 1
                    if scripts == 1:
                        break
                    writer.write(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
                else:
                    writer.write(known.get(command[0], b"+OK\r\n"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis+cluster://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_what_is_refused_after_an_answer_was_lost_may_have_been_done():
    async with node_that_does_and_then_refuses() as url, connect(url, max_connections=8) as store:
        for is_unsure, reason in ((True, Reason.AWAY), (False, Reason.FULL)):
            with pytest.raises(Unavailable) as refused:
                await store.conversations.create(OWNER, draft(), [])
            assert (refused.value.unsure, refused.value.reason) == (is_unsure, reason)


async def test_sweeping_and_checking_on_a_cluster(cluster: Store):
    conversations = [await start(cluster, "one") for _ in range(3)]
    await take_turn(cluster, conversation=conversations[0])
    partitions = [one async for one in cluster.sweeper.partitions()]
    assert sorted(partitions) == sorted(partition_of(made.id) for made in conversations)
    assert (await cluster.sweeper.sweep_all()).partitions == 3
    report = await cluster.auditor.audit()
    assert (report.conversations, report.items, report.complaints) == (3, 5, [])


async def test_a_purge_on_a_cluster(cluster: Store):
    for owner in (OWNER, "bob"):
        made = await start(cluster, "one", owner=owner, project_id="p")
        await take_turn(cluster, conversation=made, owner=owner)
        await take_turn(cluster, owner=owner)
    purged = await cluster.purger.purge(OWNER)
    assert (purged.partitions, purged.conversations, purged.responses) == (2, 1, 2)
    assert await cluster.purger.purge(OWNER) == Purged()
    assert (await cluster.conversations.read("bob", made.id)).id == made.id


async def test_refusals_come_through_on_a_cluster(cluster: Store):
    made = await start(cluster)
    with pytest.raises(Missing):
        await cluster.items.read(OWNER, made.id, "msg_unknown")
    with pytest.raises(Missing):
        await open_turn(cluster, previous=f"resp_{new_partition()}{'0' * 34}")
    assert await cluster.conversations.delete_all(OWNER) == 1
    assert (await cluster.conversations.list_page(OWNER, PageRequest())).conversations == []


@pytest.mark.parametrize(
    "url",
    ["", "http://localhost", "localhost:6379", "redis+sentinel://localhost:26379", "redis+sentinel://localhost:26379/"],
)
def test_a_url_that_names_no_server_of_ours_is_refused(url: str):
    with pytest.raises(ValueError, match=r"redis\.url"):
        connection.connect(url, timeout_seconds=1, max_connections=1)


async def test_a_user_who_may_not_ask_for_the_slots_is_told_so(cluster: Store, cluster_port: int):
    async with Redis(port=cluster_port) as node:
        await node.execute_command("ACL", "SETUSER", "blind", "on", "nopass", "~*", "+@all", "-cluster|slots")
    async with connect(f"redis+cluster://blind:any@127.0.0.1:{cluster_port}") as store:
        with pytest.raises(Unavailable) as told:
            await store.conversations.read(OWNER, draft().id)
    assert told.value.reason is Reason.NO_PERMISSION
