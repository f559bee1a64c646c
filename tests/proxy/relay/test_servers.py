"""Streams of real servers, with what must come out of them (tests/upstream_streams)."""

from __future__ import annotations

import pytest

from proxy.protocol.sse import SseDecoder, joined
from proxy.relay import Relay
from tests.proxy.relay.strict import finish, kinds, ownership
from tests.samples import load_stream, stream_names


@pytest.mark.parametrize("name", stream_names())
def test_a_real_servers_stream_says_what_it_means(name):
    stream = load_stream(name)
    relay = Relay(ownership())
    events, outcome = finish(
        relay, b"".join(joined(relay.feed(event)) for event in SseDecoder(1 << 20).feed(stream.body))
    )
    stream.accept(events)
    assert relay.outcome is outcome
    assert set(kinds(events)).isdisjoint({"reasoning_part.added", "reasoning_part.done", "ping"})
