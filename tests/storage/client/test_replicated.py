"""What is told of writes whose replicas are waited for, where the waiting is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import exceptions as redis_errors

from storage import Reason
from storage.client.barrier import Barrier, TooFewReplicas
from storage.client.channel import Channel, Command, Unconfirmed
from storage.client.replicated import ReplicatedChannel
from storage.client.scripts import translate_error

BARRIER = Barrier("p", 1, False, 100)
OOM = redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


class Says(Channel):
    """Answers SET and WAIT as it is told to; `DEL` with 1, and everything else with a refusal."""

    def __init__(self, probe: Any, copies: Any) -> None:
        self._replies = {"DEL": 1, "SET": probe, "WAIT": copies}

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        return [self._replies.get(str(request[0]), OOM) for request in requests]

    async def close(self) -> None:
        pass


async def test_what_was_done_is_not_denied_because_its_confirmation_is_refused():
    # a full server deletes, and takes no probe
    channel = ReplicatedChannel(Says(OOM, 1), BARRIER)
    with pytest.raises(Unconfirmed) as told:
        await channel.exchange([("DEL", "a")])
    translated = translate_error(told.value)
    assert (translated.reason, translated.unsure, translated.subject) == (Reason.FULL, True, "OutOfMemoryError")


@pytest.mark.parametrize(("probe", "copies"), [(OOM, 1), (b"OK", 0)])
async def test_what_was_refused_is_told_so_whatever_replicas_say(probe: Any, copies: Any):
    channel = ReplicatedChannel(Says(probe, copies), BARRIER)
    assert await channel.exchange([("RPUSH", "a", "b")]) == [OOM]


async def test_one_that_was_done_among_refused_ones_needs_its_replicas():
    channel = ReplicatedChannel(Says(b"OK", 0), BARRIER)
    with pytest.raises(TooFewReplicas):
        await channel.exchange([("RPUSH", "a", "b"), ("DEL", "a")])
