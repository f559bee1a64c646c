"""A cluster's channel tells the truth whatever its nodes do: scripted ones, that move slots, redirect, fail, hang."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from redis import exceptions as redis_errors
from redis.crc import key_slot

from storage.client.barrier import Barrier
from storage.client.channel import Channel, Unanswered
from storage.client.cluster.topology import REST_SECONDS, Topology
from storage.client.connection import open_channel, open_replicated_channel
from tests.storage.client.scripted import HEALTHY, LATE_SECONDS, Act
from tests.storage.client.scripted_cluster import NODES, SLOTS, ScriptedCluster, Step
from tests.virtual_time import VirtualTimeLoop, in_virtual_time

TIMEOUT_SECONDS = 5.0
LIMIT = 3
#: Hash tags of slots at all nodes.
TAGS = "012345"
#: What a command is not done for, but the next one may be.
REDIRECTIONS = (Step.MOVED, Step.ASK, Step.TRYAGAIN)


@dataclass(frozen=True)
class Plan:
    """An exchange: when it begins, the hash tags of its commands, and whether replicas are to have them."""

    begins: float
    tags: str
    is_replicated: bool


seconds = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.002, 1.0, 4.0, 6.0])
plans = st.lists(
    st.builds(Plan, seconds, st.text(TAGS, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=10
)
misdeeds = [*(act for act in Act if act is not Act.TWICE), *Step, *Step]
acts = st.lists(st.sampled_from([*HEALTHY, *HEALTHY, *misdeeds]), max_size=30)
cuts = st.lists(st.integers(1, 60), max_size=5)


def open_both(topology: Topology) -> tuple[Channel, Channel]:
    """Return a plain channel and one that waits for replicas."""
    barrier = Barrier("p", 1, False, 100)
    return (
        open_channel(topology, timeout_seconds=TIMEOUT_SECONDS, max_connections=LIMIT),
        open_replicated_channel(topology, barrier, timeout_seconds=TIMEOUT_SECONDS),
    )


def tokens_of(name: int, tags: Sequence[str]) -> list[bytes]:
    return [b"{%s}%d.%d" % (tag.encode(), name, number) for number, tag in enumerate(tags)]


def is_about(reply: Any, token: bytes) -> bool:
    """Whether a reply has a command's argument in it."""
    match reply:
        case list():
            return any(is_about(part, token) for part in reply)
        case dict():
            return any(is_about(part, token) for part in reply.values())
        case Exception():
            return is_error_about(reply, token)
        case _:
            return isinstance(reply, bytes) and reply.rstrip() == token


def is_error_about(reply: Exception, token: bytes) -> bool:
    """Whether a reply is the error that a command came to when it was done."""
    return type(reply) is redis_errors.ResponseError and str(reply) == token.decode()


async def exchange(cluster: ScriptedCluster, channel: Channel, name: int, plan: Plan) -> str:
    """Carry one out; whatever is told must be so. Returns what became of it."""
    await asyncio.sleep(plan.begins)
    tokens = tokens_of(name, plan.tags)
    loop = asyncio.get_running_loop()
    began = loop.time()
    replies: list[Any] = []
    refusal: Exception | None = None
    try:
        replies = await channel.exchange([("ECHO", token.decode()) for token in tokens])
    except (TimeoutError, redis_errors.RedisError) as error:
        refusal = error
    # what waits for replicas may wait for those before it
    assert loop.time() - began < (2 if plan.is_replicated else 1) * TIMEOUT_SECONDS + 0.1
    if isinstance(refusal, Unanswered):
        return "unknown"
    if refusal is not None:
        assert not any(cluster.done[token] for token in tokens), f"{refusal!r}, yet something was done"
        return "nothing changed"
    for reply, token in zip(replies, tokens, strict=True):
        if isinstance(reply, Exception) and not is_error_about(reply, token):
            assert not cluster.done[token], f"{reply!r}, yet it was done"
        else:
            assert is_about(reply, token)
            assert cluster.done[token]
    return "answered" if not any(isinstance(reply, Exception) for reply in replies) else "refused"


