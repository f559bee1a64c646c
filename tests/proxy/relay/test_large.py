"""Large texts: told as small ones are, each there once however many frames say it."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from proxy.protocol import sse
from proxy.relay import Relay, Splicer
from proxy.relay.frames import LARGE_TEXT
from tests.proxy.relay.streams import CALL, MESSAGE, TEXT, completed
from tests.proxy.relay.strict import accept_stream, events_of, finish, ownership

LARGE = 'größer "1"\n' * (LARGE_TEXT // 8)
MESSAGE_OF_IT = {**MESSAGE, "content": [{**TEXT, "text": LARGE}]}
LIMIT = 1 << 26
CHUNK_BYTES = 100_000


def told_of(relay: Relay, *bodies: dict[str, object]) -> list[sse.FrameBytes]:
    """What a client is told for a stream of these events, chunk by chunk."""
    stream = b"".join(b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), orjson.dumps(one)) for one in bodies)
    splicer = Splicer(relay, LIMIT)
    told = [splicer.feed(stream[at : at + CHUNK_BYTES]) for at in range(0, len(stream), CHUNK_BYTES)]
    assert splicer.failure is None
    return told


def in_pieces() -> list[dict[str, object]]:
    place = {"item_id": "msg_up", "output_index": 0, "content_index": 0}
    cuts = range(0, len(LARGE), 50_000)
    return [{"type": "response.output_text.delta", **place, "delta": LARGE[at : at + 50_000]} for at in cuts]


@pytest.mark.parametrize(
    "bodies",
    [
        [completed(MESSAGE_OF_IT)],
        [completed(MESSAGE_OF_IT, {**CALL, "arguments": LARGE[1:]})],
        [*in_pieces(), completed()],
        [*in_pieces(), completed(MESSAGE_OF_IT)],
        [{"type": "response.output_item.done", "output_index": 0, "item": MESSAGE_OF_IT}, completed(MESSAGE_OF_IT)],
        [{**in_pieces()[0], "delta": LARGE}, completed()],
    ],
    ids=["one event", "and a call", "pieces", "pieces and the whole", "an item", "one piece"],
)
def test_a_large_text_is_told_whole_and_is_there_once(bodies: list[dict[str, object]]):
    relay = Relay(ownership())
    told = told_of(relay, *bodies)
    spread = [piece for frames in told if isinstance(frames, sse.Pieces) for piece in frames]
    large = Counter(id(piece) for piece in spread if len(piece) > LARGE_TEXT)
    assert max(large.values()) >= 3
    events, outcome = finish(relay, b"".join(map(sse.joined, told)))
    accept_stream(events)
    assert outcome.items[0]["content"][0]["text"] == LARGE
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == LARGE


def test_a_large_json_answer_is_told_as_a_stream():
    relay = Relay(ownership())
    outcome = relay.complete({"object": "response", "status": "completed", "output": [MESSAGE_OF_IT]})
    frames = relay.replay(outcome)
    assert isinstance(frames, sse.Pieces)
    events, _ = finish(relay, sse.joined(frames))
    assert [event["text"] for event in events if event["type"] == "response.output_text.done"] == [LARGE]


def test_what_looks_like_a_mark_is_told_as_it_is():
    relay = Relay(ownership())
    said = [orjson.loads(b'"%b"' % (b"0" * 32)), LARGE]
    frames = relay.replay(relay.complete({"output": [{**CALL, "name": said[0], "arguments": said[1]}]}))
    (done,) = [one for one in events_of(sse.joined(frames)) if one["type"] == "response.output_item.done"]
    assert [done["item"]["name"], done["item"]["arguments"]] == said
