from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest

from proxy.cli.listener import ACCEPTED_AT_ONCE, Listener

Open = Callable[..., Awaitable[Listener]]


class Worker:
    """Takes connections, or does not."""

    def __init__(self) -> None:
        self.takes = True
        self.taken: asyncio.Queue[str] = asyncio.Queue()
        self.refused = asyncio.Event()

    def take(self, connection: socket.socket) -> bool:
        """Answer with the client's port, and remember it."""
        if not self.takes:
            self.refused.set()
            return False
        connection.send(str(connection.getpeername()[1]).encode())
        self.taken.put_nowait(str(connection.getpeername()[1]))
        return True


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def listen(worker: Worker) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def opened(host: str = "127.0.0.1", port: int = 0) -> Listener:
            listener = await Listener.open(host, port, worker.take)
            stack.callback(listener.close)
            return listener

        yield opened


async def ask(listener: Listener) -> str:
    """Connect, and return what is answered; empty if the connection ends without."""
    reader, writer = await asyncio.open_connection(*listener.address)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_every_connection_is_passed_on_once(listen: Open, worker: Worker):
    listener = await listen()
    number = 2 * ACCEPTED_AT_ONCE
    answers = await asyncio.gather(*(ask(listener) for _ in range(number)))
    assert sorted(answers) == sorted([worker.taken.get_nowait() for _ in range(number)])
    assert len(set(answers)) == number


async def test_connections_wait_in_their_order_until_somebody_takes_them(listen: Open, worker: Worker):
    worker.takes = False
    listener = await listen()
    waiting = [asyncio.create_task(ask(listener)) for _ in range(3)]
    await worker.refused.wait()
    assert not any(task.done() for task in waiting)
    worker.takes = True
    assert sorted(await asyncio.gather(*waiting)) == sorted([worker.taken.get_nowait() for _ in waiting])


async def test_what_nobody_took_is_closed_at_the_end(listen: Open, worker: Worker):
    worker.takes = False
    listener = await listen()
    address = listener.address
    waiting = asyncio.create_task(ask(listener))
    await worker.refused.wait()
    listener.close()
    listener.close()
    assert await waiting == ""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_every_address_of_a_name_is_listened_on_and_a_taken_one_is_an_error(listen: Open):
    listener = await listen("localhost")
    assert await ask(listener)
    with pytest.raises(OSError, match="in use"):
        await listen("127.0.0.1", (await listen()).address[1])
    with pytest.raises(socket.gaierror):
        await listen("no.such.host.invalid")


async def test_a_system_that_has_no_more_descriptors_is_told_and_tried_again(
    listen: Open, caplog: pytest.LogCaptureFixture
):
    listener = await listen()
    client = socket.socket()
    client.settimeout(0)
    with caplog.at_level(logging.WARNING), no_more_descriptors():
        await asyncio.get_running_loop().sock_connect(client, listener.address)
        while not caplog.messages:  # noqa: ASYNC110 (it is the loop that has to go round)
            await asyncio.sleep(0)
    assert caplog.messages == ["no connection can be accepted: Too many open files"]
    async with asyncio.timeout(20):
        assert await asyncio.get_running_loop().sock_recv(client, 10)
    client.close()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
