"""What a large answer takes of memory: the most that the server had at a time, beside what it had before.

    python -m benchmarks.costs.answers [--megabytes 100] [--form json] [--most 2.0]

json     one JSON body with one text
deltas   a stream of pieces of 8 KiB, at the end of which the whole is not said again
whole    the same with the whole in its last event
event    a stream of one event that says the whole text

The server, its store and the model server are processes of their own. The figures are those of the kernel (`VmHWM`).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from benchmarks.performance.target import branchline
from benchmarks.processes import free_port, listening, memory_bytes, process
from benchmarks.wire import MessageReader, connected

_MEGABYTE = 1_000_000
_PIECE_BYTES = 8192
#: Bytes that the model server writes at a time.
_WRITTEN_BYTES = 256 * 1024
#: Most that an answer, and an event of one, may be.
_LIMIT = {"BRANCHLINE_UPSTREAM_MAX_EVENT_BYTES": "300000000", "BRANCHLINE_UPSTREAM_MAX_RESPONSE_BYTES": "600000000"}


def _event(body: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(body["type"]).encode(), orjson.dumps(body))


def _part(size: int) -> dict[str, object]:
    return {"type": "output_text", "text": "a" * size, "annotations": [], "logprobs": []}


def _message(*parts: dict[str, object]) -> dict[str, object]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": list(parts)}


def _response(*output: dict[str, object]) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": list(output)}


def _json(size: int) -> Iterator[bytes]:
    yield orjson.dumps(_response(_message(_part(size))))


def _deltas(size: int, *output: dict[str, object]) -> Iterator[bytes]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield _event({"type": "response.created", "response": {**_response(), "status": "in_progress"}})
    delta = _event({"type": "response.output_text.delta", **place, "delta": "a" * _PIECE_BYTES})
    for _ in range(size // _PIECE_BYTES):
        yield delta
    yield _event({"type": "response.completed", "response": _response(*output)})


def _whole(size: int) -> Iterator[bytes]:
    return _deltas(size, _message(_part(size // _PIECE_BYTES * _PIECE_BYTES)))


def _one_event(size: int) -> Iterator[bytes]:
    yield _event({"type": "response.completed", "response": _response(_message(_part(size)))})


#: By their names; each gives the body of an answer with a text of so many bytes.
FORMS: dict[str, Callable[[int], Iterator[bytes]]] = {
    "json": _json,
    "deltas": _deltas,
    "whole": _whole,
    "event": _one_event,
}


async def _serve(form: str, size: int, port: int) -> None:
    """Be a model server that gives this answer to everything, at the pace at which it is read."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = asyncio.Event()
        messages = MessageReader(lambda _: None, lambda _: None, asked.set)
        while data := await reader.read(65_536):
            messages.feed(data)
            if not asked.is_set():
                continue
            asked.clear()
            kind = b"application/json" if form == "json" else b"text/event-stream"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n\r\n" % kind)
            for piece in FORMS[form](size):
                for start in range(0, len(piece), _WRITTEN_BYTES):
                    writer.write(piece[start : start + _WRITTEN_BYTES])
                    await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def peak_of(pid: int) -> Iterator[Callable[[], int]]:
    """Give what returns how much more memory a process has had at a time since then, in bytes. Linux only."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = memory_bytes(pid)
    yield lambda: memory_bytes(pid, "VmHWM") - before


async def measure(form: str, size: int) -> float:
    """Return how many times the size of its answer a turn has taken at most."""
    port = free_port()
    with process(
        "benchmarks.costs.answers", "--serve", form, "--megabytes", str(size // _MEGABYTE), "--port", str(port)
    ):
        await listening(f"http://127.0.0.1:{port}")
        async with (
            branchline(f"http://127.0.0.1:{port}/v1", variables=_LIMIT) as target,
            connected(target.url, 1) as (client,),
        ):
            asked = {"model": "m", "input": "hi", "stream": form != "json"}
            received = 0

            def take(piece: bytes) -> None:
                nonlocal received
                received += len(piece)

            await client.request("POST", "/v1/conversations", b"{}")
            with peak_of(target.proxies[0]) as peak:
                answer = await client.request("POST", "/v1/responses", orjson.dumps(asked), take)
                if answer.status != 200 or received < size:
                    raise RuntimeError(f"{form}: status {answer.status}, {received} bytes")
                return peak() / size


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--form", action="append", choices=list(FORMS))
    parser.add_argument("--most", type=float, default=2.0)
    parser.add_argument("--serve", choices=list(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        await _serve(options.serve, options.megabytes * _MEGABYTE, options.port)
        return 0
    print("| answer | times its size |\n|---|---|", flush=True)
    worst = 0.0
    for form in options.form or list(FORMS):
        times = await measure(form, options.megabytes * _MEGABYTE)
        worst = max(worst, times)
        print(f"| {form} | {times:.1f} |", flush=True)
    return 1 if worst > options.most else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
