from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from storage.client.channel import ChannelRequest, Transaction, fold, unfold
from storage.client.connection import connect, open_channel

COMMANDS = st.lists(st.just(("PING",)), min_size=1, max_size=3)
#: What a server says to a command within a transaction, and to all else.
QUEUED = st.sampled_from([b"QUEUED", b"QUEUED", ResponseError("not queued")])
DONE = st.sampled_from([b"OK", 1, None, [b"a"], ResponseError("failed")])


@given(st.data())
def test_each_request_gets_the_reply_to_its_commands(data: st.DataObject):
    requests: list[ChannelRequest] = data.draw(
        st.lists(st.one_of(st.just(("PING",)), COMMANDS.map(Transaction)), max_size=4)
    )
    replies: list[Any] = []
    expected: list[Any] = []
    for request in requests:
        done = data.draw(DONE)
        taken = []
        if isinstance(request, Transaction):
            taken = [b"OK", *data.draw(st.tuples(*[QUEUED for _ in request.commands]))]
        replies += [*taken, done]
        expected.append(next((one for one in taken if isinstance(one, Exception)), done))
    assert len(unfold(requests)) == len(replies)
    assert fold(requests, replies) == expected


async def test_no_commands_are_no_message():
    # asyncio keeps an empty one for good, and tries to send it for as long as the connection is open
    client = connect("unix:///nowhere", timeout_seconds=1.0, max_connections=1)
    channel = open_channel(client, timeout_seconds=1.0, max_connections=1)
    assert await channel.exchange([]) == []
    await channel.close()
