"""Replies never mix, whatever a server does: a scripted one, cut anywhere, late, mute, closing, refusing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from redis import exceptions as redis_errors

from storage.client.channel import Channel
from storage.client.connection import connect, open_channel
from tests.depth import examples
from tests.storage.client.scripted import HEALTHY, REFUSALS, Act, ScriptedServer
from tests.virtual_time import VirtualTimeLoop

TIMEOUT_SECONDS = 5.0
LIMIT = 3


@dataclass(frozen=True)
class Plan:
    """An exchange: when it begins, how many commands it has, and after how long it is cancelled, if it is."""

    begins: float
    commands: int
    patience: float | None


seconds = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.002, 1.0, 4.0, 6.0])
plans = st.lists(st.builds(Plan, seconds, st.integers(1, 4), st.none() | seconds), min_size=1, max_size=12)
#: One reply too many is taken for the next one if that is waited for: nothing can be done about that.
misdeeds = [act for act in Act if act is not Act.TWICE]
acts = st.lists(st.sampled_from([*HEALTHY, *HEALTHY, *misdeeds]), max_size=30)
cuts = st.lists(st.integers(1, 60), max_size=5)


def texts(reply: Any) -> list[bytes]:
    """All byte strings in a reply, but those that the server always says."""
    match reply:
        case bytes():
            return [reply.partition(b" ")[0]] if reply != b"it" else []
        case list():
            return [text for part in reply for text in texts(part)]
        case dict():
            return [text for pair in reply.items() for part in pair for text in texts(part)]
        case Exception():
            return [str(reply).rpartition(" ")[2].encode()]
        case _:
            return []


async def exchange(channel: Channel, name: int, plan: Plan) -> str:
    """Carry one out; what it gets must be its own, in order and in time. Returns what became of it."""
    await asyncio.sleep(plan.begins)
    tokens = [b"%d.%d" % (name, number) for number in range(plan.commands)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(plan.patience):
            replies = await channel.exchange([("ECHO", token) for token in tokens])
    except TimeoutError:
        due = TIMEOUT_SECONDS if plan.patience is None else min(TIMEOUT_SECONDS, plan.patience)
        assert loop.time() - began > due - 0.01
        return "given up"
    except (redis_errors.ConnectionError, redis_errors.InvalidResponse):
        return "failed"
    finally:
        assert loop.time() - began < TIMEOUT_SECONDS + 0.1
    assert [texts(reply) for reply in replies] == [[token] for token in tokens]
    return "answered"


async def torture(acts: list[Act], cuts: list[int], plans: list[Plan]) -> list[str]:
    """Carry all out at a server that misbehaves, then one at a server that does not any more."""
    async with ScriptedServer(acts, cuts) as server:
        client = connect(server.url, timeout_seconds=TIMEOUT_SECONDS, max_connections=LIMIT)
        channel = open_channel(client, timeout_seconds=TIMEOUT_SECONDS, max_connections=LIMIT)
        ends = await asyncio.gather(*(exchange(channel, number, plan) for number, plan in enumerate(plans)))
        heard = server.heard
        assert max(heard.values(), default=0) <= 2, "a command is repeated once"
        if not set(acts) - set(HEALTHY):
            assert max(heard.values(), default=0) <= 1, "what does not fail is not repeated"
            assert "failed" not in ends
        await asyncio.sleep(20)
        assert len(server.open_peers) <= LIMIT, "what is not used any more is closed"
        server.acts = iter(lambda: Act.BULK, None)
        assert await exchange(channel, 99, Plan(0, 2, None)) in ("answered", "failed")
        assert await exchange(channel, 100, Plan(0, 2, None)) == "answered"
        await channel.close()
        await asyncio.sleep(0.01)
        assert server.open_peers == []
    return ends


@settings(max_examples=examples(150))
@example([Act.LATE, Act.BULK], [], [Plan(0.0, 1, 1.0), Plan(0.0, 1, None), Plan(1.0, 1, None)])
@example([Act.NEVER], [], [Plan(0.0, 1, None), Plan(0.001, 1, None), Plan(6.0, 1, None)])
@example([Act.BULK, Act.READONLY, Act.BULK], [], [Plan(0.0, 1, None), Plan(1.0, 3, None), Plan(1.0, 1, None)])
@example([Act.BULK, Act.CUT], [1], [Plan(0.0, 1, None), Plan(1.0, 2, None), Plan(1.0, 2, 0.0)])
@example([Act.BULK, Act.GARBAGE], [3], [Plan(0.0, 1, None), Plan(1.0, 2, None), Plan(1.0, 1, None)])
@given(acts, cuts, plans)
def test_replies_never_mix(acts: list[Act], cuts: list[int], plans: list[Plan]):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        for end in runner.run(torture(acts, cuts, plans)):
            event(end)


@settings(max_examples=examples(30))
@given(st.lists(st.sampled_from([Act.BULK, *REFUSALS]), max_size=10), plans)
def test_a_refusal_is_told_as_it_is_or_repeated(acts: list[Act], plans: list[Plan]):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(torture(acts, [], plans))