async def torture(acts: list[Act | Step], cuts: list[int], plans: list[Plan]) -> list[str]:
    """Carry all out at nodes that misbehave, then one for each slot at nodes that do not any more."""
    async with ScriptedCluster(acts, cuts) as cluster:
        channels = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        ends = await asyncio.gather(
            *(exchange(cluster, channels[plan.is_replicated], name, plan) for name, plan in enumerate(plans))
        )
        assert max(cluster.done.values(), default=0) <= 2, "a command is repeated once"
        if not set(acts) - {*HEALTHY, *REDIRECTIONS}:
            assert max(cluster.done.values(), default=0) <= 1, "what does not fail is not repeated"
        await asyncio.sleep(20)
        assert len(cluster.open_peers) <= NODES * (LIMIT + 1), "what is not used any more is closed"
        cluster.acts = iter(lambda: Act.BULK, None)
        for channel in channels:
            await exchange(cluster, channel, 99, Plan(0, TAGS, True))
            assert await exchange(cluster, channel, 100, Plan(0, TAGS, True)) == "answered"
            await channel.close()
        await asyncio.sleep(0.01)
        assert cluster.open_peers == []
        for (time, _), (later, _) in zip(cluster.asked, cluster.asked[NODES:], strict=False):
            assert later - time > REST_SECONDS - 0.01, "nodes are not asked all the time"
    return ends


@settings(max_examples=150)
@example([Act.BULK, Step.MOVED], [], [Plan(0.0, "0", False), Plan(1.0, "0", False)])
@example([Act.BULK, Step.ASK, Act.CLOSE], [], [Plan(0.0, "0", False), Plan(1.0, "0", False)])
@example([Act.BULK, Act.CLOSE, Step.MOVED], [3], [Plan(0.0, "0", True), Plan(1.0, "0", True)])
@example([Act.CUT, Step.CLUSTERDOWN, *[Step.TRYAGAIN] * 20], [], [Plan(0.0, "01", False)])
@example([Act.BULK, Step.FAILOVER, Act.CUT], [], [Plan(0.0, "00", True), Plan(1.0, "000", False)])
@example([Act.BULK, Act.READONLY, Act.LOADING], [], [Plan(0.0, "0", False), Plan(1.0, "02", False)])
@example([Act.LATE, Act.NEVER], [], [Plan(0.0, "0", True), Plan(0.0, "0", True), Plan(1.0, "05", False)])
@example([Act.BULK, Act.LOADING, Act.LOADING], [], [Plan(0.0, "0", True), Plan(0.0, "0", True)])
@example([Step.FAILOVER, Step.MOVED], [], [Plan(0.0, "0", False), Plan(0.0, "1", False)])
@given(acts, cuts, plans)
def test_what_is_told_of_a_cluster_is_so(acts: list[Act | Step], cuts: list[int], plans: list[Plan]):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        for end in runner.run(torture(acts, cuts, plans)):
            event(end)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([Act.BULK, Act.BULK, Step.MOVED, Step.ASK]), max_size=12), plans)
def test_a_slot_that_is_elsewhere_is_found(acts: list[Act | Step], plans: list[Plan]):
    async def run() -> None:
        async with ScriptedCluster(acts) as cluster:
            channels = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
            told = [exchange(cluster, channels[plan.is_replicated], name, plan) for name, plan in enumerate(plans)]
            assert set(await asyncio.gather(*told)) == {"answered"}
            for channel in channels:
                await channel.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


async def echo(channel: Channel, *tags: str) -> list[Any]:
    return await channel.exchange([("ECHO", f"{{{tag}}}") for tag in tags])


@in_virtual_time
async def test_what_goes_to_one_node_goes_together():
    async with ScriptedCluster() as cluster:
        channel, _ = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        tags = [cluster.tag_at(number) for number in (0, 1, 0, 2, 0)]
        assert await echo(channel, *tags) == [f"{{{tag}}}".encode() for tag in tags]
        assert [(len(peer.heard), peer.pieces) for node in cluster.nodes for peer in node.open_peers] == [
            (3, 2),
            (1, 2),
            (1, 2),
        ]
        await channel.close()


