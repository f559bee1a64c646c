"""What nodes say of a cluster's slots, and what is made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.crc import key_slot

from storage.client.cluster.topology import Address, Topology
from storage.client.connection import connect, open_channel
from tests.storage.client.scripted import Act, Peer
from tests.storage.client.scripted_cluster import NODES, SLOTS, ScriptedCluster, ScriptedNode
from tests.virtual_time import in_virtual_time

TIMEOUT_SECONDS = 5.0


def resp(*parts: Any) -> bytes:
    """Return lists, numbers, texts and nothing as a node says them."""
    out = b""
    for part in parts:
        match part:
            case list():
                out += b"*%d\r\n" % len(part) + resp(*part)
            case int():
                out += b":%d\r\n" % part
            case None:
                out += b"_\r\n"
            case _:
                out += b"$%d\r\n%s\r\n" % (len(part), part)
    return out


class ToldOtherwise(ScriptedNode):
    """A node that says of the slots what it is told to say."""

    says = b""

    def do(self, command: list[bytes], peer: Peer) -> tuple[Act, bytes]:
        if command[0] == b"CLUSTER":
            return Act.BULK, self.says
        return super().do(command, peer)


def cluster_that_says(*says: bytes) -> ScriptedCluster:
    cluster = ScriptedCluster()
    for number, text in enumerate(says):
        node = cluster.nodes[number] = ToldOtherwise(cluster, number, ())
        node.says = text
    return cluster


def in_use(topology: Topology) -> list[set[Address]]:
    """Return what a topology tells whoever uses it."""
    told: list[set[Address]] = []
    topology.on_change(told.append)
    return told


@pytest.mark.parametrize("name", [None, b"", b"?"])
@in_virtual_time
async def test_a_node_without_a_name_has_the_host_of_the_one_that_was_asked(name: bytes | None):
    slots = [[0, 99, [name, 0, b"id", []]], [100, SLOTS - 1, [b"other", 1, b"id"], [b"replica", 2, b"id"]]]
    async with cluster_that_says(resp(slots)) as cluster:
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=[0])
        in_use(topology)
        await topology.refreshed()
        assert topology.primaries == (("node", 0), ("other", 1))
        tags = topology.tags()
        assert [topology.node_of(tag) for tag in tags] == [("other", 1), ("node", 0)]


@in_virtual_time
async def test_a_node_that_knows_of_no_slots_is_not_believed():
    async with cluster_that_says(resp([])) as cluster:
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS)
        in_use(topology)
        await topology.refreshed()
        assert len(topology.primaries) == NODES
        alone = cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=[0])
        in_use(alone)
        with pytest.raises(redis_errors.ClusterDownError):
            await alone.refreshed()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@in_virtual_time
async def test_a_refusal_says_more_than_a_node_that_is_not_there(order: Sequence[int]):
    async with cluster_that_says(b"-NOPERM no permissions to run the 'cluster|slots' command\r\n") as cluster:
        await cluster.nodes[1].stop()
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=order)
        in_use(topology)
        with pytest.raises(redis_errors.NoPermissionError):
            await topology.refreshed()


@in_virtual_time
async def test_who_fails_is_asked_only_if_nobody_else_answers():
    async with ScriptedCluster() as cluster:
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=[0])
        in_use(topology)
        await topology.refreshed()
        cluster.asked.clear()
        await topology.refreshed(("node", 0))
        assert {number for _, number in cluster.asked} == {1, 2}
        cluster.asked.clear()
        for number in (1, 2):
            await cluster.nodes[number].stop()
        await topology.refreshed(("node", 0))
        assert [number for _, number in cluster.asked] == [0]


@in_virtual_time
async def test_users_are_told_which_nodes_are_primaries_no_more():
    async with ScriptedCluster() as cluster:
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS)
        told = in_use(topology)
        await topology.refreshed()
        cluster.give(range(SLOTS // NODES + 1), 1)
        await topology.refreshed()
        assert told == [{("node", 0)}]


@in_virtual_time
async def test_nothing_is_asked_any_more_once_the_last_channel_is_closed():
    async with ScriptedCluster() as cluster:
        topology = cluster.topology(timeout_seconds=TIMEOUT_SECONDS)
        channels = [open_channel(topology, timeout_seconds=TIMEOUT_SECONDS, max_connections=1) for _ in range(2)]
        for node in cluster.nodes:
            node.reads.clear()
        waiting = asyncio.create_task(topology.refreshed())
        await channels[0].close()
        await asyncio.sleep(1)
        assert not waiting.done()
        await channels[1].close()
        with pytest.raises(redis_errors.ConnectionError):
            await waiting
        with pytest.raises(redis_errors.ConnectionError):
            await topology.refreshed()
        with pytest.raises(redis_errors.ConnectionError):
            await channels[0].exchange([("GET", "{a}")])
        for node in cluster.nodes:
            node.reads.set()


@in_virtual_time
async def test_a_slot_that_nobody_has_is_a_cluster_that_is_down_and_others_are_served():
    slots = [[0, 99, [b"", 0, b"id"]]]
    async with cluster_that_says(resp(slots)) as cluster:
        channel = open_channel(
            cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=[0]),
            timeout_seconds=TIMEOUT_SECONDS,
            max_connections=1,
        )
        here = next(tag for tag in map(str, range(SLOTS)) if key_slot(tag.encode()) < 100)
        served, refused = await channel.exchange([("ECHO", f"{{{here}}}"), ("ECHO", "{1}")])
        assert served == f"{{{here}}}".encode()
        assert isinstance(refused, redis_errors.ClusterDownError)
        assert asyncio.get_running_loop().time() < 1
        await channel.close()


async def test_a_cluster_has_connections_with_what_the_url_says():
    topology = connect(
        "rediss+cluster://user:pa%40ss@a:1,[::1]:2?ssl_cert_reqs=none", timeout_seconds=1, max_connections=1
    )
    assert isinstance(topology, Topology)
    options = topology.dialer_to(("c", 3))._options
    assert (options.host, options.port, options.username, options.password) == ("c", 3, "user", "pa@ss")
    assert (options.cert_reqs, options.socket_connect_timeout) == (0, 1)