@in_virtual_time
async def test_a_slot_that_has_moved_is_asked_for_once_and_then_known():
    async with ScriptedCluster() as cluster:
        channel, _ = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        tag = cluster.tag_at(0)
        await echo(channel, tag)
        asked = len(cluster.asked)
        cluster.give([key_slot(tag.encode())], 1)
        await asyncio.gather(*(echo(channel, tag) for _ in range(50)))
        await asyncio.sleep(1)
        assert 0 < len(cluster.asked) - asked <= NODES
        cluster.acts = iter([Act.BULK])
        await echo(channel, tag)
        assert len(cluster.asked) - asked <= NODES
        await channel.close()


@in_virtual_time
async def test_a_node_that_hangs_holds_up_nobody_else_and_is_left_when_another_one_has_its_slots():
    loop = asyncio.get_running_loop()
    async with ScriptedCluster() as cluster:
        channel, replicated = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        here, there = cluster.tag_at(0), cluster.tag_at(1)
        await asyncio.gather(echo(channel, here, there), echo(replicated, here, there))
        cluster.nodes[0].reads.clear()
        # the read that it waits in ends with what comes next
        await asyncio.gather(echo(channel, here), echo(replicated, here))
        stuck = [asyncio.create_task(echo(one, here)) for one in (channel, replicated)]
        began = loop.time()
        await asyncio.gather(*(echo(one, there) for one in (channel, replicated) for _ in range(20)))
        assert loop.time() - began < 0.1
        cluster.give(range(SLOTS // NODES + 1), 2)
        for task in stuck:
            with pytest.raises(Unanswered):
                await task
        # as it is known to fail by now, the others are asked whose its slots are
        began = loop.time()
        assert await echo(channel, here) == [f"{{{here}}}".encode()]
        assert await echo(replicated, here) == [f"{{{here}}}".encode()]
        assert loop.time() - began < 0.1
        await channel.close()
        await replicated.close()
        cluster.nodes[0].reads.set()


@in_virtual_time
async def test_who_comes_while_a_named_node_hangs_is_told_by_another():
    loop = asyncio.get_running_loop()
    async with ScriptedCluster() as cluster:
        cluster.nodes[0].reads.clear()
        channel, _ = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS, named=[0, 1]))
        await echo(channel, cluster.tag_at(2))
        assert loop.time() < 0.1
        await channel.close()
        cluster.nodes[0].reads.set()


@in_virtual_time
async def test_what_is_under_way_at_a_node_that_is_no_primary_any_more_is_sent_once_more_elsewhere():
    loop = asyncio.get_running_loop()
    async with ScriptedCluster([Act.BULK, Act.BULK, Act.LATE]) as cluster:
        channel, _ = open_both(topology := cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        tag = cluster.tag_at(0)
        await echo(channel, tag)
        await echo(channel, tag)
        waiting = asyncio.create_task(echo(channel, tag))
        await asyncio.sleep(1)
        cluster.give(range(SLOTS // NODES + 1), 2)
        await topology.refreshed()
        assert await waiting == [f"{{{tag}}}".encode()]
        assert loop.time() < 2 < LATE_SECONDS
        await channel.close()


@in_virtual_time
async def test_what_another_node_has_already_is_done_there():
    async with ScriptedCluster() as cluster:
        channels = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        tag = cluster.tag_at(0)
        for channel in channels:
            cluster.acts = iter([Step.ASK, Act.BULK])
            await echo(channel, tag)
            await channel.close()
        assert [node.heard[f"{{{tag}}}".encode()] for node in cluster.nodes] == [2, 2, 0]


@in_virtual_time
async def test_where_one_of_two_nodes_is_not_there_something_may_have_been_done():
    async with ScriptedCluster() as cluster:
        channel, _ = open_both(cluster.topology(timeout_seconds=TIMEOUT_SECONDS))
        here, away = cluster.tag_at(0), cluster.tag_at(2)
        await echo(channel, here)
        await cluster.nodes[2].stop()
        with pytest.raises(Unanswered):
            await echo(channel, here, away)
        with pytest.raises(redis_errors.ConnectionError) as refused:
            await echo(channel, away)
        assert not isinstance(refused.value, Unanswered)
        await channel.close()
